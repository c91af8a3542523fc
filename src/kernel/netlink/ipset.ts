/**
 * Members and listings of ipsets over netlink (include/uapi/linux/netfilter/ipset/ip_set.h, protocol 7). The apply step
 * creates and destroys the sets.
 */

import { hash } from 'node:crypto';
import { familyOf } from '../../lib/ip.js';
import type { SetKind } from '../../ruleset/desired-state.js';
import type { SetHeader, SetMember } from '../set-store.js';
import { MAX_TIMEOUT, RepeatedMembers, type TimedMembers } from './answer-sets.js';
import {
  AF_INET,
  AF_INET6,
  type Attributes,
  addressBytes,
  addressText,
  align4,
  attribute,
  attributeAt,
  cString,
  type Decoded,
  encodeMessage,
  FLAG,
  listAttributes,
  nested,
  netfilterBody,
  networkOrder,
  parseAttributes,
  readCString,
  readU8,
  readU32be,
  u8,
  u32be,
} from './netlink-codec.js';
import { EINVAL, ENOENT, explained, isRefusal, NetlinkError, SET_ERROR } from './netlink-error.js';
import { NetlinkSocket } from './netlink-socket.js';

const SUBSYSTEM = 6;
export const IPSET_COMMAND = {
  list: (SUBSYSTEM << 8) | 7,
  add: (SUBSYSTEM << 8) | 9,
  remove: (SUBSYSTEM << 8) | 10,
  test: (SUBSYSTEM << 8) | 11,
  header: (SUBSYSTEM << 8) | 12,
} as const;
const PROTOCOL_VERSION = 7;
const FLAG_LIST_HEADER = 1 << 2;
const FLAG_NOMATCH = 1 << 2;

/** Attributes of a command, of its data, and of an address. */
const COMMAND = { protocol: 1, set: 2, type: 3, family: 5, flags: 6, data: 7, members: 8, line: 9 } as const;
const DATA = { ip: 1, cidr: 3, timeout: 6, flags: 8, maxElements: 19, elements: 24, references: 25 } as const;
const COMMENT = 26; // IPSET_ATTR_COMMENT, of the data
const IP = { v4: 1, v6: 2 } as const;

/** The type of ipset for each kind of members. */
export const SET_TYPES = {
  address: 'hash:ip',
  net: 'hash:net',
  'address+port': 'hash:ip,port',
  'address+port+address': 'hash:ip,port,ip',
} as const satisfies Record<SetKind, string>;

/** Body of an add or remove; undefined when `address` is neither an address nor ADDRESS/PREFIX. Time-out in seconds. */
export function memberBody(set: string, address: string, timeout?: number): Buffer | undefined {
  const [host = '', prefix, ...rest] = address.split('/');
  const bytes = addressBytes(host);
  if (bytes === undefined || rest.length > 0 || !isPrefix(prefix, bytes.length * 8)) return undefined;
  const ip = nested(DATA.ip, networkOrder(bytes.length === 4 ? IP.v4 : IP.v6, bytes));
  const parts = [ip];
  if (prefix !== undefined) parts.push(attribute(DATA.cidr, u8(Number(prefix))));
  if (timeout !== undefined) parts.push(networkOrder(DATA.timeout, u32be(timeout)));
  return netfilterBody(
    bytes.length === 4 ? AF_INET : AF_INET6,
    0,
    ...naming(set),
    nested(COMMAND.data, ...parts),
  );
}

/** One message takes so many members: a nested attribute has a length of 16 bits, and an IPv6 member takes 36 bytes. */
const MAX_MEMBERS = 1_000;

/** Body of an add of single addresses of one family, each with a time-out; undefined when one of them is no such address. */
function membersBody(set: string, members: TimedMembers): Buffer | undefined {
  const parts: Buffer[] = [];
  const length = addressBytes(members[0]?.[0] ?? '')?.length;
  for (const [address, timeout] of members) {
    const bytes = addressBytes(address);
    if (bytes === undefined || bytes.length !== length) return undefined;
    const ip = nested(DATA.ip, networkOrder(bytes.length === 4 ? IP.v4 : IP.v6, bytes));
    parts.push(nested(COMMAND.data, ip, networkOrder(DATA.timeout, u32be(timeout))));
  }
  const family = length === 4 ? AF_INET : AF_INET6;
  const line = attribute(COMMAND.line, u32be(0));
  return netfilterBody(family, 0, ...naming(set), line, nested(COMMAND.members, ...parts));
}

