import type { Logger } from '../lib/log.js';
import type { EnforcementPass } from './pass.js';
import { type DelayedTrigger, describeTrigger, type PassTrigger } from './pass-trigger.js';

export interface ReconcilerOptions {
  readonly pass: Pick<EnforcementPass, 'run'>;
  readonly log: Logger;
}
/** A change that no pass has brought into force yet. */
export interface Waiting {
  /** ms, monotonic. */
  readonly since: number;
  readonly reason: string;
}
interface Waiter {
  resolve(): void;
  reject(e: Error): void;
}

/** The pass decides nothing by triggers beyond so many; those of `later` are always kept, because a recheck is due by them. */
const MAX_TRIGGERS = 64;
const OTHERS: PassTrigger = { kind: 'others' };
const WAITER: PassTrigger = { kind: 'waiter' };
const RETRY: PassTrigger = { kind: 'retry' };
const FIRST_RETRY_MS = 50;
const LAST_RETRY_MS = 5_000;

/** Runs one pass at a time; triggers that come meanwhile share the next one. A failed pass is repeated, after a fresh reading of the kernel, until it succeeds. */
export class Reconciler {
  readonly #options: ReconcilerOptions;
  /** Why the next pass is wanted, by text: each trigger once. */
  readonly #triggers = new Map<string, PassTrigger>();
  #resync = true;
  #waiters: Waiter[] = [];
  #begun = false;
  #running = false;
  #stopped = false;
  #failures = 0;
  #passes = 0;
  /** When the pass that runs now began (ms, monotonic). */
  #passSince: number | undefined;
  #timer: NodeJS.Timeout | undefined;
  /** The pass of a change that is not acknowledged yet. */
  #soon: NodeJS.Immediate | undefined;
  #lastError: Error | undefined;
  /** The oldest reason for the pass that runs, or that failed; and for the one behind it. */
  #due: Waiting | undefined;
  #next: Waiting | undefined;
  #heldAt: number | undefined;
  #idle: (() => void)[] = [];
  readonly #delayed = new Map<string, NodeJS.Timeout>();

  constructor(options: ReconcilerOptions) {
    this.#options = options;
  }

  /** The last pass succeeded, and no trigger waits. */
  get inSync(): boolean {
    return this.#lastError === undefined && this.#failures === 0;
  }
  /** Passes begun so far; undefined while one runs. */
  get resting(): number | undefined {
    return this.#running ? undefined : this.#passes;
  }
  /** The oldest change that no pass has brought into force; undefined: nothing waits. */
  get waiting(): Waiting | undefined {
    return this.#due ?? this.#next;
  }
  /** When the last pass ended that succeeded (ms, monotonic). */
  get heldAt(): number | undefined {
    return this.#heldAt;
  }
  /** For how long the pass that runs now has been running (ms); 0: none runs. */
  get passMs(): number {
    return this.#passSince === undefined ? 0 : performance.now() - this.#passSince;
  }
  get lastError(): Error | undefined {
    return this.#lastError;
  }

  trigger(trigger: PassTrigger, resync = false): void {
    if (this.#stopped) return;
    // Triggers name containers: while a pass hangs, there can be any number of them.
    this.#keep(this.#triggers.size < MAX_TRIGGERS ? trigger : OTHERS);
    this.#request(trigger, resync);
  }

  #keep(trigger: PassTrigger): void {
    this.#triggers.set(describeTrigger(trigger), trigger);
  }

  #request(trigger: PassTrigger, resync: boolean): void {
    this.#next ??= { since: performance.now(), reason: describeTrigger(trigger) };
    this.#resync ||= resync;
    if (this.#begun && !this.#running) this.#wake(trigger);
  }

