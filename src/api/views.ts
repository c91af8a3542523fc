import type { Changes } from '../changes/changes.js';
import { findContainer } from '../changes/container-changes.js';
import type { AppliedRevision } from '../changes/current-overrides.js';
import { keptOf } from '../changes/current-overrides.js';
import type { Fleet, NodeRecord } from '../changes/fleet.js';
import { DOUBT_REMEDY, type StoreTrust } from '../changes/store-trust.js';
import type { Config } from '../config/config.js';
import type { ConnectionChecks } from '../connections/connection-checks.js';
import { containerState } from '../coverage/coverage.js';
import { explainContainer } from '../coverage/explain.js';
import type { ExplainView } from '../coverage/explain-request.js';
import { type ScanView, scanView } from '../coverage/scan.js';
import type { Readiness } from '../enforce/health.js';
import type { EnforcementPass } from '../enforce/pass.js';
import type { Overrides } from '../enforce/policies.js';
import type { Reconciler } from '../enforce/reconciler.js';
import type { Denials } from '../flows/denials.js';
import type { FlowStore } from '../flows/flow-store.js';
import type { PassedFlows } from '../flows/passed-flows.js';
import { outOfDescriptors } from '../kernel/exec.js';
import type { Faults } from '../lib/faults.js';
import type { Logger } from '../lib/log.js';
import { SharedRead, type Turns, yieldTo } from '../lib/shared-read.js';
import { VERSION } from '../lib/version.js';
import type { Canary } from '../ops/canary.js';
import type { ContainerFacts } from '../policy/container.js';
import { worstOf } from '../policy/finding.js';
import { composeOf, ownerKey } from '../policy/own-labels.js';
import type { Lockdown } from '../policy/policy.js';
import { BROKEN_LABEL, MISSING_LIST } from '../policy/policy.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { SharedStore, Store } from '../store/store-interface.js';
import type { Recorded } from '../suggest/needs.js';
import { type PreviewRequest, type PreviewView, previewView } from '../suggest/preview.js';
import { type Suggestion, type SuggestionRequest, suggestFor } from '../suggest/suggest.js';
import type { Feeds } from '../threats/feed-service.js';
import { type ContainerParts, containerBody } from './container-body.js';
import type { ContainerBody, Status } from './schemas.js';

/** The parts of the service from which the views are computed. */
export interface ViewParts extends ContainerParts {
  readonly node: string;
  readonly changes: Changes;
  readonly store: Store;
  readonly storeKind: SharedStore['kind'];
  readonly trust: StoreTrust;
  readonly fleet: Fleet;
  readonly feeds: Feeds;
  readonly faults: Faults;
  readonly lastRun: { readonly warning: string | undefined };
  readonly appliedRevision: AppliedRevision;
  readonly reconciler: Reconciler;
  readonly enforcer: EnforcementPass;
  readonly overrides: () => Overrides;
  readonly health: {
    readonly readiness: Readiness;
    /** What works less well than it should on this host; undefined when nothing does. */
    readonly degraded: string | undefined;
    readonly lastRepair: string | null;
  };
  readonly checks: Pick<ConnectionChecks, 'counts'>;
  readonly canary: Pick<Canary, 'result'>;
  /** What does not report as it is configured. */
  readonly reportingFaults: () => readonly string[];
  readonly config: Pick<Config, 'canary' | 'default'>;
  readonly passed: Pick<PassedFlows, 'settled'>;
  readonly flows: Pick<FlowStore, 'restored'>;
  readonly denials: Pick<Denials, 'counted'>;
  /** Readings of the kernel on behalf of clients take turns. */
  readonly turns: Turns;
}

/** At least this time passes between the starts of two plans that are made for clients. */
const PLAN_GAP_MS = 100;
const PLAN_TRIES = 3;
const COUNTS_MS = 60_000;

/** What the API shows of the service: status, containers, findings, explanations, previews and the plan. */
export class Views {
  readonly #p: ViewParts;
  readonly #containers: Paced<readonly ContainerBody[]>;
  readonly #scans: Paced<readonly ScanView[]>;
  readonly #plan: SharedRead<readonly string[]>;
  /** The state and the counters that were recorded last. */
  #recorded: readonly unknown[] = [];

