import type { Allowance, BridgeDesired } from '../ruleset/desired-state.js';
import { type ObservedBridge, type ObservedProgram, ruleTag } from './nft-text.js';

interface JsonObject {
  readonly [key: string]: unknown;
}
const isObject = (v: unknown): v is JsonObject => typeof v === 'object' && v !== null && !Array.isArray(v);

/** Interface names that nft prints instead of indexes. */
export type IndexOf = (ifname: string) => number | undefined;

export interface ParsedBridge extends ObservedBridge {
  /**
   * An element names an interface that was removed since. The element is left out; another listing has its index
   * instead.
   */
  readonly isStale: boolean;
}

/** Reads `nft -j list table bridge drawbridge`. What cannot be read is left out: it is then written again. */
export function parseBridge(json: string, indexOf: IndexOf): ParsedBridge {
  const named = new Map<string, unknown[]>();
  for (const item of itemsOf(json)) {
    const holder = item.map ?? item.set;
    if (isObject(holder) && Array.isArray(holder.elem)) named.set(String(holder.name), holder.elem);
  }
  let isStale = false;
  const port = (v: unknown): number => {
    const index = portIndex(v, indexOf);
    isStale ||= Number.isNaN(index);
    return index;
  };
  const all = elements(named, port);
  const present = isStale ? withoutUnknown(all) : all;
  return { ...parseProgram(json), elements: { ...present, ...parseObjects(itemsOf(json)) }, isStale };
}

type Elements = Omit<BridgeDesired, keyof NamedObjects>;

/** An interface without an index must not be written back: nft would refuse it, and with it all of the change. */
function withoutUnknown(all: Elements): Elements {
  const isKnown = (key: unknown): boolean => !/^NaN\b/.test(String(key));
  const known = Object.entries(all).map(([name, members]): [string, unknown] => [
    name,
    members instanceof Map
      ? new Map([...members].filter(([key]) => isKnown(key)))
      : new Set([...members].filter(isKnown)),
  ]);
  return Object.fromEntries(known) as Elements;
}

/** The rules of any `nft -j list table`. */
export function parseProgram(json: string): ObservedProgram {
  const rules = itemsOf(json).flatMap(({ rule }) =>
    isObject(rule) ? [ruleTag(String(rule.chain), String(rule.comment ?? ''))] : [],
  );
  return { exists: true, rules };
}

/** What a rule of the table that identifies senders says about a cgroup or about a mark. */
export interface SenderRule {
  readonly chain: string;
  /** The cgroup that it matches, as nft names it. */
  readonly cgroup?: string;
  /** The mark that it matches. */
  readonly compared?: number;
  /** The bits of the mark that it sets. */
  readonly mark?: number;
  /** It sets a conntrack zone. */
  readonly hasZone: boolean;
}

/** Reads `nft -j list table inet drawbridge_host`. */
export const parseSenders = (json: string): readonly SenderRule[] =>
  itemsOf(json).flatMap(({ rule }) => (isObject(rule) ? [senderRule(rule)] : []));

function senderRule({ chain, expr }: JsonObject): SenderRule {
  const parts = Array.isArray(expr) ? expr.filter(isObject) : [];
  const matches = parts.map((p) => p.match).filter(isObject);
  const changes = parts.map((p) => p.mangle).filter(isObject);
  const cgroup = matches.find((m) => isObject(m.left) && isObject(m.left.socket))?.right;
  const compared = matches.find((m) => isObject(m.left) && '&' in m.left)?.right;
  const mark = changes
    .map(({ value }) => (isObject(value) ? value['|'] : undefined))
    .find(Array.isArray)?.[1];
  const isZone = ({ key }: JsonObject): boolean => isObject(key) && isObject(key.ct) && key.ct.key === 'zone';
  return {
    chain: String(chain),
    ...(typeof cgroup === 'string' ? { cgroup } : {}),
    ...(typeof compared === 'number' ? { compared } : {}),
    ...(typeof mark === 'number' ? { mark } : {}),
    hasZone: changes.some(isZone),
  };
}

function itemsOf(json: string): JsonObject[] {
  const root: unknown = JSON.parse(json);
  return isObject(root) && Array.isArray(root.nftables) ? root.nftables.filter(isObject) : [];
}