  /** Until then nothing is applied: before Docker has been asked, every container would seem to be gone. */
  begin(): void {
    this.#begun = true;
    if (this.#triggers.size > 0 && !this.#stopped) this.#wake(OTHERS);
  }

  /** The store reports a change before it acknowledges it: the pass begins when the change waits for it, and not once before. */
  #wake({ kind }: PassTrigger): void {
    clearTimeout(this.#timer);
    this.#running = true;
    if (kind === 'changes') this.#soon = setImmediate(() => this.#wakeNow());
    else queueMicrotask(() => void this.#loop());
  }

  #wakeNow(): void {
    this.#soon = undefined;
    void this.#loop();
  }

  /** A change waits for the pass now. Changes that are acknowledged together share it: the pass begins after the microtasks of all of them. */
  #hasten(): void {
    if (!this.#soon) return;
    clearImmediate(this.#soon);
    this.#soon = undefined;
    process.nextTick(() => this.#wakeNow());
  }

  /** For what can wait, so that it shares a pass with what usually comes right behind it. */
  readonly later = (trigger: DelayedTrigger, ms: number): void => {
    const key = describeTrigger(trigger);
    if (this.#stopped || this.#delayed.has(key)) return;
    const fire = (): void => {
      this.#delayed.delete(key);
      if (this.#stopped) return;
      this.#keep(trigger);
      this.#request(trigger, false);
    };
    this.#delayed.set(key, setTimeout(fire, ms));
  };

  /** Resolves when a pass that began after this call has succeeded; rejects after `ms`, with the reason if there is one. */
  inForce(ms: number, trigger: PassTrigger = WAITER): Promise<void> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#waiters = this.#waiters.filter((w) => w !== waiter);
        reject(
          new Error(`not in force within ${ms} ms${this.#lastError ? `: ${this.#lastError.message}` : ''}`),
        );
      }, ms);
      const settle = (): void => clearTimeout(timer);
      const waiter: Waiter = {
        resolve: () => {
          settle();
          resolve();
        },
        reject: (e) => {
          settle();
          reject(e);
        },
      };
      this.#waiters.push(waiter);
      this.trigger(trigger);
      this.#hasten();
    });
  }

  /** Ends after the pass that runs now. */
  async stop(): Promise<void> {
    this.#stopped = true;
    for (const timer of [this.#timer, ...this.#delayed.values()]) clearTimeout(timer);
    if (this.#running) await new Promise<void>((done) => this.#idle.push(done));
    for (const w of this.#waiters.splice(0)) w.reject(new Error('the service is stopping'));
  }

  async #loop(): Promise<void> {
    while (this.#triggers.size > 0 && !this.#stopped) {
      if (!(await this.#once())) break;
    }
    this.#running = false;
    for (const done of this.#idle.splice(0)) done();
  }

  async #once(): Promise<boolean> {
    const triggers = [...this.#triggers.values()];
    this.#triggers.clear();
    const waiters = this.#waiters.splice(0);
    const resync = this.#resync;
    this.#resync = false;
    this.#passes += 1;
    this.#due ??= this.#next;
    this.#next = undefined;
    this.#passSince = performance.now();
    try {
      await this.#options.pass.run({ triggers, resync, later: this.later });
      this.#failures = 0;
      this.#due = undefined;
      this.#heldAt = performance.now();
      this.#lastError = undefined;
      for (const w of waiters) w.resolve();
      return true;
    } catch (e) {
      this.#waiters.unshift(...waiters);
      this.#failed(e instanceof Error ? e : new Error(String(e)), triggers);
      return false;
    } finally {
      this.#passSince = undefined;
    }
  }

  #failed(error: Error, triggers: readonly PassTrigger[]): void {
    this.#lastError = error;
    this.#failures += 1;
    this.#resync = true;
    const wait = Math.min(FIRST_RETRY_MS * 2 ** Math.min(this.#failures - 1, 10), LAST_RETRY_MS);
    this.#options.log.error(
      { err: error.message, reasons: triggers.map(describeTrigger), retryMs: wait },
      'the kernel does not hold the desired state yet',
    );
    this.#keep(RETRY);
    if (this.#stopped) return;
    this.#timer = setTimeout(() => {
      this.#running = true;
      void this.#loop();
    }, wait);
  }
}
