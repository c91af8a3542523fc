/** List files (spec: lists): allowlists/NAME.yaml or .yml to lists, every problem placed. Pure. */
import { basename } from 'node:path';
import type { Parsed, Problem } from '../lib/problem.js';
import { parseYaml } from '../lib/yaml.js';
import { cyclicLists } from '../policy/list-graph.js';
import { listFromObject } from '../policy/list-parse.js';
import type { List } from '../policy/policy.js';

const EXTENSION = /\.ya?ml$/;

/** Editors leave .#x.yaml and the like beside a file: names that begin with a dot are nobody's list. */
export const isListFile = (file: string): boolean => EXTENSION.test(file) && !basename(file).startsWith('.');

export const listNameOf = (file: string): string => basename(file).replace(EXTENSION, '');

const EMPTY: Problem = {
  detail: 'the list is empty',
  remedy: 'write "allow:" and the entries below it, or delete the file',
};

/** One list file. Its problems carry file, line, column and remedy. */
export function parseListFile(file: string, text: string): Parsed<List> {
  const yaml = parseYaml(text, file);
  if (yaml.value === undefined) return { ok: false, problems: yaml.problems };
  if (yaml.value === null && yaml.problems.length === 0) return { ok: false, problems: yaml.place([EMPTY]) };
  const parsed = listFromObject(listNameOf(file), 'folder', yaml.value);
  const problems = [...yaml.problems, ...(parsed.ok ? [] : yaml.place(parsed.problems))];
  if (!parsed.ok || problems.length > 0) return { ok: false, problems };
  return { ok: true, value: { ...parsed.value, file } };
}

/** Files that give one name twice (npm.yaml and npm.yml), each with its problem. */
export function nameClashes(files: readonly string[]): ReadonlyMap<string, Problem> {
  const byName = new Map<string, string[]>();
  for (const file of files) {
    const name = listNameOf(file);
    byName.set(name, [...(byName.get(name) ?? []), file]);
  }
  const clashes = [...byName.values()].filter((same) => same.length > 1).flat();
  return new Map(
    clashes.map((file) => [
      file,
      {
        detail: `list "${listNameOf(file)}" has two files`,
        remedy: 'remove one of the two',
        file,
        line: 1,
        column: 1,
      },
    ]),
  );
}

/** A problem for each list that includes itself, directly or through others. */
export function cycleProblems(lists: ReadonlyMap<string, List>): ReadonlyMap<string, Problem> {
  const names = cyclicLists(lists);
  return new Map(
    names.map((name) => [
      name,
      {
        detail: `list "${name}" includes itself (through ${names.map((one) => `list:${one}`).join(', ')})`,
        remedy: 'remove one of these list: entries',
        file: lists.get(name)?.file ?? name,
        line: 1,
        column: 1,
      },
    ]),
  );
}
