/** A packet that had passed before the rules stood can be noted in conntrack's table after the first look (ms). */
const LATE_MS = 500;

/** What has to be looked at until a look has held, and once more a little later, for what was on its way. */
export class DelayedRecheck {
  readonly #reason: string;
  readonly #lookAgain: (reason: string, ms: number) => void;
  #owed: ReadonlySet<string> = new Set();
  #late: ReadonlySet<string> = new Set();
  #isLate = false;

  /** `reason`: why a second look is asked for. */
  constructor(reason: string, lookAgain: (reason: string, ms: number) => void) {
    this.#reason = reason;
    this.#lookAgain = lookAgain;
  }

  owe(ids: Iterable<string>): void {
    this.#owed = new Set([...this.#owed, ...ids]);
  }
  get owed(): boolean {
    return this.#owed.size > 0;
  }

  /** Why the next look comes. */
  due(reasons: readonly string[]): void {
    this.#isLate ||= reasons.includes(this.#reason);
  }

  now(): ReadonlySet<string> {
    return new Set([...this.#owed, ...(this.#isLate ? this.#late : [])]);
  }

  held(): void {
    this.#late = new Set([...this.#owed, ...(this.#isLate ? [] : this.#late)]);
    if (this.owed) this.#lookAgain(this.#reason, LATE_MS);
    this.#owed = new Set();
    this.#isLate = false;
  }
}
