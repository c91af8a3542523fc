/**
 * What the flows of chosen senders have passed. The kernel sends one message when an entry leaves the conntrack table, with the counters of both
 * directions (net.netfilter.nf_conntrack_acct). Dumps of the table show the flows that are open. New flows have no message of their own: it
 * would double the cost of a connection.
 */
import {
  CONNTRACK_MESSAGE,
  CountedFlow,
  type FilterNetwork,
  flowFilter,
  GROUP_DESTROY,
  isWithin,
} from './conntrack-codec.js';
import { Datagrams } from './datagram-socket.js';
import { attachFilter, closeDescriptor, droppedDatagrams } from './libc.js';
import { openNetlink } from './namespace.js';
import { addressBytes, addressText, MESSAGE_HEADER, netfilterBody } from './netlink-codec.js';
import { ENOBUFS } from './netlink-error.js';
import { NetlinkSocket } from './netlink-socket.js';

/** Senders, by number, as the main thread has numbered them: a number never belongs to another container. */
export interface Senders {
  /** By the octets of the address, as latin1 text. */
  readonly addresses: ReadonlyMap<string, number>;
  /** By the bits of the connmark that `mask` selects, of senders without an address of their own. */
  readonly marks: ReadonlyMap<number, number>;
  readonly mask: number;
  readonly networks: readonly FilterNetwork[];
  /** The sender of what comes from one of the networks and has another address; undefined: it is not recorded. */
  readonly others?: number;
}
/** Flows of one second with the same ends; a checked connection is alone. */
export interface PassedFlow {
  readonly sender: number;
  readonly family: 4 | 6;
  /** Of IANA. */
  readonly proto: number;
  readonly src: string;
  /** As the container sent it; 0: the protocol has no ports. */
  readonly dst: string;
  readonly dport: number;
  /** The true destination, where DNAT has changed it. */
  readonly to?: string;
  readonly toPort?: number;
  /** Of a connection that was checked by name. */
  readonly sport?: number;
  /** New flows. 0: flows that were reported before, or that are older than the record. */
  connections: number;
  /** Since they were last reported, of both directions. */
  packets: number;
  bytes: number;
  /** ms since the epoch. */
  first: number;
  last: number;
}

/** A flow that a dump has shown. */
interface OpenFlow {
  readonly id: number;
  packets: number;
  bytes: number;
  /** Number of the last dump that has shown it. */
  seen: number;
}
export interface TallyOptions {
  /** The octets with which addresses of servers begin to which flows are not recorded. */
  readonly servers: readonly string[];
  /** Bits of the connmark of connections that are checked by name; `open`: nothing of the client has passed but its handshake. */
  readonly check?: { readonly mask: number; readonly open: number };
  /** Most records of one `take`, and most open flows that are followed; others are recorded when they end. */
  readonly mostRecords?: number;
  readonly mostOpen?: number;
}
/** From this place of the senders: an address that has none, and must not count for the others of its network. */
export const NO_SENDER = -1;
/** The address of a new container may be known later than its first flow. */
const UNKNOWN_MS = 2_000;
const MOST_UNKNOWN = 1_000;
/** A dump may leave out a flow while its neighbours in the table come and go. */
const MISSED_DUMPS = 2;

/** Adds up what flows have passed. What a dump has counted already is not counted again when the flow ends. */
export class FlowTally {
  readonly #o: TallyOptions;
  readonly #flow = new CountedFlow();
  readonly #open = new Map<string, OpenFlow>();
  readonly #unknown = new Map<string, number>();
  #records = new Map<string, PassedFlow>();
  #late: Buffer[] = [];
  #dumps = 0;
  senders: Senders = { addresses: new Map(), marks: new Map(), mask: 0, networks: [] };
  /** Reports of flows that are in no record, because there were too many. */
  dropped = 0;
  /** Messages that were not understood. */
  malformed = 0;

  constructor(options: TallyOptions) {
    this.#o = options;
  }

