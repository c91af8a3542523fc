/** IPv4 policy routing rules and routes between neighbours (fib_rules.h, rtnetlink.h), pure. */
import type { NeighbourRoute, NeighbourRule } from '../../ruleset/neighbour-routes.js';
import { AF_INET, addressBytes, addressText } from './address.js';
import { attribute, cString, parseAttributes, readCString, readU8, readU32le, u8, u32le } from './codec.js';

export const RULE_MESSAGE = {
  newRoute: 24,
  deleteRoute: 25,
  getRoute: 26,
  newRule: 32,
  deleteRule: 33,
  getRule: 34,
} as const;
/** Drawbridge's own table of routes, and its number as the origin ("proto") of rules and routes. */
const ROUTE_TABLE = 0xdb01;
const ORIGIN = 0xdb;
/** Behind `local` (0), before the rules of others: a rule of a VPN that takes everything would take these packets, too. */
const PRIORITY = { routed: 41, missing: 42 } as const;

const HEADER = 12;
const RULE = { to: 1, from: 2, iif: 3, priority: 6, table: 15, origin: 21, protocol: 22 } as const;
const ROUTE = { to: 1, oif: 4, table: 15 } as const;
const ACTION = { lookup: 1, blackhole: 6 } as const;
const IPPROTO_ICMP = 1;
const RTN_UNICAST = 1;
const SCOPE_LINK = 253;
const LOOPBACK = 'lo';

interface Cidr {
  readonly bytes: Buffer;
  readonly length: number;
}
function cidrOf(subnet: string): Cidr {
  const [base = '', length] = subnet.split('/');
  const bytes = addressBytes(base);
  if (bytes?.length !== 4 || length === undefined) throw new Error(`no IPv4 subnet: ${subnet}`);
  return { bytes, length: Number(length) };
}

export function ruleBody({ kind, bridge, subnet }: NeighbourRule): Buffer {
  const { bytes, length } = cidrOf(subnet);
  const isRouted = kind !== 'missing';
  const hasSource = kind !== 'icmp';
  const header = Buffer.alloc(HEADER);
  header.writeUInt8(AF_INET, 0);
  header.writeUInt8(length, 1);
  header.writeUInt8(hasSource ? length : 0, 2);
  header.writeUInt8(isRouted ? ACTION.lookup : ACTION.blackhole, 7);
  return Buffer.concat([
    header,
    attribute(RULE.to, bytes),
    ...(hasSource ? [attribute(RULE.from, bytes)] : []),
    attribute(RULE.iif, cString(kind === 'forwarded' || kind === 'missing' ? bridge : LOOPBACK)),
    attribute(RULE.priority, u32le(isRouted ? PRIORITY.routed : PRIORITY.missing)),
    ...(isRouted ? [attribute(RULE.table, u32le(ROUTE_TABLE))] : []),
    ...(kind === 'icmp' ? [attribute(RULE.protocol, u8(IPPROTO_ICMP))] : []),
    attribute(RULE.origin, u8(ORIGIN)),
  ]);
}

/** What the kernel matches by, as text. */
export const ruleKey = ({ kind, bridge, subnet }: NeighbourRule): string =>
  `${kind} ${kind === 'forwarded' || kind === 'missing' ? bridge : LOOPBACK} ${subnet}`;

/** A rule of Drawbridge's; undefined: of another origin. */
export function decodeRule(body: Buffer): NeighbourRule | undefined {
  if (body.length < HEADER || body[0] !== AF_INET) return undefined;
  const attributes = parseAttributes(body, HEADER);
  const bridge = readCString(attributes.get(RULE.iif));
  const to = addressText(attributes.get(RULE.to));
  if (readU8(attributes.get(RULE.origin)) !== ORIGIN || bridge === undefined || to === undefined)
    return undefined;
  return { kind: kindOf(body, bridge), bridge, subnet: `${to}/${body.readUInt8(1)}` };
}
function kindOf(body: Buffer, iif: string): NeighbourRule['kind'] {
  if (body.readUInt8(7) === ACTION.blackhole) return 'missing';
  if (iif !== LOOPBACK) return 'forwarded';
  return body.readUInt8(2) === 0 ? 'icmp' : 'reset';
}

export function ruleDumpBody(): Buffer {
  const header = Buffer.alloc(HEADER);
  header.writeUInt8(AF_INET, 0);
  return header;
}

export function routeBody({ subnet, index }: NeighbourRoute): Buffer {
  const { bytes, length } = cidrOf(subnet);
  const header = Buffer.alloc(HEADER);
  header.writeUInt8(AF_INET, 0);
  header.writeUInt8(length, 1);
  header.writeUInt8(ORIGIN, 5);
  header.writeUInt8(SCOPE_LINK, 6);
  header.writeUInt8(RTN_UNICAST, 7);
  return Buffer.concat([
    header,
    attribute(ROUTE.to, bytes),
    attribute(ROUTE.oif, u32le(index)),
    attribute(ROUTE.table, u32le(ROUTE_TABLE)),
  ]);
}
/** On a strict socket: of Drawbridge's table alone. */
export function routeDumpBody(): Buffer {
  const header = Buffer.alloc(HEADER);
  header.writeUInt8(AF_INET, 0);
  return Buffer.concat([header, attribute(ROUTE.table, u32le(ROUTE_TABLE))]);
}
/** Undefined: no route of Drawbridge's. */
export function decodeRoute(body: Buffer): NeighbourRoute | undefined {
  if (body.length < HEADER || body[0] !== AF_INET || body[5] !== ORIGIN) return undefined;
  const attributes = parseAttributes(body, HEADER);
  const to = addressText(attributes.get(ROUTE.to));
  const index = readU32le(attributes.get(ROUTE.oif));
  const isHere = readU32le(attributes.get(ROUTE.table)) === ROUTE_TABLE;
  if (to === undefined || index === undefined || !isHere) return undefined;
  return { index, subnet: `${to}/${body.readUInt8(1)}` };
}
