import type { DnsService } from '../dns/dns-service.js';
import type { Kernel } from '../kernel/kernel.js';
import { LegacyTables, RulesMonitor } from '../kernel/rules-monitor.js';
import { DisposalStack } from '../lib/async.js';
import { type Current, Signal } from '../lib/current.js';
import type { Logger } from '../lib/log.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { DesiredState, KernelConfig, SetDesired } from '../ruleset/desired-state.js';
import { recordSet } from '../ruleset/naming.js';
import type { ActiveThreats } from '../threats/active-threats.js';
import type { HostMode } from './host-cgroups.js';
import { TtlExtender } from './learned-sets.js';
import type { EnforcementPass } from './pass.js';
import type { Reconciler } from './reconciler.js';

export interface MaintenanceParts {
  readonly shape: KernelConfig;
  readonly kernel: Kernel;
  readonly dns: DnsService;
  readonly threats: Pick<ActiveThreats, 'resting' | 'sets' | 'lost' | 'repair'>;
  readonly applied: Pick<Current<AppliedState>, 'value'>;
  readonly pass: Pick<EnforcementPass, 'wanted'>;
  readonly reconciler: Reconciler;
  readonly hostMode: Pick<HostMode, 'isLegacy'>;
  readonly log: Logger;
}

/** Keeps the kernel as the last pass left it: detects what other processes change, and refreshes the heartbeat. */
export class Maintenance implements AsyncDisposable {
  /** Another process has changed rules. */
  readonly rulesChanged = new Signal();
  /** Another process has emptied or destroyed the set that remembers the store. */
  readonly recordLost = new Signal();
  readonly #o: MaintenanceParts;
  readonly #drift: DriftMonitor;
  readonly #begun = new DisposalStack();

  constructor(parts: MaintenanceParts) {
    this.#o = parts;
    this.#drift = new DriftMonitor(parts);
  }

  /** After the first pass. */
  begin(): void {
    const { shape, kernel, dns, applied, hostMode, log } = this.#o;
    const rules = new RulesMonitor(
      shape.prefix,
      (what) => {
        this.rulesChanged.emit();
        this.#drift.suspect(what);
      },
      log,
    );
    this.#begun.use(rules);
    // No monitor reports changes of iptables-legacy.
    const tables = hostMode.isLegacy ? new LegacyTables() : undefined;
    if (tables) this.#begun.use(tables);
    this.#begun.use(new Heartbeat(this.#o, { drift: this.#drift, recordLost: this.recordLost, tables }));
    this.#begun.use(new TtlExtender({ dns, flows: kernel.flows, marks: shape.marks, applied, log }));
  }

  /** When the kernel was last found to hold what it should (ms, monotonic). */
  get checkedAt(): number | undefined {
    return this.#drift.checkedAt;
  }

  stopChecking(): void {
    this.#drift.stop();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#begun.end();
  }
}

/** Docker removes its jump to DOCKER-USER and inserts it again at every network: one check for all of it. */
const SETTLE_MS = 150;
/** The result of a check that a pass has overtaken does not count; after so many a pass reads the kernel itself. */
const TRIES = 3;
/** Everything is read again after this time, also if nothing shows a change. */
const COMPLETE_MS = 300_000;

/** What the kernel showed before a complete comparison that has found nothing to do. */
interface Proof {
  /** The count of all changes of nf_tables, and what each static set holds. */
  readonly stamp: string;
  /** Passes until then: each can change the kernel. */
  readonly passes: number;
  readonly desired: DesiredState;
  readonly at: number;
}

/** Their members belong to the rules. Those of learned sets and of threats are checked otherwise. */
const staticSets = ({ sets }: DesiredState): readonly string[] =>
  [...sets.values()].filter((s) => !s.timed && !s.isThreats).map((s) => s.name);

