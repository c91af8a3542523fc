import { existsSync, mkdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Contact } from '../events/service-events.js';
import { Repeated, steadyNow } from '../lib/clock.js';
import { Signal } from '../lib/current.js';
import { contained, guarded } from '../lib/faults.js';
import type { Logger } from '../lib/log.js';
import { detailOf, refuse } from '../lib/problem.js';
import { EndedError, startChild, ThreadClient } from '../lib/thread.js';
import type { KnownMark, StartedContainer } from './flow-database.js';
import type { FlowJobs } from './flow-process.js';
import {
  type ContainerRun,
  type FlowFacts,
  type FlowGap,
  type FlowPage,
  type FlowQuery,
  type OwnerRecord,
  type SeenFlow,
  type WaitingFlow,
  WaitingFlows,
} from './flow-record.js';
import { readFormerTallies, type Tallies, type TallyRow } from './tallies.js';

export interface FlowStoreOptions {
  /** The state folder. */
  readonly folder: string;
  readonly keepMs: number;
  readonly maxSizeBytes: number;
  readonly log: Logger;
  /** They are written with the flows. */
  readonly tallies: Pick<Tallies, 'takeChanged' | 'putBack' | 'restore'>;
  /** ms since the epoch. */
  readonly now: () => number;
  /** Default: a process of its own. */
  readonly start?: typeof startChild;
}
/** Flows that wait to be written, after those with the same ends were added up. */
const MOST_WAITING = 20_000;
/** What was seen within this time is lost when the service is killed; the gap is recorded. */
const WRITE_MS = 1_000;
const PRUNE_MS = 60_000;
/** What was counted between two savings is forgotten when the service is killed. */
const COUNTS_MS = 5_000;
/** From one failure to the next attempt. */
const RETRY_MS = 10_000;
/** A damaged file is replaced, and a process that has ended is started again, at once, so many times a minute. */
const AT_ONCE = { times: 4, ms: 60_000 } as const;
/** A process that ends by itself so many times within this time, with one file, has it from the file. */
const MOST_ENDS = { times: 2, ms: 600_000 } as const;
/** No job takes so long. A disk that does not answer may, which is no damage of the file. */
const HANG_MS = 60_000;
/** A record is of less than a minute (flow-file.ts). */
const LONGEST_MS = 59_000;
/** Who reads counts waits so long for those of an earlier run. */
const RESTORE_MS = 1_000;
/** Of a read, where the process has ended or the file was replaced: with the same file, and with a new one. */
const TRIES = 3;

/** Of the process, which sends the name of an error with it. */
const isDamage = (e: unknown): boolean => e instanceof Error && e.name === 'UnusableFlowsError';

/** The process has ended, while a job waited or before. One that hangs may do so again, and is not such an end. */
const isEnd = (e: unknown): boolean =>
  e instanceof EndedError ? e.how !== 'hang' : e instanceof Error && e.name === 'NotOpenError';
/** Neither this service nor the kernel, which had no memory left, has ended it. */
const isOwnEnd = (e: unknown): boolean =>
  e instanceof EndedError && e.how === 'end' && !/SIGKILL/.test(e.message);

/**
 * Flows of all containers, on disk in a process of its own: packets and queries never wait for it, and its end ends nothing else. What cannot be
 * written is counted. A file that is damaged is replaced by a new one as soon as the damage is met.
 */