  /** The body of a message about a flow that has left the table. `now`: ms since the epoch. */
  ended(body: Buffer, now: number): void {
    const sender = this.#sender(body, now);
    if (sender === 'later') {
      if (this.#late.length < MOST_UNKNOWN) this.#late.push(Buffer.from(body));
      else this.dropped += 1;
      return;
    }
    if (sender === undefined) return;
    const { key } = this.#flow;
    const open = this.#known(key);
    this.#open.delete(key);
    if (!open && this.#isUnchecked()) return;
    this.#add(sender, open, now);
  }

  /** The body of a message of a dump, between `beginDump` and `endDump`. */
  shown(body: Buffer, now: number): void {
    const sender = this.#sender(body, now);
    if (sender === undefined || sender === 'later') return;
    const { key, id, packets, bytes } = this.#flow;
    const open = this.#known(key);
    if (!open && this.#isUnchecked()) return;
    if (!open && this.#open.size >= (this.#o.mostOpen ?? 65_536)) return;
    // What flows had passed before the first dump is not part of the record.
    const before = open ?? (this.#dumps === 1 ? { packets, bytes } : undefined);
    this.#add(sender, before, now, open === undefined);
    if (open) Object.assign(open, { packets, bytes, seen: this.#dumps });
    else this.#open.set(key, { id, packets, bytes, seen: this.#dumps });
  }

  beginDump(): void {
    this.#dumps += 1;
  }
  /** Forgets flows of which the end was not reported. */
  endDump(): void {
    for (const [key, { seen }] of this.#open) if (seen <= this.#dumps - MISSED_DUMPS) this.#open.delete(key);
  }

  /** The records since the last call. */
  take(now: number): PassedFlow[] {
    for (const body of this.#late.splice(0)) this.ended(body, now);
    for (const [address, since] of this.#unknown)
      if (this.senders.addresses.has(address) || now - since > 30 * UNKNOWN_MS) this.#unknown.delete(address);
    const records = [...this.#records.values()].map((r) => ({
      ...r,
      src: textOf(r.src),
      dst: textOf(r.dst),
      ...(r.to === undefined ? {} : { to: textOf(r.to) }),
    }));
    this.#records = new Map();
    return records;
  }

  /** Reads the flow, and finds its sender; undefined: it is not recorded. */
  #sender(body: Buffer, now: number): number | 'later' | undefined {
    const flow = this.#flow;
    const { addresses, marks, mask, others } = this.senders;
    if (!flow.read(body)) {
      this.malformed += 1;
      return undefined;
    }
    const byAddress = addresses.get(flow.src);
    const sender = byAddress === NO_SENDER ? undefined : byAddress;
    const found = sender ?? marks.get((flow.mark & mask) >>> 0);
    if (found === undefined && (others === undefined || byAddress === NO_SENDER)) return undefined;
    if (found === undefined && !this.senders.networks.some((n) => isWithin(flow.src, n))) return undefined;
    if (this.#o.servers.some((server) => flow.to.startsWith(server))) return undefined;
    return found ?? this.#other(now);
  }

  #other(now: number): number | 'later' | undefined {
    const { src } = this.#flow;
    const since = this.#unknown.get(src);
    if (since === undefined && this.#unknown.size < MOST_UNKNOWN) this.#unknown.set(src, now);
    return since !== undefined && now - since >= UNKNOWN_MS ? this.senders.others : 'later';
  }

  /** With another id it is a later flow of the same ends. */
  #known(key: string): OpenFlow | undefined {
    const open = this.#open.get(key);
    return open?.id === this.#flow.id ? open : undefined;
  }

  /** A connection that must name what it goes to, and has not: it was refused, or has only begun. */
  #isUnchecked(): boolean {
    const { check } = this.#o;
    return check !== undefined && (this.#flow.mark & check.mask) >>> 0 === check.open;
  }

  #add(
    sender: number,
    before: { readonly packets: number; readonly bytes: number } | undefined,
    now: number,
    isFirst = false,
  ): void {
    const { isIpv4, proto, src, dst, dport, sport, to, toPort, start, mark, ...f } = this.#flow;
    const packets = Math.max(0, f.packets - (before?.packets ?? 0));
    const bytes = Math.max(0, f.bytes - (before?.bytes ?? 0));
    if (before && packets === 0 && !isFirst) return;
    const { check } = this.#o;
    const isChecked = check !== undefined && (mark & check.mask) !== 0;
    const isElsewhere = to !== dst || toPort !== dport;
    const key = `${sender} ${proto} ${dport} ${isChecked ? sport : ''} ${isElsewhere ? toPort + to : ''} ${src}${dst}`;
    const record = this.#records.get(key);
    const connections = before ? 0 : 1;
    const first = before || start === 0 ? now : start;
    if (record) {
      record.connections += connections;
      record.packets += packets;
      record.bytes += bytes;
      record.first = Math.min(record.first, first);
      record.last = now;
      return;
    }
    if (this.#records.size >= (this.#o.mostRecords ?? 10_000)) {
      this.dropped += 1;
      return;
    }
    this.#records.set(key, {
      ...{ sender, family: isIpv4 ? 4 : 6, proto, src, dst, dport, connections, packets, bytes, first },
      last: now,
      ...(isElsewhere ? { to, toPort } : {}),
      ...(isChecked ? { sport } : {}),
    });
  }
}

const textOf = (octets: string): string => addressText(Buffer.from(octets, 'latin1')) ?? '';
/** An address or the base of a network as text of octets: the keys and prefixes of this file. */
export const octetsOf = (address: string): string => addressBytes(address)?.toString('latin1') ?? '';

/** Messages that are read in one turn; a message of the kernel has some 300 bytes. */
const MOST_READS = 1_000;
const LONGEST = 2_048;

export interface AccountingOptions {
  /** Bytes, of which the kernel takes some 1,000 for a message. */
  readonly receiveBuffer?: number;
  /** An IPv4 address: the ends of flows to it are not reported. */
  readonly notTo?: string;
  /** Path or descriptor of the network namespace. */
  readonly namespace?: string | number;
}
/** The sockets of one network namespace. All messages since it was made are counted, once `drain` and `dump` have read them. */
export class FlowAccounting implements Disposable {
  readonly #tally: FlowTally;
  readonly #fd: number;
  readonly #dumps: NetlinkSocket;
  readonly #datagrams = new Datagrams(LONGEST, 1);
  readonly #notTo: number | undefined;
  #isDumping = false;
  #next: Senders | undefined;
  /** Times that the receive buffer was full. */
  overruns = 0;

  /** Throws NetlinkError. */
  constructor(tally: FlowTally, options: AccountingOptions = {}) {
    const { receiveBuffer = 16 << 20, notTo, ...place } = options;
    this.#tally = tally;
    this.#notTo = addressBytes(notTo ?? '')?.readUInt32BE(0);
    this.#fd = openNetlink({ protocol: 'netfilter', groups: [GROUP_DESTROY], receiveBuffer, ...place });
    this.#dumps = new NetlinkSocket({ protocol: 'netfilter', ...place });
  }

  /** Flows that ended until now count for the senders before. During a dump, the change waits for its end. */
  setSenders(senders: Senders): void {
    this.#next = senders;
    if (this.#isDumping) return;
    this.#next = undefined;
    this.drain(Date.now());
    this.#tally.senders = senders;
    const { networks, mask: mark } = senders;
    attachFilter(this.#fd, flowFilter({ networks, mark, notTo: this.#notTo }));
  }

  /** Ends of flows that the kernel could not report: they were not read in time. */
  get lost(): number {
    return droppedDatagrams(this.#fd) ?? this.overruns;
  }

  /** Reads what has arrived. Returns the number of messages; none while a dump is read, because its flows may have ended since. */
  drain(now: number): number {
    if (this.#isDumping) return 0;
    let count = 0;
    for (let reads = 0; reads < MOST_READS; reads++) {
      const received = this.#datagrams.receive(this.#fd);
      if (received === -ENOBUFS) this.overruns += 1;
      else if (received <= 0) return count;
      for (let i = 0; i < received; i++) {
        const { bytes, start, end } = this.#datagrams.received(i);
        this.#tally.ended(bytes.subarray(start + MESSAGE_HEADER, end), now);
      }
      count += Math.max(0, received);
    }
    return count;
  }

  /** Reads all open flows. Rejects with NetlinkError. */
  async dump(): Promise<void> {
    const request = { type: CONNTRACK_MESSAGE.get, body: netfilterBody(0, 0) };
    const now = Date.now();
    this.drain(now);
    this.#isDumping = true;
    this.#tally.beginDump();
    try {
      await this.#dumps.dump('dump flows', request, ({ body }) => this.#tally.shown(body, now) as undefined, {
        later: true,
      });
      this.#tally.endDump();
    } finally {
      this.#isDumping = false;
      if (this.#next) this.setSenders(this.#next);
    }
  }

  [Symbol.dispose](): void {
    closeDescriptor(this.#fd);
    this.#dumps.close();
  }
}