  constructor(parts: ViewParts) {
    this.#p = parts;
    this.#containers = new Paced(() =>
      this.#running().map((c) => containerBody(parts, parts.overrides(), c)),
    );
    this.#scans = new Paced(() => scanView(parts, this.#running(), true));
    this.#plan = new SharedRead({
      read: () => this.#readPlan(),
      maxAgeMs: 0,
      gapMs: PLAN_GAP_MS,
      turns: parts.turns,
    });
  }

  /**
   * Read the counters that the views show, unless they were read within the last second, and return when they were read.
   * With `mayBeOld` the previous reading is enough while many clients wait for the next one.
   */
  async refreshCounts(mayBeOld = false): Promise<number> {
    const { counts, applied, passed, flows } = this.#p;
    const before = counts.at;
    await Promise.all([counts.refresh(mayBeOld), passed.settled(), flows.restored()]);
    const state = applied.value;
    if (counts.at !== before && state) this.#record(state);
    return counts.at;
  }

  /** Resolves when the connections until now are recorded, or after a second. */
  settled(): Promise<void> {
    return this.#p.passed.settled();
  }

  /** Reads the counters now and every minute: those of rules that are installed again begin at zero. */
  followCounts(log: Pick<Logger, 'debug'>): Disposable {
    const read = (): void =>
      void this.refreshCounts().catch((e: unknown) =>
        log.debug({ err: String(e) }, 'counters could not be read'),
      );
    read();
    const timer = setInterval(read, COUNTS_MS);
    return { [Symbol.dispose]: () => clearInterval(timer) };
  }

  /** What a container has counted depends on the counters and on the state only: if both are the same objects, it is recorded. */
  #record(state: AppliedState): void {
    const { counts, denials } = this.#p;
    const from = [state, ...counts.values];
    if (from.length === this.#recorded.length && from.every((part, n) => part === this.#recorded[n])) return;
    this.#recorded = from;
    denials.counted(counts.of(state), counts.at);
  }

  status(): Status {
    const { node, store, storeKind, fleet, feeds, changes, reconciler, applied, health, checks, canary } =
      this.#p;
    const { at } = canary.result;
    const all = this.containers();
    const { ok, detail } = store.health();
    const kept = keptOf(this.#p.overrides(), this.#p.docker.view().containers.values());
    return {
      version: VERSION,
      node,
      ...census(all),
      paused: all.filter((c) => c.modeSource.kind === 'pause').length,
      ...temporary(all),
      lockdown: this.lockdown() ?? null,
      threats: feeds.status(),
      kernel: {
        inSync: reconciler.inSync && applied.value !== undefined,
        ...this.ready(),
        lastRepair: health.lastRepair,
      },
      canary: { ...canary.result, at: at === null ? null : new Date(at).toISOString() },
      connections: checks.counts ?? null,
      store: { kind: storeKind, ok, detail, unwritten: changes.unwritten.list() },
      fleet: { nodes: fleet.nodes.length, stale: fleet.stale },
      kept,
      warnings: [
        this.#doubt(),
        health.degraded,
        this.#p.lastRun.warning,
        ...renamedTexts(kept, all),
        ...this.#p.reportingFaults(),
      ].filter((w) => w !== undefined),
    };
  }

  /** The answer of /readyz. A resource that ran out counts until the kernel has been read again. */
  ready(): Readiness {
    const { health, faults } = this.#p;
    const pending = health.readiness.ready ? (faults.pending ?? outOfDescriptors()) : undefined;
    if (pending !== undefined) return { ready: false, reason: pending };
    const { ready, reason } = health.readiness;
    const unproven = ready ? this.#unproven() : undefined;
    if (unproven !== undefined) return { ready: false, reason: unproven };
    const doubt = ready ? this.#doubt() : undefined;
    const { length } = this.#p.reportingFaults(); // not their texts: this is read without a token
    const unreported = length > 0 ? `${length} errors in what reports: see drawbridge status` : undefined;
    return { ready, reason: [reason, doubt, unreported].filter((w) => w !== undefined).join('; ') };
  }

  /** Why the canary has not proven that the rules work. Undefined if it has, or need not. */
  #unproven(): string | undefined {
    const { config, canary } = this.#p;
    const { ok, detail } = canary.result;
    return config.canary.ready && ok !== true ? `canary: ${detail}` : undefined;
  }

  lockdown(): Lockdown | undefined {
    return this.#p.overrides().lockdown;
  }

  /** The same array until something that it shows has changed, and for one second at most. */
  containers(): readonly ContainerBody[] {
    return this.#containers.get(...this.#key());
  }

  /** What this host reports of its containers to the others of its store. It is computed for each heartbeat, and costs less than the views. */
  census(): ReturnType<typeof nodeCensus> {
    return nodeCensus(
      this.#running().map((c) => {
        const { mode, findings } = containerState(this.#p, c);
        return { mode, findings, coverage: { state: worstOf(findings) } };
      }),
    );
  }

  container(idOrName: string): ContainerBody {
    return containerBody(this.#p, this.#p.overrides(), this.#find(idOrName));
  }

  /** `idOrName` undefined: all containers that run, and the host. */
  scan(idOrName: string | undefined): readonly ScanView[] {
    return idOrName === undefined
      ? this.#scans.get(...this.#key())
      : scanView(this.#p, [this.#find(idOrName)], false);
  }

  explain(idOrName: string, to: string): ExplainView {
    return explainContainer(this.#p, this.#p.overrides(), this.#find(idOrName), to);
  }

  /** What this mode, or a candidate list, would deny the container. Nothing is changed. */
  async preview(
    idOrName: string,
    to: PreviewRequest,
    recordOf: (owner: string) => Promise<Recorded | undefined>,
  ): Promise<PreviewView> {
    const found = this.#find(idOrName);
    const holder = (found.sharesWith && this.#p.docker.view().containers.get(found.sharesWith)) || found;
    // Connections that are open now are recorded first.
    await this.refreshCounts();
    const view = await previewView(this.#p, holder, to, await recordOf(ownerKey(holder)));
    return { ...view, container: found.name };
  }

  /** What a container was seen to use, as a policy. Nothing is changed. */
  suggestion(request: SuggestionRequest): Promise<Suggestion> {
    return suggestFor(this.#p, this.#p.overrides(), request);
  }

  async plan(): Promise<readonly string[]> {
    return (await this.#plan.get()).value;
  }

  /** Read the plan again if a pass ran meanwhile: it would show changes that the pass is already making. */
  async #readPlan(): Promise<readonly string[]> {
    const { reconciler, kernel, enforcer } = this.#p;
    for (let n = 1; ; n++) {
      const before = reconciler.resting;
      const plan = await kernel.planForReaders(await enforcer.wanted());
      const isOvertaken = before === undefined || reconciler.resting !== before;
      if (n === PLAN_TRIES || !isOvertaken)
        return plan.stages.flat().flatMap((step) => [`# ${step.tool}`, ...step.script.trimEnd().split('\n')]);
      await yieldTo(() => reconciler.resting === undefined);
    }
  }

  /** The reason and the remedy while the store is in doubt. */
  #doubt(): string | undefined {
    const { doubt } = this.#p.trust;
    return doubt && `${doubt.reason}: nothing gets looser until a person decides: ${DOUBT_REMEDY}`;
  }

  /** The values that a change through the API moves, and the other values that the views depend on. */
  #key(): [readonly unknown[], readonly unknown[]] {
    const { store, appliedRevision, applied, docker, counts } = this.#p;
    return [
      [store.revision(), appliedRevision.value],
      [applied.value, docker.view(), counts.at],
    ];
  }

  #running(): ContainerFacts[] {
    return [...this.#p.docker.view().containers.values()]
      .filter((c) => c.state !== 'exited' && c.state !== 'created')
      .sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  #find(idOrName: string): ContainerFacts {
    return findContainer(this.#p.docker.view().containers.values(), idOrName);
  }
}

const MAX_AGE_MS = 1_000;
/** While no change was made through the API, at most one tenth of the time is spent on computing a view. */
const SHARE = 10;

type Key = readonly unknown[];
const isSame = (a: Key, b: Key): boolean => a.every((part, i) => part === b[i]);

/**
 * A computed value that many clients share. It is computed again at once when a value of `changed` is another one. When a
 * value of `moved` is another one, it is computed again as often as its cost allows, and after one second at the latest,
 * because DNS queries and packets in the NFQUEUE wait on the same event loop.
 */
export class Paced<T> {
  readonly #compute: () => T;
  readonly #now: () => number;
  #last:
    | {
        readonly value: T;
        readonly changed: Key;
        readonly moved: Key;
        readonly at: number;
        readonly tookMs: number;
      }
    | undefined;

  constructor(compute: () => T, now: () => number = () => performance.now()) {
    this.#compute = compute;
    this.#now = now;
  }

  get(changed: Key, moved: Key): T {
    const last = this.#last;
    if (last && isSame(changed, last.changed)) {
      const age = this.#now() - last.at;
      const pause = Math.min(last.tookMs * SHARE, MAX_AGE_MS);
      if (age < (isSame(moved, last.moved) ? MAX_AGE_MS : pause)) return last.value;
    }
    const begun = this.#now();
    const value = this.#compute();
    const at = this.#now();
    this.#last = { value, changed, moved, at, tookMs: at - begun };
    return value;
  }
}

interface Counted extends Pick<ContainerBody, 'mode' | 'findings'> {
  readonly coverage: Pick<ContainerBody['coverage'], 'state'>;
}

/** Containers by mode, and the coverage of those in mode enforce. */
export function census(
  all: readonly Counted[],
): Pick<
  Status,
  'containers' | 'enforced' | 'observed' | 'off' | 'coverage' | 'labelErrors' | 'missingLists'
> {
  const inMode = (mode: Counted['mode']): Counted[] => all.filter((c) => c.mode === mode);
  const having = (code: string): number => all.filter((c) => c.findings.some((f) => f.code === code)).length;
  const enforced = inMode('enforce');
  return {
    containers: all.length,
    enforced: enforced.length,
    observed: inMode('observe').length,
    off: inMode('off').length,
    coverage: coverageCounts(enforced),
    labelErrors: having(BROKEN_LABEL),
    missingLists: having(MISSING_LIST),
  };
}

/** Containers on trial, with the end of the trial that ends first, and those that a candidate list is evaluated for. */
function temporary(all: readonly ContainerBody[]): Pick<Status, 'trials' | 'trialUntil' | 'evaluated'> {
  const ends = all.flatMap((c) => c.trialUntil ?? []).sort();
  const evaluated = all.filter((c) => c.against !== null).length;
  return { trials: ends.length, trialUntil: ends[0] ?? null, evaluated };
}

/** What a host reports of its containers: `partial` and `unenforced` count the containers of every mode. */
export function nodeCensus(
  all: readonly Counted[],
): Pick<NodeRecord, 'containers' | 'enforced' | 'fullyEnforced' | 'observed' | 'partial' | 'unenforced'> {
  const { containers, enforced, observed, coverage } = census(all);
  const { partial, unenforced } = coverageCounts(all);
  return { containers, enforced, fullyEnforced: coverage.enforced, observed, partial, unenforced };
}

function coverageCounts(of: readonly Counted[]): Status['coverage'] {
  const count = (state: Counted['coverage']['state']): number =>
    of.filter((c) => c.coverage.state === state).length;
  return { enforced: count('enforced'), partial: count('partial'), unenforced: count('unenforced') };
}

/** A service that was enforced by command may be observed under another name. */
function renamedTexts({ owners }: Status['kept'], all: readonly ContainerBody[]): readonly string[] {
  return owners.flatMap(({ owner, hasProject, mode }) => {
    const { project, service } = composeOf(owner) ?? {};
    if (!hasProject || mode !== 'enforce') return [];
    const others = all.filter((c) => c.compose?.project === project && c.mode !== 'enforce');
    const unset = others.filter((c) => c.modeSource.kind === 'default').map((c) => c.name);
    if (unset.length === 0) return [];
    const shown = unset.slice(0, SHOWN).join(', ');
    const more = unset.length > SHOWN ? ` and ${unset.length - SHOWN} more` : '';
    return [
      `mode enforce was set by command for ${project}/${service}, which has no container now, while ${shown}${more} of its project ${unset.length === 1 ? 'is' : 'are'} not enforced: if it was renamed, drawbridge mode NAME enforce; drawbridge mode ${project}/${service} auto forgets it`,
    ];
  });
}
const SHOWN = 3;