export class FlowStore implements AsyncDisposable {
  /** The first contact of a container with a destination, once it is on disk. */
  readonly firstContact = new Signal<Contact & { readonly known: boolean }>();
  readonly #o: FlowStoreOptions;
  /** The file was replaced: nothing is in it. */
  readonly begunAgain = new Signal();
  readonly #process: ThreadClient<FlowJobs>;
  readonly #waiting = new WaitingFlows(MOST_WAITING);
  #starts: StartedContainer[] = [];
  /** Lost, and not yet counted on disk. */
  #lost = 0;
  /** Of all that were lost since the start of the service. */
  #lostNow = 0;
  #recordedUntil: number | undefined;
  /** When the first read of what passes began, while that is not on disk. */
  #begun: number | undefined;
  /** That are not on disk, oldest first. */
  #gaps: FlowGap[] = [];
  #isOpen = false;
  /** Counts how often the file was given up. */
  #givenUp = 0;
  /** The first attempt to open the file (ms since the epoch). Until #hasBegun, nothing is recorded that passed since the run before. */
  #startedAt: number | undefined;
  /** When the first read of what passes began has been on disk. */
  #hasBegun = false;
  #failure: string | undefined;
  /** What an earlier run has counted is known. */
  #isRestored = false;
  /** Its file of an earlier version, until its counts are in the database. */
  #former: string | undefined;
  /** Why the file cannot be used, until it is replaced. */
  #damage: string | undefined;
  /** Of the last one that was replaced. */
  #replaced: { readonly why: string; readonly at: number } | undefined;
  /** Ends of the process by itself, with this file, by the monotonic clock. */
  #ends: number[] = [];
  /** Of the monotonic clock. */
  #tryAt = 0;
  #atOnce = { since: Number.NEGATIVE_INFINITY, times: 0 };
  /** Of the monotonic clock. */
  #prunedAt = Number.NEGATIVE_INFINITY;
  #countedAt = Number.NEGATIVE_INFINITY;
  #stopped = false;
  readonly #ticks = new Repeated('flows are not written yet', WRITE_MS, () => void this.#flush());
  #writing: Promise<void> = Promise.resolve();

