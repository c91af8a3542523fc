import { setTimeout as sleep } from 'node:timers/promises';
import { allEnded } from '../lib/async.js';
import type { Family } from '../lib/ip.js';
import { ARP_PROGRAM, backstopProgram } from '../ruleset/backstop-table.js';
import type { DesiredState, KernelConfig } from '../ruleset/desired-state.js';
import { identityProgram, QUEUE, queueProgram } from '../ruleset/host-identity.js';
import type { Delta } from '../ruleset/recompile.js';
import type { TableName } from '../ruleset/render/iptables.js';
import { type Exec, must } from './exec.js';
import { diffSets } from './ipset-text.js';
import { diffFamily, RESTORE, restoreScript, type TableEdit } from './iptables-text.js';
import { bridgeScript, closingScript, hasOurLayout, programScript } from './nft-text.js';
import type { Observed } from './read-rules.js';

/** One run of one kernel tool with its input. A plan is a list of these, and can be printed. */
export interface Step {
  readonly tool: 'ipset' | 'iptables-restore' | 'ip6tables-restore' | 'nft';
  readonly script: string;
}
export interface Plan {
  /** Stages run one after the other; the steps of a stage side by side. */
  readonly stages: readonly (readonly Step[])[];
  /** The number of stages at the start that fill the sets which keep other endpoints from opening flows to their addresses. */
  readonly blockingStages: number;
  /** Timed sets that are new and empty. */
  readonly refill: readonly string[];
  /** After so many stages DNS queries are redirected, where nothing was closed before: what was looked up earlier still connects. */
  readonly redirectingStages?: number;
}

/** Tighten first, loosen last: marks of another layout → members out → sets in → rules → ports to identities → sets that nothing uses. */
export function planSteps(
  shape: KernelConfig,
  desired: DesiredState,
  observed: Observed,
  open = false,
): Plan {
  const sets = diffSets(desired.sets, observed.sets);
  const tables = FAMILIES.map((f) => tableSteps(f, desired, observed, shape.prefix, open));
  const backstop = [
    programScript(shape, ARP_PROGRAM, observed.arp),
    programScript(shape, backstopProgram(shape, desired.hostNet), observed.backstop),
  ].join('');
  const identity = identityScripts(shape, desired.identity, observed.identity).map(nftStep);
  const bridge = bridgeScript(shape, desired.bridge, observed.bridge);
  const withCgroups = (names: readonly TableName[]): Step[][] =>
    names.map((name) => tables.flatMap((t) => t.withCgroups.get(name) ?? []));
  // the rules of iptables rely on its marks; installed alone, it only adds marks
  const isMissing = observed.identity.rules.length === 0;
  // Without it packets of containers have no mark: the rules drop new ones, or know them by the sets of addresses, which may become empty.
  const isBridgeFirst = open || (observed.bridge.rules.length === 0 && isWithoutIdentities(desired));
  const blocking = [
    closingSteps(shape, observed),
    nftStep(isBridgeFirst ? bridge : ''),
    ipsetStep(sets.tighten + sets.loosen),
  ].filter(isSome);
  const early = open ? 1 : 0;
  const redirecting = [
    tables.flatMap((t) => t.early),
    ...withCgroups(BEFORE_IDENTITY.slice(0, early)),
  ].filter(isSome);
  const stages = [
    ...blocking,
    ...redirecting,
    ...(isMissing ? identity : []),
    tables.flatMap((t) => t.plain),
    ...withCgroups(BEFORE_IDENTITY.slice(early)),
    ...(isMissing ? [] : identity),
    ...withCgroups(WITH_IDENTITY),
    nftStep(backstop),
    nftStep(isBridgeFirst ? '' : bridge),
    ipsetStep(sets.destroy),
  ];
  return {
    stages: stages.filter(isSome),
    blockingStages: blocking.length,
    refill: sets.refill,
    ...(open ? { redirectingStages: blocking.length + redirecting.length } : {}),
  };
}

/** Whether no veth gets an identity, as in the closed base: the rules of an identity must be installed before a veth gets it. */
const isWithoutIdentities = ({ bridge: { id4, id6 } }: DesiredState): boolean => id4.size + id6.size === 0;

