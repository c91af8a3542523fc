import type { Config } from '../config/config.js';
import { parseAddress } from '../lib/ip.js';
import type { ContainerFacts, PublishedPort } from '../policy/container.js';
import type { ReservedPort } from '../ruleset/reserved-ports.js';
import type { Endpoint } from '../store/store-interface.js';

const EVERYWHERE = ['', '0.0.0.0', '::'];
const isLoopback = (address: string): boolean => address === '::1' || address.startsWith('127.');
/** A v4 address as a v6 socket shows it. */
const plain = (address: string): string => address.replace(/^::ffff:(?=\d+\.)/, '');

interface Around {
  readonly hostAddresses: ReadonlySet<string>;
  readonly containers: Iterable<Pick<ContainerFacts, 'id' | 'endpoints' | 'published'>>;
}

/**
 * What no container may reach: the API's port where it listens on TCP, and Redis where that is on this host: at any of the
 * host's addresses, and at those of the container that it runs in (a port of the host that Docker publishes leads there).
 * @param redis where Redis is, as it is known now
 */
export function closedPlaces(
  { api }: Pick<Config, 'api'>,
  redis: readonly Endpoint[],
  { hostAddresses, containers }: Around,
): readonly ReservedPort[] {
  const servers = redis.map(({ address, port }) => ({ address: plain(address), port }));
  const local = servers.filter(({ address }) => isLoopback(address) || hostAddresses.has(address));
  const ports = [...new Set(local.map(({ port }) => port))].sort((a, b) => a - b);
  const own = [...containers].flatMap((c) => [...behind(c, local), ...inside(c, servers)]);
  return [...listener(api.listen), ...ports.map((port) => ({ port })), ...unique(own)];
}

type Container = Pick<ContainerFacts, 'id' | 'endpoints' | 'published'>;
const addressesOf = ({ endpoints }: Container): string[] =>
  endpoints.flatMap((e) => [e.ip4, e.ip6].filter((a) => a !== undefined));

/** The container's own addresses and port, where one of its published ports is a server's. */
function behind(c: Container, servers: readonly Endpoint[]): ReservedPort[] {
  return c.published
    .filter((p) => p.proto === 'tcp' && servers.some((server) => leadsTo(p, server)))
    .flatMap((p) => addressesOf(c).map((address) => ({ address, port: p.containerPort, container: c.id })));
}

const leadsTo = ({ hosts = [] }: PublishedPort, { address, port }: Endpoint): boolean =>
  hosts.some((h) => h.port === port && (EVERYWHERE.includes(h.address) || h.address === address));

/** The same, where a server is named by an address of the container itself. */
function inside(c: Container, servers: readonly Endpoint[]): ReservedPort[] {
  const own = addressesOf(c);
  const ports = servers.filter(({ address }) => own.includes(canonical(address))).map(({ port }) => port);
  return ports.flatMap((port) => own.map((address) => ({ address, port, container: c.id })));
}
const canonical = (address: string): string => parseAddress(address)?.text ?? address;

const unique = (places: readonly ReservedPort[]): ReservedPort[] =>
  [...new Map(places.map((p) => [`${p.address} ${p.port}`, p])).values()].sort((a, b) =>
    `${a.address} ${a.port}` < `${b.address} ${b.port}` ? -1 : 1,
  );

function listener(listen: string): ReservedPort[] {
  if (listen.startsWith('unix:')) return [];
  const [, host = '', port = ''] = /^\[?(.*?)\]?:(\d+)$/.exec(listen) ?? [];
  const address = host === 'localhost' ? '127.0.0.1' : host;
  return [{ port: Number(port), ...(EVERYWHERE.includes(address) ? {} : { address }) }];
}
