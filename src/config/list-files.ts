/** The lists of a folder, file by file, with the last good version of each. Pure. */

import { basename } from 'node:path';
import type { Parsed, Problem } from '../lib/problem.js';
import { parseYaml } from '../lib/yaml.js';
import { listFromObject } from '../policy/list-parse.js';
import { cyclicLists, type List } from '../policy/policy.js';

/** List files (docs/lists.md): allowlists/NAME.yaml or .yml to lists, every problem placed. Pure. */

const EXTENSION = /\.ya?ml$/;

/** Editors leave .#x.yaml and the like next to a file: a name that begins with a dot is no list. */
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
function cycleProblems(lists: ReadonlyMap<string, List>): ReadonlyMap<string, Problem> {
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

export interface FolderState {
  /** What is in force, by name. */
  readonly lists: ReadonlyMap<string, List>;
  /** What is refused; the last good version of such a file stays in `lists`. */
  readonly problems: readonly Problem[];
  /** Lists that have a file and are not in force, by name, with the reason. */
  readonly absent: ReadonlyMap<string, Problem>;
}

export const EMPTY_FOLDER: FolderState = { lists: new Map(), problems: [], absent: new Map() };

/** A file as it was read, or why it could not be. */
export type FileRead =
  | { readonly text: string }
  | { readonly parsed: Parsed<List> }
  | { readonly problem: Problem }
  /** It is being read elsewhere: its last good version stays until then. */
  | { readonly reading: true };

interface ParsedFiles {
  readonly fresh: Map<string, List>;
  readonly problems: Problem[];
}

const NOT_YET: Parsed<never> = { ok: false, problems: [] };

function parsedOf(file: string, read: FileRead): Parsed<List> {
  if ('parsed' in read) return read.parsed;
  if ('text' in read) return parseListFile(file, read.text);
  return 'problem' in read ? { ok: false, problems: [read.problem] } : NOT_YET;
}

function parseFiles(files: ReadonlyMap<string, FileRead>): ParsedFiles {
  const clashes = nameClashes([...files.keys()]);
  const results: ParsedFiles = { fresh: new Map(), problems: [] };
  for (const [file, read] of files) {
    const clash = clashes.get(file);
    const parsed = parsedOf(file, read);
    if (parsed.ok && !clash) results.fresh.set(parsed.value.name, parsed.value);
    results.problems.push(...(clash ? [clash] : []), ...(parsed.ok ? [] : parsed.problems));
  }
  return results;
}

/** The reason that coverage shows for a list that has a file and is not in force. */
function absentOf(
  names: ReadonlySet<string>,
  lists: ReadonlyMap<string, List>,
  problems: readonly Problem[],
): ReadonlyMap<string, Problem> {
  const causes = new Map(problems.map((problem) => [listNameOf(problem.file ?? ''), problem]));
  const missing = [...names].filter((name) => !lists.has(name));
  return new Map(missing.map((name) => [name, absence(name, causes.get(name))]));
}

function absence(name: string, cause: Problem | undefined): Problem {
  if (!cause)
    return {
      detail: `list "${name}" is still being read, and adds nothing yet`,
      remedy: 'wait: a large file takes some seconds',
    };
  return {
    detail: `list "${name}" has a file that is refused (${cause.detail}), and adds nothing`,
    remedy: `correct ${cause.file ?? name}: ${cause.remedy}`,
  };
}

/** Fresh versions where good, else the last good one of a name that still has a file. */
function choose(
  names: ReadonlySet<string>,
  fresh: ReadonlyMap<string, List>,
  last: FolderState,
): Map<string, List> {
  const chosen = [...names].sort().flatMap((name) => fresh.get(name) ?? last.lists.get(name) ?? []);
  return new Map(chosen.map((list) => [list.name, list]));
}

/**
 * The next state of the folder from all its files and the last state. A refused file leaves its list as it was; a
 * deleted file takes its list away. Lists that a change has closed into a cycle stay as they were.
 */
export function nextFolder(files: ReadonlyMap<string, FileRead>, last: FolderState): FolderState {
  const { fresh, problems } = parseFiles(files);
  const names = new Set([...files.keys()].map(listNameOf));
  const first = choose(names, fresh, last);
  const cycles = cycleProblems(first);
  for (const name of cycles.keys()) fresh.delete(name);
  const second = choose(names, fresh, last);
  // The last good versions may close a cycle with what has come in meanwhile: then none of them is in force.
  for (const name of cycleProblems(second).keys()) second.delete(name);
  const all = [...problems, ...cycles.values()];
  return { lists: second, problems: all, absent: absentOf(names, second, all) };
}
