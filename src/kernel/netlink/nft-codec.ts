/**
 * Messages of nf_tables (include/uapi/linux/netfilter/nf_tables.h), as far as a few rules need them, and the class that
 * changes elements of sets and maps. The tables themselves are written by the apply step.
 */
import {
  attribute,
  cString,
  DecodedDumps,
  FLAG,
  nested,
  netfilterBody,
  parseAttributes,
  type RuleCounter,
  readCString,
  readU32be,
  ruleCounterOf,
  u8,
  u32be,
  u32le,
} from './netlink-codec.js';
import { isRefusal } from './netlink-error.js';
import { NetlinkSocket, type Outgoing } from './netlink-socket.js';
import { type Expression, expression, VERDICT } from './nft-expressions.js';

const SUBSYSTEM = 10;
export const MESSAGE = {
  newTable: 0,
  getTable: 1,
  delTable: 2,
  newChain: 3,
  newRule: 6,
  getRule: 7,
  delRule: 8,
  newSet: 9,
  newElement: 12,
  delElement: 14,
  generation: 16,
  getObject: 19,
} as const;
const BATCH = { begin: 0x10, end: 0x11 } as const;
const FLAG_APPEND = 0x800;
const FAMILY = { inet: 1, ip: 2, netdev: 5, bridge: 7, ip6: 10 } as const;
type Family = keyof typeof FAMILY;
const messageOf = (
  family: Family,
  type: number,
  flags: number,
  ...attributes: readonly Buffer[]
): Outgoing => ({
  type: (SUBSYSTEM << 8) | type,
  flags,
  body: netfilterBody(FAMILY[family], 0, ...attributes),
});
export const message = (type: number, flags: number, ...attributes: readonly Buffer[]): Outgoing =>
  messageOf('inet', type, flags, ...attributes);

/** Makes sure that the table is there; `only`: refused with EEXIST when it is there already. */
export const newTable = (name: string, only?: 'only'): Outgoing =>
  message(
    MESSAGE.newTable,
    FLAG.create | (only === undefined ? 0 : FLAG.exclusive),
    attribute(1, cString(name)),
  );
/** Refused with ENOENT when there is no such table. */
export const getTable = (name: string): Outgoing => message(MESSAGE.getTable, 0, attribute(1, cString(name)));
/** The flags of a table (such as dormant), and the number of its chains and sets. */
export function stateOfTable(body: Buffer): { readonly flags?: number; readonly use?: number } {
  const attributes = parseAttributes(body, 4);
  const [flags, use] = [readU32be(attributes.get(2)), readU32be(attributes.get(3))];
  return { ...(flags === undefined ? {} : { flags }), ...(use === undefined ? {} : { use }) };
}
/** A dump of the rules of a table, in the order of its chains. */
export const listRules = (table: string): Outgoing =>
  message(MESSAGE.getRule, 0, attribute(1, cString(table)));
/** A rule in a dump without the header, which has the generation of the ruleset: equal for an equal rule with the same handle. */
export const ruleOf = (body: Buffer): Buffer => Buffer.from(body.subarray(4));
export const deleteTable = (name: string, family: Family = 'inet'): Outgoing =>
  messageOf(family, MESSAGE.delTable, 0, attribute(1, cString(name)));

/**
 * One member of a set, without a time-out when `timeoutMs` is undefined. Before Linux 6.12, an existing member keeps
 * its time-out.
 */
export const addElement = (
  table: string,
  set: string,
  key: Buffer,
  timeoutMs: number | undefined,
): Outgoing => element(MESSAGE.newElement, FLAG.create, table, set, key, timeoutMs);
export const deleteElement = (table: string, set: string, key: Buffer): Outgoing =>
  element(MESSAGE.delElement, 0, table, set, key, undefined);

/** An element as the kernel keeps it; `data`: what a map has for the key. */
export interface RawElement {
  readonly key: Buffer;
  readonly data?: Buffer;
}
/** Elements of one set or map, in one message. Adding one that is there is no error, removing one that is not is ENOENT. */
const changeElements = (
  verb: 'add' | 'delete',
  { family, table, set }: { readonly family: Family; readonly table: string; readonly set: string },
  elements: readonly RawElement[],
): Outgoing =>
  messageOf(
    family,
    verb === 'add' ? MESSAGE.newElement : MESSAGE.delElement,
    verb === 'add' ? FLAG.create : 0,
    attribute(1, cString(table)),
    attribute(2, cString(set)),
    nested(3, ...elements.map(rawElement)),
  );
