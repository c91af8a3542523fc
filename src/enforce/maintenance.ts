import type { DnsService } from '../dns/dns-service.js';
import type { Evidence, Kernel } from '../kernel/kernel.js';
import type { Observed } from '../kernel/read-rules.js';
import { LegacyTables, RulesMonitor } from '../kernel/rules-monitor.js';
import { BEAT_MS, Repeated, steadyNow } from '../lib/clock.js';
import { type Current, Signal } from '../lib/current.js';
import { DisposalStack } from '../lib/disposal-stack.js';
import type { Logger } from '../lib/log.js';
import { errorText } from '../lib/problem.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { DesiredState, KernelConfig, SetDesired } from '../ruleset/desired-state.js';
import { recordSet } from '../ruleset/naming.js';
import type { ActiveThreats } from '../threats/active-threats.js';
import type { HostMode } from './host-cgroups.js';
import { TtlExtender } from './learned-sets.js';
import type { EnforcementPass } from './pass.js';
import { betweenPasses, PassTrace } from './pass-trigger.js';
import type { Reconciler } from './reconciler.js';
import { SetTurns } from './set-turns.js';

export interface MaintenanceParts {
  readonly shape: KernelConfig;
  readonly kernel: Kernel;
  readonly dns: DnsService;
  readonly threats: Pick<ActiveThreats, 'resting' | 'sets' | 'lost' | 'repair'>;
  readonly applied: Current<AppliedState>;
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
  /** What the kernel showed after the first pass, until nft monitor reports changes. */
  #after: string | undefined;

  constructor(parts: MaintenanceParts) {
    this.#o = parts;
    this.#drift = new DriftMonitor(parts);
  }

  /** After the first pass. */
  begin(): void {
    const { shape, kernel, dns, applied, hostMode, log } = this.#o;
    this.#after = this.#drift.present;
    // No monitor reports changes of iptables-legacy.
    const tables = hostMode.isLegacy ? new LegacyTables() : undefined;
    if (tables) this.#begun.use(tables);
    this.#begun.use(new Heartbeat(this.#o, { drift: this.#drift, recordLost: this.recordLost, tables }));
    this.#begun.use(new TtlExtender({ dns, flows: kernel.flows, marks: shape.marks, applied, log }));
  }