/** The queue first, so that no packet of an unknown sender comes to an empty chain. */
function identityScripts(
  shape: KernelConfig,
  desired: DesiredState['identity'],
  observed: Observed['identity'],
): string[] {
  const queue = queueProgram(desired);
  if (queue === undefined) return [programScript(shape, identityProgram(desired, shape), observed)];
  const isQueue = (rule: string): boolean => rule.startsWith(`${QUEUE} `);
  const rules = (of: boolean): string[] => observed.rules.filter((r) => isQueue(r) === of);
  return [
    programScript(shape, queue, { ...observed, rules: rules(true) }),
    programScript(shape, identityProgram(desired, shape), { ...observed, rules: rules(false) }),
  ];
}

/** The steps to a desired state that differs from the observed one in these sets and chains only. */
export function planDelta(
  shape: KernelConfig,
  desired: DesiredState,
  observed: Observed,
  delta: Delta,
): Plan {
  const sets = diffSets(among(desired.sets, delta.sets), among(observed.sets, delta.sets));
  const tables = FAMILIES.map((family) => {
    const names = delta.chains.get(family) ?? new Set();
    const filter = desired.tables.filter((t) => t.layer === 'verdict' && t.family === family);
    const wanted = filter.map((t) => ({ ...t, chains: among(t.chains, names), hooks: [] }));
    const installed = among(observed.tables.get(family)?.get('filter') ?? new Map(), names);
    return diffFamily(wanted, new Map([['filter', installed]]), shape.prefix);
  });
  const blocking = [ipsetStep(sets.tighten + sets.loosen)].filter(isSome);
  const rules = tables.flatMap((edits, i) =>
    edits.length === 0 ? [] : [restoreStep(FAMILIES[i] as Family, edits)],
  );
  const stages = [...blocking, rules, ipsetStep(sets.destroy)].filter(isSome);
  return { stages, blockingStages: blocking.length, refill: sets.refill };
}

function among<T>(all: ReadonlyMap<string, T>, names: ReadonlySet<string>): ReadonlyMap<string, T> {
  const found = new Map<string, T>();
  for (const name of names) {
    const one = all.get(name);
    if (one !== undefined) found.set(name, one);
  }
  return found;
}

/** Marks of another layout would be read as other containers': nothing passes while they are exchanged. */
function closingSteps(shape: KernelConfig, { bridge }: Observed): Step[] {
  if (bridge.rules.length === 0 || hasOurLayout(shape, bridge)) return [];
  return [{ tool: 'nft', script: closingScript() }];
}

const isSome = (stage: readonly Step[]): boolean => stage.length > 0;
const nftStep = (script: string): Step[] => (script ? [{ tool: 'nft', script }] : []);
const ipsetStep = (script: string): Step[] => (script ? [{ tool: 'ipset', script }] : []);

const FAMILIES = [4, 6] as const;
/**
 * The order in which the rules of a sender may be added. `mangle` assigns the mark, or the table of nft that identifies senders, so
 * that both come after the tables that act on the mark. `raw` assigns the conntrack zone and comes last: it lets the datagrams of a socket pass one by
 * one. If they were queued in `mangle`, each would get a flow of its own, and perhaps a NAT port of its own. `nat` comes first: `filter` refuses queries
 * that are not led to our resolver yet.
 */
const BEFORE_IDENTITY: readonly TableName[] = ['nat', 'filter', 'security'];
const WITH_IDENTITY: readonly TableName[] = ['mangle', 'raw'];
const CGROUP = / --path (\S+) /;

interface TableSteps {
  /** `nat`, where nothing was closed before: `filter` would refuse the connection that follows a query which another resolver answers. */
  readonly early: readonly Step[];
  readonly plain: readonly Step[];
  /** Tables with rules that name cgroups, one step each: the rule of a removed cgroup fails its table, but no other table. */
  readonly withCgroups: ReadonlyMap<TableName, Step>;
}

