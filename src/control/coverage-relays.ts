import type { ContainerFacts } from '../model/container.js';
import type { DestEntry } from '../model/entry.js';
import type { Finding } from '../model/finding.js';
import type { Policy } from '../model/policy.js';
import { privateRangeOf } from '../model/special-use.js';

const PROXY_VARIABLE = /^((https?|ftp|all|socks)_proxy|socks_server)$/i;
/** Squid, HTTP, Privoxy, tinyproxy, SOCKS, Tor. */
const PROXY_PORTS = [3128, 8080, 8118, 8888, 1080, 9050];
/** Where applications listen as often as proxies do: only an address of the private network makes them one. */
const COMMON_PORTS = [8080, 8888];

/** Entries by which a proxy could carry anything anywhere, and variables that name one. */
export function relayFindings(c: ContainerFacts, policy: Policy): Finding[] {
  const variables = (c.practices?.envNames ?? []).filter((name) => PROXY_VARIABLE.test(name));
  const relays = policy.entries.map((e) => e.entry).filter(mayRelay);
  return [
    ...relays.map((e): Finding => relay(e, variables)),
    ...(variables.length > 0 && relays.length === 0 ? [proxyVariables(variables)] : []),
  ];
}

function relay(e: DestEntry, variables: readonly string[]): Finding {
  const isUsed = variables.length > 0;
  return {
    code: 'relay',
    state: isUsed ? 'partial' : 'enforced',
    detail: isUsed
      ? `entry ${e.canonical} leads to a proxy's port, and ${variables.join(', ')} tell it to use one: where the proxy goes is not judged`
      : `entry ${e.canonical} leads to a proxy's port: if a proxy listens there, where it goes is not judged`,
    remedy: 'hold the proxy itself by a policy, or permit the destinations directly',
  };
}

const proxyVariables = (names: readonly string[]): Finding => ({
  code: 'proxy-variable',
  state: 'enforced',
  detail: `${names.join(', ')} tell it to use a proxy: its requests go there, not to the destinations of its policy`,
  remedy: 'take the variables out, or permit the proxy and hold it by a policy of its own',
});

/** Ports that the entry spells out: a network with every port is a policy of its own. */
function mayRelay(e: DestEntry): boolean {
  if (e.proto !== undefined && e.proto !== 'tcp' && e.proto !== 'tcp+udp') return false;
  const named = PROXY_PORTS.filter((p) => e.ports.some((r) => p >= r.lo && p <= r.hi && r.hi - r.lo < 100));
  const { target } = e;
  if (target.kind === 'address')
    return (
      named.length > 0 &&
      privateRangeOf({ family: target.range.family, value: target.range.lo }) !== undefined
    );
  if (target.kind === 'container' || target.kind === 'host')
    return named.some((p) => !COMMON_PORTS.includes(p));
  return false;
}
