/** A TCP of a generator's own, on packet sockets in a container: it sends each segment as a step says, and keeps what the server has answered. */
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Container, RunSpec } from '../lab/container.js';
import type { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
import {
  address,
  type Bytes,
  bytes,
  type Ends,
  ether,
  etherTypeOf,
  fragments,
  ip,
  tcp,
  u8,
  u16,
  u32,
  udp,
} from './wire.js';

const ROOT = join(import.meta.dirname, '..', '..');
const MODULES = join(ROOT, 'node_modules');
const TCP = 6;
const UDP = 17;
const LARGEST = 1_400;
const BURST = 20;
const FLAG = { fin: 1, syn: 2, rst: 4, ack: 16 } as const;
/** The container's own kernel knows nothing of these connections, and would reset them, or answer that a port is closed. */
const QUIET =
  'table inet quiet { chain out { type filter hook output priority 0 ; tcp sport 10000-29999 tcp flags rst drop; icmp type destination-unreachable drop; icmpv6 type destination-unreachable drop; }; }';

/** Of one segment. What is left out is as a usual client has it. */
export interface How {
  /** Of "FSRPAUEC"; default PA. */
  readonly flags?: string;
  readonly hops?: number;
  /** The checksum is another one. */
  readonly isBroken?: true;
  readonly urgent?: number;
  readonly window?: number;
  /** Added to what is acknowledged. */
  readonly ackShift?: number;
  readonly seqShift?: number;
  /** By name: see `optionsOf`. */
  readonly options?: readonly string[];
  /** Of Multipath TCP: place of these bytes in the data of the connection, other than in the order of TCP. */
  readonly data?: number;
  /** Fragments of IP that end there, in this order when it is reversed. */
  readonly cuts?: readonly number[];
  readonly isReversed?: true;
  /** A frame that is still to be cut into segments of so many bytes. */
  readonly gso?: number;
  /** The length in the header of IP. */
  readonly ipLength?: number;
  /** Bytes behind the end of the packet. */
  readonly tail?: string;
  /** Reserved bits of the header of TCP. */
  readonly reserved?: number;
}
export type Step =
  | { readonly do: 'segment'; readonly at: number; readonly text: string; readonly how?: How }
  | {
      readonly do: 'datagram';
      readonly text: string;
      readonly how?: Pick<How, 'hops' | 'isBroken'>;
      readonly from?: number;
    }
  | { readonly do: 'initial'; readonly initial: InitialStep; readonly from?: number }
  /** Another connection of the same ports. */
  | { readonly do: 'open'; readonly opening: Opening; readonly shift?: number }
  /** Letters, in bursts that fit the window of the server. */
  | { readonly do: 'upload'; readonly at: number; readonly length: number }
  /** Until the server has sent something new, or has acknowledged something; not longer than this. */
  | { readonly do: 'answer' | 'acknowledged' | 'pause'; readonly ms: number };
/** A packet of QUIC; several in one datagram are `coalesced`. Its frames are hex, in which {NAME} stands for a site. */
export interface InitialStep {
  readonly packets: readonly InitialPacketStep[];
  readonly tail?: string;
}
export interface InitialPacketStep {
  readonly version?: number;
  readonly dcid: string;
  readonly keyId?: string;
  readonly number?: number;
  readonly frames: readonly { readonly offset: number; readonly text: string; readonly before?: string }[];
  readonly size?: number;
}

const vnetOf = (o: {
  flags: number;
  type: number;
  header: number;
  size: number;
  start: number;
  offset: number;
}): Bytes => {
  const made = Buffer.alloc(10);
  made.writeUInt8(o.flags, 0);
  made.writeUInt8(o.type, 1);
  made.writeUInt16LE(o.header, 2);
  made.writeUInt16LE(o.size, 4);
  made.writeUInt16LE(o.start, 6);
  made.writeUInt16LE(o.offset, 8);
  return made;
};

/** One connection by a socket of the container's kernel. */
export interface KernelTalk {
  readonly protocol: 6 | 262;
  readonly isFast?: true;
  readonly writes: readonly {
    readonly text: string;
    /** What the pages of the text have once it was sent. */
    readonly becomes?: string;
    readonly ms: number;
    readonly isAnswered?: true;
  }[];
}
export interface KernelResult {
  readonly received?: number;
  readonly error?: number | string;
}

export class Sender {
  readonly #socket: Socket;
  readonly #own: { ip4: string; ip6: string; mac: string };
  readonly #gateway: string;
  readonly #flows = new Map<number, Flow>();
  readonly #jobs = new Map<number, (result: KernelResult) => void>();
  #lastJob = 0;

  private constructor(socket: Socket, own: { ip4: string; ip6: string; mac: string }, gateway: string) {
    [this.#socket, this.#own, this.#gateway] = [socket, own, gateway];
    let waiting = Buffer.alloc(0);
    socket.on('error', () => undefined);
    socket.on('data', (d: Buffer) => {
      waiting = Buffer.concat([waiting, d]);
      let at = 0;
      while (at + 5 <= waiting.length) {
        const end = at + 5 + waiting.readUInt32BE(at);
        if (end > waiting.length) break;
        if (waiting[at + 4] === 0) this.#arrived(waiting.subarray(at + 5, end));
        else this.#ended(waiting.subarray(at + 5, end).toString());
        at = end;
      }
      waiting = waiting.subarray(at);
    });
  }

  /** Starts a container that sends what it is asked to. */
  static async start(lab: Lab, name: string, labels: Readonly<Record<string, string>>): Promise<Sender> {
    const asks = mkdtempSync(join(tmpdir(), 'drawbridge-streams-'));
    const spec: RunSpec = {
      name,
      labels,
      env: { UV_THREADPOOL_SIZE: '64' },
      mounts: [
        `${join(ROOT, 'test', 'attacks', 'programs')}:/attacks:ro`,
        `${join(MODULES, 'koffi')}:/node_modules/koffi:ro`,
        `${join(MODULES, '@koromix')}:/node_modules/@koromix:ro`,
        `${asks}:/asks`,
      ],
      cmd: ['node', '/attacks/streams-send.mjs', name],
    };
    const container: Container = await lab.start(spec);
    const pid = await container.pid();
    const inside = ['nsenter', `--net=/proc/${pid}/ns/net`, '--'];
    await lab.inHost([...inside, 'nft', '-f', '-'], { input: QUIET, check: true });
    const own = await container.addresses();
    const shown = await lab.inHost(['ip', '-j', 'address', 'show', 'to', own.gateway], { check: true });
    const [bridge] = JSON.parse(shown.stdout) as { ifname: string }[];
    const link = await lab.inHost(['ip', '-j', 'link', 'show', bridge?.ifname ?? ''], { check: true });
    const [found] = JSON.parse(link.stdout) as { address: string }[];
    if (found === undefined) throw new Error(`no bridge has ${own.gateway}`);
    const socket = await waitFor(
      `${name} to send`,
      () => tryConnecting(join(asks, `${name}.sock`)),
      30_000,
    ).catch(async (e: Error) => {
      throw new Error(`${e.message}: ${await container.logs()}`);
    });
    socket.on('close', () => rmSync(asks, { recursive: true, force: true }));
    return new Sender(socket, own, found.address);
  }

  close(): void {
    this.#socket.destroy();
  }
  ends(dst: string): Ends {
    return { src: dst.includes(':') ? this.#own.ip6 : this.#own.ip4, dst };
  }
  /** `vnet`: a virtio_net_hdr before the frame. */
  send(packet: Bytes, vnet?: Bytes): void {
    const frame = ether(this.#gateway, this.#own.mac, etherTypeOf(packet), packet);
    this.#write(vnet === undefined ? 0 : 1, vnet === undefined ? frame : bytes(vnet, frame));
  }
  #write(kind: number, content: Bytes): void {
    this.#socket.write(bytes(u32(content.length), u8(kind), content));
  }
  flow(dst: string, port: number, fromPort: number, isn: number): Flow {
    const made = new Flow(this, this.ends(dst), port, fromPort, isn);
    this.#flows.set(fromPort, made);
    return made;
  }
  forget(flow: Flow): void {
    this.#flows.delete(flow.fromPort);
  }
  /** A connection by a socket of the container's kernel. */
  converse(
    dst: string,
    port: number,
    fromPort: number,
    talk: KernelTalk,
    readMs: number,
  ): Promise<KernelResult> {
    const id = ++this.#lastJob;
    const six = dst.includes(':');
    const to = six
      ? bytes(u8(10, 0), u16(port), u32(0), address(dst), u32(0))
      : bytes(u8(2, 0), u16(port), address(dst), Buffer.alloc(8));
    return new Promise((resolve) => {
      this.#jobs.set(id, resolve);
      this.#write(
        2,
        Buffer.from(JSON.stringify({ id, six, to: to.toString('hex'), fromPort, readMs, ...talk })),
      );
    });
  }

  #ended(text: string): void {
    const { id, ...result } = JSON.parse(text) as KernelResult & { id: number };
    this.#jobs.get(id)?.(result);
    this.#jobs.delete(id);
  }
  #arrived(frame: Bytes): void {
    const is4 = frame.readUInt16BE(12) === 0x0800;
    const at = is4 ? 14 + ((frame[14] ?? 0) & 15) * 4 : 54;
    const protocol = is4 ? frame[23] : frame[20];
    if (frame.length < at + 8 || (protocol !== TCP && protocol !== UDP)) return;
    const end = is4 ? 14 + frame.readUInt16BE(16) : 54 + frame.readUInt16BE(18);
    this.#flows.get(frame.readUInt16BE(at + 2))?.take(protocol === TCP, frame.subarray(at, end));
  }
}

