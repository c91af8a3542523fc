/** The ground truth of what got out: tcpdump on NET's end of the veth pair, parsed as it comes. */
import { type ChildProcess, spawn } from 'node:child_process';
import { type Packet, PcapReader } from './pcap.js';
import { waitFor } from './process.js';
import { ADDRESSES, MARKER_PORT } from './topology.js';

/** All given fields must fit. */
export interface PacketFilter {
  /** Only packets from this time on (milliseconds since the epoch). */
  readonly since?: number;
  /** Only packets after this cursor (what `settle` gave). */
  readonly after?: number;
  readonly direction?: 'out' | 'in';
  readonly family?: 4 | 6;
  readonly proto?: string | readonly string[];
  readonly src?: string | readonly string[];
  readonly dst?: string | readonly string[];
  readonly sport?: number | readonly number[];
  readonly dport?: number | readonly number[];
  /** All of these TCP flags are set: "S" fits SYN and SYN-ACK. */
  readonly flags?: string;
  /** Exactly these TCP flags: "S" fits a SYN alone. */
  readonly onlyFlags?: string;
  readonly payloadIncludes?: string;
}
const KEPT = 2_000_000;
export const MARKER = 'drawbridge-lab-marker:';

const fits = <T>(want: T | readonly T[] | undefined, is: T | undefined): boolean =>
  want === undefined || (Array.isArray(want) ? want.includes(is) : want === is);

function matches(p: Packet, f: PacketFilter): boolean {
  return (
    (f.since === undefined || p.time >= f.since) &&
    fits(f.direction, p.direction) &&
    fits<number>(f.family, p.family) &&
    fits(f.proto, p.proto) &&
    fits(f.src, p.src) &&
    fits(f.dst, p.dst) &&
    fits(f.sport, p.sport) &&
    fits(f.dport, p.dport) &&
    (f.flags === undefined || [...f.flags].every((x) => p.flags?.includes(x))) &&
    (f.onlyFlags === undefined || p.flags === f.onlyFlags) &&
    (f.payloadIncludes === undefined || (p.payload?.includes(f.payloadIncludes) ?? false))
  );
}

export class Sniffer {
  #packets: Packet[] = [];
  /** How many were thrown away by `clear`: cursors go on counting. */
  #cleared = 0;
  #overflow = 0;
  #dropped = 0;
  #forgiven = 0;
  #stderr = '';
  #ended: string | undefined;
  readonly #markers = new Set<string>();
  /** Marker → the call that waits for it. */
  readonly #expected = new Map<string, () => void>();
  readonly #child: ChildProcess;

  constructor() {
    const options = [
      '-i',
      'eth0',
      '-n',
      '-U',
      '-s',
      '192',
      '--immediate-mode',
      '-B',
      '65536',
      '-Z',
      'root',
      '-w',
      '-',
    ];
    this.#child = spawn('tcpdump', options, { stdio: ['ignore', 'pipe', 'pipe'] });
    const reader = new PcapReader(ADDRESSES.hostMac);
    this.#child.stdout?.on('data', (data: Buffer) => this.#take(reader.push(data)));
    this.#child.stderr?.on('data', (d: Buffer) => {
      this.#stderr += d.toString();
    });
    this.#child.on('error', (e) => {
      this.#ended = e.message;
    });
    this.#child.on('exit', (code, signal) => {
      this.#ended = `tcpdump ended (${signal ?? code}): ${this.#stderr.trim()}`;
    });
  }

  async ready(): Promise<void> {
    await waitFor(
      'tcpdump to listen',
      () => this.#ended !== undefined || this.#stderr.includes('listening on'),
    );
    if (this.#ended !== undefined) throw new Error(`sniffer: ${this.#ended}`);
  }

  #take(packets: readonly Packet[]): void {
    for (const p of packets) {
      if (p.dport === MARKER_PORT && p.payload?.startsWith(MARKER))
        this.#mark(p.payload.slice(MARKER.length));
      else if (this.#packets.length >= KEPT) this.#overflow++;
      else this.#packets.push(p);
    }
  }

  #mark(marker: string): void {
    this.#markers.add(marker);
    this.#expected.get(marker)?.();
  }
  /** Whether the marker has been recorded, now or within `ms`. */
  async seen(marker: string, ms: number): Promise<boolean> {
    if (!this.#markers.has(marker)) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, ms);
        this.#expected.set(marker, () => {
          clearTimeout(timer);
          resolve();
        });
      });
      this.#expected.delete(marker);
    }
    return this.#markers.delete(marker);
  }
  cursor(): number {
    return this.#cleared + this.#packets.length;
  }
  find(filter: PacketFilter): Packet[] {
    const from = Math.max(0, (filter.after ?? 0) - this.#cleared);
    return this.#packets.slice(from).filter((p) => matches(p, filter));
  }
  async clear(): Promise<void> {
    await this.#count();
    this.#cleared += this.#packets.length;
    this.#packets = [];
    this.#overflow = 0;
    this.#forgiven = this.#dropped;
  }

  /** Asks tcpdump how many packets the kernel has dropped so far. */
  async #count(): Promise<void> {
    this.#stderr = '';
    this.#child.kill('SIGUSR1');
    const told = (): RegExpExecArray | undefined =>
      /(\d+) packets? dropped by kernel/.exec(this.#stderr) ?? undefined;
    this.#dropped = Number((await waitFor('counters of tcpdump', told, 5_000, 2))[1]);
  }

  /** Throws when a packet since the last `clear` may have been missed: dropped by the kernel, or more than KEPT. */
  async check(): Promise<void> {
    if (this.#ended !== undefined) throw new Error(`sniffer: ${this.#ended}`);
    if (this.#overflow > 0)
      throw new Error(
        `sniffer: ${this.#overflow} packets beyond ${KEPT} not kept: clear it between parts of the test`,
      );
    await this.#count();
    const lost = this.#dropped - this.#forgiven;
    if (lost > 0)
      throw new Error(`sniffer: ${lost} packets dropped by the kernel: clear() and send less at a time`);
  }

  stop(): void {
    this.#child.kill('SIGTERM');
  }
}
