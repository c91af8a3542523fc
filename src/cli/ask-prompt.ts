/** Which request `drawbridge ask --watch` shows, and which keys count for it. Pure: the time is passed in, in ms. */
import type { AskBody } from '../api/ask-routes.js';

/** A key counts for what was on the screen for so long, and after so long without any key: one that is held, or was typed before, does not. */
export const READ_MS = 700;
/**
 * A key that comes again within this time repeats, or was one of several: none of them counts. The first repetition of a key that is held
 * can come later than `READ_MS`, by the settings of the keyboard; the next ones follow at 7 a second or faster.
 */
const REPEAT_MS = 150;
/** The number of containers of which the last turn is kept: that of the requests at most. */
const MOST_TURNS = 256;

/** A key, and the request that was on the screen when it was pressed. */
export interface Pressed {
  readonly key: string;
  readonly ask: AskBody;
}

/** The first of each container before the second of any: the many of one hide none of another. Otherwise in their order. */
export function inTurn(asks: readonly AskBody[]): readonly AskBody[] {
  const taken = new Map<string, number>();
  const ranked = asks.map((ask) => {
    const rank = taken.get(ask.containerId) ?? 0;
    taken.set(ask.containerId, rank + 1);
    return { ask, rank };
  });
  return ranked.sort((a, b) => a.rank - b.rank).map(({ ask }) => ask);
}

export class Prompt {
  #shown: AskBody | undefined;
  #since = 0;
  #lastKey = Number.NEGATIVE_INFINITY;
  #pressed: (Pressed & { readonly at: number }) | undefined;
  /** The containers that were shown, the last one at the end: they take turns. */
  #turns: readonly string[] = [];
  /** Tokens. */
  #skipped: ReadonlySet<string> = new Set();
  #others: readonly AskBody[] = [];

  get shown(): AskBody | undefined {
    return this.#shown;
  }

  /** The other requests for which a client waits. */
  get others(): readonly AskBody[] {
    return this.#others;
  }

  /** Requests as they are now, the oldest first. Returns whether another one is shown than before; one stays until it is decided or its wait ends. */
  update(asks: readonly AskBody[], now: number): boolean {
    this.#skipped = new Set([...this.#skipped].filter((token) => asks.some((ask) => ask.token === token)));
    const left = asks.filter((ask) => !this.#skipped.has(ask.token));
    const waiting = left.filter((ask) => ask.until !== null);
    const kept = left.find((ask) => ask.token === this.#shown?.token);
    const stays = kept && (kept.until !== null || waiting.length === 0);
    const next = stays ? kept : this.#next(waiting.length > 0 ? waiting : left);
    const isOther = next?.token !== this.#shown?.token;
    this.#shown = next;
    this.#others = waiting.filter((ask) => ask !== next);
    if (next && isOther) {
      this.#since = now;
      this.#turns = [...this.#turns.filter((id) => id !== next.containerId), next.containerId].slice(
        -MOST_TURNS,
      );
    }
    return isOther;
  }

  /** The oldest of the container that has not been shown for the longest time. */
  #next(asks: readonly AskBody[]): AskBody | undefined {
    const turn = ({ containerId }: AskBody): number => this.#turns.indexOf(containerId);
    return [...asks].sort((a, b) => turn(a) - turn(b))[0];
  }

  /** `at`: when the key has come. */
  press(key: string, at: number): void {
    const isQuiet = at - this.#lastKey >= READ_MS;
    this.#lastKey = at;
    const repeats = this.#pressed !== undefined;
    this.#pressed = undefined;
    const ask = this.#shown;
    if (ask && isQuiet && !repeats && at - this.#since >= READ_MS) this.#pressed = { key, ask, at };
  }

  /** The key that counts now, once. */
  take(now: number): Pressed | undefined {
    const pressed = this.#pressed;
    if (!pressed || now - pressed.at < REPEAT_MS) return undefined;
    this.#pressed = undefined;
    return pressed;
  }

  skip({ token }: AskBody): void {
    this.#skipped = new Set([...this.#skipped, token]);
  }

  /** The time at which a key counts; undefined: now. */
  readyAt(now: number): number | undefined {
    const at = Math.max(this.#since, this.#lastKey) + READ_MS;
    return at > now ? at : undefined;
  }

  /** ms until something changes without a key: a key counts, or would count. */
  nextIn(now: number): number {
    const at = this.#pressed ? this.#pressed.at + REPEAT_MS : this.readyAt(now);
    return at === undefined ? Number.POSITIVE_INFINITY : Math.max(0, at - now);
  }
}
