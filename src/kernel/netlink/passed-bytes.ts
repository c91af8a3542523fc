/** Bytes of TCP connections that the kernel lets pass without the check of names: a set of nf_tables that ends with this process. */
import { familyOf } from '../../lib/ip.js';
import type { Marks } from '../../ruleset/marks.js';
import { addressBytes, attribute, cString, FLAG, nested, u16be, u32be, u32le } from './netlink-codec.js';
import { isRefusal } from './netlink-error.js';
import { NetlinkSocket, type Outgoing } from './netlink-socket.js';
import { batchBegin, batchEnd, MESSAGE, message, newChain, newRule } from './nft-codec.js';
import {
  connmarkIs,
  destinationPort,
  type Expression,
  fieldLength,
  HOOK,
  isEstablished,
  isIn,
  isIpv4,
  isIpv6,
  isOriginal,
  type KeyField,
  networkBytes,
  orMark,
  protocol,
  tcpFlags,
} from './nft-expressions.js';

const TABLE = 'drawbridge_bodies';
const CHAIN = 'forward';
/** Before `early` of the backstop, which takes packets of such flows to their check. */
const PRIORITY = -11;
/** The table is removed with the socket that has made it (since Linux 5.12), and no other process can change it. */
const TABLE_OWNER = 2;
const SET_FLAGS = { interval: 4, timeout: 0x10, concatenation: 0x80 } as const;
const MOST = 1_024;
const TCP = 6;
const HTTP_PORT = 80;
/** FIN, SYN, RST, ACK and URG; of an ordinary segment with data only ACK is set. */
const FLAGS = { mask: 0x37, ack: 0x10 } as const;
const SEQUENCE_SPACE = 2 ** 32;
/** Types by which nft shows the fields: mark, addresses, inet_service; it has none for a sequence number, which looks like an IPv4 address. */
const SHOWN_AS = { mark: 19, ipv4: 7, ipv6: 8, port: 13 } as const;
const SHOWN_BITS = 6;

const tcpPart: readonly KeyField[] = [
  { of: 'transport', offset: 0, length: 2 },
  { of: 'transport', offset: 4, length: 4 },
];
interface Half {
  readonly set: string;
  readonly addresses: readonly KeyField[];
  readonly shownAs: number;
  /** No options and no extension headers: those packets are evaluated by other rules. */
  readonly plain: Expression;
}
/** Both addresses follow each other in the header. */
const addressesAt = (offset: number, length: number): readonly KeyField[] => [
  { of: 'network', offset, length },
  { of: 'network', offset: offset + length, length },
];
const HALVES: Readonly<Record<4 | 6, Half>> = {
  4: {
    set: 'bodies4',
    addresses: addressesAt(12, 4),
    shownAs: SHOWN_AS.ipv4,
    plain: [...isIpv4(), ...networkBytes(0, Buffer.from([0x45]))],
  },
  6: {
    set: 'bodies6',
    addresses: addressesAt(8, 16),
    shownAs: SHOWN_AS.ipv6,
    plain: [...isIpv6(), ...networkBytes(6, Buffer.from([TCP]))],
  },
};

/** Of the stream of the client to port 80. */
export interface Stretch {
  readonly source: string;
  readonly sourcePort: number;
  readonly address: string;
  /** The bits of the container in the mark of its packets. */
  readonly identity: number;
  /** The sequence number of its first byte (32 bits), and the number of bytes. */
  readonly seq: number;
  readonly length: number;
}

export class PassedBytes implements Disposable {
  readonly #marks: Marks;
  readonly #namespace: string | undefined;
  #socket: NetlinkSocket | undefined;

  /** The table is made with the first stretch. */
  constructor(marks: Marks, options: { readonly namespace?: string } = {}) {
    this.#marks = marks;
    this.#namespace = options.namespace;
  }

  /**
   * Segments that begin in the stretch pass from now on: those of the connection with these ends, while its entry in conntrack has the state
   * `requests`. The kernel forgets it after `timeoutMs`. Throws NetlinkError.
   */
  add(stretch: Stretch, timeoutMs: number): void {
    this.#socket ??= this.#made();
    this.#change('let the body of a request pass', MESSAGE.newElement, stretch, timeoutMs);
  }

