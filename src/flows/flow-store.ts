import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Contact } from '../events/service-events.js';
import { atNext } from '../lib/async.js';
import { Signal } from '../lib/current.js';
import type { Logger } from '../lib/log.js';
import { refuse } from '../lib/problem.js';
import { ThreadClient } from '../lib/thread.js';
import type { KnownMark, StartedContainer } from './flow-database.js';
import type { ContainerRun, FlowFacts, FlowPage, FlowQuery, OwnerRecord, SeenFlow } from './flow-record.js';
import type { FlowJobs } from './flow-thread.js';

export interface FlowStoreOptions {
  /** The state folder. */
  readonly folder: string;
  readonly keepMs: number;
  readonly maxSizeBytes: number;
  readonly log: Logger;
  /** ms since the epoch. */
  readonly now: () => number;
}
/** Flows that wait to be written, after those with the same ends were added up. */
const MOST_WAITING = 20_000;
/** What was seen within this time is lost when the service is killed; the gap is recorded. */
const WRITE_MS = 1_000;
const PRUNE_MS = 60_000;
/** From one failure to the next attempt. */
const RETRY_MS = 10_000;

/** SQLITE_CORRUPT and SQLITE_NOTADB, in the words of SQLite. */
const isDamage = (e: unknown): boolean => e instanceof Error && /malformed|not a database/.test(e.message);

/** A SeenFlow that is still being added to. */
type Waiting = { -readonly [K in keyof SeenFlow]: SeenFlow[K] } & { last: number };

/**
 * Flows of all containers, on disk in a thread of its own: packets and queries never wait for it. What cannot be written is counted.
 */
