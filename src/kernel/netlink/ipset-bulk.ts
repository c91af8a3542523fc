/** Large ipsets: created, filled in slices, and swapped over netlink, without members as text. And listings of all sets. */
import { hash } from 'node:crypto';
import type { SetColumns } from '../../policy/threat.js';
import type { BigSet, SetHeader, SetMember, SetStore } from '../set-store.js';
import { decodeHeader, IPSET_COMMAND, KernelSets, listBody, SET_TYPES } from './ipset.js';
import {
  AF_INET,
  AF_INET6,
  addressBytes,
  attribute,
  attributeAt,
  cString,
  encodeMessage,
  FLAG,
  nested,
  netfilterBody,
  networkOrder,
  u8,
  u32be,
} from './netlink-codec.js';
import { isRefusal, NetlinkError } from './netlink-error.js';

const SUBSYSTEM = 6;
const BULK_COMMAND = {
  create: (SUBSYSTEM << 8) | 2,
  destroy: (SUBSYSTEM << 8) | 3,
  rename: (SUBSYSTEM << 8) | 5,
  swap: (SUBSYSTEM << 8) | 6,
} as const;
const PROTOCOL_VERSION = 7;
/** Every kernel that has the type knows its first revision, and nothing newer is needed. */
const REVISION = 0;
const COMMAND = {
  protocol: 1,
  set: 2,
  type: 3,
  otherSet: 3,
  revision: 4,
  family: 5,
  data: 7,
  members: 8,
  line: 9,
};
const DATA = { ip: 1, cidr: 3, hashSize: 18, maxElements: 19, elements: 24 };
const IP = { 1: 1, 4: 2 } as const;
const NESTED = 0x8000;
const NETWORK_ORDER = 0x4000;
/** A nested attribute's length has 16 bits. */
const MAX_MEMBERS_LENGTH = 60_000;

const family = (words: 1 | 4): number => (words === 1 ? AF_INET : AF_INET6);
const version = (): Buffer => attribute(COMMAND.protocol, u8(PROTOCOL_VERSION));
const named = (set: string): Buffer => attribute(COMMAND.set, cString(set));

function createBody({ name, of, words, hashSize, maxElements }: BigSet): Buffer {
  return netfilterBody(
    family(words),
    0,
    version(),
    named(name),
    attribute(COMMAND.type, cString(SET_TYPES[of])),
    attribute(COMMAND.revision, u8(REVISION)),
    attribute(COMMAND.family, u8(family(words))),
    nested(
      COMMAND.data,
      networkOrder(DATA.hashSize, u32be(hashSize)),
      networkOrder(DATA.maxElements, u32be(maxElements)),
    ),
  );
}

const destroyBody = (set: string): Buffer => netfilterBody(AF_INET, 0, version(), named(set));
/** The body of a swap and of a rename. */
const pairBody = (from: string, to: string): Buffer =>
  netfilterBody(AF_INET, 0, version(), named(from), attribute(COMMAND.otherSet, cString(to)));

/** Writes one member: its attributes are always as long. */
class MemberWriter {
  readonly size: number;
  readonly #words: 1 | 4;
  readonly #hasPrefix: boolean;

  constructor(words: 1 | 4, hasPrefix: boolean) {
    this.#words = words;
    this.#hasPrefix = hasPrefix;
    this.size = 12 + 4 * words + (hasPrefix ? 8 : 0);
  }

