import type { Engine } from '../app/engine.js';
import type { Audit } from '../changes/audit.js';
import type { AuditView } from '../changes/audit-types.js';
import type { Changes } from '../changes/changes.js';
import { findContainer } from '../changes/find-container.js';
import type { Fleet } from '../changes/fleet.js';
import type { NodeView } from '../changes/fleet-types.js';
import type { ListView } from '../changes/list-changes.js';
import { recordTeardown } from '../changes/own-audit.js';
import { DOUBT_REMEDY } from '../changes/store-doubt.js';
import type { StoreTrust } from '../changes/store-trust.js';
import { syncAudited } from '../changes/sync-audited.js';
import type { UnwrittenChange } from '../changes/unwritten-changes.js';
import type { ExplainView } from '../coverage/explain-types.js';
import { previewView } from '../coverage/preview.js';
import { type ScanView, scanView } from '../coverage/scan.js';
import type { DenialEvent } from '../enforce/denials.js';
import type { Overrides } from '../enforce/policies.js';
import type { PreviewView } from '../enforce/preview-types.js';
import type { Readiness } from '../enforce/readiness.js';
import type { Counts } from '../kernel/counts.js';
import { RefusedError } from '../lib/problem.js';
import { SharedRead, type Turns, yieldTo } from '../lib/shared-read.js';
import type { ContainerFacts } from '../policy/container.js';
import type { Lockdown, Pause } from '../policy/emergency.js';
import type { Grant, Mode } from '../policy/policy.js';
import type { Role, Token } from '../policy/token.js';
import { UNATTRIBUTED_ID } from '../ruleset/unattributed.js';
import type { SharedStore, Store } from '../store/store-interface.js';
import type { Feeds } from '../threats/feed-service.js';
import type { FeedSync, FeedView, SyncHow, ThreatView } from '../threats/feed-view.js';
import { census } from './container-counts.js';
import type { ContainerView, StatusView } from './container-views.js';
import type { Controller } from './context.js';
import { Paced } from './paced.js';
import { containerView, explainView } from './views.js';

export interface ControllerParts {
  readonly engine: Engine;
  readonly changes: Changes;
  readonly audit: Audit;
  readonly store: Store;
  readonly storeKind: SharedStore['kind'];
  readonly beats: SharedStore['beats'];
  readonly fleet: Fleet;
  readonly feeds: Feeds;
  readonly counts: Counts;
  /** A resource had run out, and the kernel has not been read since. */
  readonly fault: () => string | undefined;
  /** The revision of the store that is in force. */
  readonly inForce: () => number;
  readonly said: () => Overrides;
  readonly version: string;
  readonly node: string;
  readonly trust: StoreTrust;
  /** Of what readers cause to be read from the kernel. */
  readonly turns: Turns;
  readonly teardown: () => Promise<void>;
}

const IN_FORCE_MS = 5_000;
/** At least this time passes between the beginnings of two plans for readers. */
const PLAN_GAP_MS = 100;
const PLAN_TRIES = 3;
/** Newest of all containers, among which a reader's filter chooses. */
const MOST_DENIALS = 10_000;

/** The API's face of everything. */
export class ServiceController implements Controller {
  readonly #p: ControllerParts;
  readonly #views: Paced<readonly ContainerView[]>;
  readonly #scans: Paced<readonly ScanView[]>;
  readonly #plan: SharedRead<readonly string[]>;

