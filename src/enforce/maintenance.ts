import type { HostWatch } from '../coverage/host-watch.js';
import type { DnsService } from '../dns/service.js';
import { TtlExtender } from '../dns/ttl-extender.js';
import type { Kernel } from '../kernel/kernel.js';
import { LegacyTables, RulesMonitor } from '../kernel/rules-monitor.js';
import type { Logger } from '../lib/log.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { DesiredState, KernelConfig } from '../ruleset/desired-state.js';
import { recordSet } from '../ruleset/naming.js';
import type { ActiveThreats } from '../threats/active-threats.js';
import { Drift } from './drift.js';
import { Heartbeat } from './heartbeat.js';
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
