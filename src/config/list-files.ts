/** What a folder of list files says, file by file, with the last good version of each. Pure. */
import type { List } from '../model/policy.js';
import type { Problem } from '../model/problem.js';
import { cycleProblems, listNameOf, nameClashes, parseListFile } from './lists.js';

export interface FolderState {
  /** What is in force, by name. */
  readonly lists: ReadonlyMap<string, List>;
  /** What is refused; the last good version of such a file stays in `lists`. */
  readonly problems: readonly Problem[];
}

export const EMPTY_FOLDER: FolderState = { lists: new Map(), problems: [] };

/** A file as it was read, or why it could not be. */
export type FileRead = { readonly text: string } | { readonly problem: Problem };

interface Verdicts {
  readonly fresh: Map<string, List>;
  readonly problems: Problem[];
}

function judgeFiles(files: ReadonlyMap<string, FileRead>): Verdicts {
  const clashes = nameClashes([...files.keys()]);
  const verdicts: Verdicts = { fresh: new Map(), problems: [] };
  for (const [file, read] of files) {
    const clash = clashes.get(file);
    const parsed =
      'text' in read ? parseListFile(file, read.text) : { ok: false as const, problems: [read.problem] };
    if (parsed.ok && !clash) verdicts.fresh.set(parsed.value.name, parsed.value);
    verdicts.problems.push(...(clash ? [clash] : []), ...(parsed.ok ? [] : parsed.problems));
  }
  return verdicts;
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
  return { lists: second, problems: [...problems, ...cycles.values()] };
}
