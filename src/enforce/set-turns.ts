import type { Kernel } from '../kernel/kernel.js';
import { BEAT_MS } from '../lib/clock.js';
import type { DesiredState, SetDesired } from '../ruleset/desired-state.js';

/** So many sets of containers are checked in a beat, on average: its cost does not grow with the number of containers. */
const SETS_A_BEAT = 32;

/** Sets of deny entries of containers that are checked in each beat. More of them have their turns as all others. */
const MOST_DENYING = 64;

type SetReaders = { readonly sets: Pick<Kernel['sets'], 'entries' | 'allEntries'> };

/** One listing of all sets takes the time of a few single requests, but also counts large sets of other programs: it takes at most this share. */
const LISTING_SHARE = 1 / 500;

/** The sets that are checked in a beat. */
export class SetTurns {
  readonly #now: () => number;
  readonly #isRead: (set: SetDesired) => boolean;
  #turn = this.#endless();
  /** Since all sets were listed. */
  #beats = 0;
  /** Listing takes too long before this time (ms, monotonic). */
  #listAt = 0;
  #of: DesiredState['sets'] | undefined;
  #shared: readonly SetDesired[] = [];
  #owned: readonly SetDesired[] = [];

  /** `isRead`: rules read the set. `now`: ms, monotonic. */
  constructor(isRead: (set: SetDesired) => boolean = () => true, now = () => performance.now()) {
    this.#isRead = isRead;
    this.#now = now;
  }

  /**
   * Calls back with the sets without an owner that rules read in each beat, with those of deny entries (so many of them), and with the others, those of containers, in so many beats as
   * there are times 32 of them: each has its turn before any has a second one. All of them are read by one listing at the end of this
   * time, unless listing takes too long: then 32 are read in each beat.
   */
  next(
    { sets }: Pick<DesiredState, 'sets'>,
    { sets: kernel }: SetReaders,
    check: (set: SetDesired, entries: number | undefined) => boolean,
  ): void {
    this.#take(sets);
    for (const set of this.#shared) if (!check(set, kernel.entries(set.name))) return;
    this.#beats += 1;
    const began = this.#now();
    if (began < this.#listAt) {
      for (let n = 0; n < Math.min(SETS_A_BEAT, this.#owned.length); n++) {
        const set = sets.get(this.#turn.next().value);
        if (set && !check(set, kernel.entries(set.name))) return;
      }
    } else if (this.#owned.length > 0 && this.#beats * SETS_A_BEAT >= this.#owned.length) {
      this.#beats = 0;
      this.#turn = this.#endless();
      const found = kernel.allEntries();
      const next = began + BEAT_MS * Math.ceil(this.#owned.length / SETS_A_BEAT);
      const free = began + (this.#now() - began) / LISTING_SHARE;
      this.#listAt = free > next ? free : began;
      for (const set of this.#owned) if (!check(set, found.get(set.name))) return;
    }
  }

  #take(sets: DesiredState['sets']): void {
    if (this.#of === sets) return;
    this.#of = sets;
    const all = [...sets.values()];
    const everyBeat = new Set(all.filter((s) => s.denies).slice(0, MOST_DENYING));
    const isShared = (s: SetDesired): boolean =>
      everyBeat.has(s) || (s.owner === undefined && this.#isRead(s));
    this.#shared = all.filter(isShared);
    this.#owned = all.filter((s) => !isShared(s));
  }

  /** The sets of containers over and over; those of a new state follow when all of the state before had their turn. */
  *#endless(): Generator<string, never> {
    for (;;) yield* this.#owned.length > 0 ? this.#owned.map((set) => set.name) : [''];
  }
}
