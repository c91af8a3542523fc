import { createHash } from 'node:crypto';
import { HOUR_MS, type Limits, periodAt, quotaText, untilText } from '../policy/limits.js';
import type { SubjectQuota } from '../ruleset/desired-state.js';

type Quota = NonNullable<Limits['quota']>;
const HASH = 12;
const NAME = /^q-[0-9a-f]{12}-(\d+)-(-?\d+)$/;
/** So many periods back, and on, are remembered: a clock that is set back finds what was used then. */
const REMEMBERED = 8;
const MAX_KEPT = 50_000;

/** "q-OWNER-HOURS-BEGIN": whose, how long, and from when. It is the kernel's name for the counter, too. */
function counterName(owner: string, periodMs: number, start: number): string {
  const who = createHash('sha256').update(owner).digest('hex').slice(0, HASH);
  return `q-${who}-${periodMs / HOUR_MS}-${start / HOUR_MS}`;
}

/** What was used of each quota in each period. Counts only grow: whoever forgets one, the other remembers. */
export class QuotaLedger {
  readonly #used: Map<string, number>;

  constructor(saved: ReadonlyMap<string, number> = new Map()) {
    this.#used = new Map([...saved].filter(([name]) => NAME.test(name)));
  }

  /** `owner`: the container's name, which its successor has. */
  of(owner: string, quota: Quota, now: number): SubjectQuota {
    const { start, end } = periodAt(now, quota.periodMs);
    const name = counterName(owner, quota.periodMs, start);
    const used = this.#used.get(name) ?? 0;
    const reached = `quota ${quotaText(quota)} reached, until ${untilText(end, now)}`;
    return { name, bytes: quota.bytes, used, spent: used >= quota.bytes, until: end, reached };
  }

  used(name: string): number {
    return this.#used.get(name) ?? 0;
  }

  /** True: it has grown. */
  count(name: string, bytes: number): boolean {
    if (bytes <= this.used(name) || !NAME.test(name)) return false;
    this.#used.set(name, bytes);
    return true;
  }

  /** For the disk: periods not far from now. */
  snapshot(now: number): ReadonlyMap<string, number> {
    for (const name of this.#used.keys()) if (!isNear(name, now)) this.#used.delete(name);
    for (const name of this.#used.keys()) {
      if (this.#used.size <= MAX_KEPT) break;
      this.#used.delete(name);
    }
    return new Map(this.#used);
  }
}

function isNear(name: string, now: number): boolean {
  const [, hours = 0, begin = 0] = NAME.exec(name) ?? [];
  const length = Number(hours) * HOUR_MS;
  return Math.abs(now - Number(begin) * HOUR_MS) <= (REMEMBERED + 1) * length;
}