function isPrefix(text: string | undefined, bits: number): boolean {
  return text === undefined || (/^\d{1,3}$/.test(text) && Number(text) <= bits);
}

/** Body of a listing: one set with its members, its header alone, or the headers of all sets. A name comes last. */
export function listBody(set?: string, headerOnly = set === undefined): Buffer {
  const how = headerOnly ? [networkOrder(COMMAND.flags, u32be(FLAG_LIST_HEADER))] : [];
  const which = set === undefined ? [] : [attribute(COMMAND.set, cString(set))];
  return netfilterBody(AF_INET, 0, version(), ...how, ...which);
}

const version = (): Buffer => attribute(COMMAND.protocol, u8(PROTOCOL_VERSION));
const naming = (set: string): readonly Buffer[] => [version(), attribute(COMMAND.set, cString(set))];

/** Longest name of a set with its NUL (IPSET_MAXNAMELEN). */
const NAME_LENGTH = 32;
const ANY_NAME = listBody('x'.repeat(NAME_LENGTH - 1), true);
/** A request for the header of a set. `nameIn` writes the name of the set into it. */
const HEADER_REQUEST = encodeMessage(IPSET_COMMAND.list, FLAG.request | FLAG.dump, 0, ANY_NAME);
/** A request for the header and the members of a set. */
const WHOLE_REQUEST = encodeMessage(
  IPSET_COMMAND.list,
  FLAG.request | FLAG.dump,
  0,
  listBody('x'.repeat(NAME_LENGTH - 1)),
);

/** Writes the name of a set into the request, and returns the length of the request. */
function nameIn(request: Buffer, set: string): number {
  const at = request.length - NAME_LENGTH;
  const length = request.write(`${set}\0`, at, NAME_LENGTH, 'latin1');
  request.writeUInt16LE(4 + length, at - 4);
  request.writeUInt32LE(at + align4(length), 0);
  return at + align4(length);
}

const optional = <K extends string, V>(key: K, value: V | undefined): { [P in K]?: V } =>
  value === undefined ? {} : ({ [key]: value } as { [P in K]: V });

/** The header of one set, from a message of a listing. */
export function decodeHeader(body: Buffer): Decoded<SetHeader> {
  const command = parseAttributes(body, 4);
  const name = readCString(command.get(COMMAND.set));
  const type = readCString(command.get(COMMAND.type));
  if (name === undefined || type === undefined) return { ok: false, error: 'a set without name or type' };
  const data = parseAttributes(command.get(COMMAND.data));
  return {
    ok: true,
    value: {
      name,
      type,
      family: readU8(command.get(COMMAND.family)) === AF_INET6 ? 6 : 4,
      entries: readU32be(data.get(DATA.elements)) ?? 0,
      references: readU32be(data.get(DATA.references)) ?? 0,
      ...optional('maxEntries', readU32be(data.get(DATA.maxElements))),
      ...optional('timeout', readU32be(data.get(DATA.timeout))),
    },
  };
}

/**
 * The members in one message of a listing (a large set takes several messages). Entries without an address are left
 * out.
 */
export function decodeMembers(body: Buffer): readonly SetMember[] {
  const members = parseAttributes(body, 4).get(COMMAND.members);
  if (members === undefined) return [];
  return listAttributes(members).flatMap(({ data }) => decodeMember(parseAttributes(data)) ?? []);
}