function tableSteps(
  family: Family,
  desired: DesiredState,
  observed: Observed,
  prefix: string,
  open: boolean,
): TableSteps {
  const mine = desired.tables.filter((t) => t.family === family);
  const edits = diffFamily(mine, observed.tables.get(family) ?? new Map(), prefix);
  const isMortal = (e: TableEdit): boolean => [...e.refill.values()].flat().some((l) => CGROUP.test(l));
  const plain = edits.filter((e) => !isMortal(e));
  const nat = plain.filter((e) => e.table === 'nat');
  const others = plain.filter((e) => e.table !== 'nat');
  const restore = (some: readonly TableEdit[]): Step[] =>
    some.length === 0 ? [] : [restoreStep(family, some)];
  return {
    early: restore(open ? nat : []),
    plain: restore(open ? others : [...nat, ...others]),
    withCgroups: new Map(edits.filter(isMortal).map((e) => [e.table, restoreStep(family, [e])])),
  };
}

const restoreStep = (family: Family, edits: readonly TableEdit[]): Step => ({
  tool: RESTORE[family] as Step['tool'],
  script: restoreScript(edits),
});

export interface ApplyOptions {
  /**
   * Deletes the flows of earlier owners of an address. It starts when the sets block new flows, because a flow that
   * another endpoint opens in between would persist, and it ends before the bridge table changes.
   */
  readonly beforeBinding?: () => Promise<void>;
  /** Whether a cgroup that a rule names is there. */
  readonly hasCgroup?: (path: string) => boolean;
}

/** Lookups end in this time, and the connections to what they found begin. */
const LOOKUP_MS = 200;

/**
 * Runs a plan. Its first failure is thrown when nothing of it runs any more: the next pass continues from what it reads, and a tool that
 * still writes would repeat what that pass adds. False: rules of removed cgroups were left out.
 */
export async function applyPlan(run: Exec, plan: Plan, options: ApplyOptions = {}): Promise<boolean> {
  const { beforeBinding = async () => undefined, hasCgroup = () => true } = options;
  const complete: boolean[] = [];
  const runStage = async (stage: readonly Step[]): Promise<void> => {
    complete.push(...(await allEnded(stage.map((step) => runWithoutRemovedCgroups(run, step, hasCgroup)))));
  };
  for (const stage of plan.stages.slice(0, plan.blockingStages)) await runStage(stage);
  const ready = beforeBinding();
  const rest = async (): Promise<void> => {
    for (const [i, stage] of plan.stages.slice(plan.blockingStages).entries()) {
      if (plan.blockingStages + i === plan.redirectingStages) await sleep(LOOKUP_MS);
      if (stage.some((s) => s.tool === 'nft')) await ready;
      await runStage(stage);
    }
  };
  await allEnded([rest(), ready]);
  return complete.every(Boolean);
}

const hasExistingCgroup = (line: string, hasCgroup: (path: string) => boolean): boolean => {
  const path = CGROUP.exec(line)?.[1] ?? nftCgroup(line);
  return path === undefined || hasCgroup(path);
};
/** nft names a cgroup from another root, and gives its depth below the root of the hierarchy. */
function nftCgroup(line: string): string | undefined {
  const [, level, path] = / socket cgroupv2 level (\d+) "([^"]+)" /.exec(line) ?? [];
  return path?.split('/').slice(-Number(level)).join('/');
}

const TRIES = 5;
/** Containers exit at any time, and crash loops do so continuously: their rules must not keep out the rules of others. */
async function runWithoutRemovedCgroups(
  run: Exec,
  step: Step,
  hasCgroup: (path: string) => boolean,
): Promise<boolean> {
  let script = step.script;
  for (let n = 1; ; n++) {
    try {
      await runStep(run, { ...step, script });
      return script === step.script;
    } catch (e) {
      const living = script
        .split('\n')
        .filter((l) => hasExistingCgroup(l, hasCgroup))
        .join('\n');
      if (n === TRIES || living === script) throw e;
      script = living;
    }
  }
}

export async function runStep(run: Exec, step: Step): Promise<void> {
  const args =
    step.tool === 'ipset' ? ['restore'] : step.tool === 'nft' ? ['-f', '-'] : ['--noflush', '-w', '10'];
  await must(run, step.tool, args, { input: step.script });
}