export class FlowStore implements AsyncDisposable {
  /** The first contact of a container with a destination, once it is on disk. */
  readonly firstContact = new Signal<Contact & { readonly known: boolean }>();
  readonly #o: FlowStoreOptions;
  readonly #thread = new ThreadClient<FlowJobs>({
    script: new URL('./flow-thread.js', import.meta.url),
    name: 'the thread for flows',
  });
  #waiting = new Map<string, Waiting>();
  #starts: StartedContainer[] = [];
  /** Lost, and not yet counted on disk. */
  #lost = 0;
  /** Of all that were lost since the start of the service. */
  #lostNow = 0;
  #recordedUntil: number | undefined;
  /** When the first read of what passes began, while that is not on disk. */
  #begun: number | undefined;
  #isOpen = false;
  #wasOpen = false;
  #failure: string | undefined;
  #triedAt = Number.NEGATIVE_INFINITY;
  #prunedAt = 0;
  #stopped = false;
  #timer: Disposable | undefined;
  #writing: Promise<void> = Promise.resolve();

  constructor(options: FlowStoreOptions) {
    this.#o = options;
  }

  /** Until then flows wait in memory. */
  begin(): void {
    this.#tick();
  }

  add(flow: SeenFlow): void {
    const { id, verdict, proto, address, port, name, reason } = flow;
    const key = `${id} ${verdict} ${proto} ${address} ${port} ${name} ${reason}`;
    const known = this.#waiting.get(key);
    if (known) {
      known.last = Math.max(known.last, flow.last ?? flow.time);
      known.packets += flow.packets;
      known.bytes += flow.bytes;
      known.count += flow.count;
    } else if (this.#waiting.size >= MOST_WAITING) this.lose(Math.max(1, flow.count));
    else this.#waiting.set(key, { ...flow, last: flow.last ?? flow.time });
  }

  /** Flows that were seen in part only, or not at all. */
  lose(count: number): void {
    this.#lost += count;
    this.#lostNow += count;
  }

  started(container: StartedContainer): void {
    if (this.#starts.length < MOST_WAITING) this.#starts.push(container);
  }

  /** All connections until this time (ms since the epoch) were added. */
  completeUntil(time: number): void {
    if (this.#recordedUntil === undefined) this.#begun = time;
    this.#recordedUntil = time;
  }

  /** All connections until then are recorded (ms since the epoch); undefined: not known. */
  get recordedUntil(): number | undefined {
    return this.#recordedUntil;
  }

  /** Flows that are in no record, since the start of the service. */
  get lost(): number {
    return this.#lostNow;
  }

  /** Why flows cannot be written now; undefined: they can. */
  get failure(): string | undefined {
    return this.#failure;
  }

  /** Newest first, with all that was added before. Rejects with RefusedError while the file cannot be opened. */
  page(query: FlowQuery): Promise<FlowPage> {
    return this.#read(() => this.#thread.run('page', query));
  }

  run(idOrName: string): Promise<ContainerRun | undefined> {
    return this.#read(() => this.#thread.run('run', idOrName));
  }

  record(owner: string): Promise<OwnerRecord | undefined> {
    return this.#read(() => this.#thread.run('record', owner));
  }

  owners(): Promise<readonly string[]> {
    return this.#read(() => this.#thread.run('owners', null));
  }

  facts(): Promise<FlowFacts> {
    return this.#read(() => this.#thread.run('facts', null));
  }

  /** Mark destinations of an owner as known, so that they raise no alert. Returns how many of those that were seen have changed. */
  mark(mark: KnownMark, isKnown: boolean): Promise<number> {
    return this.#read(() => this.#thread.run('mark', { mark, isKnown }));
  }

  marks(): Promise<readonly KnownMark[]> {
    return this.#read(() => this.#thread.run('marks', null));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#timer?.[Symbol.dispose]();
    await this.#flush();
    if (this.#isOpen) await this.#thread.run('close', { now: this.#o.now() }).catch((e) => this.#fail(e));
    await this.#thread.close();
  }

  async #read<T>(job: () => Promise<T>): Promise<T> {
    await this.#flush();
    if (!this.#isOpen)
      refuse(
        'unavailable',
        `flows cannot be read: ${this.#failure ?? 'the service is starting or ending'}`,
        this.#failure === undefined ? 'try again in a moment' : `see to ${this.#o.folder} on this host`,
      );
    try {
      return await job();
    } catch (e) {
      if (isDamage(e)) this.#fail(e);
      throw e;
    }
  }

  #tick(): void {
    void this.#flush();
    if (!this.#stopped) this.#timer = atNext(WRITE_MS, () => this.#tick());
  }

  /** Resolves when what was added until now is written, or could not be. */
  #flush(): Promise<void> {
    this.#writing = this.#writing.then(() => this.#write()).catch((e: unknown) => this.#fail(e));
    return this.#writing;
  }

  async #write(): Promise<void> {
    const now = this.#o.now();
    if (!(await this.#open(now))) return;
    const [flows, lost] = [[...this.#waiting.values()], this.#lost];
    let starts = this.#starts;
    this.#starts = [];
    this.#waiting = new Map();
    this.#lost = 0;
    try {
      if (this.#begun !== undefined) await this.#thread.run('begun', this.#begun);
      this.#begun = undefined;
      if (starts.length > 0) await this.#thread.run('started', { containers: starts, now });
      starts = [];
      const { first } = await this.#thread.run('write', { flows, lost, now });
      this.#recovered();
      for (const [position, known] of first) this.#report(flows[position], known);
    } catch (e) {
      // Those that came meanwhile are added to them.
      for (const flow of flows) this.add(flow);
      this.#starts = [...starts, ...this.#starts];
      this.#lost += lost;
      throw e;
    }
    if (now - this.#prunedAt >= PRUNE_MS || now < this.#prunedAt)
      if (!(await this.#thread.run('prune', { now }))) this.#prunedAt = now;
  }

  #report(flow: Waiting | undefined, known: boolean): void {
    if (!flow) return;
    const { time: _, last: __, id: ___, packets: ____, bytes: _____, count: ______, ...contact } = flow;
    this.firstContact.emit({ ...contact, known });
  }

  async #open(now: number): Promise<boolean> {
    if (this.#isOpen) return true;
    if (now - this.#triedAt < RETRY_MS && now >= this.#triedAt) return false;
    this.#triedAt = now;
    const { folder, keepMs, maxSizeBytes, log } = this.#o;
    const file = join(folder, 'flows.db');
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    const { setAside } = await this.#thread.run('open', {
      file,
      keepMs,
      maxSizeBytes,
      now,
      isStart: !this.#wasOpen,
    });
    this.#wasOpen = true;
    this.#isOpen = true;
    if (setAside !== null)
      log.error(
        { file, err: setAside, kept: `${file}.unusable` },
        'the database of flows cannot be used: it is kept under another name, and recording begins again now',
      );
    return true;
  }

  /** The file is opened again: what it was may have been removed, or its disk may be full. */
  #fail(e: unknown): void {
    const why = e instanceof Error ? e.message : String(e);
    if (this.#failure === undefined)
      this.#o.log.warn(
        { folder: this.#o.folder, err: why },
        'flows cannot be written: the newest are kept in memory, and those beyond are counted as lost, until they can',
      );
    this.#failure = why;
    this.#isOpen = false;
    this.#triedAt = this.#o.now();
  }

  #recovered(): void {
    if (this.#failure !== undefined) this.#o.log.info({}, 'flows are written again');
    this.#failure = undefined;
  }
}