  put(out: Buffer, at: number, column: Uint32Array, i: number, prefix: number): void {
    const octets = 4 * this.#words;
    out.writeUInt16LE(this.size, at);
    out.writeUInt16LE(COMMAND.data | NESTED, at + 2);
    out.writeUInt16LE(8 + octets, at + 4);
    out.writeUInt16LE(DATA.ip | NESTED, at + 6);
    out.writeUInt16LE(4 + octets, at + 8);
    out.writeUInt16LE(IP[this.#words] | NETWORK_ORDER, at + 10);
    for (let w = 0; w < this.#words; w++)
      out.writeUInt32BE(column[i * this.#words + w] as number, at + 12 + 4 * w);
    if (!this.#hasPrefix) return;
    out.writeUInt32LE(5 | (DATA.cidr << 16), at + 12 + octets);
    out.writeUInt32LE(prefix, at + 16 + octets);
  }
}

/** Bodies of add commands with thousands of members each. A body is valid until the next one is requested. */
function* addBodies(set: string, of: BigSet['of'], columns: SetColumns): Generator<Buffer> {
  const isNet = of === 'net';
  const column = isNet ? columns.nets : columns.singles;
  const count = column.length / columns.words;
  const writer = new MemberWriter(columns.words, isNet);
  const head = netfilterBody(
    family(columns.words),
    0,
    version(),
    named(set),
    attribute(COMMAND.line, u32be(0)),
    attribute(COMMAND.members | NESTED, Buffer.alloc(0)),
  );
  const perBody = Math.floor(MAX_MEMBERS_LENGTH / writer.size);
  const out = Buffer.alloc(head.length + Math.min(perBody, count) * writer.size);
  head.copy(out);
  for (let from = 0; from < count; from += perBody) {
    const to = Math.min(from + perBody, count);
    for (let i = from; i < to; i++)
      writer.put(out, head.length + (i - from) * writer.size, column, i, columns.prefixes[i] ?? 0);
    const length = (to - from) * writer.size;
    out.writeUInt16LE(4 + length, head.length - 4);
    yield out.subarray(0, head.length + length);
  }
}

const SLICE_MS = 5;
/** IPSET_ERR_EXIST_SETNAME2: there is no second set. */
const NO_SECOND = 4101;

/** With more members in all sets of the kernel, a listing of all of them takes longer than it saves: some 0.1 µs each. */
const MOST_LISTED = 20_000;

/** The messages of a listing of one set as one: where a listing of all sets is cut depends on the sets before it. */
function joinedMessages([first = Buffer.alloc(0), ...rest]: readonly Buffer[]): Buffer {
  const at = attributeAt(first, COMMAND.members, 4, first.length);
  if (at < 0 || rest.length === 0) return first;
  const members = rest.map((body) => {
    const from = attributeAt(body, COMMAND.members, 4, body.length);
    return from < 0 ? Buffer.alloc(0) : body.subarray(from);
  });
  const whole = Buffer.concat([first, ...members]);
  whole.writeUInt16LE((whole.length - at + 4) & 0xffff, at - 4);
  return whole;
}

const ALL_HEADERS = encodeMessage(IPSET_COMMAND.list, FLAG.request | FLAG.dump, 0, listBody());
const ALL_MEMBERS = listBody(undefined, false);

/** The sets of one network namespace, as ipsets. */
export class IpsetStore extends KernelSets implements SetStore {
  /** Of all sets, by the last listing of their headers. */
  #members = Number.POSITIVE_INFINITY;

  create(set: BigSet): void {
    this.#do(`create set ${set.name}`, BULK_COMMAND.create, createBody(set), FLAG.create | FLAG.exclusive);
  }

  async fill(set: string, of: BigSet['of'], columns: SetColumns): Promise<void> {
    let sliceEnds = performance.now() + SLICE_MS;
    for (const body of addBodies(set, of, columns)) {
      this.#do(`fill set ${set}`, IPSET_COMMAND.add, body);
      if (performance.now() < sliceEnds) continue;
      await new Promise<void>((resume) => setImmediate(resume));
      sliceEnds = performance.now() + SLICE_MS;
    }
  }

  allEntries(): ReadonlyMap<string, number> {
    const all = new Map<string, number>();
    let members = 0;
    const read = (data: Buffer, from: number, to: number): void => {
      const name = attributeAt(data, COMMAND.set, from + 4, to);
      const inside = attributeAt(data, COMMAND.data, from + 4, to);
      const at = inside < 0 ? -1 : attributeAt(data, DATA.elements, inside, to);
      if (name < 0 || at < 0) return;
      const entries = data.readUInt32BE(at);
      members += entries;
      all.set(data.toString('latin1', name, data.indexOf(0, name)), entries);
    };
    const errno = this.requests.repeatDump('list all sets', ALL_HEADERS, ALL_HEADERS.length, read);
    if (errno !== 0) throw new NetlinkError('list all sets', errno);
    this.#members = members;
    return all;
  }

  async digests(sets: readonly string[]): Promise<ReadonlyMap<string, string> | undefined> {
    if (this.#members > MOST_LISTED) return undefined;
    // The kernel finds a set by comparing names one after the other: many listings of one set take longer.
    const wanted = new Set(sets);
    const found = new Map<string, string>();
    let [name, messages]: [string, Buffer[]] = ['', []];
    const end = (): void => {
      if (messages.length > 0) found.set(name, hash('sha1', joinedMessages(messages), 'base64'));
      messages = [];
    };
    await this.dumps.dump('list all members', { type: IPSET_COMMAND.list, body: ALL_MEMBERS }, ({ body }) => {
      const at = attributeAt(body, COMMAND.set, 4, body.length);
      const next = at < 0 ? '' : body.toString('latin1', at, body.indexOf(0, at));
      if (next !== name) end();
      name = next;
      if (wanted.has(name)) messages.push(Buffer.from(body));
      return undefined;
    });
    end();
    return found;
  }

  async header(set: string): Promise<SetHeader | undefined> {
    const out = { type: IPSET_COMMAND.list, body: listBody(set, true) };
    try {
      const [found] = await this.dumps.dump(`read the header of set ${set}`, out, ({ body }) => {
        const header = decodeHeader(body);
        return header.ok ? header.value : undefined;
      });
      return found;
    } catch (error) {
      if (isRefusal(error, 'ENOENT')) return undefined;
      throw error;
    }
  }

  exchange(fresh: string, set: string): boolean {
    if (this.#swap(fresh, set)) return true;
    try {
      this.#do(`rename set ${fresh} to ${set}`, BULK_COMMAND.rename, pairBody(fresh, set));
      return false;
    } catch (error) {
      if (this.#swap(fresh, set)) return true; // another process has created it in the meantime
      throw error;
    }
  }

  #swap(a: string, b: string): boolean {
    try {
      this.#do(`swap sets ${a} and ${b}`, BULK_COMMAND.swap, pairBody(a, b));
      return true;
    } catch (error) {
      if (error instanceof NetlinkError && error.errno === NO_SECOND) return false;
      throw error;
    }
  }

  destroy(set: string): boolean {
    try {
      this.#do(`destroy set ${set}`, BULK_COMMAND.destroy, destroyBody(set));
      return true;
    } catch (error) {
      if (isRefusal(error, 'ENOENT')) return false;
      throw error;
    }
  }

  #do(operation: string, type: number, body: Buffer, flags = 0): void {
    this.requests.request(operation, { type, body, flags });
  }
}

/** Whether the members of a set are these addresses and networks, and no others. */
export function areMembers(found: readonly SetMember[] | undefined, members: readonly string[]): boolean {
  const keyOf = (address: string, prefix?: number): string => {
    const bytes = addressBytes(address);
    return `${bytes?.toString('hex')}/${prefix ?? (bytes?.length ?? 0) * 8}`;
  };
  const wanted = new Set(
    members.map((member) => {
      const [address = '', prefix] = member.split('/');
      return keyOf(address, prefix === undefined ? undefined : Number(prefix));
    }),
  );
  return (
    found?.length === wanted.size && found.every((m) => !m.nomatch && wanted.has(keyOf(m.address, m.prefix)))
  );
}