export interface DriftParts extends Pick<MaintenanceParts, 'applied' | 'pass' | 'hostMode' | 'log'> {
  readonly kernel: Pick<Kernel, 'stamp' | 'plan' | 'isRoutingChanged'>;
  readonly reconciler: Pick<Reconciler, 'resting' | 'waiting' | 'trigger'>;
}

/** Checks next to the passes whether another process has changed the rules, so that no first packet waits for the check. */
export class DriftMonitor {
  readonly #o: DriftParts;
  #timer: NodeJS.Timeout | undefined;
  #isChecking = false;
  #again = false;
  #tries = 0;
  #what = '';
  #checkedAt: number | undefined;
  #proof: Proof | undefined;

  constructor(parts: DriftParts) {
    this.#o = parts;
  }

  /** When a comparison began that has found nothing to do (ms, monotonic). */
  get checkedAt(): number | undefined {
    return this.#checkedAt;
  }

  suspect(what: string): void {
    this.#o.log.debug({ what }, 'another process may have changed rules: checking');
    this.#what ||= what;
    this.#again = this.#isChecking;
    if (!this.#isChecking) this.#timer ??= setTimeout(() => void this.#check(), SETTLE_MS);
  }

  /** A complete comparison starts several processes: it is left out while the kernel proves that nothing has changed since the last. */
  async checkRegularly(): Promise<void> {
    const began = performance.now();
    if (await this.#isUnchanged(began)) this.#checkedAt = began;
    else this.suspect('periodic check');
  }

  async #isUnchanged(now: number): Promise<boolean> {
    const { reconciler, applied, kernel } = this.#o;
    const proof = this.#proof;
    if (!proof || now - proof.at > COMPLETE_MS || reconciler.waiting) return false;
    const isOvertaken = (): boolean =>
      reconciler.resting !== proof.passes || applied.value?.desired !== proof.desired;
    if (isOvertaken() || (await kernel.stamp(staticSets(proof.desired))) !== proof.stamp) return false;
    return !(await kernel.isRoutingChanged()) && !isOvertaken();
  }

  /** The kernel counts no changes of iptables-legacy: there every comparison is a complete one. */
  async #stamp(desired: DesiredState | undefined): Promise<string | undefined> {
    if (!desired || this.#o.hostMode.isLegacy) return undefined;
    return this.#o.kernel.stamp(staticSets(desired)).catch(() => undefined);
  }

  repair(what: string): void {
    this.#o.reconciler.trigger({ kind: 'tampering', what }, true);
  }

  stop(): void {
    clearTimeout(this.#timer);
  }

  async #check(): Promise<void> {
    const { reconciler, log } = this.#o;
    this.#timer = undefined;
    this.#isChecking = true;
    this.#again = false;
    const before = reconciler.resting;
    const began = performance.now();
    const desired = this.#o.applied.value?.desired;
    this.#proof = undefined;
    const stamp = await this.#stamp(desired); // before the reading: a change in between must show in the next one
    const steps = await this.#missingSteps().catch((e: unknown) => {
      log.warn({ err: e instanceof Error ? e.message : String(e) }, 'a check of the kernel failed');
      return 1;
    });
    this.#isChecking = false;
    if (steps === 0) this.#checkedAt = began;
    const isOvertaken = before === undefined || reconciler.resting !== before;
    if (steps === 0 && !isOvertaken && desired && stamp !== undefined)
      this.#proof = { stamp, passes: before, desired, at: began };
    this.#conclude(steps, isOvertaken);
  }

  /** How many steps the kernel needs to hold what it should, by a fresh reading. */
  async #missingSteps(): Promise<number> {
    const { applied, reconciler, pass, kernel } = this.#o;
    const now = applied.value;
    if (!now) return 0;
    // While no trigger waits, what the last pass wanted must still be what the next pass would want.
    const desired = reconciler.waiting ? now.desired : await pass.wanted();
    return (await kernel.plan(desired)).stages.length + ((await kernel.isRoutingChanged()) ? 1 : 0);
  }

  #conclude(steps: number, isOvertaken: boolean): void {
    const what = this.#what;
    if (steps > 0 && (!isOvertaken || ++this.#tries >= TRIES)) {
      this.#done();
      this.repair(what);
    } else if (steps > 0 || this.#again) {
      this.#timer = setTimeout(() => void this.#check(), SETTLE_MS);
    } else this.#done();
  }

  #done(): void {
    this.#tries = 0;
    this.#what = '';
    if (this.#again) this.#timer = setTimeout(() => void this.#check(), SETTLE_MS);
  }
}

