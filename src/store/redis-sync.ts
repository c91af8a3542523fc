import type { Logger } from '../lib/logger.js';
import type { Change } from './frames.js';
import type { RedisLink } from './redis-link.js';
import type { Mark, Replica, Step } from './redis-replica.js';
import { type DivergenceKind, reunite } from './redis-resync.js';
import { PULL } from './redis-scripts.js';

export interface SyncOptions {
  readonly link: RedisLink;
  readonly replica: Replica;
  readonly log: Logger;
  /** Already in the replica's memory; in the order of their revisions. */
  tell(changes: readonly Change[]): void;
  /** The replica holds what Redis held a moment ago. */
  caughtUp(): void;
}
interface Waiter {
  readonly revision: number;
  done(reached: boolean): void;
}

/** Wakes come at once; what they miss is found by a look so often (ms), half of it by chance. */
const POLL_MS = 1_000;
const ROWS = 400;
const MARKS = 1000;
/** Steps of one look: more come with the next. */
const MOST_STEPS = 1000;

/** Follows Redis into the replica, one look at a time. */
export class Sync {
  readonly #o: SyncOptions;
  readonly #waiters = new Set<Waiter>();
  #looking: Promise<void> | undefined;
  #again = false;
  #timer: NodeJS.Timeout | undefined;
  #stopped = false;
  /** Undefined: in step. */
  #failure: { readonly since: number; readonly why: string } | undefined = { since: Date.now(), why: '' };

  constructor(options: SyncOptions) {
    this.#o = options;
  }

  /** Undefined: the last look succeeded. */
  get failure(): { readonly since: number; readonly why: string } | undefined {
    return this.#failure;
  }

  /** Looks now; while a look is under way, once more after it. */
  readonly wake = (): void => {
    if (this.#stopped) return;
    this.#again = true;
    this.#looking ??= this.#run();
  };

  /** Resolves true once the replica holds this revision, false after `ms`. */
  reached(revision: number, ms: number): Promise<boolean> {
    if (this.#o.replica.position.revision >= revision) return Promise.resolve(true);
    this.wake();
    return new Promise((resolve) => {
      const timer = setTimeout(() => waiter.done(false), ms);
      const waiter: Waiter = {
        revision,
        done: (reached) => {
          clearTimeout(timer);
          this.#waiters.delete(waiter);
          resolve(reached);
        },
      };
      this.#waiters.add(waiter);
    });
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    for (const waiter of [...this.#waiters]) waiter.done(false);
    await this.#looking;
  }

  async #run(): Promise<void> {
    clearTimeout(this.#timer);
    while (this.#again && !this.#stopped) {
      this.#again = false;
      try {
        await this.#look();
        this.#failure = undefined;
        this.#o.caughtUp();
      } catch (e) {
        const why = e instanceof Error ? e.message : String(e);
        this.#failure = { since: this.#failure?.since ?? Date.now(), why };
      }
    }
    this.#looking = undefined;
    if (!this.#stopped) this.#timer = setTimeout(this.wake, POLL_MS / 2 + (Math.random() * POLL_MS) / 2);
  }

  /** Until nothing is new. */
  async #look(): Promise<void> {
    const { link } = this.#o;
    if (!link.canRead) throw new Error(link.lastError);
    for (let steps = 0; steps < MOST_STEPS; steps++) if (!(await this.#step())) return;
  }

  /** True: there may be more. */
  async #step(): Promise<boolean> {
    const { link, replica, log } = this.#o;
    const { id, revision, nonce } = replica.position;
    const [word, ...rest] = (await link.read(PULL, [id, revision, nonce, ROWS, MARKS])) as [
      string,
      ...unknown[],
    ];
    if (word === 'same' || (word === 'empty' && id === '')) return false;
    if (word === 'delta') {
      await this.#took(deltaOf(id, rest), (step) => replica.follow(step));
    } else {
      const step = await reunite({ link, replica, log }, word as DivergenceKind);
      if (step) await this.#took(step, (s) => replica.leap(s));
    }
    return true;
  }

  /** Told before it is on disk here: Redis has it, and nobody waits for this disk. */
  async #took(step: Step, take: (step: Step) => Promise<void>): Promise<void> {
    const saved = take(step);
    this.#o.tell(step.changes);
    for (const waiter of [...this.#waiters]) if (waiter.revision <= step.revision) waiter.done(true);
    await saved;
  }
}

function deltaOf(id: string, reply: readonly unknown[]): Step {
  const [revision, nonce, marks, rows] = reply as [string, string, string[], (string | null)[]];
  const changes: Change[] = [];
  for (let i = 0; i < rows.length; i += 3) {
    const [key, at, json] = [rows[i] ?? '', Number(rows[i + 1]), rows[i + 2]];
    changes.push({ key, revision: at, json: json ?? undefined });
  }
  return { id, revision: Number(revision), nonce, changes, marks: marksOf(marks) };
}

const marksOf = (flat: readonly string[]): Mark[] =>
  Array.from({ length: flat.length / 2 }, (_, i): Mark => [flat[2 * i] ?? '', Number(flat[2 * i + 1])]);
