import type { Logger } from '../lib/log.js';

export interface DriftOptions {
  /** How many steps the kernel needs to hold what it should, by a fresh look. */
  readonly look: () => Promise<number>;
  /** Passes begun so far; undefined while one runs. */
  readonly resting: () => number | undefined;
  readonly repair: (what: string) => void;
  readonly log: Logger;
}

/** Docker takes DOCKER-USER out and puts it back at every network: one look for all of it. */
const SETTLE_MS = 150;
/** A look that a pass has overtaken says nothing; after so many the pass itself looks. */
const TRIES = 3;

/** Looks beside the passes whether others changed what is ours, so that nobody's first packet waits for the look. */
export class Drift {
  readonly #o: DriftOptions;
  #timer: NodeJS.Timeout | undefined;
  #looking = false;
  #again = false;
  #tries = 0;
  #what = '';
  #checkedAt: number | undefined;

  constructor(options: DriftOptions) {
    this.#o = options;
  }

  /** When a comparison began that has found nothing to do (ms, monotonic). */
  get checkedAt(): number | undefined {
    return this.#checkedAt;
  }

  suspect(what: string): void {
    this.#what ||= what;
    this.#again = this.#looking;
    if (!this.#looking) this.#timer ??= setTimeout(() => void this.#look(), SETTLE_MS);
  }

  stop(): void {
    clearTimeout(this.#timer);
  }

  async #look(): Promise<void> {
    this.#timer = undefined;
    this.#looking = true;
    this.#again = false;
    const before = this.#o.resting();
    const began = performance.now();
    const steps = await this.#o.look().catch((e: unknown) => {
      this.#o.log.warn({ err: e instanceof Error ? e.message : String(e) }, 'a look at the kernel failed');
      return 1;
    });
    this.#looking = false;
    if (steps === 0) this.#checkedAt = began;
    const overtaken = before === undefined || this.#o.resting() !== before;
    this.#judge(steps, overtaken);
  }

  #judge(steps: number, overtaken: boolean): void {
    const what = this.#what;
    if (steps > 0 && (!overtaken || ++this.#tries >= TRIES)) {
      this.#done();
      this.#o.repair(what);
    } else if (steps > 0 || this.#again) {
      this.#timer = setTimeout(() => void this.#look(), SETTLE_MS);
    } else this.#done();
  }

  #done(): void {
    this.#tries = 0;
    this.#what = '';
    if (this.#again) this.#timer = setTimeout(() => void this.#look(), SETTLE_MS);
  }
}
