/** What a folder of list files says, file by file, with the last good version of each. Pure. */

import type { Parsed, Problem } from '../lib/problem.js';
import type { List } from '../policy/policy.js';
import { cycleProblems, listNameOf, nameClashes, parseListFile } from './lists.js';

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

interface Verdicts {
  readonly fresh: Map<string, List>;
  readonly problems: Problem[];
}

const NOT_YET: Parsed<never> = { ok: false, problems: [] };

function parsedOf(file: string, read: FileRead): Parsed<List> {
  if ('parsed' in read) return read.parsed;
  if ('text' in read) return parseListFile(file, read.text);
  return 'problem' in read ? { ok: false, problems: [read.problem] } : NOT_YET;
}

function judgeFiles(files: ReadonlyMap<string, FileRead>): Verdicts {
  const clashes = nameClashes([...files.keys()]);
  const verdicts: Verdicts = { fresh: new Map(), problems: [] };
  for (const [file, read] of files) {
    const clash = clashes.get(file);
    const parsed = parsedOf(file, read);
    if (parsed.ok && !clash) verdicts.fresh.set(parsed.value.name, parsed.value);
    verdicts.problems.push(...(clash ? [clash] : []), ...(parsed.ok ? [] : parsed.problems));
  }
  return verdicts;
}

/** What coverage says of a list that has a file and is not in force. */
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
  const { fresh, problems } = judgeFiles(files);
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
