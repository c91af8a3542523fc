/** Put an entry behind all others, as a Map keeps the order of insertion; of more than `most` entries the first one is forgotten. */
export function putNewest<K, V>(map: Map<K, V>, key: K, value: V, most: number): void {
  map.delete(key);
  map.set(key, value);
  if (map.size <= most) return;
  for (const oldest of map.keys()) {
    map.delete(oldest);
    return;
  }
}

/**
 * What each item keeps when all together may keep `total`: of each group no more than the largest number that leaves as much to every other
 * group that wants it (max-min fairness), and so on within each group. A group that is alone may have all. `groups`: of an item, the outermost
 * first. Where there is less than one for each, the first items have it.
 */
export function fairShares<T>(
  items: readonly T[],
  groups: readonly ((item: T) => string)[],
  countOf: (item: T) => number,
  total: number,
): ReadonlyMap<T, number> {
  const shares = new Map<T, number>();
  share(items, groups, total);
  return shares;

  function share(of: readonly T[], [group, ...inner]: readonly ((item: T) => string)[], most: number): void {
    const parts = group ? grouped(of, group) : of.map((item) => [item]);
    const counts = parts.map((part) => part.reduce((sum, item) => sum + countOf(item), 0));
    const level = fairLevel(counts, most);
    let rest = most - counts.reduce((sum, count) => sum + Math.min(count, level), 0);
    for (const [i, part] of parts.entries()) {
      const more = (counts[i] ?? 0) > level && rest > 0 ? 1 : 0;
      rest -= more;
      const kept = Math.min(counts[i] ?? 0, level + more);
      if (group) share(part, inner, kept);
      else shares.set(part[0] as T, kept);
    }
  }
}

function grouped<T>(items: readonly T[], groupOf: (item: T) => string): readonly (readonly T[])[] {
  const groups = new Map<string, T[]>();
  for (const item of items) {
    const group = groups.get(groupOf(item));
    if (group) group.push(item);
    else groups.set(groupOf(item), [item]);
  }
  return [...groups.values()];
}

/** The largest whole number such that no more than `total` is left when each count is at most that number. */
function fairLevel(counts: readonly number[], total: number): number {
  let left = total;
  for (const [i, count] of [...counts].sort((a, b) => a - b).entries()) {
    const level = Math.floor(left / (counts.length - i));
    if (count > level) return level;
    left -= count;
  }
  return Number.POSITIVE_INFINITY;
}

/**
 * The newest items of each group in their order, so many in all that `most` is not exceeded: a group that has fewer than its share loses none.
 * The first `head` items stay.
 */
export function keepFairly<T>(
  items: readonly T[],
  groupOf: (item: T) => string,
  most: number,
  head = 0,
): readonly T[] {
  const newest = items.slice(head).reverse();
  const shares = fairShares(grouped(newest, groupOf), [], (group) => group.length, Math.max(0, most - head));
  const kept = new Set([...shares].flatMap(([group, share]) => group.slice(0, share)));
  return items.filter((item, i) => i < head || kept.has(item));
}