  /** Its segments are checked again when this returns. Throws NetlinkError; the stretch may still be there then. */
  remove(stretch: Stretch): void {
    try {
      if (this.#socket) this.#change('check segments again', MESSAGE.delElement, stretch);
    } catch (error) {
      if (!isRefusal(error, 'ENOENT')) throw error; // it had timed out
    }
  }

  /** Removes the table: nothing passes any more. */
  [Symbol.dispose](): void {
    this.#socket?.[Symbol.dispose]();
    this.#socket = undefined;
  }

  #change(operation: string, type: number, stretch: Stretch, timeoutMs?: number): void {
    const elements = rangesOf(stretch).map(({ from, to }) => {
      const key = (seq: number): Buffer => attribute(1, keyOf(stretch, seq));
      const timeout = Buffer.alloc(8);
      timeout.writeBigUInt64BE(BigInt(timeoutMs ?? 0));
      const last = nested(10, key(to));
      return nested(1, nested(1, key(from)), last, ...(timeoutMs ? [attribute(4, timeout)] : []));
    });
    const { set } = HALVES[familyOf(stretch.source)];
    const inSet = [attribute(1, cString(TABLE)), attribute(2, cString(set)), nested(3, ...elements)];
    const flags = type === MESSAGE.newElement ? FLAG.create | FLAG.exclusive : 0;
    this.#socket?.transaction(operation, [batchBegin(), message(type, flags, ...inSet), batchEnd()]);
  }

  #made(): NetlinkSocket {
    const namespace = this.#namespace === undefined ? {} : { namespace: this.#namespace };
    const socket = new NetlinkSocket({ protocol: 'netfilter', ...namespace });
    try {
      socket.transaction(`make table inet ${TABLE}`, [
        batchBegin(),
        message(
          MESSAGE.newTable,
          FLAG.create | FLAG.exclusive,
          attribute(1, cString(TABLE)),
          attribute(2, u32be(TABLE_OWNER)),
        ),
        newChain(TABLE, { name: CHAIN, type: 'filter', hook: HOOK.forward, priority: PRIORITY }),
        ...([4, 6] as const).flatMap((family, n) => [newSet(HALVES[family], n + 1), this.#rule(family)]),
        batchEnd(),
      ]);
    } catch (error) {
      socket[Symbol.dispose]();
      throw error;
    }
    return socket;
  }

  #rule(family: 4 | 6): Outgoing {
    const { check, identity, evaluated } = this.#marks;
    const half = HALVES[family];
    return newRule(
      TABLE,
      CHAIN,
      connmarkIs(check?.requests ?? 0, check?.mask ?? 0),
      half.plain,
      protocol(TCP),
      destinationPort(HTTP_PORT),
      isEstablished(),
      isOriginal(),
      tcpFlags(FLAGS.mask, FLAGS.ack),
      isIn(half.set, fieldsOf(half, identity)),
      orMark(evaluated),
    );
  }
}

const fieldsOf = ({ addresses }: Half, identity: number): readonly KeyField[] => [
  { of: 'mark', mask: identity },
  ...addresses,
  ...tcpPart,
];

/** A set of intervals of several fields (nft_set_pipapo.c). */
function newSet(half: Half, id: number): Outgoing {
  const fields = fieldsOf(half, 0);
  const shown = [SHOWN_AS.mark, half.shownAs, half.shownAs, SHOWN_AS.port, SHOWN_AS.ipv4];
  const padded = fields.reduce((sum, field) => sum + 4 * Math.ceil(fieldLength(field) / 4), 0);
  return message(
    MESSAGE.newSet,
    FLAG.create,
    attribute(1, cString(TABLE)),
    attribute(2, cString(half.set)),
    attribute(3, u32be(SET_FLAGS.interval | SET_FLAGS.timeout | SET_FLAGS.concatenation)),
    attribute(4, u32be(shown.reduce((type, field) => (type << SHOWN_BITS) | field, 0))),
    attribute(5, u32be(padded)),
    nested(
      9,
      attribute(1, u32be(MOST)),
      nested(2, ...fields.map((field) => nested(1, attribute(1, u32be(fieldLength(field)))))),
    ),
    attribute(10, u32be(id)),
  );
}

/** Of a text that is no address: the kernel refuses a key of that length. */
const NONE = Buffer.alloc(0);
/** Each field fills whole registers of four bytes. */
const keyOf = ({ identity, source, address, sourcePort }: Stretch, seq: number): Buffer =>
  Buffer.concat([
    u32le(identity),
    addressBytes(source) ?? NONE,
    addressBytes(address) ?? NONE,
    u16be(sourcePort),
    Buffer.alloc(2),
    u32be(seq),
  ]);

/** Sequence numbers begin again after 2^32. Both ends are part of a range. */
function rangesOf({ seq, length }: Stretch): readonly { readonly from: number; readonly to: number }[] {
  const end = seq + length - 1;
  if (end < SEQUENCE_SPACE) return [{ from: seq, to: end }];
  return [
    { from: seq, to: SEQUENCE_SPACE - 1 },
    { from: 0, to: end - SEQUENCE_SPACE },
  ];
}
