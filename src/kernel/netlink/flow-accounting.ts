/**
 * Messages about the flows of chosen senders. The kernel sends one when an entry leaves the conntrack table, with the counters of both
 * directions (net.netfilter.nf_conntrack_acct). Dumps of the table show the flows that are open. New flows have no message of their own: it
 * would double the cost of a connection.
 */
import { CONNTRACK_MESSAGE, type FilterNetwork, flowFilter, GROUP_DESTROY } from './conntrack-codec.js';
import { Datagrams } from './datagram-socket.js';
import { attachFilter, closeDescriptor, droppedDatagrams } from './libc.js';
import { openNetlink } from './namespace.js';
import { addressBytes, MESSAGE_HEADER, netfilterBody } from './netlink-codec.js';
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
/** What takes the messages. A body is valid during the call. `now`: ms since the epoch. */
export interface FlowMessages {
  senders: Senders;
  /** The body of a message about a flow that has left the table, from `from` to `end`. */
  ended(message: Buffer, now: number, from: number, end: number): void;
  /** The body of a message of a dump, between `beginDump` and `endDump`. */
  shown(body: Buffer, now: number): void;
  beginDump(): void;
  endDump(now: number): void;
}

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
  readonly #to: FlowMessages;
  readonly #fd: number;
  readonly #dumps: NetlinkSocket;
  readonly #datagrams = new Datagrams(LONGEST, 1);
  readonly #notTo: number | undefined;
  #isDumping = false;
  #next: Senders | undefined;
  /** Times that the receive buffer was full. */
  overruns = 0;

  /** Throws NetlinkError. */
  constructor(to: FlowMessages, options: AccountingOptions = {}) {
    const { receiveBuffer = 16 << 20, notTo, ...place } = options;
    this.#to = to;
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
    this.#to.senders = senders;
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
        this.#to.ended(bytes, now, start + MESSAGE_HEADER, end);
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
    this.#to.beginDump();
    try {
      await this.#dumps.dump('dump flows', request, ({ body }) => this.#to.shown(body, now) as undefined, {
        later: true,
      });
      this.#to.endDump(now);
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
