import { isDest } from './entry-parse.js';
import type { List } from './policy.js';

const refsOf = (list: List): readonly string[] =>
  list.allow.flatMap((entry) => (isDest(entry) ? [] : [entry.list]));

/** Names that `from` reaches through `list:` entries, itself only when it stands in a cycle. */
function reach(from: string, lists: ReadonlyMap<string, List>): ReadonlySet<string> {
  const seen = new Set<string>();
  const open = [from];
  for (let name = open.pop(); name !== undefined; name = open.pop()) {
    const list = lists.get(name);
    const fresh = list ? refsOf(list).filter((ref) => !seen.has(ref)) : [];
    for (const ref of fresh) seen.add(ref);
    open.push(...fresh);
  }
  return seen;
}

/** Names of the lists that include themselves, directly or through others. */
export const cyclicLists = (lists: ReadonlyMap<string, List>): readonly string[] =>
  [...lists.keys()].filter((name) => reach(name, lists).has(name));