  constructor(parts: ControllerParts) {
    this.#p = parts;
    this.#views = new Paced(() => this.#running().map((c) => containerView(parts, c)));
    this.#scans = new Paced(() => scanView(parts.engine, this.#running(), true));
    this.#plan = new SharedRead({
      read: () => this.#readPlan(),
      maxAgeMs: 0,
      gapMs: PLAN_GAP_MS,
      turns: parts.turns,
    });
  }

  async refreshCounts(mayBeOld = false): Promise<number> {
    const { counts, engine } = this.#p;
    const before = counts.at;
    await counts.refresh(mayBeOld);
    const { state } = engine;
    for (const id of counts.at === before ? [] : (state?.subjects.keys() ?? []))
      if (state && id !== UNATTRIBUTED_ID)
        engine.recording.counted(id, {
          ...counts.of(id, state),
          unrecorded: counts.unrecorded(id, state),
        });
    return counts.at;
  }

  status(): StatusView {
    const { engine, version, node, store, storeKind, fleet } = this.#p;
    const all = this.containers();
    const { ok, detail } = store.health();
    return {
      version,
      node,
      ...census(all),
      paused: all.filter((c) => c.modeFrom === 'pause').length,
      lockdown: this.lockdown() ?? null,
      threats: this.#p.feeds.status(),
      kernel: {
        inSync: engine.reconciler.inSync && engine.state !== undefined,
        ...this.ready(),
        lastRepair: engine.lastRepair,
      },
      store: { kind: storeKind, ok, detail, unwritten: this.unwritten() },
      fleet: { nodes: fleet.nodes.length, stale: fleet.stale },
      warnings: [this.#doubt(), engine.degraded].filter((w) => w !== undefined),
    };
  }

  ready(): Readiness {
    const { engine, fault } = this.#p;
    const pending = engine.readiness.ready ? fault() : undefined;
    if (pending !== undefined) return { ready: false, reason: pending };
    const { ready, reason } = engine.readiness;
    const doubt = ready ? this.#doubt() : undefined;
    return { ready, reason: doubt === undefined ? reason : `${reason}; ${doubt}` };
  }

  /** What is wrong, and what to do, while the store is not believed. */
  #doubt(): string | undefined {
    const { doubt } = this.#p.trust;
    return doubt && `${doubt.reason}: nothing gets looser until a person decides: ${DOUBT_REMEDY}`;
  }

  containers(): readonly ContainerView[] {
    return this.#views.get(...this.#key());
  }

  /** What a change through the API moves, and what else moves. */
  #key(): [readonly unknown[], readonly unknown[]] {
    const { store, inForce, engine, counts } = this.#p;
    return [
      [store.revision(), inForce()],
      [engine.state, engine.docker.view(), counts.at],
    ];
  }

  container(idOrName: string): ContainerView {
    return containerView(this.#p, this.#find(idOrName));
  }

  grant(idOrName: string, entry: string, forMs: number | undefined, who: string): Promise<Grant> {
    return this.#p.changes.grant(idOrName, entry, forMs, who);
  }
  revokeGrant(idOrName: string, grantId: string, who: string): Promise<void> {
    return this.#p.changes.revokeGrant(idOrName, grantId, who);
  }
  async setMode(idOrName: string, mode: Mode | 'auto', who: string): Promise<ContainerView> {
    await this.#p.changes.setMode(idOrName, mode, who);
    return this.container(idOrName);
  }
  pause(idOrName: string | undefined, forMs: number, who: string): Promise<Pause> {
    return this.#p.changes.emergency.pause(idOrName, forMs, who);
  }
  endPause(idOrName: string | undefined, who: string): Promise<void> {
    return this.#p.changes.emergency.endPause(idOrName, who);
  }
  unwritten(): readonly UnwrittenChange[] {
    return this.#p.changes.unwritten();
  }
  lockdown(): Lockdown | undefined {
    return this.#p.said().lockdown;
  }
  async setLockdown(on: boolean, who: string): Promise<Lockdown | undefined> {
    const { changes, trust } = this.#p;
    const before = trust.doubt?.lockdown;
    const after = await changes.emergency.setLockdown(on, who);
    if (on || !before) return after;
    await this.#record(who, 'lockdown.off', 'all', before, null);
    trust.endLockdown();
    await this.#inForce();
    return after;
  }
  /** The store as it is now counts, whatever the kernel remembers of another. */
  async acceptStore(who: string): Promise<StatusView> {
    const { trust, store } = this.#p;
    trust.checkAcceptable();
    const after = { id: store.identity(), revision: store.revision() };
    await this.#record(who, 'store.accept', 'store', trust.known ?? null, after);
    await trust.accept();
    await this.#inForce();
    return this.status();
  }
  async #record(who: string, action: string, target: string, before: unknown, after: unknown): Promise<void> {
    await this.#p.audit.record({ who, action, target, before, after, outcome: 'done' });
  }
  async #inForce(): Promise<void> {
    try {
      await this.#p.engine.reconciler.inForce(IN_FORCE_MS);
    } catch (e) {
      throw new RefusedError({
        kind: 'not-in-force',
        detail: `it is decided, and not in force yet: ${e instanceof Error ? e.message : String(e)}`,
        remedy: 'see drawbridge status: it comes into force with the next pass that succeeds',
      });
    }
  }
  audit(
    limit: number,
    cursor: string | undefined,
  ): Promise<{ readonly items: readonly AuditView[]; readonly next: string | undefined }> {
    return this.#p.audit.page(limit, cursor);
  }
  scan(idOrName: string | undefined): readonly ScanView[] {
    const { engine } = this.#p;
    return idOrName === undefined
      ? this.#scans.get(...this.#key())
      : scanView(engine, [this.#find(idOrName)], false);
  }
  exportAll(): Readonly<Record<string, unknown>> {
    return this.#p.changes.transfer.export();
  }
  importAll(document: unknown, how: { replace: boolean; dryRun: boolean }, who: string) {
    return this.#p.changes.transfer.import(document, how, who);
  }
  syncLists(
    owner: string,
    bodies: Readonly<Record<string, unknown>>,
    how: { adopt: boolean; dryRun: boolean },
    who: string,
  ) {
    return this.#p.changes.transfer.sync(owner, bodies, how, who);
  }
  nodes(): Promise<readonly NodeView[]> {
    return this.#p.fleet.refresh();
  }
  async forgetNode(name: string, who: string): Promise<void> {
    const before = this.#p.fleet.nodes.find((n) => n.node === name) ?? null;
    if (!(await this.#p.beats.forget(name)))
      throw new RefusedError({
        kind: 'not-found',
        detail: `there is no host ${name}`,
        remedy: 'see drawbridge nodes',
      });
    await this.#p.audit.record({
      who,
      action: 'node.forget',
      target: name,
      before,
      after: null,
      outcome: 'done',
    });
  }
  tokens(): readonly Token[] {
    return this.#p.changes.tokens.list();
  }
  createToken(name: string, role: Role, forMs: number | undefined, who: string) {
    return this.#p.changes.tokens.create(name, role, forMs, who);
  }
  revokeToken(name: string, who: string): Promise<void> {
    return this.#p.changes.tokens.revoke(name, who);
  }
  lists(): readonly ListView[] {
    return this.#p.changes.lists();
  }
  list(name: string): ListView {
    return this.#p.changes.list(name);
  }
  putList(name: string, body: unknown, ifMatch: number | undefined, who: string): Promise<ListView> {
    return this.#p.changes.putList(name, body, ifMatch, who);
  }
  deleteList(name: string, ifMatch: number | undefined, who: string): Promise<void> {
    return this.#p.changes.deleteList(name, ifMatch, who);
  }
  addEntry(list: string, entry: unknown, ifMatch: number | undefined, who: string): Promise<ListView> {
    return this.#p.changes.addEntry(list, entry, ifMatch, who);
  }
  removeEntry(list: string, canonical: string, ifMatch: number | undefined, who: string): Promise<ListView> {
    return this.#p.changes.removeEntry(list, canonical, ifMatch, who);
  }

  feeds(): readonly FeedView[] {
    return this.#p.feeds.views();
  }
  syncFeed(name: string, how: SyncHow, who: string): Promise<FeedSync> {
    const { feeds, audit } = this.#p;
    return syncAudited(audit, name, how, who, () => feeds.sync(name, how));
  }
  threat(addressOrName: string): ThreatView {
    return this.#p.feeds.check(addressOrName);
  }

  explain(idOrName: string, to: string): ExplainView {
    return explainView(this.#p.engine, this.#p.said(), this.#find(idOrName), to);
  }

  async preview(idOrName: string, to: Mode | 'auto'): Promise<PreviewView> {
    const found = this.#find(idOrName);
    await this.refreshCounts();
    return previewView(this.#p.engine, found, to);
  }

  async plan(): Promise<readonly string[]> {
    return (await this.#plan.get()).value;
  }

  /** A plan that a pass has overtaken shows what is being done already: it is made again. */
  async #readPlan(): Promise<readonly string[]> {
    const { engine } = this.#p;
    for (let n = 1; ; n++) {
      const before = engine.reconciler.resting;
      const plan = await engine.kernel.planForReaders(await engine.enforcer.wanted());
      const isOvertaken = before === undefined || engine.reconciler.resting !== before;
      if (n === PLAN_TRIES || !isOvertaken)
        return plan.stages.flat().flatMap((step) => [`# ${step.tool}`, ...step.script.trimEnd().split('\n')]);
      await yieldTo(this.#isBusy);
    }
  }

  readonly #isBusy = (): boolean => this.#p.engine.reconciler.resting === undefined;

  denials(
    idOrName: string | undefined,
    limit: number,
    isWanted: (e: DenialEvent) => boolean = () => true,
  ): readonly DenialEvent[] {
    const id = idOrName === undefined ? undefined : this.#find(idOrName).id;
    const wanted = this.#p.engine.denials.recent(id, MOST_DENIALS).filter(isWanted);
    return wanted.slice(0, limit).map((e) => this.#named(e));
  }

  onEvent(listener: (e: DenialEvent) => void): Disposable {
    return this.#p.engine.denials.onEvent((e) => listener(this.#named(e)));
  }

  async teardown(who: string): Promise<void> {
    await recordTeardown(this.#p.audit, this.#p.node, who);
    return this.#p.teardown();
  }

  #named(e: DenialEvent): DenialEvent {
    return { ...e, container: this.#p.engine.docker.view().containers.get(e.container)?.name ?? e.container };
  }

  #running(): ContainerFacts[] {
    return [...this.#p.engine.docker.view().containers.values()]
      .filter((c) => c.state !== 'exited' && c.state !== 'created')
      .sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  #find(idOrName: string): ContainerFacts {
    return findContainer(this.#p.engine.docker.view().containers.values(), idOrName);
  }
}