const BEAT_MS = 400;
/** The rules are checked without any report of a change every so many beats. */
const FULL_CHECK_BEATS = 50;
/** So many sets of containers are checked in a beat, on average: its cost does not grow with the number of containers. */
const SETS_A_BEAT = 32;
const PURGE_BEATS = 150;
/** Set members that expire within this time may be gone already. */
const SOON_MS = 2_000;

/** Where the heartbeat reports what it finds. */
interface Findings {
  readonly drift: DriftMonitor;
  readonly recordLost: Signal;
  /** A fingerprint of the tables of iptables-legacy, where Docker uses it. */
  readonly tables: LegacyTables | undefined;
}

type SetReaders = { sets: Pick<Kernel['sets'], 'entries'>; bulk: Pick<Kernel['bulk'], 'allEntries'> };
/** One listing of all sets takes the time of a few single requests, but also counts large sets of other programs: it takes at most this share. */
const LISTING_SHARE = 1 / 500;

/** The sets that are checked in a beat. */
export class SetTurns {
  readonly #now: () => number;
  #turn = this.#endless();
  /** Since all sets were listed, and when they may be listed again (ms, monotonic). */
  #beats = 0;
  #listAt = 0;
  #of: DesiredState['sets'] | undefined;
  #shared: readonly SetDesired[] = [];
  #owned: readonly SetDesired[] = [];

  constructor(now = () => performance.now()) {
    this.#now = now;
  }

