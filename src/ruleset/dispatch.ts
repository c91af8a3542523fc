import { identityMark, type Marks, UNATTRIBUTED } from './marks.js';
import { containerChain, type Names } from './naming.js';
import { type Rule, rule } from './rules.js';
import type { Subject } from './state.js';

const FANOUT_BITS = 4;

/**
 * From a mark to its container's chain in a tree of masks: 16 rules a level at most, so that a new flow's cost does not
 * grow with containers. Only levels that identities in use need are made. Chains by name, root first.
 */
export function dispatchTree(
  leaves: ReadonlyMap<number, string>,
  marks: Marks,
  names: Names,
): Map<string, Rule[]> {
  return maskTree(leaves, marks, names.dispatch, [rule([], { k: 'goto', chain: names.no })]);
}

/**
 * The same for what observed containers send to the host. An identity without a leaf falls off the end of its chain, which
 * returns: unlike the tree of FORWARD, this one must not refuse anything.
 */
export const observedHostTree = (
  leaves: ReadonlyMap<number, string>,
  marks: Marks,
  names: Names,
): Map<string, Rule[]> => maskTree(leaves, marks, names.observedHost, []);

function maskTree(
  leaves: ReadonlyMap<number, string>,
  marks: Marks,
  root: string,
  otherwise: readonly Rule[],
): Map<string, Rule[]> {
  const chains = new Map<string, Rule[]>();
  const highest = Math.max(1, ...leaves.keys());
  const levels = Math.max(1, Math.ceil(Math.log2(highest + 1) / FANOUT_BITS));
  const build = (name: string, level: number, members: readonly (readonly [number, string])[]): void => {
    chains.set(name, []);
    chains.set(name, [...branches(name, level, members), ...otherwise]);
  };
  const branches = (name: string, level: number, members: readonly (readonly [number, string])[]): Rule[] => {
    if (level === 0) return members.map(([id, chain]) => toChain(id, marks.identity, chain));
    return [...bySlot(members, level)].map(([slot, inside]) => {
      const child = `${name}${slot.toString(16)}`;
      build(child, level - 1, inside);
      return toChain(slot << (level * FANOUT_BITS), identityMark(marks, 15 << (level * FANOUT_BITS)), child);
    });
  };
  const toChain = (id: number, mask: number, chain: string): Rule =>
    rule([{ k: 'mark', value: identityMark(marks, id), mask }], { k: 'goto', chain });
  build(
    root,
    levels - 1,
    [...leaves].sort(([a], [b]) => a - b),
  );
  return chains;
}

/** Groups by the nibble of a level: each group shares that nibble and, level by level from the top, all above it. */
function bySlot(
  members: readonly (readonly [number, string])[],
  level: number,
): Map<number, (readonly [number, string])[]> {
  const slots = new Map<number, (readonly [number, string])[]>();
  for (const member of members) {
    const slot = (member[0] >> (level * FANOUT_BITS)) & 15;
    slots.set(slot, [...(slots.get(slot) ?? []), member]);
  }
  return slots;
}

/** Where each identity goes. Containers that are off share a chain. */
export function leavesOf(
  members: readonly Subject[],
  names: Names,
  unattributed: string,
): Map<number, string> {
  const leaves = new Map<number, string>([[UNATTRIBUTED, unattributed]]);
  for (const m of members) leaves.set(m.identity, leafOf(m, names));
  return leaves;
}

export function leafOf(m: Pick<Subject, 'policy' | 'id'>, names: Names): string {
  if (m.policy.mode === 'off') return names.ok;
  return containerChain(names.prefix, m.id);
}
