/**
 * Docker's socket on a bad day, between dockerd and Drawbridge: the one proxy of all suites. By default events come late, in another order, or not at all, and everything else as it
 * is. With a fault, what the fault says happens to answers and events until it is changed.
 */
import { rmSync } from 'node:fs';
import { createServer, type IncomingMessage, request, type Server, type ServerResponse } from 'node:http';
import { createInterface } from 'node:readline';
import type { Random } from '../fuzz/random.js';
import { askDocker } from './docker-exec.js';

const LATEST_MS = 1500;
const LOST_ONE_IN = 4;
const IMAGE = /\/images\/[^/]+\/json/;
/** An answer with endpoints: a network and its members, a list of containers, or a container. */
const WITH_ENDPOINTS =
  /^(?:\/v[\d.]+)?\/(?:networks\/[^/?]+|containers\/json|containers\/[0-9a-f]{64}\/json)(?:\?|$)/;
const LIST = /\/containers\/json\?/;
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
  /**
   * The order of Engine 29: an endpoint that joins from now on is shown without its container until that many milliseconds after the engine's
   * event, which is late by as much. The engines of the lab send it some 10 to 140 ms after the first packet. `ep`: as Engine 29, under the
   * key `ep-ENDPOINT`; `not`: not at all.
   */
  readonly joins?: { readonly ms: number; readonly shown: 'ep' | 'not' };
}
interface Member {
  EndpointID: string;
}
export const HEALTHY: Fault = { answers: 'pass', events: 'pass' };

export class DockerProxy implements AsyncDisposable {
  readonly socketPath: string;
  /** `unnamed`: how often an endpoint was shown, or left out, without its container (`joins`). */
  readonly seen = { passed: 0, lost: 0, late: 0, unnamed: 0 };
  /** Inspects of images that were requested. */
  images = 0;
  /** Lists of containers that were requested. */
  lists = 0;
  readonly #docker: string;
  readonly #random: Random;
  readonly #server: Server;
  readonly #timers = new Set<NodeJS.Timeout>();
  #fault: Fault | undefined;
  /** Endpoints that are shown with their containers while `joins` applies. */
  readonly #named = new Set<string>();
  /** The line of the event stream that is passed on next follows this one. */
  #before: Promise<void> = Promise.resolve();

  constructor(docker: string, socketPath: string, random: Random) {
    this.#docker = docker;
    this.socketPath = socketPath;
    this.#random = random;
    this.#server = createServer((asked, answer) => this.#forward(asked, answer));
  }
  /** Events and answers that are late now. */
  get waiting(): number {
    return this.#timers.size;
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
    if (fault?.joins) await this.#nameAll();
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
    if (LIST.test(url)) this.lists += 1;
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
        const isJoining =
          this.#fault?.joins !== undefined && got.statusCode === 200 && WITH_ENDPOINTS.test(url);
        if (isJoining) delete got.headers['content-length'];
        answer.writeHead(got.statusCode ?? 502, got.headers);
        if (isStream) this.#events(got, answer);
        else if (isJoining) this.#withoutNames(got, answer);
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
    const { joins } = this.#fault ?? {};
    if (joins) this.#before = this.#before.then(() => this.#joined(line, joins.ms)).then(() => write(line));
    else if (events === 'pass') write(line);
    else if (events === 'garbage') write(GARBAGE);
    else if (typeof events === 'number') this.#after(events, () => write(line));
    else if (events === 'lose' || this.#random.chance(LOST_ONE_IN)) this.seen.lost++;
    else this.#later(() => write(line));
  }
  /** After the event of a join, the endpoint has its name; other events go on at once, but not before an earlier one. */
  async #joined(line: string, ms: number): Promise<void> {
    const event = JSON.parse(line) as { Type: string; Action: string; Actor: { ID: string } };
    if (event.Type !== 'network' || event.Action !== 'connect') return;
    await new Promise<void>((resume) => this.#after(ms, resume));
    await this.#name(event.Actor.ID);
  }
  async #nameAll(): Promise<void> {
    const networks = await askDocker(this.#docker, 'GET', '/networks');
    for (const { Id } of JSON.parse(networks.toString()) as { Id: string }[]) await this.#name(Id);
  }
  /** A network that has gone since has no endpoints. */
  async #name(network: string): Promise<void> {
    const shown = await askDocker(this.#docker, 'GET', `/networks/${network}`).catch(() => Buffer.from('{}'));
    const { Containers = {} } = JSON.parse(shown.toString()) as { Containers?: Record<string, Member> };
    for (const { EndpointID } of Object.values(Containers)) this.#named.add(EndpointID);
  }
  #withoutNames(got: IncomingMessage, answer: ServerResponse): void {
    const parts: Buffer[] = [];
    got.on('data', (part: Buffer) => parts.push(part));
    got.on('end', () => {
      const json: unknown = JSON.parse(Buffer.concat(parts).toString());
      for (const item of [json].flat() as {
        Containers?: Record<string, Member>;
        NetworkSettings?: object;
      }[]) {
        if (item.Containers) item.Containers = this.#renamed(item.Containers);
        const { Networks = {} } = (item.NetworkSettings ?? {}) as { Networks?: Record<string, Member> };
        for (const [name, { EndpointID }] of Object.entries(Networks))
          if (EndpointID !== '' && !this.#named.has(EndpointID)) delete Networks[name];
      }
      answer.end(JSON.stringify(json));
    });
  }
  #renamed(members: Record<string, Member>): Record<string, Member> {
    const shown: [string, Member][] = [];
    for (const [key, member] of Object.entries(members)) {
      const isJoining = /^[0-9a-f]{64}$/.test(key) && !this.#named.has(member.EndpointID);
      if (isJoining) this.seen.unnamed += 1;
      if (!isJoining) shown.push([key, member]);
      else if (this.#fault?.joins?.shown === 'ep') shown.push([`ep-${member.EndpointID}`, member]);
    }
    return Object.fromEntries(shown);
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
