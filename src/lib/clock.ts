/**
 * Clocks for time that passes, and the timer of what is repeated. Date.now is the wall clock, which a person,
 * NTP or a dead battery sets: it is used for what has a date, and for what must outlive a restart
 * (docs/architecture.md, "Clocks").
 */
import { contained, guarded } from './faults.js';

/** ms since the epoch: the wall clock at the start of this process, and from then on the monotonic clock. Nothing sets it. */
export const steadyNow = (): number => Math.trunc(performance.timeOrigin + performance.now());

/** ms since the epoch, by the clock that is behind: for what is deleted by its age. A clock that is set ahead makes nothing old. */
export const earlierNow = (): number => Math.min(Date.now(), steadyNow());

/** The shortest period of work at rest: the heartbeat, with which sets are checked. */
export const BEAT_MS = 400;

interface Due {
  readonly beat: number;
  work: () => void;
}
const nothing = (): void => undefined;

/**
 * One timer for all work that is repeated at rest: it begins with the beats, so that the process wakes once for all, with warm caches. The timer
 * does not keep the process alive, and ends while no work waits.
 */
export class SharedTimer {
  #beat = 0;
  #due: Due[] = [];
  #timer: NodeJS.Timeout | undefined;

  /** Calls `work` once, with the last beat within `ms`, or with the next one. */
  next(ms: number, work: () => void): Disposable {
    this.#timer ??= setInterval(() => this.#run(), BEAT_MS).unref();
    const due = { beat: this.#beat + Math.max(1, Math.floor(ms / BEAT_MS)), work };
    this.#due.push(due);
    return {
      [Symbol.dispose]: () => {
        due.work = nothing;
      },
    };
  }

  #run(): void {
    const all = this.#due;
    this.#due = [];
    this.#beat += 1;
    for (const due of all) {
      if (due.beat > this.#beat) this.#due.push(due);
      else guarded('work that is repeated has failed', due.work);
    }
    if (this.#due.length === 0) this.#timer = void clearInterval(this.#timer);
  }
}

const shared = new SharedTimer();
/** Calls `work` once, within `ms` or a beat. See SharedTimer. */
export const atNext = (ms: number, work: () => void): Disposable => shared.next(ms, work);

/**
 * Work that is repeated at rest. A turn begins `pauseMs` after the end of the one before, however that has ended: what it throws is logged with
 * `undone`, which names what is not done until the next turn.
 */
export class Repeated implements AsyncDisposable {
  readonly #undone: string;
  readonly #pauseMs: () => number;
  readonly #turn: () => unknown;
  #timer: Disposable | undefined;
  #running: Promise<void> = Promise.resolve();
  #isOver = false;

  constructor(undone: string, pauseMs: number | (() => number), turn: () => unknown) {
    this.#undone = undone;
    this.#pauseMs = typeof pauseMs === 'number' ? () => pauseMs : pauseMs;
    this.#turn = turn;
  }

  /** The first turn begins within the call, or `afterMs` later. */
  begin(afterMs?: number): void {
    if (afterMs === undefined) this.#running = this.#once();
    else this.#plan(afterMs);
  }

  #plan(ms: number): void {
    if (!this.#isOver) this.#timer = atNext(ms, () => (this.#running = this.#once()));
  }

  async #once(): Promise<void> {
    try {
      await this.#turn();
    } catch (e) {
      contained(e, this.#undone);
    }
    this.#plan(this.#pauseMs());
  }

  /** No turn begins from here on. Resolves when the one that runs has ended. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#isOver = true;
    this.#timer?.[Symbol.dispose]();
    await this.#running;
  }
}
