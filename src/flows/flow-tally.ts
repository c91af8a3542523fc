/** What the flows of each sender have passed, added up from the messages of conntrack. */
import { isWithin } from '../kernel/netlink/conntrack-codec.js';
import { CountedFlow } from '../kernel/netlink/counted-flow.js';
import type { FlowMessages, Senders } from '../kernel/netlink/flow-accounting.js';
import { addressBytes, addressText } from '../kernel/netlink/netlink-codec.js';

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
  readonly hash: number;
  packets: number;
  bytes: number;
  /** Number of the last dump that has shown it, and its time. */
  seen: number;
  at: number;
}
/** A record that grows, with the addresses as the message has them. `next`: of the records with the same hash. */
interface GrowingRecord extends Omit<PassedFlow, 'src' | 'dst' | 'to'> {
  /** Source, destination, and destination after DNAT. */
  readonly octets: Buffer;
  readonly isRedirected: boolean;
  readonly next: GrowingRecord | undefined;
}
export interface TallyOptions {
  /** The octets with which addresses of servers begin to which flows are not recorded. */
  readonly servers: readonly string[];
  /** Bits of the connmark of connections that are checked by name; `open`: of TCP, nothing of the client has passed but its handshake. */
  readonly check?: { readonly mask: number; readonly open: number };
  /** Most records of one `take`, by default 10,000, and most open flows that are followed; others are recorded when they end. */
  readonly mostRecords?: number;
  readonly mostOpen: number;
}
/** From this place of the senders: an address that has none, and must not count for the others of its network. */
export const NO_SENDER = -1;
/** The address of a new container may be known later than its first flow. */
const UNKNOWN_MS = 2_000;
/** Of IANA. */
const TCP = 6;
const MOST_UNKNOWN = 1_000;
/** A dump may leave out a flow while its neighbours in the table come and go, and readers may want one after the other. */
const [MISSED_DUMPS, MISSED_MS] = [2, 15_000];

/** Adds up what flows have passed. What a dump has counted already is not counted again when the flow ends. */
export class FlowTally implements FlowMessages {
  readonly #o: TallyOptions;
  readonly #servers: readonly Buffer[];
  readonly #flow = new CountedFlow();
  /** By the id of the entry. */
  readonly #open = new Map<number, OpenFlow>();
  readonly #unknown = new Map<string, number>();
  /** By a hash of what identifies them. */
  #records = new Map<number, GrowingRecord>();
  #size = 0;
  #late: Buffer[] = [];
  #dumps = 0;
  #senders: Senders = { addresses: new Map(), marks: new Map(), mask: 0, networks: [] };
  /** Of the senders with an IPv4 address. */
  #byIpv4 = new Map<number, number>();
  /** Reports of flows that are in no record, because there were too many. */
  dropped = 0;
  /** Messages that were not understood. */
  malformed = 0;

  constructor(options: TallyOptions) {
    this.#o = options;
    this.#servers = options.servers.map((octets) => Buffer.from(octets, 'latin1'));
  }

