import { parseAddress } from '../lib/ip.js';
import { TUNNELS, tunnelOf } from '../lib/special-use.js';
import { hitText, type ThreatHit } from '../policy/threat.js';
import { THREAT_WHY } from '../ruleset/threat-rules.js';
import { addressOf, packetTo } from './explain-packet.js';
import type { ExplainInput, View } from './explain-types.js';

/** In whatever mode: names that a feed lists (in mode off DNS is left alone), and addresses, told ones included. */
export function threatView(input: ExplainInput): View | undefined {
  const { target } = input.dest;
  const { threats, member } = input;
  if (target.kind === 'name') {
    const hit = member.policy.mode === 'off' ? undefined : threats.blockedName(target.name);
    if (hit) return threat(hit, target.name, 'it is answered NXDOMAIN and asked of nobody', []);
  }
  const address =
    target.kind === 'name' ? input.told({ match: 'exact', name: target.name })[0] : addressOf(input.dest);
  const packet = address === undefined ? undefined : packetTo(input, address);
  const steps = packet ? input.judge.evaluate(packet).steps : [];
  const isRefused = steps.some((s) => s.rule.why?.includes(THREAT_WHY));
  if (!isRefused || address === undefined) return undefined;
  const hit = threats.blockedAddress(address);
  if (!hit)
    return tunnelView(
      address,
      steps.map((s) => s.text),
    );
  return threat(
    hit,
    address,
    'no container reaches it, whatever its entries',
    steps.map((s) => s.text),
  );
}

/** Closed as a whole: no feed lists the address. */
function tunnelView(address: string, trace: readonly string[]): View | undefined {
  const value = parseAddress(address);
  const tunnel = value?.family === 6 ? tunnelOf(value.value) : undefined;
  if (tunnel === undefined) return undefined;
  const except = `add { to: "${TUNNELS[tunnel]}", reason: … } to threats.exceptions`;
  return {
    verdict: 'threat',
    reason: `a ${tunnel} address carries an IPv4 address that no kernel set can compare with the threat feeds: such addresses are closed while there are feeds`,
    entry: null,
    list: null,
    remedy:
      tunnel === 'ISATAP'
        ? 'use the IPv4 address itself, or another IPv6 address'
        : `if it must be reached, ${except}, and send the service SIGHUP`,
    trace,
  };
}

const threat = (hit: ThreatHit, to: string, what: string, trace: readonly string[]): View => ({
  verdict: 'threat',
  reason: `${hitText(hit)}: ${what}`,
  entry: null,
  list: null,
  feed: hit.feed,
  remedy: `if it must be reached, add an exception with a reason to the configuration, threats.exceptions: [ { to: "${to}", reason: … } ], and send the service SIGHUP`,
  trace,
});
