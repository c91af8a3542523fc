import { createHash } from 'node:crypto';
import type { Kernel } from '../kernel/kernel.js';
import { Repeated } from '../lib/clock.js';
import { type Current, Signal } from '../lib/current.js';
import type { Logger } from '../lib/log.js';
import { errorText } from '../lib/problem.js';
import type { ContainerFacts } from '../policy/container.js';
import { HOUR_MS, type Limits, periodAt, quotaText, untilText } from '../policy/limits.js';
import type { Policy } from '../policy/policy.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { Subject, SubjectLimits, SubjectQuota } from '../ruleset/desired-state.js';
import type { SmallState } from '../store/small-state.js';

type Quota = NonNullable<Limits['quota']>;
const HASH = 12;
const NAME = /^q-[0-9a-f]{12}-(\d+)-(-?\d+)$/;
/** So many periods back, and on, are remembered: a clock that is set back finds what was used then. */
const REMEMBERED = 8;
const MAX_KEPT = 50_000;

/** "q-OWNER-HOURS-BEGIN": owner, length and begin of the period. The counter in the kernel has the same name. */
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

  /** For the disk: periods not far from one of these times. */
  snapshot(...times: readonly number[]): ReadonlyMap<string, number> {
    for (const name of this.#used.keys())
      if (!times.some((time) => isNear(name, time))) this.#used.delete(name);
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

export interface QuotasOptions {
  readonly small: Pick<SmallState, 'take' | 'set'>;
  readonly kernel: Pick<Kernel, 'usedQuotas'>;
  readonly applied: Pick<Current<AppliedState>, 'value'>;
  readonly log: Logger;
  readonly now: () => number;
  /** A clock that is not set: what was used is remembered while the wall clock is wrong. Default: `now`. */
  readonly steady?: () => number;
}
/** Of the small state: what was used (bytes), by the name of the counter. */
const AREA = 'quotas';
const TICK_MS = 1_000;
/** What grows between two savings, at most so much, is forgotten when the host loses its power. */
const SAVE_MS = 5_000;
const SAVE_SHARE = 0.01;

/**
 * Quotas of containers: the kernel counts and stops, this class keeps the used bytes on disk. A
 * quota belongs to the container's name: a successor (compose recreates, Docker restarts) goes on with what is left.
 */
export class Quotas implements AsyncDisposable {
  /** A quota is reached, or its period has ended: the rules must change. */
  readonly changed = new Signal();
  readonly #o: QuotasOptions;
  readonly #ledger: QuotaLedger;
  #saved: ReadonlyMap<string, number>;
  #savedAt = 0;
  /** Of the members' quotas, as last kept. */
  #kept: ReadonlyMap<string, number> = new Map();
  #stopped = false;
  readonly #ticks = new Repeated('quotas could not be read', TICK_MS, () => this.#tick());

  constructor(options: QuotasOptions) {
    this.#o = options;
    const found = [...options.small.take(AREA)].map(([name, used]) => [name, Number(used)] as const);
    this.#saved = new Map(found.filter(([, used]) => Number.isSafeInteger(used)));
    this.#ledger = new QuotaLedger(this.#saved);
  }

  /** What a container may use, as it is now. */
  readonly limitsOf = (c: ContainerFacts, { limits }: Policy): SubjectLimits | undefined => {
    if (!limits) return undefined;
    const { rateBitsPerSecond: bits, connections, quota } = limits;
    return {
      ...(bits === undefined ? {} : { bytesPerSecond: Math.max(1, Math.round(bits / 8)) }),
      ...(connections === undefined ? {} : { connections }),
      ...(quota ? { quota: this.#ledger.of(c.name, quota, this.#o.now()) } : {}),
    };
  };

  /** The used bytes, newer than those in the subject. */
  usedOf(m: Subject): number {
    return m.limits?.quota ? this.#ledger.used(m.limits.quota.name) : 0;
  }

  /** Before the first pass: counters that a crash has left know more than the disk. */
  async prepare(): Promise<void> {
    try {
      await this.#read();
    } catch (e) {
      this.#o.log.debug({ err: String(e) }, 'no quota counters are installed yet');
    }
  }

  /** After the first pass. */
  begin(): void {
    this.#ticks.begin();
  }

  async #tick(): Promise<void> {
    try {
      await this.check();
    } catch (e) {
      this.#o.log.warn({ err: errorText(e) }, 'quotas could not be read: they are tried again in a second');
    }
  }

  async check(): Promise<void> {
    const members = [...(this.#o.applied.value?.subjects.values() ?? [])].filter((m) => m.limits?.quota);
    if (members.length === 0 && this.#kept.size === 0) return;
    if (members.length > 0) await this.#read();
    const changed = members.filter((m) => this.#hasChanged(m));
    if (changed.length > 0) this.changed.emit();
    const since = this.#o.now() - this.#savedAt;
    if (changed.length > 0 || since >= SAVE_MS || since < 0 || this.#hasGrown(members)) this.#save();
  }

  async #read(): Promise<void> {
    for (const [name, used] of await this.#o.kernel.usedQuotas()) this.#ledger.count(name, used);
  }

  /** True if more was used than may be lost, or if a container came or went. */
  #hasGrown(members: readonly Subject[]): boolean {
    const quotas = members.flatMap((m) => m.limits?.quota ?? []);
    const used = new Map(quotas.map((q) => [q.name, this.#ledger.used(q.name)]));
    const grown = quotas.some(
      (q) => (used.get(q.name) ?? 0) - (this.#kept.get(q.name) ?? 0) > q.bytes * SAVE_SHARE,
    );
    const others = used.size !== this.#kept.size || [...used.keys()].some((name) => !this.#kept.has(name));
    if (grown || others) this.#kept = used;
    return grown || others;
  }

  /** True if the quota is spent, or its period is over, other than in the rules that are installed. */
  #hasChanged({ id, policy, limits }: Subject): boolean {
    const before = limits?.quota;
    const container = this.#o.applied.value?.view.containers.get(id);
    if (!policy.limits?.quota || !before || !container) return false;
    const now = this.#ledger.of(container.name, policy.limits.quota, this.#o.now());
    const changed = now.name !== before.name || now.spent !== before.spent;
    if (changed && now.spent) this.#o.log.warn({ container: container.name }, now.reached);
    return changed;
  }

  #save(): void {
    this.#savedAt = this.#o.now();
    const used = this.#ledger.snapshot(this.#o.now(), (this.#o.steady ?? this.#o.now)());
    for (const [name, bytes] of used)
      if (this.#saved.get(name) !== bytes) void this.#o.small.set(AREA, name, String(bytes));
    for (const name of this.#saved.keys()) if (!used.has(name)) void this.#o.small.set(AREA, name, undefined);
    this.#saved = used;
  }

  /** Reads and keeps what was used, for the last time; before the counters are taken down. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#stopped) return;
    this.#stopped = true;
    await this.#ticks[Symbol.asyncDispose]();
    await this.#tick();
    this.#save();
  }
}