const rawElement = ({ key, data }: RawElement): Buffer =>
  nested(1, nested(1, attribute(1, key)), ...(data === undefined ? [] : [nested(2, attribute(1, data))]));

function element(
  type: number,
  flags: number,
  table: string,
  set: string,
  key: Buffer,
  timeoutMs: number | undefined,
): Outgoing {
  const timeout = Buffer.alloc(8);
  timeout.writeBigUInt64BE(BigInt(timeoutMs ?? 0));
  const parts = [nested(1, attribute(1, key)), ...(timeoutMs === undefined ? [] : [attribute(4, timeout)])];
  return message(
    type,
    flags,
    attribute(1, cString(table)),
    attribute(2, cString(set)),
    nested(3, nested(1, ...parts)),
  );
}

/** Request for the generation of the ruleset in this namespace, which changes with every change of a table. */
export const askGeneration = (): Outgoing => message(MESSAGE.generation, 0);
export const generationOf = (body: Buffer): number | undefined => readU32be(parseAttributes(body, 4).get(1));

export interface BaseChain {
  readonly name: string;
  readonly type: 'filter' | 'nat';
  readonly hook: number;
  readonly priority: number;
}
export const newChain = (table: string, chain: BaseChain): Outgoing =>
  message(
    MESSAGE.newChain,
    FLAG.create,
    attribute(1, cString(table)),
    attribute(3, cString(chain.name)),
    nested(4, attribute(1, u32be(chain.hook)), attribute(2, u32be(chain.priority))),
    attribute(5, u32be(VERDICT.accept)),
    attribute(7, cString(chain.type)),
  );
export const newRule = (table: string, chain: string, ...parts: readonly Expression[]): Outgoing =>
  message(
    MESSAGE.newRule,
    FLAG.create | FLAG_APPEND,
    attribute(1, cString(table)),
    attribute(2, cString(chain)),
    nested(4, ...parts.flat()),
  );

/** The target NFQUEUE of iptables, revision 0 (struct xt_NFQ_info; XT_ALIGN makes it 8 bytes). */
const queueTarget = (queue: number): Expression => [
  expression(
    'target',
    attribute(1, cString('NFQUEUE')),
    attribute(2, u32be(0)),
    attribute(3, Buffer.concat([u32le(queue), u32le(0)])),
  ),
];
export interface QueueRule {
  readonly table: string;
  readonly chain: string;
  readonly queue: number;
  /** nft lists it as the comment of the rule. */
  readonly comment: string;
}
/** A chain that contains this rule and no other. The table and the chain are created if they are missing. */
function queueChain({ table, chain, queue, comment }: QueueRule): readonly Outgoing[] {
  const place = [attribute(1, cString(table)), attribute(2, cString(chain))];
  const text = cString(comment);
  // struct nftnl_udata: a comment is of type 0
  const data = Buffer.concat([u8(0), u8(text.length), text]);
  return [
    newTable(table),
    message(MESSAGE.newChain, FLAG.create, attribute(1, cString(table)), attribute(3, cString(chain))),
    message(MESSAGE.delRule, 0, ...place),
    message(
      MESSAGE.newRule,
      FLAG.create | FLAG_APPEND,
      ...place,
      nested(4, ...queueTarget(queue)),
      attribute(7, data),
    ),
  ];
}

const batch = (type: number): Outgoing => ({ type, body: netfilterBody(0, SUBSYSTEM) });
export const batchBegin = (): Outgoing => batch(BATCH.begin);
export const batchEnd = (): Outgoing => batch(BATCH.end);

export interface ElementChange {
  readonly verb: 'add' | 'delete';
  readonly set: string;
  readonly elements: readonly RawElement[];
}