  get senders(): Senders {
    return this.#senders;
  }
  set senders(senders: Senders) {
    this.#senders = senders;
    this.#byIpv4 = new Map(
      [...senders.addresses].flatMap(([octets, sender]) =>
        octets.length === 4 ? [[Buffer.from(octets, 'latin1').readUInt32BE(0), sender] as const] : [],
      ),
    );
  }

  ended(message: Buffer, now: number, from = 0, end = message.length): void {
    const sender = this.#sender(message, from, end, now);
    if (sender === 'later') {
      if (this.#late.length < MOST_UNKNOWN) this.#late.push(Buffer.from(message.subarray(from, end)));
      else this.dropped += 1;
      return;
    }
    if (sender === undefined) return;
    const open = this.#known();
    if (open) this.#open.delete(this.#flow.id);
    else if (this.#isUnchecked()) return;
    this.#add(sender, open, now);
  }

  shown(body: Buffer, now: number): void {
    const sender = this.#sender(body, 0, body.length, now);
    if (sender === undefined || sender === 'later') return;
    const { id, packets, bytes } = this.#flow;
    const open = this.#known();
    if (!open && this.#isUnchecked()) return;
    if (!open && (this.#open.has(id) || this.#open.size >= this.#o.mostOpen)) return;
    // What flows had passed before the first dump is not part of the record.
    const before = open ?? (this.#dumps === 1 ? { packets, bytes } : undefined);
    this.#add(sender, before, now, open === undefined);
    const seen = { packets, bytes, seen: this.#dumps, at: now };
    if (open) Object.assign(open, seen);
    else this.#open.set(id, { hash: this.#flow.hash(this.#flow.sport), ...seen });
  }

  beginDump(): void {
    this.#dumps += 1;
  }
  /** Forgets flows of which the end was not reported. */
  endDump(now: number): void {
    for (const [id, { seen, at }] of this.#open)
      if (seen <= this.#dumps - MISSED_DUMPS && now - at >= MISSED_MS) this.#open.delete(id);
  }

  /** The records since the last call. */
  take(now: number): PassedFlow[] {
    for (const body of this.#late.splice(0)) this.ended(body, now);
    for (const [address, since] of this.#unknown)
      if (this.senders.addresses.has(address) || now - since > 30 * UNKNOWN_MS) this.#unknown.delete(address);
    const records: PassedFlow[] = [];
    for (const newest of this.#records.values())
      for (let record: GrowingRecord | undefined = newest; record; record = record.next)
        records.push(withAddresses(record));
    this.#records = new Map();
    this.#size = 0;
    return records;
  }

  /** Reads the flow, and finds its sender; undefined: it is not recorded. */
  #sender(message: Buffer, from: number, end: number, now: number): number | 'later' | undefined {
    const flow = this.#flow;
    const { addresses, marks, mask, others, networks } = this.#senders;
    if (!flow.read(message, from, end)) {
      this.malformed += 1;
      return undefined;
    }
    const byAddress = flow.isIpv4 ? this.#byIpv4.get(flow.ipv4Src) : addresses.get(flow.src);
    const sender = byAddress === NO_SENDER ? undefined : byAddress;
    const found = sender ?? marks.get((flow.mark & mask) >>> 0);
    if (found === undefined && (others === undefined || byAddress === NO_SENDER)) return undefined;
    if (found === undefined && !networks.some((n) => isWithin(flow.src, n))) return undefined;
    for (const server of this.#servers) if (flow.isTo(server)) return undefined;
    return found ?? this.#other(now);
  }

  #other(now: number): number | 'later' | undefined {
    const { src } = this.#flow;
    const since = this.#unknown.get(src);
    if (since === undefined && this.#unknown.size < MOST_UNKNOWN) this.#unknown.set(src, now);
    return since !== undefined && now - since >= UNKNOWN_MS ? this.#senders.others : 'later';
  }

  /** Another flow may have the same id: two of 32 bits are equal, or one of the same ends has taken the memory of the entry (nf_ct_get_id). */
  #known(): OpenFlow | undefined {
    const flow = this.#flow;
    const open = this.#open.get(flow.id);
    if (open === undefined || open.hash !== flow.hash(flow.sport)) return undefined;
    return open.packets <= flow.packets ? open : undefined;
  }

  /** A connection that must name what it goes to, and has not: it was refused, or has only begun. A datagram waits until it has. */
  #isUnchecked(): boolean {
    const { check } = this.#o;
    const { proto, mark } = this.#flow;
    return check !== undefined && proto === TCP && (mark & check.mask) >>> 0 === check.open;
  }

  #add(
    sender: number,
    before: { readonly packets: number; readonly bytes: number } | undefined,
    now: number,
    isFirst = false,
  ): void {
    const flow = this.#flow;
    const packets = Math.max(0, flow.packets - (before?.packets ?? 0));
    const bytes = Math.max(0, flow.bytes - (before?.bytes ?? 0));
    if (before && packets === 0 && !isFirst) return;
    const { check } = this.#o;
    const sport = check !== undefined && (flow.mark & check.mask) !== 0 ? flow.sport : undefined;
    const connections = before ? 0 : 1;
    const first = before || flow.start === 0 ? now : flow.start;
    const hash = flow.hash(sport ?? 0);
    const next = this.#records.get(hash);
    const record = this.#same(next, sender, sport);
    if (record) {
      record.connections += connections;
      record.packets += packets;
      record.bytes += bytes;
      record.first = Math.min(record.first, first);
      record.last = now;
      return;
    }
    if (this.#size >= (this.#o.mostRecords ?? 10_000)) {
      this.dropped += 1;
      return;
    }
    this.#size += 1;
    const { isIpv4, proto, dport, isRedirected } = flow;
    this.#records.set(hash, {
      ...{ sender, family: isIpv4 ? 4 : 6, proto, octets: flow.octets(), dport, isRedirected, next },
      ...{ connections, packets, bytes, first, last: now },
      toPort: flow.toPort,
      ...(sport === undefined ? {} : { sport }),
    });
  }

  /** The record of this flow in the list of those with its hash. */
  #same(newest: GrowingRecord | undefined, sender: number, sport?: number): GrowingRecord | undefined {
    const flow = this.#flow;
    for (let record = newest; record; record = record.next)
      if (
        record.sender === sender &&
        record.proto === flow.proto &&
        record.dport === flow.dport &&
        record.toPort === flow.toPort &&
        record.sport === sport &&
        flow.hasOctets(record.octets)
      )
        return record;
    return undefined;
  }
}

function withAddresses({ octets, isRedirected, next: _, toPort, ...record }: GrowingRecord): PassedFlow {
  const size = octets.length / 3;
  const addressAt = (n: number): string => addressText(octets.subarray(n * size, (n + 1) * size)) ?? '';
  return {
    ...{ ...record, src: addressAt(0), dst: addressAt(1) },
    ...(isRedirected ? { to: addressAt(2), ...(toPort === undefined ? {} : { toPort }) } : {}),
  };
}

/** An address, or the base of a network, as latin1 text of its octets: a key or a prefix here. */
export const octetsOf = (address: string): string => addressBytes(address)?.toString('latin1') ?? '';
