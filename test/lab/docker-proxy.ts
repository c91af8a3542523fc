/**
 * Docker's socket on a bad day, between dockerd and Drawbridge: the one proxy of all suites. By default events come late, in another order, or not at all, and everything else as it
 * is. With a fault, what the fault says happens to answers and events until it is changed.
 */
import { rmSync } from 'node:fs';
import { createServer, type IncomingMessage, request, type Server, type ServerResponse } from 'node:http';
import { createInterface } from 'node:readline';
import type { Random } from '../fuzz/random.js';

const LATEST_MS = 1500;
const LOST_ONE_IN = 4;
const IMAGE = /\/images\/[^/]+\/json/;
const GARBAGE = '[{"Id":null},"\u0000';

/** How answers to requests are spoilt; a number: they are that many milliseconds late. */
type Answers = 'pass' | 'hang' | 'refuse' | 'error' | 'garbage' | number;
/** The same of lines of the event stream. */
type Events = 'pass' | 'lose' | 'garbage' | number;
export interface Fault {
  readonly answers: Answers;
  readonly events: Events;
  /** Inspects of containers are answered by nobody, whatever happens to the rest. */
  readonly inspects?: 'hang';
  /** Inspects of networks are that many milliseconds late, whatever happens to the rest. */
  readonly networks?: number;
  /** The same of inspects of images. */
  readonly images?: number;
}
export const HEALTHY: Fault = { answers: 'pass', events: 'pass' };

export class DockerProxy implements AsyncDisposable {
  readonly socketPath: string;
  readonly seen = { passed: 0, lost: 0, late: 0 };
  /** Inspects of images that were requested. */
  images = 0;
  readonly #docker: string;
  readonly #random: Random;
  readonly #server: Server;
  readonly #timers = new Set<NodeJS.Timeout>();
  #fault: Fault | undefined;

  constructor(docker: string, socketPath: string, random: Random) {
    this.#docker = docker;
    this.socketPath = socketPath;
    this.#random = random;
    this.#server = createServer((asked, answer) => this.#forward(asked, answer));
  }
  async start(): Promise<this> {
    await new Promise<void>((done) => this.#server.listen(this.socketPath, done));
    return this;
  }

  /**
   * From now on; undefined: events at random again. A fault of the answers alone leaves the event stream that is open as
   * it is; else all connections are cut, so that the next ones see the fault.
   */
  async set(fault: Fault | undefined): Promise<void> {
    const isRefusing = this.#fault?.answers === 'refuse';
    this.#fault = fault;
    if (fault?.answers === 'refuse') {
      const closed = new Promise((done) => this.#server.close(done));
      this.#server.closeAllConnections();
      await closed;
      rmSync(this.socketPath, { force: true });
      return;
    }
    if (isRefusing) await this.start();
    // a healthy engine again: what hangs is answered by nobody, and its client sees the connection end
    if (fault === undefined || fault === HEALTHY || fault.answers === 'error' || fault.answers === 'garbage')
      this.#server.closeAllConnections();
  }

  #forward(asked: IncomingMessage, answer: ServerResponse): void {
    const { method = 'GET', url = '/', headers } = asked;
    const isStream = /^(\/v[\d.]+)?\/events/.test(url);
    if (IMAGE.test(url)) this.images += 1;
    const answers = this.#fault?.answers ?? 'pass';
    if (answers === 'hang') return;
    if (this.#fault?.inspects === 'hang' && /\/containers\/[0-9a-f]{64}\/json/.test(url)) return;
    if (answers === 'error') {
      answer.writeHead(500, { 'content-type': 'application/json' }).end('{"message":"out of order"}');
      return;
    }
    if (answers === 'garbage' && !isStream) {
      answer.writeHead(200, { 'content-type': 'application/json' }).end(GARBAGE);
      return;
    }
    const out = request({ socketPath: this.#docker, method, path: url, headers, agent: false }, (got) => {
      const pass = (): void => {
        if (answer.destroyed) return;
        answer.writeHead(got.statusCode ?? 502, got.headers);
        if (isStream) this.#events(got, answer);
        else got.pipe(answer);
      };
      got.on('error', () => answer.destroy());
      const late = this.#lateOf(url);
      if (late !== undefined) this.#after(late, pass);
      else if (typeof answers === 'number' && !isStream) this.#after(answers, pass);
      else pass();
    });
    out.on('error', () => answer.destroy());
    answer.on('close', () => out.destroy());
    asked.pipe(out);
  }
  #lateOf(url: string): number | undefined {
    if (/\/networks\/[0-9a-f]{64}/.test(url)) return this.#fault?.networks;
    return IMAGE.test(url) ? this.#fault?.images : undefined;
  }
  #events(got: IncomingMessage, answer: ServerResponse): void {
    answer.flushHeaders();
    got.on('close', () => answer.end());
    const lines = createInterface({ input: got });
    lines.on('error', () => answer.destroy()); // the client of the stream has gone
    lines.on('line', (line) => this.#event(line, (text) => answer.write(`${text}\n`)));
  }
  #event(line: string, write: (line: string) => void): void {
    const events = this.#fault?.events;
    if (events === 'pass') write(line);
    else if (events === 'garbage') write(GARBAGE);
    else if (typeof events === 'number') this.#after(events, () => write(line));
    else if (events === 'lose' || this.#random.chance(LOST_ONE_IN)) this.seen.lost++;
    else this.#later(() => write(line));
  }
  #later(write: () => void): void {
    const ms = this.#random.chance(2) ? 0 : this.#random.below(LATEST_MS);
    this.seen[ms === 0 ? 'passed' : 'late']++;
    this.#after(ms, write);
  }
  #after(ms: number, work: () => void): void {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      work();
    }, ms);
    this.#timers.add(timer);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const t of this.#timers) clearTimeout(t);
    this.#server.closeAllConnections();
    await new Promise((done) => this.#server.close(done));
  }
}