  constructor(options: FlowStoreOptions) {
    this.#o = options;
    this.#process = new ThreadClient({
      script: new URL('./flow-process.js', import.meta.url),
      name: 'the process for flows',
      start: options.start ?? startChild,
      hangMs: HANG_MS,
    });
  }

  /** Resolves when what an earlier run has counted is known, when it cannot be read now, or after a second. */
  async restored(): Promise<void> {
    const late = performance.now() + RESTORE_MS;
    const isAwaited = (): boolean => !this.#isRestored && this.#failure === undefined && !this.#stopped;
    while (isAwaited() && performance.now() < late) await sleep(RESTORE_MS / 20, undefined, { ref: false });
  }

  /** Until then flows wait in memory. */
  begin(): void {
    this.#ticks.begin();
  }

  add(flow: SeenFlow): void {
    const { last = flow.time } = flow;
    const lost = this.#waiting.add({ ...flow, time: Math.max(flow.time, last - LONGEST_MS), last });
    if (lost > 0) this.lose(lost);
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

  /** Connections were not read in this time, which may continue the one before. */
  interrupted(gap: FlowGap): void {
    this.#gaps.push(gap);
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

  /** What a person should know of the file; undefined: nothing. */
  get warning(): string | undefined {
    if (this.#failure !== undefined) return `flows are not recorded: ${this.#failure}`;
    const kept = `${this.#file}.unusable`;
    if (!this.#replaced || !existsSync(kept)) return undefined;
    const { why, at } = this.#replaced;
    return `flows are recorded since ${new Date(at).toISOString()} only: the file of before was damaged (${why}); see to the disk, and remove ${kept}`;
  }

  get #file(): string {
    return join(this.#o.folder, 'flows.db');
  }

  /** Newest first, with all that was added before. Rejects with RefusedError while the file cannot be opened. */
  page(query: FlowQuery): Promise<FlowPage> {
    return this.#read(() => this.#process.run('page', query));
  }

  run(idOrName: string): Promise<ContainerRun | undefined> {
    return this.#read(() => this.#process.run('run', idOrName));
  }

  record(owner: string): Promise<OwnerRecord | undefined> {
    return this.#read(() => this.#process.run('record', { owner, now: this.#o.now() }));
  }

  owners(): Promise<readonly string[]> {
    return this.#read(() => this.#process.run('owners', null));
  }

  facts(): Promise<FlowFacts> {
    return this.#read(() => this.#process.run('facts', { now: this.#o.now() }));
  }

  /** Mark destinations of an owner as known, so that they raise no alert. Returns how many of those that were seen have changed. */
  mark(mark: KnownMark, isKnown: boolean): Promise<number> {
    return this.#read(() => this.#process.run('mark', { mark, isKnown }));
  }

  marks(): Promise<readonly KnownMark[]> {
    return this.#read(() => this.#process.run('marks', null));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#stopped) return;
    this.#stopped = true;
    await this.#ticks[Symbol.asyncDispose]();
    await this.#flush();
    if (this.#isOpen) await this.#process.run('close', { now: this.#o.now() }).catch((e) => this.#fail(e));
    await this.#process.close();
  }

  async #read<T>(job: () => Promise<T>): Promise<T> {
    for (let tries = 1; ; tries++) {
      await this.#flush();
      if (!this.#isOpen && this.#failure === undefined && tries < TRIES && !this.#stopped) continue;
      if (!this.#isOpen)
        this.#refuse(
          this.#failure ?? 'the service is starting or ending',
          this.#failure === undefined ? 'try again in a moment' : `see to ${this.#o.folder} on this host`,
        );
      const before = this.#givenUp;
      try {
        return await job();
      } catch (e) {
        const isOver = e instanceof EndedError || isEnd(e) || isDamage(e);
        if (!isOver || tries >= TRIES || this.#stopped) this.#refuse(detailOf(e), 'try again in a moment');
        // Others may have met the same, and opened the file again by now.
        this.#writing = this.#writing.then(() => (before === this.#givenUp ? this.#fail(e) : undefined));
      }
    }
  }

  #refuse(why: string, remedy: string): never {
    refuse('unavailable', `flows cannot be read: ${why}`, remedy);
  }

  /** Resolves when what was added until now is written, or could not be. */
  #flush(): Promise<void> {
    this.#writing = this.#writing.then(() => this.#write()).catch((e: unknown) => this.#fail(e));
    return this.#writing;
  }

  async #write(): Promise<void> {
    const now = this.#o.now();
    if (!(await this.#open(now))) return;
    const [flows, lost] = [this.#waiting.takeAll(), this.#lost];
    const passed = performance.now();
    const tallies =
      this.#stopped || passed >= this.#countedAt + COUNTS_MS ? this.#o.tallies.takeChanged() : [];
    if (tallies.length > 0) this.#countedAt = passed;
    let starts = this.#starts;
    this.#starts = [];
    this.#lost = 0;
    try {
      if (this.#begun !== undefined) {
        await this.#process.run('begun', this.#begun);
        this.#begun = undefined;
        this.#hasBegun = true;
      }
      for (let gap = this.#gaps[0]; gap; gap = this.#gaps[0]) {
        await this.#process.run('interrupted', gap);
        this.#gaps.shift();
      }
      if (starts.length > 0)
        await this.#process.run('started', { containers: starts, now, earlier: this.#earlier(now) });
      starts = [];
      const { first } = await this.#process.run('write', { flows, lost, now, tallies });
      this.#recovered();
      this.#removeFormer();
      for (const [position, known] of first) this.#report(flows[position], known);
    } catch (e) {
      // Those that came meanwhile are added to them.
      for (const flow of flows) this.add(flow);
      this.#o.tallies.putBack(tallies.map(([id]) => id));
      if (tallies.length > 0) this.#countedAt = Number.NEGATIVE_INFINITY;
      this.#starts = [...starts, ...this.#starts];
      this.#lost += lost;
      throw e;
    }
    if (passed - this.#prunedAt >= PRUNE_MS)
      if (!(await this.#process.run('prune', { now: this.#earlier(now) }))) this.#prunedAt = passed;
  }

  /** A clock that is set ahead makes no record old. */
  #earlier(now: number): number {
    return Math.min(now, steadyNow());
  }

  #report(flow: WaitingFlow | undefined, known: boolean): void {
    if (!flow) return;
    const { time: _, last: __, id: ___, packets: ____, bytes: _____, count: ______, ...contact } = flow;
    this.firstContact.emit({ ...contact, known });
  }

  async #open(now: number): Promise<boolean> {
    if (this.#isOpen) return true;
    if (performance.now() < this.#tryAt) return false;
    const { folder, keepMs, maxSizeBytes } = this.#o;
    const file = this.#file;
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    this.#startedAt ??= now;
    // A file that is damaged is replaced at once.
    for (let tries = 0; tries < 2; tries++) {
      const why = this.#damage;
      const isStart = !this.#hasBegun && why === undefined;
      const options = { file, keepMs, maxSizeBytes, isStart, now: isStart ? this.#startedAt : now };
      try {
        const tallies = await this.#process.run('open', { ...options, setAside: why !== undefined });
        this.#restore(tallies);
        this.#isOpen = true;
        if (why !== undefined) this.#begunAgain(why, now);
        return true;
      } catch (e) {
        if (!isDamage(e) || why !== undefined) throw e;
        await this.#fail(e);
      }
    }
    return false;
  }

  /** What this run has counted is added to what an earlier one has. */
  #restore(rows: readonly TallyRow[]): void {
    if (this.#isRestored) return;
    this.#isRestored = true;
    const { folder, log, tallies } = this.#o;
    const unread = [...tallies.restore(rows)];
    const file = join(folder, 'observed.json');
    try {
      const known = new Set(rows.map(([id]) => id));
      if (existsSync(file)) {
        const former = readFormerTallies(file).filter(([id]) => !known.has(id));
        unread.push(...tallies.restore(former));
        tallies.putBack(former.map(([id]) => id));
        this.#former = file;
      }
    } catch (e) {
      const kept = `${file}.unusable`;
      log.error(
        { file, kept, err: detailOf(e) },
        'the counts of containers cannot be used: they begin again now',
      );
      guarded('the file of the counts stays in its place', () => renameSync(file, kept));
    }
    if (unread.length > 0)
      log.error(
        { containers: unread },
        'the counts of these containers cannot be read: they begin again now',
      );
  }

  #removeFormer(): void {
    if (this.#former !== undefined) rmSync(this.#former, { force: true });
    this.#former = undefined;
  }

  #begunAgain(why: string, now: number): void {
    const file = this.#file;
    this.#o.log.error(
      { file, err: why, kept: `${file}.unusable` },
      'the database of flows cannot be used: it is kept under another name, and recording begins again now',
    );
    this.#damage = undefined;
    this.#ends = [];
    this.#replaced = { why, at: now };
    this.#o.tallies.putBack();
    this.begunAgain.emit();
  }

  /** The process ends, and with it all connections to the file. Another one opens it again, or replaces it. */
  async #fail(e: unknown): Promise<void> {
    const why = detailOf(e);
    const { log, folder } = this.#o;
    this.#isOpen = false;
    this.#givenUp += 1;
    const isAtOnce = (isEnd(e) || isDamage(e)) && this.#mayTryAtOnce();
    if (isDamage(e)) this.#damage ??= why;
    else if (isEnd(e)) {
      log.warn({ err: why }, 'the process that records flows has ended: it is started again');
      if (isOwnEnd(e)) this.#endedByItself(why);
    } else if (this.#failure === undefined)
      log.warn(
        { folder, err: why },
        'flows cannot be written: the newest are kept in memory, and those beyond are counted as lost, until they can',
      );
    if (!isAtOnce) this.#failure = why;
    this.#tryAt = performance.now() + (isAtOnce ? 0 : RETRY_MS);
    await this.#process
      .close()
      .catch((error: unknown) => contained(error, 'the process that records flows was not closed'));
  }

  #endedByItself(why: string): void {
    const now = performance.now();
    this.#ends = [...this.#ends.filter((at) => now - at < MOST_ENDS.ms), now];
    if (this.#ends.length >= MOST_ENDS.times) this.#damage ??= `${why}, ${this.#ends.length} times`;
  }

  #mayTryAtOnce(): boolean {
    const now = performance.now();
    if (now - this.#atOnce.since > AT_ONCE.ms) this.#atOnce = { since: now, times: 0 };
    return ++this.#atOnce.times <= AT_ONCE.times;
  }

  #recovered(): void {
    if (this.#failure !== undefined) this.#o.log.info({}, 'flows are written again');
    this.#failure = undefined;
  }
}
