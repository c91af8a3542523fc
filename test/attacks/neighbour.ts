/** What reaches a container on the wire, whoever it was meant for: a capture in its own namespace. */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import type { Container } from '../lab/container.js';
import type { Lab } from '../lab/lab.js';
import { PcapFrames } from '../lab/pcap.js';
import { waitFor } from '../lab/process.js';

const DISCARD = 9;

export class Wire {
  readonly #lab: Lab;
  readonly #address: string;
  readonly #child: ChildProcess;
  readonly #frames: Buffer[] = [];
  #stderr = '';

  private constructor(lab: Lab, address: string, child: ChildProcess) {
    this.#lab = lab;
    this.#address = address;
    this.#child = child;
    const reader = new PcapFrames();
    child.stdout?.on('data', (d: Buffer) => {
      for (const { frame } of reader.push(d)) this.#frames.push(Buffer.from(frame));
    });
    child.stderr?.on('data', (d: Buffer) => {
      this.#stderr += d.toString();
    });
  }

  /** Of an observed container, so that the host may speak to it. Stop it before the lab goes down. */
  static async tap(lab: Lab, container: Container): Promise<Wire> {
    const inside = ['nsenter', `--net=/proc/${await container.pid()}/ns/net`, '--'];
    const capture = [
      'tcpdump',
      '-i',
      'eth0',
      '-n',
      '-U',
      '-s',
      '400',
      '--immediate-mode',
      '-Z',
      'root',
      '-w',
      '-',
    ];
    const [file = '', ...args] = lab.view.inside([...inside, ...capture]);
    const child = spawn(file, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    const wire = new Wire(lab, (await container.addresses()).ip4, child);
    await waitFor('tcpdump to listen', () => wire.#stderr.includes('listening on'));
    return wire;
  }

  /** How many frames were captured until now. */
  get length(): number {
    return this.#frames.length;
  }

  /** Frames that satisfy `fits`, of all that were sent before the call, but for the first `after` of the capture. */
  async saw(fits: (frame: Buffer) => boolean, after = 0): Promise<boolean> {
    await this.#settle();
    return this.#frames.slice(after).some(fits);
  }

  async stop(): Promise<void> {
    this.#child.kill('SIGTERM');
    await waitFor('tcpdump to end', () => this.#child.exitCode !== null || this.#child.signalCode !== null);
  }

  /** What the host sends now comes behind all that the bridge had to pass on. */
  async #settle(): Promise<void> {
    const marker = `marker-${randomBytes(6).toString('hex')}`;
    const send = ['bash', '-c', `printf ${marker} > /dev/udp/${this.#address}/${DISCARD}`];
    await waitFor(
      'the marker on the wire',
      async () => {
        await this.#lab.inHost(send, { check: true });
        await new Promise((done) => setImmediate(done));
        return this.#frames.some((f) => f.includes(marker));
      },
      10_000,
    );
  }
}
