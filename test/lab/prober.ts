/** A probe that stays in its container and takes one attempt after another: to start one takes 200 ms of processor time. */
import type { Socket } from 'node:net';
import type { ProbeResult } from './container.js';
import { attachedExec } from './docker-exec.js';

interface Waiting {
  readonly timer: NodeJS.Timeout;
  resolve(result: ProbeResult): void;
  reject(e: Error): void;
}
/** Longer than any attempt: its container may be paused. */
const LONGEST_MS = 120_000;

/** One process of `probe.cjs serve`; it ends with its container or with the engine. */
class Running {
  readonly #socket: Socket;
  readonly #waiting = new Map<number, Waiting>();
  #frames = Buffer.alloc(0);
  #line = '';
  #errors = '';
  #next = 1;
  #hasEnded = false;

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.unref();
    socket.on('data', (data: Buffer) => this.#take(data));
    socket.on('error', (e) => this.#end(e.message));
    socket.on('close', () => this.#end('it ended'));
  }
  get hasEnded(): boolean {
    return this.#hasEnded;
  }

  attempt(words: readonly string[]): Promise<ProbeResult> {
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(
        () => this.#end(`${words.join(' ')} did not end in ${LONGEST_MS} ms`),
        LONGEST_MS,
      );
      this.#waiting.set(id, { timer, resolve, reject });
      this.#socket.ref();
      this.#socket.write(`${JSON.stringify({ id, words })}\n`);
    });
  }

  #end(why: string): void {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    this.#socket.destroy();
    for (const { timer, reject } of this.#waiting.values()) {
      clearTimeout(timer);
      reject(new Error(`probe printed no result: ${why}: ${this.#errors}`));
    }
    this.#waiting.clear();
  }

  #take(data: Buffer): void {
    this.#frames = Buffer.concat([this.#frames, data]);
    while (this.#frames.length >= 8) {
      const end = 8 + this.#frames.readUInt32BE(4);
      if (this.#frames.length < end) return;
      const text = this.#frames.subarray(8, end).toString();
      if (this.#frames[0] === 2) this.#errors += text;
      else this.#read(text);
      this.#frames = this.#frames.subarray(end);
    }
  }

  #read(text: string): void {
    const lines = `${this.#line}${text}`.split('\n');
    this.#line = lines.pop() ?? '';
    for (const line of lines) {
      const { id, ...result } = JSON.parse(line) as ProbeResult & { readonly id: number };
      const waiting = this.#waiting.get(id);
      clearTimeout(waiting?.timer);
      waiting?.resolve(result);
      this.#waiting.delete(id);
    }
    if (this.#waiting.size === 0) this.#socket.unref();
  }
}

/** The probe of one container: started on use, and again once its container was. */
export class Prober {
  readonly #socketPath: string;
  readonly #container: string;
  #running: Promise<Running> | undefined;

  constructor(socketPath: string, container: string) {
    this.#socketPath = socketPath;
    this.#container = container;
  }

  async attempt(words: readonly (string | number)[]): Promise<ProbeResult> {
    return (await this.#alive()).attempt(words.map(String));
  }

  async #alive(): Promise<Running> {
    for (;;) {
      this.#running ??= this.#start();
      const known = this.#running;
      const running = await known;
      if (!running.hasEnded) return running;
      if (this.#running === known) this.#running = undefined;
    }
  }

  #start(): Promise<Running> {
    const argv = ['node', '/probe.cjs', 'serve'];
    return attachedExec(this.#socketPath, this.#container, argv).then(
      (socket) => new Running(socket),
      (e: Error) => {
        this.#running = undefined;
        throw new Error(`probe printed no result: ${e.message}`);
      },
    );
  }
}
