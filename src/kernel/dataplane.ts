import type { Family } from '../lib/ip.js';
import { ARP_PROGRAM, backstopProgram } from '../ruleset/backstop-table.js';
import { bridgeProgram } from '../ruleset/bridge-table.js';
import type { DesiredState, KernelConfig, TableDesired } from '../ruleset/desired-state.js';
import { identityProgram, queueProgram } from '../ruleset/host-identity.js';
import { type Delta, withChanges } from '../ruleset/recompile.js';
import { TABLE } from '../ruleset/render/iptables.js';
import { applyPlan, type Plan, planDelta, planSteps } from './apply.js';
import type { Exec } from './exec.js';
import { savedSet } from './ipset-text.js';
import {
  hooksByPlace,
  type SavedRule,
  type SavedTable,
  type SavedTables,
  savedChain,
  savedHooks,
} from './iptables-text.js';
import type { IndexOf } from './nft-parse.js';
import { type ObservedProgram, programTags } from './nft-text.js';
import { type HostRules, hasNoRules, type Observed, type ObservedRules, observe } from './read-rules.js';

export interface Applied {
  readonly changed: boolean;
  /** Sets created since the last successful apply: the ledger and the feeds must add their members again. */
  readonly refill: readonly string[];
  /** The kernel was read before this apply, and another process had changed what was last applied. */
  readonly repaired: boolean;
}

const NOTHING = JSON.stringify([]);

/** Applies a desired state by its difference to the known state of the kernel. */
export class Dataplane {
  readonly #run: Exec;
  readonly #shape: KernelConfig;
  readonly #indexOf: IndexOf;
  readonly #hasCgroup: (path: string) => boolean;
  /** The known state of the kernel. Undefined when it must be read first. */
  #observed: Observed | undefined;
  /** The last applied state, and the steps that had to be left out because the cgroups of their rules were removed. */
  #last: { readonly desired: DesiredState; readonly left: string } | undefined;
  /** A reading that began before it was needed. */
  #ahead: { readonly observed: Promise<Observed>; readonly isCurrent: () => boolean } | undefined;
  /** Another process changed the rules, and no apply has succeeded since. */
  #tampered = false;
  /** Sets that were created by an apply that failed later, so that its caller does not know that they must be filled. */
  readonly #made = new Set<string>();

  constructor(
    run: Exec,
    shape: KernelConfig,
    indexOf: IndexOf,
    hasCgroup: (path: string) => boolean = () => true,
  ) {
    this.#run = run;
    this.#shape = shape;
    this.#indexOf = indexOf;
    this.#hasCgroup = hasCgroup;
  }

  /** Another process may have changed something: the next apply reads the kernel first. */
  invalidate(): void {
    this.#observed = undefined;
  }

  /** The rules of other programs in the known state. Undefined when the kernel must be read first. */
  hostRules(): HostRules | undefined {
    const { tables, nftTables } = this.#observed ?? {};
    if (!tables) return undefined;
    const filters = new Map([...tables].map(([family, saved]) => [family, saved.get('filter') ?? new Map()]));
    return { filters, nftTables };
  }

