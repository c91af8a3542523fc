import { isDeepStrictEqual } from 'node:util';
import type { Family } from '../lib/ip.js';
import { groupsOf } from './bridge-elements.js';
import { compile } from './compile.js';
import { partsOf } from './container-chains.js';
import {
  type DesiredInput,
  type DesiredState,
  type KernelConfig,
  type SetDesired,
  type Subject,
  unattributedSubject,
} from './desired-state.js';
import { containerChain, hostChain, namesFor } from './naming.js';
import type { Rule } from './rules.js';

/** A subject of the last pass, and what replaces it. */
export interface Replaced {
  readonly was: Subject;
  readonly is: Subject;
}
/** Where a desired state differs from another one: in these sets, and in these chains of `verdict`. In nothing else. */
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
  const { shape } = input;
  if (!replaced.every((r) => isSelfContained(r, shape))) return { desired: compile(input) };
  const sets = new Map<string, SetDesired | undefined>();
  const chains = new Map(FAMILIES.map((f) => [f, new Map<string, readonly Rule[]>()] as const));
  for (const { was, is } of replaced) {
    const [before, now] = [partsOf(was, shape).sets, partsOf(is, shape).sets];
    for (const [name, set] of exchangedSets(former.sets, before, now)) sets.set(name, set);
    for (const family of is.families)
      for (const [name, rules] of ownChains(is, family, shape)) chains.get(family)?.set(name, rules);
  }
  const tables = former.tables.map((t) =>
    t.layer === 'verdict' ? { ...t, chains: withChanges(t.chains, chains.get(t.family) ?? new Map()) } : t,
  );
  return {
    desired: { ...former, sets: withChanges(former.sets, sets), tables },
    delta: {
      base: former,
      sets: new Set(sets.keys()),
      chains: new Map([...chains].map(([family, changed]) => [family, new Set(changed.keys())] as const)),
    },
  };
}

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
    (before.families[4].host === undefined) === (now.families[4].host === undefined) &&
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

/** Its chains in `verdict`, all of them by names that only it has. Mode off has none: it shares one. They are rendered once. */
function ownChains(m: Subject, family: Family, shape: KernelConfig): (readonly [string, readonly Rule[]])[] {
  const parts = partsOf(m, shape);
  const { prefix } = namesFor(shape.prefix);
  const own = parts.families[family];
  const toHost = own.host ?? own.observedHost;
  return [
    ...(m.policy.mode === 'off' ? [] : [[containerChain(prefix, m.id), own.chain] as const]),
    ...(toHost ? [[hostChain(prefix, m.id), toHost] as const] : []),
    ...own.errors,
    ...parts.limits,
  ];
}

/** The sets that differ, by name; undefined for those that are gone. An equal set stays the same object. */
function exchangedSets(
  sets: ReadonlyMap<string, SetDesired>,
  was: readonly SetDesired[],
  is: readonly SetDesired[],
): (readonly [string, SetDesired | undefined])[] {
  const now = new Set(is.map((s) => s.name));
  const gone = was.filter((s) => !now.has(s.name)).map((s) => [s.name, undefined] as const);
  const changed = is.filter((s) => !isDeepStrictEqual(sets.get(s.name), s)).map((s) => [s.name, s] as const);
  return [...gone, ...changed];
}

/** The subjects of an input by id. `replaced`: all that differ from the former ones. */
export function subjectsOf(
  input: DesiredInput,
  former?: ReadonlyMap<string, Subject>,
  replaced?: readonly Subject[],
): ReadonlyMap<string, Subject> {
  if (former && replaced) return withChanges(former, new Map(replaced.map((m) => [m.id, m])));
  return new Map([...input.subjects, unattributedSubject(input)].map((m) => [m.id, m]));
}

/** More changes than this are no longer kept next to the entries that they replace: the entries are copied. */
const MOST_CHANGES = 64;

/**
 * The entries of a map with these changes; undefined deletes an entry. The result shares the entries that stay with the former map,
 * which does not change: the state after a grant to one container costs no copy of what all containers have. Entries keep
 * their places; those with new keys come last.
 */
export function withChanges<K, V extends object>(
  former: ReadonlyMap<K, V>,
  changes: ReadonlyMap<K, V | undefined>,
): ReadonlyMap<K, V> {
  if (changes.size === 0) return former;
  const all =
    former instanceof SharingMap
      ? new SharingMap<K, V>(former.base, new Map([...former.changed, ...changes]))
      : new SharingMap<K, V>(former, changes);
  return all.changed.size > MOST_CHANGES ? new Map(all) : all;
}

/** A map that has the entries of another one, except for a few that have changed. */
class SharingMap<K, V extends object> implements ReadonlyMap<K, V> {
  readonly base: ReadonlyMap<K, V>;
  /** Undefined for entries of the base that are deleted. */
  readonly changed: ReadonlyMap<K, V | undefined>;
  readonly size: number;

  constructor(base: ReadonlyMap<K, V>, changed: ReadonlyMap<K, V | undefined>) {
    this.base = base;
    this.changed = changed;
    let { size } = base;
    for (const [key, value] of changed) size += Number(value !== undefined) - Number(base.has(key));
    this.size = size;
  }

  get(key: K): V | undefined {
    return this.changed.has(key) ? this.changed.get(key) : this.base.get(key);
  }

  has(key: K): boolean {
    return this.get(key) !== undefined;
  }

  *entries(): MapIterator<[K, V]> {
    for (const entry of this.base) {
      if (!this.changed.has(entry[0])) yield entry;
      else {
        const value = this.changed.get(entry[0]);
        if (value !== undefined) yield [entry[0], value];
      }
    }
    for (const [key, value] of this.changed)
      if (value !== undefined && !this.base.has(key)) yield [key, value];
  }

  *keys(): MapIterator<K> {
    for (const [key] of this.entries()) yield key;
  }

  *values(): MapIterator<V> {
    for (const [, value] of this.entries()) yield value;
  }

  forEach(each: (value: V, key: K, map: ReadonlyMap<K, V>) => void): void {
    for (const [key, value] of this.entries()) each(value, key, this);
  }

  [Symbol.iterator](): MapIterator<[K, V]> {
    return this.entries();
  }
}
