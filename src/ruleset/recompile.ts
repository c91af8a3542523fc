import { isDeepStrictEqual } from 'node:util';
import type { Family } from '../lib/ip.js';
import { groupsOf } from './bridge-elements.js';
import { compile } from './compile.js';
import { partsOf } from './container-chains.js';
import type { DesiredInput, DesiredState, KernelConfig, SetDesired, Subject } from './desired-state.js';
import { containerChain, hostChain, namesFor } from './naming.js';
import type { Rule } from './rules.js';

/** A subject of the last pass, and what replaces it. */
export interface Replaced {
  readonly was: Subject;
  readonly is: Subject;
}
/** Where a desired state differs from another one: in these sets, and in these chains of `filter`. In nothing else. */
export interface Delta {
  readonly base: DesiredState;
  readonly sets: ReadonlySet<string>;
  readonly chains: ReadonlyMap<Family, ReadonlySet<string>>;
}
export interface Recompiled {
  readonly desired: DesiredState;
  /** Absent: the state was compiled as a whole, and may differ anywhere. */
  readonly delta?: Delta;
}

const FAMILIES: readonly Family[] = [4, 6];

/**
 * The desired state for an input that differs from the former one in these subjects only: equal to `compile(input)`. Only
 * the sets and chains of these subjects are exchanged, unless a subject has changed in something that rules of others, the
 * nat table or the bridge table depend on.
 */
export function recompile(
  former: DesiredState,
  input: DesiredInput,
  replaced: readonly Replaced[],
): Recompiled {
  if (!replaced.every((r) => isSelfContained(r, input.shape))) return { desired: compile(input) };
  const sets = new Map(former.sets);
  const chains = new Map(FAMILIES.map((f) => [f, chainsOf(former, f)] as const));
  const changedSets = new Set<string>();
  const changedChains = new Map(FAMILIES.map((f) => [f, new Set<string>()] as const));
  for (const { was, is } of replaced) {
    for (const name of exchangeSets(sets, partsOf(was, input.shape).sets, partsOf(is, input.shape).sets))
      changedSets.add(name);
    for (const family of is.families)
      for (const [name, rules] of ownChains(is, family, input.shape)) {
        chains.get(family)?.set(name, rules);
        changedChains.get(family)?.add(name);
      }
  }
  const tables = former.tables.map((t) =>
    t.table === 'filter' ? { ...t, chains: chains.get(t.family) ?? t.chains } : t,
  );
  return {
    desired: { ...former, sets, tables },
    delta: { base: former, sets: changedSets, chains: changedChains },
  };
}

const chainsOf = (desired: DesiredState, family: Family): Map<string, readonly Rule[]> =>
  new Map(desired.tables.find((t) => t.table === 'filter' && t.family === family)?.chains ?? []);

/**
 * Whether both render to the same chains and sets by name but for its own sets, and to the same of everything else: identity,
 * mode, veths, limits and published ports are the same, and no rule in nat, no multicast group and no cgroup is its own.
 */
function isSelfContained({ was, is }: Replaced, shape: KernelConfig): boolean {
  const [before, now] = [partsOf(was, shape), partsOf(is, shape)];
  const hasNoDirect = FAMILIES.every((f) =>
    [before, now].every((parts) => parts.families[f].direct.length === 0),
  );
  return (
    was.id === is.id &&
    was.identity === is.identity &&
    was.policy.mode === is.policy.mode &&
    [was, is].every((m) => m.host === undefined && groupsOf(m, shape.marks).length === 0) &&
    hasNoDirect &&
    (before.host === undefined) === (now.host === undefined) &&
    isDeepStrictEqual(placeOf(was), placeOf(is))
  );
}

const placeOf = ({ veths, families, published, limits, lan }: Subject) => [
  veths,
  families,
  published,
  limits,
  lan,
];

/** Its chains in `filter`, all of them by names that only it has. Mode off has none: it shares one. */
function ownChains(m: Subject, family: Family, shape: KernelConfig): (readonly [string, readonly Rule[]])[] {
  const parts = partsOf(m, shape);
  const { prefix } = namesFor(shape.prefix);
  const own = parts.families[family];
  const toHost = parts.host ?? parts.observedHost;
  return [
    ...(m.policy.mode === 'off' ? [] : [[containerChain(prefix, m.id), own.chain] as const]),
    ...(toHost ? [[hostChain(prefix, m.id), toHost] as const] : []),
    ...own.errors,
    ...parts.limits,
  ];
}

/** Returns the names of the sets that differ. An equal set stays the same object. */
function exchangeSets(
  sets: Map<string, SetDesired>,
  was: readonly SetDesired[],
  is: readonly SetDesired[],
): string[] {
  const now = new Map(is.map((s) => [s.name, s]));
  const gone = was.map((s) => s.name).filter((name) => !now.has(name));
  const changed = is.filter((s) => !isDeepStrictEqual(sets.get(s.name), s));
  for (const name of gone) sets.delete(name);
  for (const s of changed) sets.set(s.name, s);
  return [...gone, ...changed.map((s) => s.name)];
}