  /** Follow what other processes change from here on. What has changed since `begin` is looked for once. */
  follow(): void {
    const onForeign = (what: string | undefined): void => {
      const isSame = this.#after !== undefined && this.#after === this.#drift.present;
      this.#after = undefined;
      if (what === undefined && isSame) return;
      this.rulesChanged.emit();
      this.#drift.suspect(what ?? 'nft monitor was not running');
    };
    this.#begun.use(new RulesMonitor(this.#o.shape.prefix, onForeign, this.#o.log));
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
interface Proof extends Evidence {
  readonly since: PassTrace;
  readonly at: number;
}

/** Their members belong to the rules. Those of learned sets and of threats are checked otherwise. */
const isStatic = (set: SetDesired): boolean => !set.timed && !set.isThreats;
const staticSets = ({ sets }: DesiredState): readonly string[] =>
  [...sets.values()].filter(isStatic).map((s) => s.name);

export interface DriftParts extends Pick<MaintenanceParts, 'pass' | 'hostMode' | 'log'> {
  readonly applied: Pick<Current<AppliedState>, 'value' | 'subscribe'>;
  readonly kernel: Pick<
    Kernel,
    'generation' | 'evidence' | 'hasMembers' | 'observe' | 'planFrom' | 'isRoutingChanged' | 'keep'
  >;
  readonly reconciler: Pick<Reconciler, 'resting' | 'waiting' | 'trigger'>;
}

/** Checks next to the passes whether another process has changed the rules, so that no first packet waits for the check. */
export class DriftMonitor {
  readonly #o: DriftParts;
  #timer: NodeJS.Timeout | undefined;
  #isChecking = false;
  #isStopped = false;
  #again = false;
  #tries = 0;
  #what = '';
  #checkedAt: number | undefined;
  #proof: Proof | undefined;
  #trace: PassTrace | undefined;

  constructor(parts: DriftParts) {
    this.#o = parts;
    parts.applied.subscribe((state) => this.#trace?.note(state));
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

  /** Differs after each change of nf_tables and each pass. Undefined: during a pass, or not known. */
  get present(): string | undefined {
    try {
      const [generation, passes] = [this.#o.kernel.generation(), this.#o.reconciler.resting];
      return generation === undefined || passes === undefined ? undefined : `${generation} ${passes}`;
    } catch {
      return undefined; // not known: that counts as a change
    }
  }

  /** A complete comparison starts several processes: it is left out while the kernel proves that nothing has changed since the last. */
  async checkRegularly(): Promise<void> {
    const began = performance.now();
    if (await this.#isUnchanged(began)) this.#checkedAt = began;
    else this.suspect('periodic check');
  }

  async #isUnchanged(now: number): Promise<boolean> {
    const { reconciler, kernel } = this.#o;
    const proof = this.#proof;
    await betweenPasses(reconciler);
    if (!proof || now - proof.at > COMPLETE_MS || reconciler.waiting || proof.since.isOvertaken(this.#o))
      return false;
    const { digests } = await kernel.evidence([...proof.digests.keys()]);
    await betweenPasses(reconciler);
    const { sets } = proof.since;
    if ([...proof.digests].some(([set, was]) => digests.get(set) !== was && !sets.has(set))) return false;
    if (!(await this.#haveMembers(sets)) || (await kernel.isRoutingChanged())) return false;
    await betweenPasses(reconciler);
    return kernel.generation() === proof.generation && !proof.since.isOvertaken(this.#o);
  }

  /** Whether the sets that passes have changed hold what they should now. */
  async #haveMembers(sets: ReadonlySet<string>): Promise<boolean> {
    for (const set of sets) if (!(await this.#hasMembers(set))) return false;
    return true;
  }
  async #hasMembers(name: string): Promise<boolean> {
    const { applied, reconciler, kernel } = this.#o;
    const wanted = (): SetDesired | undefined => applied.value?.desired.sets.get(name);
    for (let n = 0; n < TRIES; n++) {
      await betweenPasses(reconciler);
      const set = wanted();
      if (!set || !isStatic(set)) return true;
      const has = await kernel.hasMembers(set);
      await betweenPasses(reconciler);
      if (wanted() === set) return has; // no pass has changed it meanwhile
    }
    return false;
  }

  /** The kernel counts no changes of iptables-legacy: there every comparison is a complete one. */
  async #evidence(desired: DesiredState | undefined): Promise<Evidence | undefined> {
    const { hostMode, kernel } = this.#o;
    return desired && !hostMode.isLegacy
      ? kernel.evidence(staticSets(desired)).catch(() => undefined)
      : undefined;
  }

  repair(what: string): void {
    this.#o.reconciler.trigger({ kind: 'tampering', what }, true);
  }

  /** A check that is being made has no result: the kernel may be closed before it ends. */
  stop(): void {
    this.#isStopped = true;
    clearTimeout(this.#timer);
  }

  async #check(): Promise<void> {
    const { reconciler, applied, kernel, log } = this.#o;
    [this.#timer, this.#isChecking, this.#again] = [undefined, true, false];
    await betweenPasses(reconciler);
    const [began, before, desired] = [performance.now(), reconciler.resting, applied.value?.desired];
    const since = new PassTrace(desired, before);
    [this.#proof, this.#trace] = [undefined, since];
    const evidence = await this.#evidence(desired);
    const { steps, observed } = await this.#missingSteps(since).catch((e: unknown) => {
      if (!this.#isStopped) log.warn({ err: errorText(e) }, 'a check of the kernel failed');
      return { steps: 1, observed: undefined };
    });
    if (this.#isStopped) return;
    this.#isChecking = false;
    if (steps === 0) this.#checkedAt = began;
    const isSame = evidence ? kernel.generation() === evidence.generation : since.passes === before;
    const isOvertaken = !isSame || since.isOvertaken(this.#o);
    if (steps === 0 && !isOvertaken && evidence) {
      this.#proof = { ...evidence, since, at: began };
      if (observed) this.#keep(observed, evidence.generation);
    }
    this.#conclude(steps, isOvertaken);
  }

  #keep(observed: Observed, generation: number | undefined): void {
    try {
      this.#o.kernel.keep(observed, generation);
    } catch (e) {
      this.#o.log.debug({ err: String(e) }, 'cannot keep the rules: the next start reads them');
    }
  }

  /** How many steps the kernel needs to hold what it should, by a fresh reading. Sets that passes change meanwhile are compared behind it. */
  async #missingSteps(
    since: PassTrace,
  ): Promise<{ readonly steps: number; readonly observed: Observed | undefined }> {
    const { applied, reconciler, pass, kernel } = this.#o;
    const now = applied.value;
    if (!now) return { steps: 0, observed: undefined };
    // While no trigger waits, what the last pass wanted must still be what the next pass would want.
    const desired = reconciler.waiting ? now.desired : await pass.wanted();
    const observed = await kernel.observe();
    await betweenPasses(reconciler);
    const { stages } = kernel.planFrom(observed, desired, since.sets);
    const others = [!(await this.#haveMembers(since.sets)), await kernel.isRoutingChanged()];
    await betweenPasses(reconciler);
    return { steps: stages.length + others.filter(Boolean).length, observed };
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

/** The rules are checked without any report of a change every so many beats. */
const FULL_CHECK_BEATS = 50;
const PURGE_BEATS = 150;
/** Whether packets may be handed past their bridges is checked with every second beat, from this one on: a start has other work before. */
const FIRST_HANDOVER = 3;
/** Set members that expire within this time may be gone already. */
const SOON_MS = 2_000;

/** Where the heartbeat reports what it finds. */
interface Findings {
  readonly drift: DriftMonitor;
  readonly recordLost: Signal;
  /** A fingerprint of the tables of iptables-legacy, where Docker uses it. */
  readonly tables: LegacyTables | undefined;
}

/** Refreshes the set that enables DNS redirection for observed containers, and polls ipsets, of which the kernel reports no changes. */
class Heartbeat implements AsyncDisposable {
  readonly #o: MaintenanceParts;
  readonly #findings: Findings;
  readonly #record: string;
  #beats = 0;
  #tables: string | undefined;
  #hasRecord = false;
  readonly #turns: SetTurns;
  readonly #all = new Repeated('a check of the kernel failed', BEAT_MS, () => this.#beat());

  constructor(parts: MaintenanceParts, findings: Findings) {
    this.#o = parts;
    this.#findings = findings;
    this.#record = recordSet(parts.shape.prefix);
    // without a feed no rule reads the sets of threats
    this.#turns = new SetTurns((set) => !set.isThreats || !parts.shape.withoutFeeds);
    this.#all.begin();
  }

  async #beat(): Promise<void> {
    const { kernel, dns, log } = this.#o;
    const { drift } = this.#findings;
    try {
      kernel.heartbeat();
      if (this.#beats % FULL_CHECK_BEATS === FULL_CHECK_BEATS - 1) await drift.checkRegularly();
      else this.#checkSets();
      this.#checkTables();
      if (this.#beats >= FIRST_HANDOVER && this.#beats % 2 === 1)
        await kernel.pastBridge.check(kernel.generation());
      if (this.#beats % PURGE_BEATS === 0) dns.purge();
    } catch (e) {
      log.warn({ err: errorText(e) }, 'a check of the kernel failed');
      drift.suspect('sets could not be read');
    }
    this.#beats += 1;
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
    const { reconciler, threats, applied, shape, kernel } = this.#o;
    if (reconciler.resting === undefined) return; // the changes of a pass are no tampering
    if (!shape.withoutFeeds) this.#checkThreats(threats.resting);
    this.#checkRecord((kernel.sets.entries(this.#record) ?? 0) > 0);
    if (applied.value) this.#turns.next(applied.value.desired, kernel, this.#isWhole);
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

  /** The record is written some time after the start, and removed by Drawbridge only in a teardown. */
  #checkRecord(isThere: boolean): void {
    this.#hasRecord ||= isThere; // also if it is removed again before a beat has seen it back
    if (this.#hasRecord && !isThere) this.#findings.recordLost.emit();
  }

  /** A pass creates those that are gone. */
  #checkThreats(loads: number | undefined): void {
    const { threats, kernel } = this.#o;
    const sizes = threats.sets.map((set) => [set, kernel.sets.entries(set)] as const);
    if (loads === undefined || threats.resting !== loads) return;
    const entries = new Map(sizes.filter((one): one is readonly [string, number] => one[1] !== undefined));
    const lost = threats.lost(entries).filter((set) => entries.has(set));
    if (lost.length > 0) threats.repair(lost);
  }

  /** True if the container of a learned set resolved addresses that are valid for a while. */
  #shouldHaveMembers({ name, owner }: SetDesired): boolean {
    const wanted = owner === undefined ? undefined : this.#o.dns.members(owner).get(name);
    const soon = steadyNow() + SOON_MS;
    return [...(wanted?.values() ?? [])].some((until) => until > soon);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#all[Symbol.asyncDispose]();
    await this.#o.kernel.expireHeartbeat();
  }
}
