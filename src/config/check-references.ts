/** Names of lists that something refers to, with the place of each. Pure. */

import { isRecord } from '../lib/json.js';
import type { Problem } from '../lib/problem.js';
import { parseYaml } from '../lib/yaml.js';
import { isDest, parseEntries } from '../policy/entry-parse.js';
import type { Config } from './config.js';

export interface Reference {
  readonly list: string;
  /** JSON pointer into the file. */
  readonly pointer: string;
}

/** The `list:` entries of a list file. What does not parse refers to nothing, and is reported elsewhere. */
export function referencesOfList(value: unknown): readonly Reference[] {
  const items = isRecord(value) && Array.isArray(value.allow) ? value.allow : [];
  return items.flatMap((item: unknown, i) => {
    const parsed = typeof item === 'string' ? parseEntries(item) : undefined;
    if (!parsed?.ok) return [];
    return parsed.value.flatMap((e) => (isDest(e) ? [] : [{ list: e.list, pointer: `/allow/${i}` }]));
  });
}

export const referencesOfConfig = ({
  baseline,
  unattributed,
}: Pick<Config, 'baseline' | 'unattributed'>): readonly Reference[] => [
  ...baseline.map((list, i) => ({ list, pointer: `/baseline/${i}` })),
  ...unattributed.lists.map((list, i) => ({ list, pointer: `/unattributed/lists/${i}` })),
];

/** Each reference to a list that is not known, at its place. */
export function danglingProblems(
  file: string,
  text: string,
  references: readonly Reference[],
  known: ReadonlySet<string>,
): readonly Problem[] {
  const missing = references.filter(({ list }) => !known.has(list));
  if (missing.length === 0) return [];
  return parseYaml(text, file).place(
    missing.map(({ list, pointer }) => ({
      detail: `list "${list}" does not exist among the checked files, and would add nothing`,
      remedy: `correct the name, check its file together with this one, or add --known ${list} if it is a list of the store`,
      pointer,
    })),
  );
}
