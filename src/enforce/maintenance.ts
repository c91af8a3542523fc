import type { DnsService } from '../dns/dns-service.js';
import type { Kernel } from '../kernel/kernel.js';
import type { Conntrack } from '../kernel/netlink/conntrack.js';
import { LegacyTables, RulesMonitor } from '../kernel/rules-monitor.js';
import { DisposalStack } from '../lib/async.js';
import { type Current, Signal } from '../lib/current.js';
import type { Logger } from '../lib/log.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { KernelConfig, SetDesired } from '../ruleset/desired-state.js';
import type { Flow } from '../ruleset/flow.js';
import type { Marks } from '../ruleset/marks.js';
import { recordSet } from '../ruleset/naming.js';
import type { ActiveThreats } from '../threats/active-threats.js';
import type { HostMode } from './host-cgroups.js';
import type { EnforcementPass } from './pass.js';
import type { Reconciler } from './reconciler.js';

interface TtlExtenderOptions {
  readonly dns: DnsService;
  readonly flows: Conntrack;
  readonly marks: Marks;
  readonly applied: Pick<Current<AppliedState>, 'value'>;
  readonly log: Logger;
}
const EVERY_MS = 20_000;
const AHEAD_MS = 60_000;
const EXTENSION_MS = 120_000;

/** Keeps an address permitted beyond its TTL while the container has a live flow to it. */
class TtlExtender implements AsyncDisposable {
  readonly #o: TtlExtenderOptions;
  readonly #timer: NodeJS.Timeout;
  #running: Promise<void> = Promise.resolve();

  constructor(options: TtlExtenderOptions) {
    this.#o = options;
    this.#timer = setInterval(() => {
      this.#running = this.extendInUse().catch((e: unknown) =>
        options.log.warn({ err: String(e) }, 'cannot list which resolved addresses are in use'),
      );
    }, EVERY_MS);
  }

  async extendInUse(): Promise<void> {
    const facts = this.#o.dns.expiring(AHEAD_MS);
    if (facts.length === 0) return;
    const busy = await this.#busy();
    for (const f of facts)
      if (busy.has(`${f.container} ${f.address}`))
        await this.#o.dns.extend(f.container, f.address, Date.now() + EXTENSION_MS);
  }

  /** "CONTAINER ADDRESS" of every live flow: one dump a family, whatever the number of containers. */
  async #busy(): Promise<ReadonlySet<string>> {
    const { flows, applied } = this.#o;
    const owners = new Map<string, string>();
    for (const b of applied.value?.vethMap.bindings.values() ?? [])
      for (const a of [b.ip4, b.ip6]) if (a !== undefined) owners.set(a, b.container);
    const all = [...(await flows.flows(4)), ...(await flows.flows(6))];
    const hosted = this.#hosted();
    const ownerOf = (f: Flow): string | undefined =>
      hosted.get((f.mark & this.#o.marks.identity) >>> this.#o.marks.shift) ?? owners.get(f.orig.src);
    return new Set(all.map((f) => `${ownerOf(f)} ${f.reply.src}`));
  }

  /** Containers in the host's network, by the identity that marks their flows. */
  #hosted(): ReadonlyMap<number, string> {
    const members = [...(this.#o.applied.value?.subjects.values() ?? [])];
    return new Map(members.filter((m) => m.host).map((m) => [m.identity, m.id]));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer);
    await this.#running;
  }
}

export interface MaintenanceParts {
  readonly shape: KernelConfig;
  readonly kernel: Kernel;
  readonly dns: DnsService;
  readonly threats: Pick<ActiveThreats, 'resting' | 'lost' | 'repair'>;
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

/** Checks next to the passes whether another process has changed the rules, so that no first packet waits for the check. */
class DriftMonitor {
  readonly #o: MaintenanceParts;
  #timer: NodeJS.Timeout | undefined;
  #isChecking = false;
  #again = false;
  #tries = 0;
  #what = '';
  #checkedAt: number | undefined;

  constructor(parts: MaintenanceParts) {
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
    const steps = await this.#missingSteps().catch((e: unknown) => {
      log.warn({ err: e instanceof Error ? e.message : String(e) }, 'a check of the kernel failed');
      return 1;
    });
    this.#isChecking = false;
    if (steps === 0) this.#checkedAt = began;
    const isOvertaken = before === undefined || reconciler.resting !== before;
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

/** Refreshes the set that enables DNS redirection for observed containers, and polls ipsets, of which the kernel reports no changes. */
class Heartbeat implements AsyncDisposable {
  readonly #o: MaintenanceParts;
  readonly #findings: Findings;
  readonly #record: string;
  #beats = 0;
  #tables: string | undefined;
  #hasRecord = false;
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
      await kernel.heartbeat();
      if (this.#beats % FULL_CHECK_BEATS === FULL_CHECK_BEATS - 1) drift.suspect('periodic check');
      else await this.#checkSets();
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

  /** A set that is gone or has lost members: another process destroyed or flushed it. */
  async #checkSets(): Promise<void> {
    const { reconciler, threats, kernel, applied } = this.#o;
    const { drift } = this.#findings;
    const before = reconciler.resting;
    if (before === undefined) return;
    const loads = threats.resting;
    const headers = new Map((await kernel.sets.headers()).map((h) => [h.name, h.entries]));
    this.#checkThreats(headers, loads);
    this.#checkRecord(headers);
    const state = applied.value;
    if (!state || reconciler.resting !== before) return; // the changes of a pass are no tampering
    for (const set of state.desired.sets.values()) {
      const entries = headers.get(set.name);
      if (entries === undefined) return drift.suspect(`set ${set.name} is gone`);
      if (!set.timed && entries < set.members.length)
        return drift.suspect(`set ${set.name} has lost members`);
      // Only a pass can repair it, since only the ledger knows its members.
      if (set.timed && entries === 0 && this.#shouldHaveMembers(set))
        return drift.repair(`set ${set.name} has lost its members`);
    }
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
