/** IPv4 policy routing rules and routes between neighbours (fib_rules.h, rtnetlink.h): read, changed and kept over rtnetlink. */
import type { NeighbourRoute, NeighbourRoutes, NeighbourRule } from '../ruleset/bridge-forwarding.js';
import {
  AF_INET,
  addressBytes,
  addressText,
  attribute,
  cString,
  FLAG,
  parseAttributes,
  readCString,
  readU8,
  readU32le,
  u8,
  u32le,
} from './netlink/netlink-codec.js';
import { isRefusal, NetlinkError } from './netlink/netlink-error.js';
import { NetlinkSocket, type Outgoing } from './netlink/netlink-socket.js';

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
/**
 * The rules come after `local` (0) and before those of other programs: a VPN's rule for all packets would match these
 * packets, too.
 */
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

function ruleBody({ kind, bridge, subnet }: NeighbourRule): Buffer {
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

/** The fields that the kernel matches by, as text. */
const ruleKey = ({ kind, bridge, subnet }: NeighbourRule): string =>
  `${kind} ${kind === 'forwarded' || kind === 'missing' ? bridge : LOOPBACK} ${subnet}`;

/** Decodes a rule of Drawbridge. Returns undefined for rules of another origin. */
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

function ruleDumpBody(): Buffer {
  const header = Buffer.alloc(HEADER);
  header.writeUInt8(AF_INET, 0);
  return header;
}

function routeBody({ subnet, index }: NeighbourRoute): Buffer {
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
function routeDumpBody(): Buffer {
  const header = Buffer.alloc(HEADER);
  header.writeUInt8(AF_INET, 0);
  return Buffer.concat([header, attribute(ROUTE.table, u32le(ROUTE_TABLE))]);
}
/** Returns undefined for routes that are not Drawbridge's. */
function decodeRoute(body: Buffer): NeighbourRoute | undefined {
  if (body.length < HEADER || body[0] !== AF_INET || body[5] !== ORIGIN) return undefined;
  const attributes = parseAttributes(body, HEADER);
  const to = addressText(attributes.get(ROUTE.to));
  const index = readU32le(attributes.get(ROUTE.oif));
  const isHere = readU32le(attributes.get(ROUTE.table)) === ROUTE_TABLE;
  if (to === undefined || index === undefined || !isHere) return undefined;
  return { index, subnet: `${to}/${body.readUInt8(1)}` };
}

const REPLACE = 0x100;
/** Acknowledgements of so many fit any receive buffer. */
const BATCH = 64;

export class PolicyRoutes implements Disposable {
  readonly #changes: NetlinkSocket;
  readonly #dumps: NetlinkSocket;

  constructor(options: { readonly namespace?: string | number } = {}) {
    this.#changes = new NetlinkSocket({ protocol: 'route', ...options });
    this.#dumps = new NetlinkSocket({ protocol: 'route', strict: true, ...options });
  }

  /** Rules that Drawbridge has added. Rejects with NetlinkError. */
  async rules(): Promise<readonly NeighbourRule[]> {
    const out = { type: RULE_MESSAGE.getRule, body: ruleDumpBody() };
    try {
      return await this.#dumps.dump('list policy routing rules', out, (m) => decodeRule(m.body));
    } catch (error) {
      if (isRefusal(error, 'ENOTSUP')) return []; // a kernel without policy routing (CONFIG_IP_MULTIPLE_TABLES)
      throw error;
    }
  }

  /** Routes of Drawbridge's table. Rejects with NetlinkError. */
  async routes(): Promise<readonly NeighbourRoute[]> {
    const out = { type: RULE_MESSAGE.getRoute, body: routeDumpBody() };
    try {
      return await this.#dumps.dump('list routes to neighbours', out, (m) => decodeRoute(m.body));
    } catch (error) {
      if (isRefusal(error, 'ENOENT')) return []; // no route was ever added to the table
      throw error;
    }
  }

  /** Rejects with NetlinkError. */
  async addRules(rules: readonly NeighbourRule[]): Promise<void> {
    const flags = FLAG.create | FLAG.exclusive;
    const outs = rules.map((r) => ({ type: RULE_MESSAGE.newRule, flags, body: ruleBody(r) }));
    await this.#send('add policy routing rules', outs, ['EEXIST']);
  }

  /** Rejects with NetlinkError. */
  async removeRules(rules: readonly NeighbourRule[]): Promise<void> {
    const outs = rules.map((r) => ({ type: RULE_MESSAGE.deleteRule, body: ruleBody(r) }));
    await this.#send('remove policy routing rules', outs, ['ENOENT']);
  }

  /** Resolves with false when a bridge is down or does not exist any more. Rejects with NetlinkError. */
  setRoutes(routes: readonly NeighbourRoute[]): Promise<boolean> {
    const flags = FLAG.create | REPLACE;
    const outs = routes.map((r) => ({ type: RULE_MESSAGE.newRoute, flags, body: routeBody(r) }));
    return this.#send('add routes to neighbours', outs, ['ENETDOWN', 'ENODEV', 'ENETUNREACH']);
  }

  /** Rejects with NetlinkError. */
  async removeRoutes(routes: readonly NeighbourRoute[]): Promise<void> {
    const outs = routes.map((r) => ({ type: RULE_MESSAGE.deleteRoute, body: routeBody(r) }));
    await this.#send('remove routes to neighbours', outs, ['ESRCH', 'ENOENT']);
  }

  close(): void {
    this.#changes.close();
    this.#dumps.close();
  }
  [Symbol.dispose](): void {
    this.close();
  }

  /** Resolves with false when the kernel has refused a change with one of the `expected` codes. */
  async #send(operation: string, outs: readonly Outgoing[], expected: readonly string[]): Promise<boolean> {
    const refused: NetlinkError[] = [];
    for (let i = 0; i < outs.length; i += BATCH)
      for (const { errno, text } of await this.#changes.requestLater(operation, outs.slice(i, i + BATCH)))
        if (errno !== 0)
          refused.push(new NetlinkError(operation, errno, text === undefined ? {} : { kernelText: text }));
    const other = refused.find((e) => !expected.includes(e.code));
    if (other) throw other;
    return refused.length === 0;
  }
}

type RoutingTable = Pick<
  PolicyRoutes,
  'rules' | 'routes' | 'addRules' | 'removeRules' | 'setRoutes' | 'removeRoutes'
>;

/** Installed, and no longer wanted. */
type Surplus = NeighbourRoutes;
const NONE: NeighbourRoutes = { rules: [], routes: [] };

/**
 * Keeps the routes between neighbours on bridges without an address as desired. They are installed before the rules that permit
 * any packet there, and removed after these: without them a lifted packet would leave by the host's default route.
 */
export class NeighbourRouting {
  readonly #table: RoutingTable;
  #wanted = NONE;
  /** The installed rules and routes as text. Undefined when the kernel must be read first. */
  #installed: string | undefined;
  /** Counts invalidations, so that one during a change is not lost. */
  #invalidations = 0;
  /** Rules and routes that are installed and no longer wanted. */
  #surplus: Surplus = NONE;
  /** Bridges that are down: the kernel removes their routes. */
  readonly #down = new Set<number>();

  constructor(table: RoutingTable) {
    this.#table = table;
  }

  /** False on hosts without bridges of this kind. */
  get isUsed(): boolean {
    return this.#wanted.rules.length > 0;
  }

  /** Another process may have changed something. */
  invalidate(): void {
    this.#invalidations++;
    if (this.isUsed) this.#installed = undefined;
  }

  isWanted(rule: NeighbourRule): boolean {
    return this.#wanted.rules.some((r) => ruleKey(r) === ruleKey(rule));
  }

  /** Returns true when a bridge is up again and its routes are missing. */
  linkChanged(index: number, up: boolean): boolean {
    if (up) return this.#down.delete(index);
    if (this.#wanted.routes.some((r) => r.index === index)) this.#down.add(index);
    return false;
  }

  /** Add what is missing, before the rules change. Rejects with NetlinkError. */
  async add(wanted: NeighbourRoutes): Promise<void> {
    const text = JSON.stringify(wanted);
    this.#wanted = wanted;
    if (text === this.#installed) return;
    this.#installed = undefined;
    const before = this.#invalidations;
    const { isWhole, surplus } = await add(this.#table, wanted);
    this.#surplus = surplus;
    if (isWhole && before === this.#invalidations) this.#installed = text;
  }

  /** Remove what is no longer wanted, after the rules have changed. Rejects with NetlinkError. */
  async removeSurplus(): Promise<void> {
    const surplus = this.#surplus;
    if (surplus.rules.length + surplus.routes.length === 0) return;
    await remove(this.#table, surplus);
    this.#surplus = NONE;
  }

  /** Whether the rules or routes in the kernel differ from the wanted ones. Rejects with NetlinkError. */
  async isChanged(): Promise<boolean> {
    if (!this.isUsed) return false;
    const d = await difference(this.#table, this.#wanted);
    return [d.addRules, d.removeRules, d.addRoutes, d.removeRoutes].some((some) => some.length > 0);
  }
}

const routeKey = ({ index, subnet }: NeighbourRoute): string => `${index} ${subnet}`;

async function difference(table: RoutingTable, wanted: NeighbourRoutes) {
  const rules = await table.rules();
  const routes = await table.routes();
  return {
    addRules: without(wanted.rules, rules, ruleKey),
    removeRules: without(rules, wanted.rules, ruleKey),
    addRoutes: without(wanted.routes, routes, routeKey),
    removeRoutes: without(routes, wanted.routes, routeKey),
  };
}
function without<T>(these: readonly T[], those: readonly T[], keyOf: (one: T) => string): T[] {
  const keys = new Set(those.map(keyOf));
  return these.filter((one) => !keys.has(keyOf(one)));
}

/** Adds the rules that drop unrouted packets first, then the routes, then the rules that use the routes. */
async function add(
  table: RoutingTable,
  wanted: NeighbourRoutes,
): Promise<{ readonly isWhole: boolean; readonly surplus: Surplus }> {
  const { addRules, removeRules, addRoutes, removeRoutes } = await difference(table, wanted);
  await table.addRules(addRules.filter((r) => r.kind === 'missing'));
  const isWhole = await table.setRoutes(addRoutes);
  await table.addRules(addRules.filter((r) => r.kind !== 'missing'));
  return { isWhole, surplus: { rules: removeRules, routes: removeRoutes } };
}

async function remove(table: RoutingTable, { rules, routes }: Surplus): Promise<void> {
  await table.removeRules(rules.filter((r) => r.kind !== 'missing'));
  await table.removeRoutes(routes);
  await table.removeRules(rules.filter((r) => r.kind === 'missing'));
}

/** Removes every rule and route of Drawbridge; resolves with the subnets that they were for. */
export async function removeNeighbourRoutes(table: RoutingTable): Promise<readonly string[]> {
  const found = { rules: await table.rules(), routes: await table.routes() };
  await remove(table, found);
  return [...new Set([...found.rules, ...found.routes].map((r) => r.subnet))];
}
