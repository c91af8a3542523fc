/** Protected space: what no feed may block, whatever it lists. */

import { readdirSync } from 'node:fs';
import { type NetworkInterfaceInfo, networkInterfaces } from 'node:os';
import type { Config } from '../config/config.js';
import { tcpListener } from '../config/endpoints.js';
import { parseServer } from '../lib/dns-server-address.js';
import { parseAddress, parseSubnet, type Range, rangeOf, withoutMapping } from '../lib/ip.js';
import type { NetworkFacts } from '../policy/container.js';
import { parseEntry } from '../policy/entry-parse.js';
import type { Endpoint } from '../store/store-interface.js';
import type { ProtectedRange } from './merge.js';
import { SPECIAL_RANGES } from './range-algebra.js';
import type { ProtectedName } from './threat-index.js';

export type ListedNetwork = Pick<NetworkFacts, 'name' | 'subnets' | 'gateways'>;

/** Addresses and names that no feed may block, as they are now. */
export interface ProtectedSpace {
  readonly ranges: readonly ProtectedRange[];
  readonly names: readonly ProtectedName[];
}

export interface ProtectedSpaceFacts {
  readonly config: Pick<Config, 'dns' | 'api' | 'threats'>;
  readonly hostAddresses: Iterable<string>;
  readonly networks: Iterable<ListedNetwork>;
  /** The resolvers of the host's resolv.conf. */
  readonly hostResolvers: readonly string[];
  /** The servers of the store. */
  readonly servers: readonly Endpoint[];
}

/** Remove the prefix of v4-mapped v6 addresses and the zone of link-local addresses. */
const plain = (address: string): string => withoutMapping(address).replace(/%.*$/, '');

function address(label: string, text: string): ProtectedRange[] {
  const parsed = parseAddress(plain(text));
  return parsed ? [{ label, range: rangeOf(parsed) }] : [];
}

function network({ name, subnets, gateways }: ListedNetwork) {
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
  const tcp = tcpListener(listen);
  return tcp ? address("the API's listener", tcp.host) : [];
}

function exceptions({ exceptions: all }: Config['threats']): ProtectedSpace {
  const ranges: ProtectedRange[] = [];
  const names: ProtectedName[] = [];
  for (const { to, reason } of all) {
    const parsed = parseEntry(to);
    const target =
      parsed.ok && parsed.value.kind === 'dest' && !parsed.value.deny ? parsed.value.target : undefined;
    const label = `an exception: ${reason}`;
    if (target?.kind === 'address') ranges.push({ label, range: target.range });
    if (target?.kind === 'name') names.push({ label, name: target.name, match: target.match });
  }
  return { ranges, names };
}

/** The configured exceptions come first, so that reports name their reason. */
export function protectedSpace(facts: ProtectedSpaceFacts): ProtectedSpace {
  const { config, hostAddresses, networks, servers } = facts;
  const configured = exceptions(config.threats);
  const ranges = [
    ...configured.ranges,
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
  return { ranges, names: [...configured.names, ...named] };
}

const within = ({ family, lo, hi }: Range, outer: Range): boolean =>
  outer.family === family && outer.lo <= lo && hi <= outer.hi;

/** The protected space without special-use space, which no feed blocks anyway: links change with every container. */
export const withoutSpecialUse = ({ ranges, names }: ProtectedSpace): ProtectedSpace => ({
  ranges: ranges.filter(({ range }) => !SPECIAL_RANGES.some((special) => within(range, special))),
  names,
});

/** A text that is the same for the same protected space. */
export const protectedSpaceKey = ({ ranges, names }: ProtectedSpace): string =>
  JSON.stringify([ranges.map(({ label, range: { lo, hi } }) => [label, `${lo}-${hi}`]).sort(), names]);

/** Addresses of all interfaces, for the time before netlink reports them: with many veths os.networkInterfaces takes long. */
export const interfaceAddresses = (): readonly string[] => interfaces().map(({ address }) => address);

/** Networks of bridges, which are Docker's, for the time before Docker has listed its networks. */
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
    return false; // the link was removed meanwhile
  }
}
