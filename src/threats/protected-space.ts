import { readdirSync } from 'node:fs';
import { type NetworkInterfaceInfo, networkInterfaces } from 'node:os';
import type { Config } from '../config/config.js';
import { parseServer } from '../lib/dns-server-address.js';
import { parseAddress, parseSubnet, type Range, rangeOf } from '../lib/ip.js';
import type { NetworkFacts } from '../policy/container.js';
import { parseEntry } from '../policy/entry-parse.js';
import type { Endpoint } from '../store/store-interface.js';
import type { ProtectedRange } from './merge.js';
import { SPECIAL_RANGES } from './range-algebra.js';
import type { ProtectedName } from './threat-index.js';

/** What no feed may take from the containers, as it is now. */
export interface ProtectedSpace {
  readonly ranges: readonly ProtectedRange[];
  readonly names: readonly ProtectedName[];
}

export interface ProtectedSpaceFacts {
  readonly config: Pick<Config, 'dns' | 'api' | 'threats'>;
  readonly hostAddresses: Iterable<string>;
  readonly networks: Iterable<Pick<NetworkFacts, 'name' | 'subnets' | 'gateways'>>;
  /** Of the host's resolv.conf. */
  readonly hostResolvers: readonly string[];
  /** Where the store's servers are. */
  readonly servers: readonly Endpoint[];
}

/** A v4 address as a v6 socket shows it, and the zone of a link-local one. */
const plain = (address: string): string => address.replace(/^::ffff:(?=\d+\.)/, '').replace(/%.*$/, '');

function address(label: string, text: string): ProtectedRange[] {
  const parsed = parseAddress(plain(text));
  return parsed ? [{ label, range: rangeOf(parsed) }] : [];
}

function network({ name, subnets, gateways }: Pick<NetworkFacts, 'name' | 'subnets' | 'gateways'>) {
  const label = `Docker's network ${name}`;
  const ranges = subnets.flatMap((text) => parseSubnet(text) ?? []);
  return [...ranges.map((range) => ({ label, range })), ...gateways.flatMap((text) => address(label, text))];
}

function resolvers({ config, hostResolvers }: ProtectedSpaceFacts): ProtectedRange[] {
  const { upstreams, zones } = config.dns;
  const all = [...upstreams, ...Object.values(zones).flatMap((zone) => zone.upstreams), ...hostResolvers];
  return all.flatMap((text) => address('a resolver in use', parseServer(text)?.address ?? ''));
}

function listener(listen: string): ProtectedRange[] {
  const [, host = ''] = /^\[?(.*?)\]?:\d+$/.exec(listen) ?? [];
  return listen.startsWith('unix:') ? [] : address("the API's listener", host);
}

function exceptions({ exceptions: all }: Config['threats']): ProtectedSpace {
  const ranges: ProtectedRange[] = [];
  const names: ProtectedName[] = [];
  for (const { to, reason } of all) {
    const parsed = parseEntry(to);
    const target = parsed.ok && parsed.value.kind === 'dest' ? parsed.value.target : undefined;
    const label = `an exception: ${reason}`;
    if (target?.kind === 'address') ranges.push({ label, range: target.range });
    if (target?.kind === 'name') names.push({ label, name: target.name, match: target.match });
  }
  return { ranges, names };
}

/** A person's exceptions speak first, so that reports name their reason. */
export function protectedSpace(facts: ProtectedSpaceFacts): ProtectedSpace {
  const { config, hostAddresses, networks, servers } = facts;
  const said = exceptions(config.threats);
  const ranges = [
    ...said.ranges,
    ...[...hostAddresses].flatMap((text) => address("this host's own address", text)),
    ...[...networks].flatMap(network),
    ...resolvers(facts),
    ...servers.flatMap((server) => address('Redis', server.address)),
    ...listener(config.api.listen),
  ];
  const hosts = servers.filter((server) => !parseAddress(plain(server.address)));
  const named = hosts.map(({ address: name }) => ({
    label: 'Redis',
    name: name.toLowerCase(),
    match: 'exact' as const,
  }));
  return { ranges, names: [...said.names, ...named] };
}

const within = ({ family, lo, hi }: Range, outer: Range): boolean =>
  outer.family === family && outer.lo <= lo && hi <= outer.hi;

/** Without what special-use space covers, which no feed blocks anyway: links come and go with every container. */
export const withoutSpecialUse = ({ ranges, names }: ProtectedSpace): ProtectedSpace => ({
  ranges: ranges.filter(({ range }) => !SPECIAL_RANGES.some((special) => within(range, special))),
  names,
});

/** The same protection has the same text. */
export const protectedSpaceKey = ({ ranges, names }: ProtectedSpace): string =>
  JSON.stringify([ranges.map(({ label, range: { lo, hi } }) => [label, `${lo}-${hi}`]).sort(), names]);

/** Of all interfaces, while the kernel does not announce them yet: with many veths this takes long (os.networkInterfaces). */
export const interfaceAddresses = (): readonly string[] => interfaces().map(({ address }) => address);

/** Networks of bridges, which are Docker's, as long as Docker has not spoken. */
export const bridgedRanges = (): readonly ProtectedRange[] =>
  interfaces()
    .filter(({ name }) => isBridge(name))
    .flatMap(rangeAround)
    .map((range) => ({ label: "a bridge's network", range }));

const interfaces = (): readonly (NetworkInterfaceInfo & { readonly name: string })[] =>
  Object.entries(networkInterfaces()).flatMap(([name, infos = []]) =>
    infos.map((info) => ({ ...info, name })),
  );

const rangeAround = ({ cidr }: NetworkInterfaceInfo): Range[] => {
  const range = parseSubnet(cidr ?? '');
  return range ? [range] : [];
};

function isBridge(name: string): boolean {
  try {
    return readdirSync(`/sys/class/net/${name}`).includes('bridge');
  } catch {
    return false; // the link has gone meanwhile
  }
}
