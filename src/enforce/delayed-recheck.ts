import { type DelayedTrigger, isDue, type Pass } from './pass-trigger.js';

/** conntrack can list a flow only after the first check, when its packet had passed before the rules were installed (ms). */
const LATE_MS = 500;

type RecheckKind = Extract<DelayedTrigger['kind'], `recheck ${string}`>;

/** Ids that are checked until a check has succeeded, and once more a little later, for packets that were on their way. */
export class DelayedRecheck {
  readonly #kind: RecheckKind;
  #owed: ReadonlySet<string> = new Set();
  #late: ReadonlySet<string> = new Set();
  #isLate = false;

  /** `kind`: the trigger of the pass that checks once more. */
  constructor(kind: RecheckKind) {
    this.#kind = kind;
  }

  owe(ids: Iterable<string>): void {
    this.#owed = new Set([...this.#owed, ...ids]);
  }
  get owed(): boolean {
    return this.#owed.size > 0;
  }

  /** Note why this pass comes. It counts until a check has succeeded. */
  note({ triggers }: Pick<Pass, 'triggers'>): void {
    this.#isLate ||= isDue(triggers, this.#kind);
  }

  due(): ReadonlySet<string> {
    return new Set([...this.#owed, ...(this.#isLate ? this.#late : [])]);
  }

  /** The check of the due ids has succeeded. */
  succeeded({ later }: Pick<Pass, 'later'>): void {
    this.#late = new Set([...this.#owed, ...(this.#isLate ? [] : this.#late)]);
    if (this.owed) later({ kind: this.#kind }, LATE_MS);
    this.#owed = new Set();
    this.#isLate = false;
  }
}
