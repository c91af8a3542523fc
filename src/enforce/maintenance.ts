import type { HostWatch } from '../coverage/host-watch.js';
import type { DnsService } from '../dns/dns-service.js';
import { TtlExtender } from '../dns/ttl-extender.js';
import type { Kernel } from '../kernel/kernel.js';
import { LegacyTables, RulesMonitor } from '../kernel/rules-monitor.js';
import type { Logger } from '../lib/log.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { DesiredState, KernelConfig, SetDesired } from '../ruleset/desired-state.js';
import { recordSet } from '../ruleset/naming.js';
import type { ActiveThreats } from '../threats/active-threats.js';
import type { Reconciler } from './reconciler.js';

export interface UpkeepOptions {
  readonly shape: KernelConfig;
  readonly kernel: Kernel;
  readonly dns: DnsService;
  readonly threats: ActiveThreats;
  readonly reconciler: Reconciler;
  readonly hostWatch: HostWatch;
  readonly state: () => AppliedState | undefined;
  /** What the next pass would want. */
  readonly wanted: () => Promise<DesiredState>;
  /** Another process has emptied or destroyed the set that remembers the store. */
  readonly recordLost: () => void;
  /** Docker's chains are iptables-legacy's, of which no monitor tells. */
  readonly isLegacy: () => boolean;
  readonly log: Logger;
}

/** What keeps the kernel as the last pass left it: looks for what others changed, and the heartbeat. */
export class Maintenance implements AsyncDisposable {
  readonly #o: UpkeepOptions;
  readonly #drift: Drift;
  readonly #open: (Disposable | AsyncDisposable)[] = [];

  constructor(options: UpkeepOptions) {
    this.#o = options;
    const { kernel, state, wanted, reconciler, log } = options;
    this.#drift = new Drift({
      look: async () => {
        const now = state();
        if (!now) return 0;
        // with nothing pending, what the last pass wanted must still be what the next would want
        const desired = reconciler.waiting ? now.desired : await wanted();
        return (await kernel.plan(desired)).stages.length + ((await kernel.isRoutingChanged()) ? 1 : 0);
      },
      resting: () => reconciler.resting,
      repair: (what) => this.#repair(what),
      log,
    });
  }

  /** After the first pass. */
  async begin(): Promise<void> {
    const { kernel, state, reconciler, log, dns, shape, hostWatch, threats, recordLost } = this.#o;
    await hostWatch.start();
    this.#open.push(hostWatch);
    this.#open.push(new RulesMonitor(shape.prefix, (what) => this.#changedByOthers(what), log));
    this.#open.push(
      new Heartbeat({
        kernel,
        state,
        tampered: (what) => this.#tampered(what),
        emptied: (what) => this.#repair(what),
        record: recordSet(shape.prefix),
        recordLost,
        resting: () => reconciler.resting,
        log,
        dns,
        threats,
        ...this.#legacyTables(),
      }),
    );
    this.#open.push(new TtlExtender({ dns, flows: kernel.flows, marks: shape.marks, state, log }));
  }

  /** When the kernel was last found to hold what it should (ms, monotonic). */
  get checkedAt(): number | undefined {
    return this.#drift.checkedAt;
  }

  stopLooking(): void {
    this.#drift.stop();
  }

  #changedByOthers(what: string): void {
    this.#o.hostWatch.changed();
    this.#tampered(what);
  }

  #tampered(what: string): void {
    this.#o.log.debug({ what }, 'somebody may have changed rules: looking');
    this.#drift.suspect(what);
  }

  #repair(what: string): void {
    this.#o.reconciler.trigger({ kind: 'tampering', what }, true);
  }

  #legacyTables(): { tables?: () => string } {
    if (!this.#o.isLegacy()) return {};
    const tables = new LegacyTables();
    this.#open.push(tables);
    return { tables: () => tables.fingerprint() };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const part of this.#open.reverse()) await dispose(part);
  }
}

/** Ends a part, whichever way it ends. */
export async function dispose(part: Disposable | AsyncDisposable): Promise<void> {
  if (Symbol.asyncDispose in part) await part[Symbol.asyncDispose]();
  else part[Symbol.dispose]();
}

interface DriftOptions {
  /** How many steps the kernel needs to hold what it should, by a fresh look. */
  readonly look: () => Promise<number>;
  /** Passes begun so far; undefined while one runs. */
  readonly resting: () => number | undefined;
  readonly repair: (what: string) => void;
  readonly log: Logger;
}

/** Docker takes DOCKER-USER out and puts it back at every network: one look for all of it. */
const SETTLE_MS = 150;
/** A look that a pass has overtaken says nothing; after so many the pass itself looks. */
const TRIES = 3;

/** Looks beside the passes whether others changed what is ours, so that nobody's first packet waits for the look. */
class Drift {
  readonly #o: DriftOptions;
  #timer: NodeJS.Timeout | undefined;
  #looking = false;
  #again = false;
  #tries = 0;
  #what = '';
  #checkedAt: number | undefined;

  constructor(options: DriftOptions) {
    this.#o = options;
  }

  /** When a comparison began that has found nothing to do (ms, monotonic). */
  get checkedAt(): number | undefined {
    return this.#checkedAt;
  }

  suspect(what: string): void {
    this.#what ||= what;
    this.#again = this.#looking;
    if (!this.#looking) this.#timer ??= setTimeout(() => void this.#look(), SETTLE_MS);
  }

  stop(): void {
    clearTimeout(this.#timer);
  }

  async #look(): Promise<void> {
    this.#timer = undefined;
    this.#looking = true;
    this.#again = false;
    const before = this.#o.resting();
    const began = performance.now();
    const steps = await this.#o.look().catch((e: unknown) => {
      this.#o.log.warn({ err: e instanceof Error ? e.message : String(e) }, 'a look at the kernel failed');
      return 1;
    });
    this.#looking = false;
    if (steps === 0) this.#checkedAt = began;
    const overtaken = before === undefined || this.#o.resting() !== before;
    this.#judge(steps, overtaken);
  }

  #judge(steps: number, overtaken: boolean): void {
    const what = this.#what;
    if (steps > 0 && (!overtaken || ++this.#tries >= TRIES)) {
      this.#done();
      this.#o.repair(what);
    } else if (steps > 0 || this.#again) {
      this.#timer = setTimeout(() => void this.#look(), SETTLE_MS);
    } else this.#done();
  }

  #done(): void {
    this.#tries = 0;
    this.#what = '';
    if (this.#again) this.#timer = setTimeout(() => void this.#look(), SETTLE_MS);
  }
}

interface PulseOptions {
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
class Heartbeat implements AsyncDisposable {
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