const tryConnecting = (path: string): Promise<Socket | undefined> =>
  new Promise((resolve) => {
    const socket = connect(path, () => resolve(socket));
    socket.on('error', () => resolve(undefined));
  });

/** How a connection begins. */
export interface Opening {
  /** Of the SYN, by name; default: those of Linux. */
  readonly options?: readonly string[];
  readonly isn?: number;
  /** Data of the SYN (TCP Fast Open). */
  readonly text?: string;
}
const USUAL: readonly string[] = ['mss', 'sack-permitted', 'time', 'scale'];
const KEY = Buffer.from('0102030405060708', 'hex');
/** RFC 8684 3.1: the first data sequence number follows the last 64 bits of the digest of the key. */
const FIRST_DATA = createHash('sha256').update(KEY).digest().readBigUInt64BE(24) + 1n;

export class Flow {
  readonly fromPort: number;
  readonly isn: number;
  readonly #sender: Sender;
  readonly #ends: Ends;
  readonly #port: number;
  #next = 0;
  #time: number | undefined;
  #serverKey: Bytes | undefined;
  isOpen = false;
  isReset = false;
  isEnded = false;
  received = 0;
  /** The first bytes that the server has sent. */
  begin = Buffer.alloc(0);
  acknowledged = 0;
  #clock = 1_000;

