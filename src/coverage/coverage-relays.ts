import { privateRangeOf } from '../lib/special-use.js';
import type { ContainerFacts } from '../policy/container.js';
import type { DestEntry } from '../policy/entry.js';
import type { Finding } from '../policy/finding.js';
import type { Policy } from '../policy/policy.js';

const PROXY_VARIABLE = /^((https?|ftp|all|socks)_proxy|socks_server)$/i;
/** Squid, HTTP, Privoxy, tinyproxy, SOCKS, Tor. */
const PROXY_PORTS = [3128, 8080, 8118, 8888, 1080, 9050];
/** Ports on which applications listen as often as proxies do: they count as a proxy only with a private address. */
const COMMON_PORTS = [8080, 8888];

/** The Docker API, or a proxy of its socket: without and with TLS. */
const ENGINE_PORTS = [2375, 2376];

/** Report entries that lead to a possible proxy, which can reach any destination, and variables that name a proxy. */
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
      ? `entry ${e.canonical} allows a port that proxies use, and ${variables.join(', ')} make the container use a proxy: the destinations that the proxy connects to are not evaluated`
      : `entry ${e.canonical} allows a port that proxies use: if a proxy listens there, the destinations that it connects to are not evaluated`,
    remedy: 'enforce a policy on the proxy itself, or allow the destinations directly',
  };
}

const engineEntry = (e: DestEntry): Finding => ({
  code: 'engine-port',
  state: 'enforced',
  detail: `entry ${e.canonical} allows a port of the Docker API: if an engine, or a proxy of its socket, listens there and permits it, the container can start containers without a policy`,
  remedy: 'let such a proxy permit read requests only, or remove the entry',
});

const proxyVariables = (names: readonly string[]): Finding => ({
  code: 'proxy-variable',
  state: 'enforced',
  detail: `${names.join(', ')} make the container use a proxy: its requests go to the proxy, not to the destinations of its policy`,
  remedy: 'remove the variables, or allow the proxy and enforce a policy on it',
});

/** Return the ports that the entry names. A range of 100 or more ports names none: such an entry is meant for a network. */
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