function decodeMember(data: Attributes): SetMember | undefined {
  const ip = parseAttributes(data.get(DATA.ip));
  const address = addressText(ip.get(IP.v4) ?? ip.get(IP.v6));
  if (address === undefined) return undefined;
  return {
    address,
    nomatch: ((readU32be(data.get(DATA.flags)) ?? 0) & FLAG_NOMATCH) !== 0,
    ...optional('comment', readCString(data.get(COMMENT))),
    ...optional('prefix', readU8(data.get(DATA.cidr))),
    ...optional('timeout', readU32be(data.get(DATA.timeout))),
  };
}

const boundedTimeout = (seconds: number): number => Math.min(Math.ceil(seconds), MAX_TIMEOUT);
const acknowledged = (type: number, body: Buffer): Buffer =>
  encodeMessage(type, FLAG.request | FLAG.ack, 0, body);

/** The sets of one network namespace. */
export class KernelSets implements Disposable {
  protected readonly requests: NetlinkSocket;
  protected readonly dumps: NetlinkSocket;

  constructor(options: { readonly namespace?: string | number } = {}) {
    this.requests = new NetlinkSocket({ protocol: 'netfilter', ...options });
    this.dumps = new NetlinkSocket({ protocol: 'netfilter', ...options });
  }

  async add(set: string, address: string, timeoutSeconds: number | undefined): Promise<void> {
    if (timeoutSeconds === undefined) return this.#change('add', set, address, undefined);
    if (!(timeoutSeconds >= 0))
      throw new RangeError(`add ${address} to set ${set}: bad time-out ${timeoutSeconds}`);
    const timeout = Math.min(Math.ceil(timeoutSeconds), MAX_TIMEOUT);
    try {
      this.#change('add', set, address, timeout);
    } catch (error) {
      const permanent = timeout === 0 && error instanceof NetlinkError && error.errno === SET_ERROR.timeout;
      if (!permanent) throw error;
      this.#change('add', set, address, undefined);
    }
  }

  async addAll(set: string, members: TimedMembers): Promise<void> {
    for (let from = 0; from < members.length; from += MAX_MEMBERS) {
      const some = members.slice(from, from + MAX_MEMBERS).map(([a, s]) => [a, boundedTimeout(s)] as const);
      const body = membersBody(set, some);
      const [first] = some;
      if (first === undefined) return;
      if (some.length > 1 && body !== undefined && this.#isAdded(set, body)) continue;
      // One by one, so that the error names the member.
      for (const [address, timeout] of some) await this.add(set, address, timeout);
    }
  }

  #isAdded(set: string, body: Buffer): boolean {
    try {
      this.requests.request(`add members to set ${set}`, { type: IPSET_COMMAND.add, body });
      return true;
    } catch (error) {
      if (error instanceof NetlinkError) return false;
      throw error;
    }
  }

  /**
   * Prepares requests about members that a caller wants to find in the set again and again. Undefined for too many members or
   * none. `until`: wall clock, ms.
   */
  repeated(set: string, until: ReadonlyMap<string, number>): RepeatedMembers | undefined {
    if (until.size === 0 || until.size > MAX_MEMBERS) return undefined;
    const add = membersBody(
      set,
      [...until.keys()].map((address) => [address, 1] as const),
    );
    const tests = [...until.keys()].map((address) => memberBody(set, address));
    if (add === undefined || !tests.every((t) => t !== undefined)) return undefined;
    return new RepeatedMembers(this.requests, `find members in set ${set}`, {
      add: acknowledged(IPSET_COMMAND.add, add),
      tests: tests.map((body) => acknowledged(IPSET_COMMAND.test, body)),
      until: Float64Array.from(until.values()),
    });
  }

  repeatedAdds(members: readonly (readonly [set: string, address: string])[], seconds: number): () => void {
    const operation = `add ${members.map(([set, address]) => `${address} to set ${set}`).join(', ')}`;
    const requests = members.map(([set, address], n) => {
      const body = memberBody(set, address, seconds);
      if (body === undefined) throw new NetlinkError(operation, EINVAL, { reason: 'not an address' });
      const flags = n === members.length - 1 ? FLAG.request | FLAG.ack : FLAG.request;
      return encodeMessage(IPSET_COMMAND.add, flags, 0, body);
    });
    const message = Buffer.concat(requests);
    return () => {
      const errno = this.requests.repeat(operation, message);
      if (errno !== 0) throw explained(new NetlinkError(operation, errno));
    };
  }

