/** Whose question is looked at next: askers take turns, so that nobody waits behind another's many. */

/** Questions between two looks at what has arrived: reading must keep ahead of answering. */
const perLook = 4;

export class Turns {
  readonly #waiting = new Map<string, (() => void)[]>();
  #isRunning = false;

  /** Resolves when it is the asker's turn. How many may wait is the caller's to bound. */
  take(asker: string): Promise<void> {
    return new Promise((resolve) => {
      const mine = this.#waiting.get(asker);
      if (mine) mine.push(resolve);
      else this.#waiting.set(asker, [resolve]);
      this.#next();
    });
  }

  #next(): void {
    if (this.#isRunning || this.#waiting.size === 0) return;
    this.#isRunning = true;
    setImmediate(() => {
      this.#isRunning = false;
      for (const [asker, mine] of [...this.#waiting].slice(0, perLook)) this.#one(asker, mine);
      this.#next();
    });
  }

  /** Who has more goes to the end (a Map keeps the order in which keys came). */
  #one(asker: string, mine: (() => void)[]): void {
    const go = mine.shift();
    this.#waiting.delete(asker);
    if (mine.length > 0) this.#waiting.set(asker, mine);
    go?.();
  }
}