/** An attribute of a rule. */
const RULE_TABLE = 1;
const OBJECT = { table: 1, name: 2, type: 3, data: 4 } as const;
const QUOTA = { type: 2, consumed: 4 } as const;
/** Name and counted bytes of a quota of this table; undefined for any other object. */
function usedQuota(body: Buffer, table: string): readonly [string, number] | undefined {
  const object = parseAttributes(body, 4);
  const name = readCString(object.get(OBJECT.name));
  const used = parseAttributes(object.get(OBJECT.data)).get(QUOTA.consumed);
  const isOurs =
    readCString(object.get(OBJECT.table)) === table && readU32be(object.get(OBJECT.type)) === QUOTA.type;
  return isOurs && name !== undefined && used ? [name, Number(used.readBigUInt64BE())] : undefined;
}

/** The sets of nf_tables of one network namespace, and the counters of its rules. */
export class NftElements implements Disposable {
  readonly #socket: NetlinkSocket;
  readonly #dumps: NetlinkSocket;
  /** By the family and the prefixes of chains. */
  readonly #counters = new Map<string, DecodedDumps<RuleCounter>>();

  constructor(options: { readonly namespace?: string | number } = {}) {
    this.#socket = new NetlinkSocket({ protocol: 'netfilter', ...options });
    this.#dumps = new NetlinkSocket({ protocol: 'netfilter', ...options });
  }

  /**
   * Reads the packet counters of the rules in the table `filter` of iptables-nft. `chains`: prefixes of chain names; the rules of all
   * other chains are left out. Rules that have counted nothing since the last reading are mostly the same objects. Rejects with NetlinkError.
   */
  counters(family: 4 | 6, chains: readonly string[]): Promise<readonly RuleCounter[]> {
    const table = attribute(RULE_TABLE, cString('filter'));
    const out = messageOf(family === 4 ? 'ip' : 'ip6', MESSAGE.getRule, 0, table);
    const key = `${family} ${chains.join(' ')}`;
    const decoded = this.#counters.get(key) ?? new DecodedDumps(({ body }) => ruleCounterOf(body, chains));
    this.#counters.set(key, decoded);
    return this.#dumps.dump('read the counters of rules', out, decoded.decode, { decoded });
  }

  /** The bytes that the kernel has counted for each named quota of a table of the family bridge. Rejects with NetlinkError. */
  async quotas(table: string): Promise<ReadonlyMap<string, number>> {
    const named = [attribute(OBJECT.table, cString(table)), attribute(OBJECT.type, u32be(QUOTA.type))];
    const out = messageOf('bridge', MESSAGE.getObject, 0, ...named);
    return new Map(await this.#dumps.dump('read quotas', out, ({ body }) => usedQuota(body, table)));
  }

  /** Changes of a table of the family bridge, all or none, in their order. Throws NetlinkError with the first refusal. */
  change(table: string, changes: readonly ElementChange[]): void {
    const messages = changes.map(({ verb, set, elements }) =>
      changeElements(verb, { family: 'bridge', table, set }, elements),
    );
    this.#socket.transaction(`change elements of table bridge ${table}`, [
      batchBegin(),
      ...messages,
      batchEnd(),
    ]);
  }

  /** Writes the chain of a table of the family inet that queues packets. Throws NetlinkError with the first refusal. */
  setQueueRule(rule: QueueRule): void {
    this.#socket.transaction(`queue packets in table inet ${rule.table}`, [
      batchBegin(),
      ...queueChain(rule),
      batchEnd(),
    ]);
  }

  /** Whether there is such a table, of whatever program. Throws NetlinkError. */
  hasTable(family: Family, table: string): boolean {
    const request = messageOf(family, MESSAGE.getTable, 0, attribute(1, cString(table)));
    try {
      return this.#socket.request(`find table ${family} ${table}`, request).length > 0;
    } catch (error) {
      if (isRefusal(error, 'ENOENT')) return false;
      throw error;
    }
  }

  /** A count that each commit to nf_tables in this network namespace increases, by whatever program. Throws NetlinkError. */
  generation(): number | undefined {
    const [answer] = this.#socket.request('read the generation of nf_tables', askGeneration());
    return answer && generationOf(answer.body);
  }

  close(): void {
    this.#socket.close();
    this.#dumps.close();
  }
  [Symbol.dispose](): void {
    this.close();
  }
}
