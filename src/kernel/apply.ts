import type { Family } from '../lib/ip.js';
import { backstopProgram } from '../ruleset/backstop-table.js';
import type { DesiredState, KernelConfig, TableName } from '../ruleset/state.js';
import { diffFamily } from './diff-tables.js';
import { type Exec, must } from './exec.js';
import { diffSets } from './ipset-text.js';
import { restoreScript, type TableEdit } from './iptables-text.js';
import { programScript } from './nft-program.js';
import { bridgeScript, closingScript, hasOurLayout } from './nft-text.js';
import { type Observed, RESTORE } from './read-rules.js';

/** One run of one kernel tool with its input: a plan is a list of these, and can be printed. */
export interface Step {
  readonly tool: 'ipset' | 'iptables-restore' | 'ip6tables-restore' | 'nft';
  readonly script: string;
}
export interface Plan {
  /** Stages run one after the other; the steps of a stage side by side. */
  readonly stages: readonly (readonly Step[])[];
  /** So many of the stages put addresses into the sets that keep others from opening flows to them. */
  readonly barring: number;
  /** Timed sets that are new and empty. */
  readonly refill: readonly string[];
}

/** Tighten first, loosen last: marks of another layout → members out → sets in → rules → ports to identities → sets that nothing uses. */
export function planSteps(shape: KernelConfig, desired: DesiredState, observed: Observed): Plan {
  const sets = diffSets(desired.sets, observed.sets);
  const tables = FAMILIES.map((f) => tableSteps(f, desired, observed, shape.prefix));
  const backstop = programScript(shape, backstopProgram(shape, desired.hostNet), observed.backstop);
  const bridge = bridgeScript(shape, desired.bridge, observed.bridge);
  const barring = [closing(shape, observed), ipsetStep(sets.tighten + sets.loosen)].filter(isSome);
  const stages = [
    ...barring,
    tables.flatMap((t) => t.plain),
    ...TABLES_WITH_CGROUPS.map((name) => tables.flatMap((t) => t.mortal.get(name) ?? [])),
    nftStep(backstop),
    nftStep(bridge),
    ipsetStep(sets.destroy),
  ];
  return { stages: stages.filter(isSome), barring: barring.length, refill: sets.refill };
}

/** Marks of another layout would be read as other containers': nothing passes while they are exchanged. */
function closing(shape: KernelConfig, { bridge }: Observed): Step[] {
  if (bridge.rules.length === 0 || hasOurLayout(shape, bridge)) return [];
  return [{ tool: 'nft', script: closingScript() }];
}

const isSome = (stage: readonly Step[]): boolean => stage.length > 0;
const nftStep = (script: string): Step[] => (script ? [{ tool: 'nft', script }] : []);
const ipsetStep = (script: string): Step[] => (script ? [{ tool: 'ipset', script }] : []);

const FAMILIES = [4, 6] as const;
/**
 * In the order in which a sender's rules may come: it is named when the others stand; and then its datagrams leave `raw`,
 * one by one. Held in `mangle`, each would have a flow of its own, and perhaps a port.
 */
const TABLES_WITH_CGROUPS: readonly TableName[] = ['filter', 'nat', 'security', 'mangle', 'raw'];
const CGROUP = / --path (\S+) /;

interface TableSteps {
  readonly plain: readonly Step[];
  /** Tables where rules name cgroups, each on its own: one that has just ended fails its table, and must fail no other. */
  readonly mortal: ReadonlyMap<TableName, Step>;
}

function tableSteps(family: Family, desired: DesiredState, observed: Observed, prefix: string): TableSteps {
  const mine = desired.tables.filter((t) => t.family === family);
  const edits = diffFamily(mine, observed.tables.get(family) ?? new Map(), prefix);
  const step = (of: readonly TableEdit[]): Step => ({
    tool: RESTORE[family] as Step['tool'],
    script: restoreScript(of),
  });
  const isMortal = (e: TableEdit): boolean => [...e.refill.values()].flat().some((l) => CGROUP.test(l));
  const plain = edits.filter((e) => !isMortal(e));
  return {
    plain: plain.length === 0 ? [] : [step(plain)],
    mortal: new Map(edits.filter(isMortal).map((e) => [e.table, step([e])])),
  };
}

export interface ApplyOptions {
  /**
   * Ends flows of earlier holders: begins when the sets bar new ones, since one that another opens in between would stay,
   * and ends before the bridge table changes.
   */
  readonly beforeBinding?: () => Promise<void>;
  /** Whether a cgroup that a rule names is there. */
  readonly hasCgroup?: (path: string) => boolean;
}

/**
 * Runs a plan. The first failure stops it and is thrown; what has run stays, and the next pass goes on from what it reads.
 * False: rules were left out, as their cgroups had ended meanwhile.
 */
export async function applyPlan(run: Exec, plan: Plan, options: ApplyOptions = {}): Promise<boolean> {
  const { beforeBinding = async () => undefined, hasCgroup = () => true } = options;
  const whole: boolean[] = [];
  const runStage = async (stage: readonly Step[]): Promise<void> => {
    whole.push(...(await Promise.all(stage.map((step) => runMortal(run, step, hasCgroup)))));
  };
  for (const stage of plan.stages.slice(0, plan.barring)) await runStage(stage);
  const ready = beforeBinding();
  ready.catch(() => undefined); // awaited below, unless a stage's own error is thrown first
  for (const stage of plan.stages.slice(plan.barring)) {
    if (stage.some((s) => s.tool === 'nft')) await ready;
    await runStage(stage);
  }
  await ready;
  return whole.every(Boolean);
}

const cgroupExists = (line: string, hasCgroup: (path: string) => boolean): boolean => {
  const path = CGROUP.exec(line)?.[1] ?? nftCgroup(line);
  return path === undefined || hasCgroup(path);
};
/** nft names it from another root, and says how deep it lies below that of the hierarchy. */
function nftCgroup(line: string): string | undefined {
  const [, level, path] = / socket cgroupv2 level (\d+) "([^"]+)" /.exec(line) ?? [];
  return path?.split('/').slice(-Number(level)).join('/');
}

const TRIES = 5;
/** Containers end at any time, those that crash at once over and over: their rules must not keep out those of others. */
async function runMortal(run: Exec, step: Step, hasCgroup: (path: string) => boolean): Promise<boolean> {
  let script = step.script;
  for (let n = 1; ; n++) {
    try {
      await runStep(run, { ...step, script });
      return script === step.script;
    } catch (e) {
      const living = script
        .split('\n')
        .filter((l) => cgroupExists(l, hasCgroup))
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
