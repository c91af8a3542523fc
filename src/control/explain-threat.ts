import { THREAT_WHY } from '../desired/threats.js';
import { hitText, type ThreatHit } from '../model/threat.js';
import type { ExplainInput, View } from './explain.js';
import { addressOf, packetTo } from './explain-packet.js';

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
  const steps = packet ? input.judge.judge(packet).steps : [];
  const isRefused = steps.some((s) => s.rule.why?.includes(THREAT_WHY));
  const hit = address !== undefined && isRefused ? threats.blockedAddress(address) : undefined;
  if (!hit || address === undefined) return undefined;
  return threat(
    hit,
    address,
    'no container reaches it, whatever its entries',
    steps.map((s) => s.text),
  );
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