  /** Removes a member; one that is not there is no error. Rejects with NetlinkError. */
  async remove(set: string, address: string): Promise<void> {
    this.#change('remove', set, address, undefined);
  }

  async headers(): Promise<readonly SetHeader[]> {
    return this.#dump('list sets', undefined, (body) => {
      const header = decodeHeader(body);
      return header.ok ? [header.value] : [];
    });
  }

  #entries: number | undefined;
  readonly #readEntries = (data: Buffer, from: number, to: number): void => {
    const inside = attributeAt(data, COMMAND.data, from + 4, to);
    const at = inside < 0 ? -1 : attributeAt(data, DATA.elements, inside, to);
    if (at >= 0) this.#entries = data.readUInt32BE(at);
  };

  entries(set: string): number | undefined {
    this.#entries = undefined;
    const length = nameIn(HEADER_REQUEST, set);
    const errno = this.requests.repeatDump('list a set', HEADER_REQUEST, length, this.#readEntries);
    if (errno === 0 || errno === ENOENT) return this.#entries;
    throw explained(new NetlinkError(`list set ${set}`, errno));
  }

  digest(set: string): string | undefined {
    let digest: string | undefined;
    const read = (data: Buffer, from: number, to: number): void => {
      // Most sets are one message. The hash of a larger one covers the hashes of its messages.
      const next = hash('sha1', data.subarray(from, to), 'base64');
      digest = digest === undefined ? next : hash('sha1', digest + next, 'base64');
    };
    const length = nameIn(WHOLE_REQUEST, set);
    const errno = this.requests.repeatDump('list a set', WHOLE_REQUEST, length, read);
    if (errno === 0) return digest;
    if (errno === ENOENT) return undefined;
    throw explained(new NetlinkError(`list set ${set}`, errno));
  }

  async members(set: string): Promise<readonly SetMember[] | undefined> {
    try {
      return await this.#dump(`list set ${set}`, set, decodeMembers);
    } catch (error) {
      if (isRefusal(error, 'ENOENT')) return undefined;
      throw error;
    }
  }

  close(): void {
    this.requests.close();
    this.dumps.close();
  }
  [Symbol.dispose](): void {
    this.close();
  }

  #change(verb: 'add' | 'remove', set: string, address: string, timeout: number | undefined): void {
    const operation = verb === 'add' ? `add ${address} to set ${set}` : `remove ${address} from set ${set}`;
    const body = memberBody(set, address, timeout);
    if (body === undefined) throw new NetlinkError(operation, EINVAL, { reason: 'not an address' });
    try {
      this.requests.request(operation, { type: IPSET_COMMAND[verb], body });
    } catch (error) {
      throw this.#wrongFamily(error, set, address) ?? explained(error);
    }
  }

  /**
   * The kernel reports an address of the other family as a protocol error. Requests the set's family for a better
   * message.
   */
  #wrongFamily(error: unknown, set: string, address: string): NetlinkError | undefined {
    if (!(error instanceof NetlinkError) || error.errno !== SET_ERROR.protocol) return undefined;
    const [answer] = this.requests.request(error.operation, {
      type: IPSET_COMMAND.header,
      body: listBody(set),
    });
    const header = answer === undefined ? undefined : decodeHeader(answer.body);
    const family = familyOf(address);
    if (header?.ok !== true || header.value.family === family) return undefined;
    const reason = `the set is for IPv${header.value.family}, the address is IPv${family}`;
    return new NetlinkError(error.operation, error.errno, {
      reason,
      remedy: 'Use the set of the other family.',
    });
  }

  async #dump<T>(
    operation: string,
    set: string | undefined,
    decode: (body: Buffer) => readonly T[],
  ): Promise<T[]> {
    const out = { type: IPSET_COMMAND.list, body: listBody(set) };
    try {
      return (await this.dumps.dump(operation, out, (message) => decode(message.body))).flat();
    } catch (error) {
      throw explained(error);
    }
  }
}
