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

/** Docker's API, or a proxy before its socket: without and with TLS. */
const ENGINE_PORTS = [2375, 2376];

/** Entries by which a proxy could carry anything anywhere, and variables that name one. */
export function relayFindings(c: ContainerFacts, policy: Policy): Finding[] {
  const variables = (c.practices?.envNames ?? []).filter((name) => PROXY_VARIABLE.test(name));
  const entries = policy.entries.map((e) => e.entry);
  const relays = entries.filter(mayRelay);
  return [
    ...entries.filter(leadsToEngine).map(engineEntry),
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

const engineEntry = (e: DestEntry): Finding => ({
  code: 'engine-port',
  state: 'enforced',
  detail: `entry ${e.canonical} leads to a port of Docker's API: if an engine, or a proxy before its socket, listens there, it can start containers without a policy as far as that lets it`,
  remedy: 'let such a proxy permit reading only, or take the entry out',
});

const proxyVariables = (names: readonly string[]): Finding => ({
  code: 'proxy-variable',
  state: 'enforced',
  detail: `${names.join(', ')} tell it to use a proxy: its requests go there, not to the destinations of its policy`,
  remedy: 'take the variables out, or permit the proxy and hold it by a policy of its own',
});

/** Those of the ports that the entry spells out: a network with every port is a policy of its own. */
function namedOf(e: DestEntry, ports: readonly number[]): number[] {
  if (e.proto !== undefined && e.proto !== 'tcp' && e.proto !== 'tcp+udp') return [];
  return ports.filter((p) => e.ports.some((r) => p >= r.lo && p <= r.hi && r.hi - r.lo < 100));
}

const isPrivate = ({ target }: DestEntry): boolean =>
  target.kind === 'address' &&
  privateRangeOf({ family: target.range.family, value: target.range.lo }) !== undefined;

const leadsToEngine = (e: DestEntry): boolean =>
  namedOf(e, ENGINE_PORTS).length > 0 &&
  (isPrivate(e) || e.target.kind === 'container' || e.target.kind === 'host');

function mayRelay(e: DestEntry): boolean {
  const named = namedOf(e, PROXY_PORTS);
  const { target } = e;
  if (target.kind === 'address') return named.length > 0 && isPrivate(e);
  if (target.kind === 'container' || target.kind === 'host')
    return named.some((p) => !COMMON_PORTS.includes(p));
  return false;
}