function elements(named: ReadonlyMap<string, readonly unknown[]>, port: (v: unknown) => number): Elements {
  const get = (name: string): readonly unknown[] => named.get(name) ?? [];
  const pairs = (name: string): (readonly [unknown, unknown])[] =>
    get(name).flatMap((e) => (Array.isArray(e) && e.length === 2 ? [[e[0], e[1]] as const] : []));
  return {
    routed4: new Map(pairs('routed4').map(([k, v]) => [frameKey(k, port), Number(v)])),
    id4: new Map(pairs('id4').map(([k, v]) => [idKey(k, port), Number(v)])),
    id6: new Map(pairs('id6').map(([k, v]) => [idKey(k, port), Number(v)])),
    loose: new Map(pairs('loose').map(([k, v]) => [port(k), Number(v)])),
    nameless: new Map(pairs('nameless').map(([k, v]) => [port(k), Number(v)])),
    net4: new Set(get('net4').map(networkText)),
    net6: new Set(get('net6').map(networkText)),
    up: new Map(pairs('up').map(([k, v]) => [port(k), String(v)])),
    strict: new Set(get('strict').map(port)),
    macs: new Set(get('macs').map((k) => macKey(k, port))),
    ll6: new Set(get('ll6').map((k) => macKey(k, port))),
    exempt: new Set(get('exempt').map(port)),
    bridgemac: new Set(get('bridgemac').map((k) => macKey(k, port))),
    enf4: new Set(get('enf4').map(String)),
    own4: new Set(get('own4').map(String)),
    own6: new Set(get('own6').map(String)),
    enf6: new Set(get('enf6').map(String)),
    closed4: new Set(get('closed4').map(placeKey)),
    closed6: new Set(get('closed6').map(placeKey)),
    mcast4: new Set(get('mcast4').map(groupKey)),
    mcast6: new Set(get('mcast6').map(groupKey)),
    rates: new Map(pairs('rates').map(([k, v]) => [port(k), String(v)])),
    quotas: new Map(pairs('quotas').map(([k, v]) => [port(k), String(v)])),
  };
}

function idKey(key: unknown, port: (v: unknown) => number): string {
  const parts = isObject(key) && Array.isArray(key.concat) ? key.concat : [];
  return `${port(parts[0])} . ${String(parts[1])} . ${String(parts[2])}`;
}

const FRAME_DIGITS = 30;
/** "IFINDEX . HEAD . ADDRESS". nft prints the head as a number, without leading zeros. */
function frameKey(key: unknown, port: (v: unknown) => number): string {
  const parts = isObject(key) && Array.isArray(key.concat) ? key.concat : [];
  const head = String(parts[1]).replace(/^0x/, '').padStart(FRAME_DIGITS, '0');
  return `${port(parts[0])} . 0x${head} . ${String(parts[2])}`;
}

function macKey(key: unknown, port: (v: unknown) => number): string {
  const parts = isObject(key) && Array.isArray(key.concat) ? key.concat : [];
  return `${port(parts[0])} . ${String(parts[1])}`;
}

/** "ADDRESS . PORT", as we write it. */
function placeKey(key: unknown): string {
  const parts = isObject(key) && Array.isArray(key.concat) ? key.concat : [];
  return `${String(parts[0])} . ${String(parts[1])}`;
}

/** "10.0.0.0/8"; a network of one address is printed without its length. */
function networkText(element: unknown): string {
  const prefix = isObject(element) && isObject(element.prefix) ? element.prefix : undefined;
  return prefix ? `${String(prefix.addr)}/${String(prefix.len)}` : String(element);
}

/** "MARK . GROUP . PORT", as we write it. */
function groupKey(key: unknown): string {
  const parts = isObject(key) && Array.isArray(key.concat) ? key.concat : [];
  return `${Number(parts[0])} . ${String(parts[1])} . ${String(parts[2])}`;
}

/**
 * nft prints an interface by its name, and by its index once it was removed. Returns NaN when it was removed after nft
 * had printed its name.
 */
function portIndex(v: unknown, indexOf: IndexOf): number {
  if (typeof v === 'number') return v;
  return indexOf(String(v)) ?? Number(v);
}

/** Named limits and quotas of the bridge table, without the elements that use them. */
type NamedObjects = Pick<BridgeDesired, 'limits' | 'allowances'>;
interface NftObject {
  readonly name?: unknown;
  readonly rate?: unknown;
  readonly rate_unit?: unknown;
  readonly bytes?: unknown;
  readonly used?: unknown;
}
/** nft prints a rate in the greatest unit that divides it (nftables, src/datatype.c, get_rate). */
const BYTES_IN_UNIT: Readonly<Record<string, number>> = {
  bytes: 1,
  kbytes: 2 ** 10,
  mbytes: 2 ** 20,
  gbytes: 2 ** 30,
};

/** Reads limits (bytes a second) and quotas from the items of `nft -j list`. */
export function parseObjects(items: readonly { readonly [kind: string]: unknown }[]): NamedObjects {
  const named = (kind: 'limit' | 'quota'): NftObject[] =>
    items.flatMap((i) => (typeof i[kind] === 'object' && i[kind] !== null ? [i[kind] as NftObject] : []));
  return {
    limits: new Map(named('limit').map((l): readonly [string, number] => [String(l.name), rateOf(l)])),
    allowances: new Map(
      named('quota').map((q): readonly [string, Allowance] => [
        String(q.name),
        { bytes: Number(q.bytes), used: Number(q.used ?? 0) },
      ]),
    ),
  };
}
const rateOf = (limit: NftObject): number =>
  Number(limit.rate) * (BYTES_IN_UNIT[String(limit.rate_unit ?? 'bytes')] ?? Number.NaN);