  /**
   * Calls back with the sets without an owner in each beat, and with those of containers in so many beats as there are times 32 of them:
   * each has its turn before any has a second one. All of them are read by one listing at the end of this time, unless listing takes
   * too long: then 32 are read in each beat.
   */
  next(
    { sets }: Pick<DesiredState, 'sets'>,
    { sets: one, bulk: all }: SetReaders,
    check: (set: SetDesired, entries: number | undefined) => boolean,
  ): void {
    this.#take(sets);
    for (const set of this.#shared) if (!check(set, one.entries(set.name))) return;
    this.#beats += 1;
    const began = this.#now();
    if (began < this.#listAt) {
      for (let n = 0; n < Math.min(SETS_A_BEAT, this.#owned.length); n++) {
        const set = sets.get(this.#turn.next().value);
        if (set && !check(set, one.entries(set.name))) return;
      }
    } else if (this.#owned.length > 0 && this.#beats * SETS_A_BEAT >= this.#owned.length) {
      this.#beats = 0;
      this.#turn = this.#endless();
      const found = all.allEntries();
      this.#listAt = began + (this.#now() - began) / LISTING_SHARE;
      for (const set of this.#owned) if (!check(set, found.get(set.name))) return;
    }
  }

  #take(sets: DesiredState['sets']): void {
    if (this.#of === sets) return;
    this.#of = sets;
    const all = [...sets.values()];
    this.#shared = all.filter((s) => s.owner === undefined);
    this.#owned = all.filter((s) => s.owner !== undefined);
  }

  /** The sets of containers over and over; those of a new state follow when all of the state before had their turn. */
  *#endless(): Generator<string, never> {
    for (;;) yield* this.#owned.length > 0 ? this.#owned.map((set) => set.name) : [''];
  }
}

/** Refreshes the set that enables DNS redirection for observed containers, and polls ipsets, of which the kernel reports no changes. */
class Heartbeat implements AsyncDisposable {
  readonly #o: MaintenanceParts;
  readonly #findings: Findings;
  readonly #record: string;
  #beats = 0;
  #tables: string | undefined;
  #hasRecord = false;
  readonly #turns = new SetTurns();
  #stopped = false;
  #timer: NodeJS.Timeout | undefined;
  #running: Promise<void>;

  constructor(parts: MaintenanceParts, findings: Findings) {
    this.#o = parts;
    this.#findings = findings;
    this.#record = recordSet(parts.shape.prefix);
    this.#running = this.#beat();
  }

  async #beat(): Promise<void> {
    const { kernel, dns, log } = this.#o;
    const { drift } = this.#findings;
    try {
      kernel.heartbeat();
      if (this.#beats % FULL_CHECK_BEATS === FULL_CHECK_BEATS - 1) await drift.checkRegularly();
      else this.#checkSets();
      this.#checkTables();
      if (this.#beats % PURGE_BEATS === 0) dns.purge();
    } catch (e) {
      log.warn({ err: e instanceof Error ? e.message : String(e) }, 'a check of the kernel failed');
      drift.suspect('sets could not be read');
    }
    this.#beats += 1;
    if (!this.#stopped) this.#timer = setTimeout(() => (this.#running = this.#beat()), BEAT_MS);
  }

  /** Changes of Drawbridge itself count too: a check costs little. */
  #checkTables(): void {
    const now = this.#findings.tables?.fingerprint();
    if (now !== this.#tables && this.#tables !== undefined)
      this.#findings.drift.suspect('tables of iptables-legacy');
    this.#tables = now;
  }

  /**
   * A set that is gone or has lost members: another process destroyed or flushed it. Sets of threats and those that containers share
   * are checked with each beat: rules deny by them. Those of one container permit, so that an empty one keeps what is closed closed.
   */
  #checkSets(): void {
    const { reconciler, threats, applied } = this.#o;
    if (reconciler.resting === undefined) return; // the changes of a pass are no tampering
    const loads = threats.resting;
    const entries = this.#entries([...threats.sets, this.#record]);
    this.#checkThreats(entries, loads);
    this.#checkRecord(entries);
    if (applied.value) this.#turns.next(applied.value.desired, this.#o.kernel, this.#isWhole);
  }

  /** False if a set is not as it should be. */
  readonly #isWhole = (set: SetDesired, count: number | undefined): boolean => {
    const { drift } = this.#findings;
    const isGone = count === undefined;
    if (isGone || (!set.timed && count < set.members.length)) {
      drift.suspect(`set ${set.name} ${isGone ? 'is gone' : 'has lost members'}`);
      return false;
    }
    // Only a pass can repair it, since only the ledger knows its members.
    if (set.timed && count === 0 && this.#shouldHaveMembers(set)) {
      drift.repair(`set ${set.name} has lost its members`);
      return false;
    }
    return true;
  };

  /** How many entries each of these sets has; without those that do not exist. */
  #entries(names: readonly string[]): ReadonlyMap<string, number> {
    const { sets } = this.#o.kernel;
    const found = new Map<string, number>();
    for (const name of names) {
      const entries = sets.entries(name);
      if (entries !== undefined) found.set(name, entries);
    }
    return found;
  }

  /** The record is written some time after the start, and removed by Drawbridge only in a teardown. */
  #checkRecord(headers: ReadonlyMap<string, number>): void {
    const isThere = (headers.get(this.#record) ?? 0) > 0;
    if (this.#hasRecord && !isThere) this.#findings.recordLost.emit();
    this.#hasRecord = isThere;
  }

  #checkThreats(entries: ReadonlyMap<string, number>, loads: number | undefined): void {
    const { threats } = this.#o;
    if (loads === undefined || threats.resting !== loads) return;
    const lost = threats.lost(entries).filter((set) => entries.has(set)); // a pass creates those that are gone
    if (lost.length > 0) threats.repair(lost);
  }

  /** True if the container of a learned set resolved addresses that are valid for a while. */
  #shouldHaveMembers({ name, owner }: SetDesired): boolean {
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