  /**
   * Begins to read the kernel next to other work of a start. The next `read` returns the result if `generation`, the kernel's count of
   * changes of nf_tables, is still the same then; otherwise it reads again. The count does not show changes of iptables-legacy: do not
   * call it there. Nor does it show members of sets, which another process could also change right after any reading. `known`: the rules
   * as they were at a generation.
   */
  readAhead(
    generation: () => number | undefined,
    known?: { readonly rules: ObservedRules; readonly at: number | undefined },
  ): void {
    const now = (): number | undefined => {
      try {
        return generation();
      } catch {
        return undefined; // `read` reads itself, and fails with the reason if that does not work either
      }
    };
    const before = known ? known.at : now();
    if (before === undefined) return;
    const observed = observe(this.#run, this.#shape.prefix, this.#indexOf, known?.rules);
    observed.catch(() => undefined); // `read` reads again
    this.#ahead = { observed, isCurrent: () => now() === before };
  }

  async read(): Promise<Observed> {
    const ahead = this.#ahead;
    this.#ahead = undefined;
    const early = await ahead?.observed.catch(() => undefined);
    this.#observed = early && ahead?.isCurrent() ? early : await this.observe();
    return this.#observed;
  }

  /** What the kernel holds now; `run` reads it. What an apply starts from stays as it is. */
  observe(run: Exec = this.#run): Promise<Observed> {
    return observe(run, this.#shape.prefix, this.#indexOf);
  }

  /** The steps of an apply from what was observed, without those of the sets with these names. Nothing is changed. */
  planFrom(observed: Observed, desired: DesiredState, without: Iterable<string> = []): Plan {
    const left = new Map([...without].map((name) => [name, undefined]));
    const among = <T extends { readonly sets: ReadonlyMap<string, object> }>(all: T): T => ({
      ...all,
      sets: withChanges(all.sets, left),
    });
    return planSteps(this.#shape, among(desired), among(observed));
  }

  /** The steps of an apply from what the kernel holds now. */
  async plan(desired: DesiredState, run?: Exec): Promise<Plan> {
    return this.planFrom(await this.observe(run), desired);
  }

  /** The known state is that of the last desired one, whole: then only what differs between the two is compared. */
  #sinceLast(delta: Delta | undefined): Delta | undefined {
    const isKnown = this.#observed !== undefined && this.#last?.left === NOTHING;
    return isKnown && this.#last?.desired === delta?.base ? delta : undefined;
  }

  /** After a failure, the next call reads the kernel again and continues from its state. */
  async apply(
    desired: DesiredState,
    beforeBinding: () => Promise<void> = async () => undefined,
    delta?: Delta,
  ): Promise<Applied> {
    const fresh = this.#observed === undefined;
    const since = this.#sinceLast(delta);
    const observed = this.#observed ?? (await this.read());
    const plan = since
      ? planDelta(this.#shape, desired, observed, since)
      : planSteps(this.#shape, desired, observed, this.#last === undefined && hasNoRules(observed));
    this.#tampered ||= fresh && this.#isTampered(observed);
    this.#observed = undefined;
    for (const set of plan.refill) this.#made.add(set);
    const isComplete = await applyPlan(this.#run, plan, { beforeBinding, hasCgroup: this.#hasCgroup });
    const expected = (): Observed =>
      since ? expectedAfterDelta(desired, observed, since) : expectedAfter(this.#shape, desired, observed);
    const reached = isComplete ? expected() : await this.read();
    this.#observed = reached;
    const changed = plan.stages.length > 0;
    const repaired = this.#tampered;
    this.#tampered = false;
    this.#last = { desired, left: isComplete ? NOTHING : this.#stepsTo(desired, reached) };
    const refill = [...this.#made].filter((set) => desired.sets.has(set));
    this.#made.clear();
    return { changed, refill, repaired };
  }

  #isTampered(observed: Observed): boolean {
    return this.#last !== undefined && this.#stepsTo(this.#last.desired, observed) !== this.#last.left;
  }

  #stepsTo(desired: DesiredState, observed: Observed): string {
    return JSON.stringify(planSteps(this.#shape, desired, observed).stages);
  }
}

/** Predicts the state of the kernel after a plan has run without error. This saves reading it after every change. */
export function expectedAfter(shape: KernelConfig, desired: DesiredState, before: Observed): Observed {
  return {
    tables: new Map(([4, 6] as const).map((f) => [f, tablesAfter(f, desired, before, shape.prefix)])),
    sets: new Map([...desired.sets].map(([name, s]) => [name, savedSet(s)])),
    bridge: {
      exists: true,
      rules: programTags(shape, bridgeProgram(shape)),
      elements: desired.bridge,
    },
    backstop: { exists: true, rules: programTags(shape, backstopProgram(shape, desired.hostNet)) },
    arp: { exists: true, rules: programTags(shape, ARP_PROGRAM) },
    identity: identityAfter(shape, desired, before),
    ...(before.nftTables === undefined ? {} : { nftTables: before.nftTables }),
  };
}

/** Without rules the table is not created; one that exists stays. */
function identityAfter(shape: KernelConfig, desired: DesiredState, before: Observed): ObservedProgram {
  const queue = queueProgram(desired.identity);
  const programs = [identityProgram(desired.identity, shape), ...(queue === undefined ? [] : [queue])];
  const rules = programs.flatMap((program) => programTags(shape, program));
  return { exists: before.identity.exists || rules.length > 0, rules };
}

/** The same for a plan of what differs from the last desired state. */
export function expectedAfterDelta(desired: DesiredState, before: Observed, delta: Delta): Observed {
  const changed = [...delta.sets].map((name) => {
    const set = desired.sets.get(name);
    return [name, set && savedSet(set)] as const;
  });
  const tables = new Map(before.tables);
  for (const { family, layer, chains } of desired.tables) {
    const names = delta.chains.get(family) ?? new Set();
    if (layer !== 'verdict' || names.size === 0) continue;
    const written = [...names].map((name) => [name, savedChain(chains.get(name) ?? [], family)] as const);
    const filter = withChanges(tables.get(family)?.get(TABLE[layer]) ?? new Map(), new Map(written));
    tables.set(family, new Map(tables.get(family) ?? []).set(TABLE[layer], filter));
  }
  return { ...before, sets: withChanges(before.sets, new Map(changed)), tables };
}

function tablesAfter(family: Family, desired: DesiredState, before: Observed, prefix: string): SavedTables {
  const tables = new Map(before.tables.get(family) ?? []);
  for (const t of desired.tables.filter((d) => d.family === family))
    tables.set(TABLE[t.layer], tableAfter(t, tables.get(TABLE[t.layer]) ?? new Map(), prefix));
  return tables;
}

function tableAfter(t: TableDesired, before: SavedTable, prefix: string): SavedTable {
  const foreign = [...before].filter(([c]) => !c.startsWith(`${prefix}-`));
  const after = new Map<string, readonly SavedRule[]>(
    foreign.map(([c, rules]) => [c, rules.filter((r) => r.hash === undefined)]),
  );
  for (const [place, hooks] of hooksByPlace(t, before))
    after.set(place, [...savedHooks(hooks, t.family, prefix), ...(after.get(place) ?? [])]);
  for (const [chain, rules] of t.chains) after.set(chain, savedChain(rules, t.family));
  return after;
}
