/** Docker's socket as a bad day has it: events come late, in another order, or not at all; everything else as it is. */
import { createServer, type IncomingMessage, request, type Server, type ServerResponse } from 'node:http';
import { createInterface } from 'node:readline';
import type { Random } from '../fuzz/random.js';

const LATEST_MS = 1500;
const LOST_ONE_IN = 4;

export class DockerProxy implements AsyncDisposable {
  readonly socketPath: string;
  readonly seen = { passed: 0, lost: 0, late: 0 };
  readonly #docker: string;
  readonly #random: Random;
  readonly #server: Server;
  readonly #timers = new Set<NodeJS.Timeout>();

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

  #forward(asked: IncomingMessage, answer: ServerResponse): void {
    const { method = 'GET', url = '/', headers } = asked;
    const out = request({ socketPath: this.#docker, method, path: url, headers, agent: false }, (got) => {
      answer.writeHead(got.statusCode ?? 502, got.headers);
      if (/^(\/v[\d.]+)?\/events/.test(url)) this.#events(got, answer);
      else got.pipe(answer);
      got.on('error', () => answer.destroy());
    });
    out.on('error', () => answer.destroy());
    answer.on('close', () => out.destroy());
    asked.pipe(out);
  }
  #events(got: IncomingMessage, answer: ServerResponse): void {
    answer.flushHeaders();
    got.on('close', () => answer.end());
    const lines = createInterface({ input: got });
    lines.on('error', () => answer.destroy()); // whoever followed them has gone
    lines.on('line', (line) => {
      if (this.#random.chance(LOST_ONE_IN)) this.seen.lost++;
      else this.#later(() => answer.write(`${line}\n`));
    });
  }
  #later(write: () => void): void {
    const ms = this.#random.chance(2) ? 0 : this.#random.below(LATEST_MS);
    this.seen[ms === 0 ? 'passed' : 'late']++;
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      write();
    }, ms);
    this.#timers.add(timer);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const t of this.#timers) clearTimeout(t);
    this.#server.closeAllConnections();
    await new Promise((done) => this.#server.close(done));
  }
}