  constructor(sender: Sender, ends: Ends, port: number, fromPort: number, isn: number) {
    [this.#sender, this.#ends, this.#port, this.fromPort, this.isn] = [sender, ends, port, fromPort, isn];
  }

  get hasMultipath(): boolean {
    return this.#serverKey !== undefined;
  }

  async open({ options = USUAL, text = '' }: Opening, ms: number): Promise<boolean> {
    let sent = 0;
    await waitFor(
      'a SYN-ACK',
      () => {
        if (Date.now() - sent > 1_000) {
          this.#put('S', this.isn, 0, this.#optionsOf(options, true), text, {});
          sent = Date.now();
        }
        return this.isOpen || this.isReset;
      },
      ms,
      5,
    ).catch(() => undefined);
    if (!this.isOpen || this.isReset) return false;
    this.#acknowledge(this.hasMultipath ? ['keys'] : []);
    return true;
  }

  segment({ at, text, how = {} }: Extract<Step, { do: 'segment' }>): void {
    const { flags = 'PA', options = ['time'], ackShift = 0, seqShift = 0 } = how;
    const seq = (this.isn + 1 + at + seqShift) >>> 0;
    const ack = flags.includes('A') ? (this.#next + ackShift) >>> 0 : 0;
    const mapped = this.hasMultipath && how.data !== undefined ? [mapping(how.data, at, text.length)] : [];
    const all = bytes(this.#optionsOf(mapped.length > 0 ? [] : options, false), ...mapped);
    this.#put(flags, seq, ack, all, text, how);
  }

  /** False: the server does not acknowledge them. */
  async upload(at: number, length: number, ms: number): Promise<boolean> {
    const [end, deadline] = [at + length, performance.now() + ms];
    while (this.acknowledged < end && !this.isReset && performance.now() < deadline) {
      const from = Math.max(at, this.acknowledged);
      const burst = Math.min(end, from + BURST * LARGEST);
      for (let next = from; next < burst; next += LARGEST)
        this.segment({ do: 'segment', at: next, text: 'u'.repeat(Math.min(LARGEST, burst - next)) });
      const isThere = (): boolean => this.acknowledged >= burst || this.isReset;
      await waitFor('an acknowledgement', isThere, 500, 2).catch(() => undefined);
    }
    return this.acknowledged >= end;
  }

  datagram(payload: Bytes, how: Pick<How, 'hops' | 'isBroken'> = {}, from = 0): void {
    const made = udp(this.#ends, this.fromPort + from, this.#port, payload);
    if (how.isBroken) made.writeUInt16BE(made.readUInt16BE(6) ^ 0x5555, 6);
    this.#sender.send(ip(this.#ends, UDP, made, how.hops === undefined ? {} : { ttl: how.hops }));
  }

  #acknowledge(more: readonly string[] = []): void {
    this.#put(
      'A',
      (this.isn + 1 + Math.max(0, this.acknowledged)) >>> 0,
      this.#next,
      this.#optionsOf([...more, 'time'], false),
      '',
      {},
    );
  }

  #put(flags: string, seq: number, ack: number, options: Bytes, text: string, how: How): void {
    const { window, urgent, hops, reserved = 0 } = how;
    const data = Buffer.from(text, 'latin1');
    const header = {
      flags,
      seq,
      ack,
      options,
      ...(window === undefined ? {} : { window }),
      ...(urgent === undefined ? {} : { urgent }),
    };
    const made = tcp(this.#ends, this.fromPort, this.#port, header, data);
    if (reserved > 0) {
      made[12] = (made[12] ?? 0) | (reserved & 15);
      this.#sum(made);
    }
    if (how.isBroken) made.writeUInt16BE(made.readUInt16BE(16) ^ 0x5555, 16);
    const ttl = hops === undefined ? {} : { ttl: hops };
    if (how.cuts) {
      const id = (seq ^ this.fromPort) & 0xffff;
      const cuts = how.cuts.filter((c) => c > 0 && c < made.length);
      const parts = fragments(this.#ends, TCP, made, cuts, id);
      for (const part of how.isReversed ? parts.reverse() : parts) this.#sender.send(part);
      return;
    }
    if (how.gso !== undefined) made.writeUInt16BE(pseudoSum(this.#ends, made.length), 16);
    const packet = ip(this.#ends, TCP, made, ttl);
    if (how.ipLength !== undefined) setLength(packet, how.ipLength);
    const whole = how.tail === undefined ? packet : bytes(packet, how.tail);
    const is4 = (packet[0] ?? 0) >> 4 === 4;
    const start = 14 + (is4 ? 20 : 40);
    const vnet =
      how.gso === undefined
        ? undefined
        : vnetOf({
            flags: 1,
            type: is4 ? 1 : 4,
            header: start + (made[12] ?? 0) / 4,
            size: how.gso,
            start,
            offset: 16,
          });
    this.#sender.send(whole, vnet);
  }

  #sum(made: Bytes): void {
    made.writeUInt16BE(0, 16);
    made.writeUInt16BE(pseudoSum(this.#ends, made.length), 16);
    let sum = 0;
    const even = made.length % 2 === 0 ? made : bytes(made, u8(0));
    for (let i = 0; i < even.length; i += 2) sum += even.readUInt16BE(i);
    while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
    made.writeUInt16BE(~sum & 0xffff, 16);
  }

  #optionsOf(names: readonly string[], isSyn: boolean): Bytes {
    const clock = isSyn ? this.#clock : ++this.#clock;
    const made = names.map((name): Bytes => {
      switch (name) {
        case 'mss':
          return u8(2, 4, 5, 180);
        case 'sack-permitted':
          return u8(4, 2);
        case 'scale':
          return u8(3, 3, 7);
        case 'time':
          if (!isSyn && this.#time === undefined) return u8();
          return bytes(u8(8, 10), u32(clock), u32(this.#time ?? 0));
        case 'old-time':
          return bytes(u8(8, 10), u32((clock - 0x40000000) >>> 0), u32(this.#time ?? 0));
        case 'cookie-request':
          return u8(34, 2);
        case 'cookie':
          return bytes(u8(34, 10), Buffer.alloc(8, 7));
        case 'signature':
          return bytes(u8(19, 18), Buffer.alloc(16, 9));
        case 'authentication':
          return bytes(u8(29, 16), Buffer.alloc(14, 9));
        case 'sack':
          return bytes(u8(5, 10), u32(1), u32(2));
        case 'user-timeout':
          return u8(28, 4, 0x80, 1);
        case 'end':
          return u8(0, 30, 4, 0x20);
        case 'unknown':
          return u8(253, 4, 1, 2);
        case 'malformed':
          return u8(253, 40, 1, 2);
        case 'zero-length':
          return u8(253, 0, 1, 2);
        case 'capable':
          return u8(30, 4, 1, 1);
        case 'capable-0':
          return u8(30, 4, 0, 1);
        case 'keys':
          return this.#serverKey ? bytes(u8(30, 20, 1, 1), KEY, this.#serverKey) : u8();
        case 'join':
          return bytes(u8(30, 12, 0x10, 1), u32(0x01020304), u32(0x05060708));
        case 'prio':
          return u8(30, 3, 0x50);
        case 'data-ack':
          return bytes(u8(30, 8, 0x20, 1), u32(1));
        case 'fast-close':
          return bytes(u8(30, 12, 0x70, 0), this.#serverKey ?? KEY);
        default:
          throw new Error(`no option is called ${name}`);
      }
    });
    const all = bytes(...made).subarray(0, 40);
    return bytes(all, Buffer.alloc((4 - (all.length % 4)) % 4, 1));
  }

  take(isTcp: boolean, segment: Bytes): void {
    if (!isTcp) {
      this.received += segment.length - 8;
      this.begin = Buffer.concat([this.begin, segment.subarray(8)]).subarray(0, 64);
      return;
    }
    if (segment.length < 20 || segment.readUInt16BE(0) !== this.#port) return;
    const [seq, ack, flags] = [segment.readUInt32BE(4), segment.readUInt32BE(8), segment[13] ?? 0];
    const dataAt = ((segment[12] ?? 0) >> 4) * 4;
    const data = segment.subarray(dataAt);
    if (flags & FLAG.ack) this.acknowledged = Math.max(this.acknowledged, (ack - this.isn - 1) | 0);
    this.#readOptions(segment.subarray(20, dataAt), (flags & FLAG.syn) !== 0);
    if (flags & FLAG.rst) {
      this.isReset = true;
    } else if (flags & FLAG.syn) {
      if (!this.isOpen) this.#next = (seq + 1) >>> 0;
      this.isOpen = true;
    } else if (seq === this.#next && (data.length > 0 || flags & FLAG.fin)) {
      this.received += data.length;
      if (this.begin.length < 64) this.begin = Buffer.concat([this.begin, data]).subarray(0, 64);
      if (flags & FLAG.fin) this.isEnded = true;
      this.#next = (this.#next + data.length + (flags & FLAG.fin ? 1 : 0)) >>> 0;
      this.#acknowledge();
    } else if (data.length > 0) this.#acknowledge();
  }
  #readOptions(options: Bytes, isSyn: boolean): void {
    for (let at = 0; at < options.length; ) {
      const kind = options[at] as number;
      if (kind === 0) return;
      const length = kind === 1 ? 1 : Math.max(2, options[at + 1] ?? 2);
      if (kind === 8 && at + 10 <= options.length) this.#time = options.readUInt32BE(at + 2);
      if (kind === 30 && isSyn && length === 12 && at + 12 <= options.length)
        this.#serverKey = Buffer.from(options.subarray(at + 4, at + 12));
      at += length;
    }
  }
}

/** RFC 8684 3.3: these bytes of the subflow are those of the data from there on. */
function mapping(data: number, at: number, length: number): Bytes {
  const place = Buffer.alloc(8);
  place.writeBigUInt64BE(BigInt.asUintN(64, FIRST_DATA + BigInt(data)));
  return bytes(u8(30, 18, 0x20, 0x0c), place, u32(at + 1), u16(length), u8(1, 1));
}

function pseudoSum({ src, dst }: Ends, length: number): number {
  const all = bytes(address(src), address(dst), u32(length), u32(TCP));
  let sum = 0;
  for (let i = 0; i < all.length; i += 2) sum += all.readUInt16BE(i);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return sum;
}
/** Another length in the header of IP. */
function setLength(packet: Bytes, length: number): void {
  if ((packet[0] ?? 0) >> 4 === 6) {
    packet.writeUInt16BE(length, 4);
    return;
  }
  packet.writeUInt16BE(length, 2);
  packet.writeUInt16BE(0, 10);
  let sum = 0;
  for (let i = 0; i < 20; i += 2) sum += packet.readUInt16BE(i);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  packet.writeUInt16BE(~sum & 0xffff, 10);
}
