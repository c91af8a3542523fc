import type { DnsService } from '../dns/service.js';
import type { Kernel } from '../kernel/kernel.js';
import type { Logger } from '../lib/log.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { SetDesired } from '../ruleset/desired-state.js';
import type { ActiveThreats } from '../threats/active-threats.js';

export interface PulseOptions {
  readonly kernel: Kernel;
  readonly state: () => AppliedState | undefined;
  readonly tampered: (what: string) => void;
  /** What only a pass can see, since only the ledger knows: a learned set was emptied. */
  readonly emptied: (what: string) => void;
  /** Passes begun so far; undefined while one runs. */
  readonly resting: () => number | undefined;
  /** The set that remembers the store, and what to do when another process has emptied or destroyed it. */
  readonly record: string;
  readonly recordLost: () => void;
  readonly threats: Pick<ActiveThreats, 'resting' | 'lost' | 'repair'>;
  readonly dns: DnsService;
  /** Where no monitor tells of changed rules: something that differs when they have changed. */
  readonly tables?: () => string;
  readonly log: Logger;
}
const BEAT_MS = 400;
/** A whole look at rules that nobody announced to have changed, every so many beats. */
const FULL_LOOK_BEATS = 50;
const PURGE_BEATS = 150;
/** Members that end within this may be gone already. */
const SOON_MS = 2_000;

/** The heartbeat that observed containers' DNS lives by, and the look at sets, which nothing announces. */
export class Heartbeat implements AsyncDisposable {
  readonly #o: PulseOptions;
  #beats = 0;
  #tables: string | undefined;
  #hasRecord = false;
  #stopped = false;
  #timer: NodeJS.Timeout | undefined;
  #running: Promise<void>;

  constructor(options: PulseOptions) {
    this.#o = options;
    this.#running = this.#beat();
  }

  async #beat(): Promise<void> {
    try {
      await this.#o.kernel.heartbeat();
      if (this.#beats % FULL_LOOK_BEATS === FULL_LOOK_BEATS - 1) this.#o.tampered('periodic look');
      else await this.#lookAtSets();
      this.#lookAtTables();
      if (this.#beats % PURGE_BEATS === 0) this.#o.dns.purge();
    } catch (e) {
      this.#o.log.warn({ err: e instanceof Error ? e.message : String(e) }, 'a look at the kernel failed');
      this.#o.tampered('sets could not be read');
    }
    this.#beats += 1;
    if (!this.#stopped) this.#timer = setTimeout(() => (this.#running = this.#beat()), BEAT_MS);
  }

  /** Our own changes count too: a look costs little. */
  #lookAtTables(): void {
    const now = this.#o.tables?.();
    if (now !== this.#tables && this.#tables !== undefined) this.#o.tampered('tables of iptables-legacy');
    this.#tables = now;
  }

  /** A set that is gone or has lost members: somebody destroyed or flushed it. */
  async #lookAtSets(): Promise<void> {
    const before = this.#o.resting();
    if (before === undefined) return;
    const loads = this.#o.threats.resting;
    const headers = new Map((await this.#o.kernel.sets.headers()).map((h) => [h.name, h.entries]));
    this.#lookAtThreats(headers, loads);
    this.#lookAtRecord(headers);
    const state = this.#o.state();
    if (!state || this.#o.resting() !== before) return; // our own changes are no tampering
    for (const set of state.desired.sets.values()) {
      const entries = headers.get(set.name);
      if (entries === undefined) return this.#o.tampered(`set ${set.name} is gone`);
      if (!set.timed && entries < set.members.length)
        return this.#o.tampered(`set ${set.name} has lost members`);
      if (set.timed && entries === 0 && this.#shouldHold(set))
        return this.#o.emptied(`set ${set.name} has lost its members`);
    }
  }

  /** It is written some time after the start, and never removed by us but in a teardown. */
  #lookAtRecord(headers: ReadonlyMap<string, number>): void {
    const isThere = (headers.get(this.#o.record) ?? 0) > 0;
    if (this.#hasRecord && !isThere) this.#o.recordLost();
    this.#hasRecord = isThere;
  }

  #lookAtThreats(entries: ReadonlyMap<string, number>, loads: number | undefined): void {
    const { threats } = this.#o;
    if (loads === undefined || threats.resting !== loads) return;
    const lost = threats.lost(entries).filter((set) => entries.has(set)); // one that is gone is a pass's to make
    if (lost.length > 0) threats.repair(lost);
  }

  /** A learned set whose container was told addresses that are still good for a while. */
  #shouldHold({ name, owner }: SetDesired): boolean {
    const wanted = owner === undefined ? undefined : this.#o.dns.members(owner).get(name);
    const soon = Date.now() + SOON_MS;
    return [...(wanted?.values() ?? [])].some((until) => until > soon);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    await this.#running;
    await this.#o.kernel.expireHeartbeat();
  }
}
