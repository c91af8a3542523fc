import type { DesiredState, Shape } from '../desired/state.js';
import type { Family } from '../model/ip.js';
import { diffFamily } from './diff-tables.js';
import { type Exec, must } from './exec.js';
import { diffSets } from './ipset-text.js';
import { restoreScript } from './iptables-text.js';
import { bridgeScript } from './nft-text.js';
import { type Observed, RESTORE } from './observe.js';

/** One run of one kernel tool with its input: a plan is a list of these, and can be printed. */
export interface Step {
  readonly tool: 'ipset' | 'iptables-restore' | 'ip6tables-restore' | 'nft';
  readonly script: string;
}
export interface Plan {
  /** Stages run one after the other; the steps of a stage side by side. */
  readonly stages: readonly (readonly Step[])[];
  /** Timed sets that are new and empty. */
  readonly refill: readonly string[];
}

/** Tighten first, loosen last: members out → sets in → rules → ports to identities → sets that nothing uses. */
export function planSteps(shape: Shape, desired: DesiredState, observed: Observed): Plan {
  const sets = diffSets(desired.sets, observed.sets);
  const tables = ([4, 6] as const).flatMap((f) => tableStep(f, desired, observed, shape.prefix));
  const bridge = bridgeScript(shape, desired.bridge, observed.bridge);
  const stages = [
    ipsetStep(sets.tighten + sets.loosen),
    tables,
    bridge ? [{ tool: 'nft' as const, script: bridge }] : [],
    ipsetStep(sets.destroy),
  ];
  return { stages: stages.filter((s) => s.length > 0), refill: sets.refill };
}

const ipsetStep = (script: string): Step[] => (script ? [{ tool: 'ipset', script }] : []);

function tableStep(family: Family, desired: DesiredState, observed: Observed, prefix: string): Step[] {
  const mine = desired.tables.filter((t) => t.family === family);
  const edits = diffFamily(mine, observed.tables.get(family) ?? new Map(), prefix);
  return edits.length === 0 ? [] : [{ tool: RESTORE[family] as Step['tool'], script: restoreScript(edits) }];
}

/**
 * Runs a plan. The first failure stops it and is thrown; what has run stays, and the next pass goes on from what it reads.
 * `beforeBinding` runs beside the first stages and ends before the bridge table changes.
 */
export async function applyPlan(
  run: Exec,
  plan: Plan,
  beforeBinding: () => Promise<void> = async () => undefined,
): Promise<void> {
  const ready = beforeBinding();
  ready.catch(() => undefined); // awaited below, unless a stage's own error is thrown first
  for (const stage of plan.stages) {
    if (stage.some((s) => s.tool === 'nft')) await ready;
    await Promise.all(stage.map((step) => runStep(run, step)));
  }
  await ready;
}

export async function runStep(run: Exec, step: Step): Promise<void> {
  const args =
    step.tool === 'ipset' ? ['restore'] : step.tool === 'nft' ? ['-f', '-'] : ['--noflush', '-w', '10'];
  await must(run, step.tool, args, { input: step.script });
}
