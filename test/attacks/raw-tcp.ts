/** A TCP of the attacker's own, on a packet socket in its container: each segment has whatever the attack wants it to have. */
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll } from 'vitest';
import type { Container, RunSpec } from '../lab/container.js';
import type { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
import { PROGRAMS } from './technique.js';
import { address, type Bytes, bytes, type Ends, ether, etherTypeOf, type Header, ip, tcp } from './wire.js';

const MODULES = join(import.meta.dirname, '..', '..', 'node_modules');
const ASKS = mkdtempSync(join(tmpdir(), 'drawbridge-segments-'));
afterAll(() => rmSync(ASKS, { recursive: true, force: true }));
const TCP = 6;

/** A spec whose container runs programs/segments.mjs. `hosts`: the addresses of the host, in whose network it is. */
export const rawTcp = (
  spec: RunSpec & { readonly name: string },
  hosts: readonly string[] = [],
): RunSpec => ({
  ...spec,
  ...(hosts.length > 0 ? { network: 'host' } : {}),
  mounts: [
    ...(spec.mounts ?? []),
    PROGRAMS,
    `${join(MODULES, 'koffi')}:/node_modules/koffi:ro`,
    `${join(MODULES, '@koromix')}:/node_modules/@koromix:ro`,
    `${ASKS}:/asks`,
  ],
  cmd: ['node', '/attacks/segments.mjs', spec.name, ...hosts.map((h) => address(h).toString('hex'))],
});

/** The container's own kernel knows nothing of these connections, and would reset them. */
const QUIET = 'table inet quiet { chain out { type filter hook output priority 0 ; tcp flags rst drop; }; }';

/** The same of the host's kernel, whose resets belong to no process. Those of Drawbridge do, or go over the loopback device. */
const QUIET_HOST = `table inet quiet {
  chain out {
    type filter hook output priority 0
    oif "lo" accept
    tcp flags rst meta skuid 0 accept
    tcp flags rst drop
  }
}
`;
const NO_MAC = '00:00:00:00:00:00';

interface Received {
  readonly sport: number;
  readonly seq: number;
  readonly ack: number;
  readonly flags: number;
  readonly options: Bytes;
  readonly data: Bytes;
}
function parse(frame: Bytes): { port: number; segment: Received } | undefined {
  const is4 = frame.readUInt16BE(12) === 0x0800;
  const at = is4 ? 14 + ((frame[14] ?? 0) & 15) * 4 : 54;
  const end = is4 ? 14 + frame.readUInt16BE(16) : 54 + frame.readUInt16BE(18);
  if (frame.length < at + 20) return undefined;
  return {
    port: frame.readUInt16BE(at + 2),
    segment: {
      sport: frame.readUInt16BE(at),
      seq: frame.readUInt32BE(at + 4),
      ack: frame.readUInt32BE(at + 8),
      flags: frame[at + 13] ?? 0,
      options: frame.subarray(at + 20, at + ((frame[at + 12] ?? 0) >> 4) * 4),
      data: frame.subarray(at + ((frame[at + 12] ?? 0) >> 4) * 4, end),
    },
  };
}

export class RawHost {
  readonly #socket: Socket;
  readonly #ports = new Map<number, RawTcp>();
  readonly #ip4: string;
  readonly #ip6: string;
  readonly #mac: string;
  readonly #gateway: string;

  private constructor(socket: Socket, own: { ip4: string; ip6: string; mac: string }, gateway: string) {
    this.#socket = socket;
    [this.#ip4, this.#ip6, this.#mac, this.#gateway] = [own.ip4, own.ip6, own.mac, gateway];
    let text = '';
    socket.setEncoding('latin1');
    socket.on('error', () => undefined);
    socket.on('data', (d: string) => {
      const lines = (text + d).split('\n');
      text = lines.pop() ?? '';
      for (const line of lines) {
        const got = parse(Buffer.from(line, 'hex'));
        if (got) this.#ports.get(got.port)?.take(got.segment);
      }
    });
  }

  static async of(lab: Lab, container: Container): Promise<RawHost> {
    const pid = await container.pid();
    await lab.inHost(['nsenter', `--net=/proc/${pid}/ns/net`, '--', 'nft', '-f', '-'], {
      input: QUIET,
      check: true,
    });
    const own = await container.addresses();
    const shown = await lab.inHost(['ip', '-j', 'address', 'show', 'to', own.gateway], { check: true });
    const [bridge] = JSON.parse(shown.stdout) as { ifname: string }[];
    const link = await lab.inHost(['ip', '-j', 'link', 'show', bridge?.ifname ?? ''], { check: true });
    const [found] = JSON.parse(link.stdout) as { address: string }[];
    if (found === undefined) throw new Error(`no bridge has ${own.gateway}`);
    const socket = await waitFor(`${container.name} to send`, () => tryConnecting(container.name), 30_000);
    return new RawHost(socket, own, found.address);
  }

  /** In the network of the host. */
  static async ofHost(lab: Lab, container: Container): Promise<RawHost> {
    await lab.inHost(['nft', '-f', '-'], { input: QUIET_HOST, check: true });
    const { host4: ip4, host6: ip6 } = lab.addresses;
    const socket = await waitFor(`${container.name} to send`, () => tryConnecting(container.name), 30_000);
    return new RawHost(socket, { ip4, ip6, mac: NO_MAC }, NO_MAC);
  }

  close(): void {
    this.#socket.destroy();
  }
  ends(dst: string): Ends {
    return { src: dst.includes(':') ? this.#ip6 : this.#ip4, dst };
  }
  send(packet: Bytes): void {
    this.#socket.write(`${ether(this.#gateway, this.#mac, etherTypeOf(packet), packet).toString('hex')}\n`);
  }
  /** Waits until the container has taken what was sent. */
  async sent(): Promise<void> {
    if (this.#socket.writableNeedDrain) await once(this.#socket, 'drain');
  }
  /** A connection that is not opened yet. */
  tcp(dst: string, port: number, fromPort: number, isn?: number): RawTcp {
    const made = new RawTcp(this, this.ends(dst), port, fromPort, isn);
    this.#ports.set(fromPort, made);
    return made;
  }
}

const tryConnecting = (name: string): Promise<Socket | undefined> =>
  new Promise((resolve) => {
    const socket = connect(join(ASKS, `${name}.sock`), () => resolve(socket));
    socket.on('error', () => resolve(undefined));
  });

export interface Sent extends Header {
  /** Offset in the stream of the client of the first byte; default: behind the last one that was sent without `at`. */
  readonly at?: number;
  readonly flags?: string;
  /** Of TCP. */
  readonly tcpOptions?: Bytes;
  readonly ack?: number;
  readonly window?: number;
  readonly urgent?: number;
  /** Changes the packet before it is sent. */
  readonly change?: (packet: Bytes) => Bytes;
  /** Makes packets of the segment: fragments, extension headers. */
  readonly wrap?: (e: Ends, segment: Bytes) => readonly Bytes[];
}
const SEGMENT = 1_400;
const BURST = 20 * SEGMENT;
const FLAG = { fin: 1, syn: 2, rst: 4, ack: 16 } as const;

export class RawTcp {
  readonly fromPort: number;
  readonly #host: RawHost;
  readonly #ends: Ends;
  readonly #port: number;
  readonly isn: number;
  /** Sequence number of the next byte of the server. */
  next = 0;
  serverIsn: number | undefined;
  /** Of TCP Fast Open (RFC 7413), once the server has sent one. */
  cookie: Bytes | undefined;
  isReset = false;
  isEnded = false;
  /** The server's bytes, as they came in order. */
  received = Buffer.alloc(0);
  lastSent = 0;
  /** Bytes of this client that the server has acknowledged. */
  acknowledged = 0;
  #at = 0;
  /** Set: nothing is acknowledged by itself. */
  isSilent = false;

  constructor(host: RawHost, ends: Ends, port: number, fromPort: number, isn = 1_000_000 + fromPort * 7) {
    [this.#host, this.#ends, this.#port, this.fromPort, this.isn] = [host, ends, port, fromPort, isn];
  }

  /** The three packets of a handshake. False: it was refused, or nothing answered. */
  async open(syn: Sent = {}, ms = 6_000): Promise<boolean> {
    let sent = 0;
    const answered = async (): Promise<boolean> => {
      if (Date.now() - sent > 1_000) {
        this.segment('', { ...syn, at: -1, flags: 'S', ack: 0 });
        sent = Date.now();
      }
      return this.serverIsn !== undefined || this.isReset;
    };
    await waitFor('a SYN-ACK', answered, ms, 5).catch(() => undefined);
    if (this.serverIsn === undefined || this.isReset) return false;
    this.acknowledge();
    return true;
  }
  /** The next segment begins so many bytes later. */
  skip(bytes: number): void {
    this.#at += bytes;
  }
  acknowledge(): void {
    this.segment('', { at: this.#at, flags: 'A' });
  }
  /** One segment with this content. */
  segment(data: Bytes | string, how: Sent = {}): void {
    const { at = this.#at, flags = 'PA', ack = this.next, tcpOptions, window, urgent } = how;
    const content = bytes(data);
    if (how.at === undefined) this.#at += content.length;
    const made = tcp(
      this.#ends,
      this.fromPort,
      this.#port,
      {
        flags,
        seq: (this.isn + 1 + at) >>> 0,
        ack: ack >>> 0,
        ...(tcpOptions ? { options: tcpOptions } : {}),
        ...(window === undefined ? {} : { window }),
        ...(urgent === undefined ? {} : { urgent }),
      },
      content,
    );
    const packets = how.wrap ? how.wrap(this.#ends, made) : [ip(this.#ends, TCP, made, how)];
    for (const p of packets) this.#host.send(how.change ? how.change(p) : p);
    this.lastSent = performance.now();
  }
  stream(data: Bytes | string, size = SEGMENT): void {
    const all = bytes(data);
    for (let at = 0; at < all.length; at += size) this.segment(all.subarray(at, at + size));
  }
  /** So many bytes, in bursts that fit the window of the server, and again what is lost. False: it does not acknowledge them. */
  async upload(length: number, ms = 30_000): Promise<boolean> {
    const [begin, end, deadline] = [this.#at, this.#at + length, performance.now() + ms];
    this.#at = end;
    while (this.acknowledged < end && !this.isReset && performance.now() < deadline) {
      const from = Math.max(begin, this.acknowledged);
      const burst = Math.min(from + BURST, end);
      for (let at = from; at < burst; at += SEGMENT)
        this.segment('u'.repeat(Math.min(SEGMENT, burst - at)), { at });
      const isThere = async (): Promise<boolean> => this.acknowledged >= burst || this.isReset;
      await waitFor('an acknowledgement', isThere, 500, 5).catch(() => undefined);
    }
    return this.acknowledged >= end;
  }
  take({ sport, seq, ack, flags, options, data }: Received): void {
    if (sport !== this.#port) return;
    if (flags & FLAG.ack) this.acknowledged = Math.max(this.acknowledged, (ack - this.isn - 1) | 0);
    if (flags & FLAG.rst) {
      // RFC 9293 3.10.7: a reset that answers a packet of an earlier connection of these ports is none of this one
      const isOfThis = this.serverIsn === undefined ? (flags & FLAG.ack) !== 0 : seq === this.next;
      if (isOfThis) this.isReset = true;
    } else if (flags & FLAG.syn) {
      this.serverIsn = seq;
      this.cookie = cookieOf(options) ?? this.cookie;
      this.next = (seq + 1) >>> 0;
    } else if (seq === this.next && (data.length > 0 || flags & FLAG.fin)) {
      this.received = Buffer.concat([this.received, data]);
      this.isEnded = (flags & FLAG.fin) !== 0;
      this.next = (this.next + data.length + (this.isEnded ? 1 : 0)) >>> 0;
      if (!this.isSilent) this.acknowledge();
    }
  }
}

function cookieOf(options: Bytes): Bytes | undefined {
  for (let at = 0; at < options.length; ) {
    const kind = options[at] as number;
    if (kind === 0) return undefined;
    const length = kind === 1 ? 1 : Math.max(2, options[at + 1] ?? 2);
    if (kind === 34) return options.subarray(at + 2, at + length);
    at += length;
  }
  return undefined;
}
