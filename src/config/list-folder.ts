/** Watches a folder of list files: a saved file is in force, or refused, within a second. */

import { type BigIntStats, type FSWatcher, statSync, watch } from 'node:fs';
import { readdir, stat, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { atNext, BEAT_MS } from '../lib/clock.js';
import { contained } from '../lib/faults.js';
import type { Logger } from '../lib/log.js';
import { codeOrText, errorCode, type Parsed, type Problem } from '../lib/problem.js';
import type { List } from '../policy/policy.js';
import {
  EMPTY_FOLDER,
  type FileRead,
  type FolderState,
  isListFile,
  listNameOf,
  nextFolder,
  parseListFile,
} from './list-files.js';
import type { ListReader } from './list-reader.js';
import { readInside, remedyOf } from './open-file.js';

/** Long enough for an editor's truncate-then-write, short enough for the promise of a second. */
const SETTLE_MS = 60;
/** Finds changes that fs.watch does not report: a folder that appears, links with a new target, network file systems. */
const RESCAN_MS = BEAT_MS;
/** Of a core, for rescans: the rest follows from how long the last one took. */
const RESCAN_SHARE = 0.05;
export const MAX_BYTES = 4_000_000;
export const MAX_FILES = 2_000;
/** Small files are parsed for so long, then other work has its turn (ms). */
const TURN_MS = 10;
const MOST_NAMES = 20;

/**
 * Types of file systems of local disks and memory (linux/magic.h: ext2 to ext4, XFS, Btrfs, F2FS, tmpfs): stat(2) does not wait for
 * another host there.
 */
const LOCAL = new Set([0xef53, 0x58465342, 0x9123683e, 0xf2f52010, 0x01021994]);
/** Files of which the thread of the event loop requests the stamps itself: each takes some µs, and ten times as much through another thread. */
const FEW_FILES = 100;
/** The kernel stamps a folder with the time of its last tick: until this has passed, another entry may have the same stamp. */
const TICK_NS = 100_000_000n;

interface Scan {
  /** By path: changes whenever the file does. */
  readonly stamps: ReadonlyMap<string, string>;
  /** Files beyond the bound. */
  readonly left: readonly string[];
  readonly problem?: Problem;
  /** Of the folder, before it was read. Undefined unless `isSame` may be used for it. */
  readonly folder?: string;
}

const textOf = ({ dev, ino, size, mtimeNs, ctimeNs }: BigIntStats): string =>
  `${dev} ${ino} ${size} ${mtimeNs} ${ctimeNs}`;

async function stampOf(file: string): Promise<string> {
  try {
    return textOf(await stat(file, { bigint: true }));
  } catch (error) {
    return codeOrText(error);
  }
}

/** The stamp of a folder on a local file system. Undefined on others, and while another change could leave the stamp as it is. */
async function localStamp(folder: string): Promise<string | undefined> {
  try {
    const [{ type }, found] = await Promise.all([statfs(folder), stat(folder, { bigint: true })]);
    const isSettled = BigInt(Date.now()) * 1_000_000n - found.mtimeNs > TICK_NS;
    return LOCAL.has(type) && isSettled ? textOf(found) : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Whether a scan would find the same: the same folder with the same entries, and the same files. It waits for nothing, which needs a
 * local file system and files of this folder (`folder` of the scan).
 */
function isSame(folder: string, last: Scan): boolean {
  if (last.folder === undefined) return false;
  const stampNow = (path: string): string | undefined => {
    const found = statSync(path, { bigint: true, throwIfNoEntry: false });
    return found && textOf(found);
  };
  try {
    if (stampNow(folder) !== last.folder) return false;
    for (const [file, stamp] of last.stamps) if (stampNow(file) !== stamp) return false;
    return true;
  } catch {
    return false; // the scan reports why
  }
}

/** Files of lists in force come first: a file that is put into a full folder takes no list away. */
function chooseFiles(names: readonly string[], last: FolderState): { chosen: string[]; left: string[] } {
  const sorted = [...names].sort();
  if (sorted.length <= MAX_FILES) return { chosen: sorted, left: [] };
  const isInForce = (name: string): boolean => last.lists.has(listNameOf(name));
  const ranked = [...sorted.filter(isInForce), ...sorted.filter((name) => !isInForce(name))];
  return { chosen: ranked.slice(0, MAX_FILES).sort(), left: ranked.slice(MAX_FILES) };
}

async function scan(folder: string, last: FolderState): Promise<Scan> {
  try {
    const stamp = await localStamp(folder);
    const entries = await readdir(folder, { withFileTypes: true });
    const { chosen, left } = chooseFiles(
      entries.map((e) => e.name).filter((name) => isListFile(name)),
      last,
    );
    const files = chosen.map((name) => join(folder, name));
    const stamps = new Map(await Promise.all(files.map(async (f) => [f, await stampOf(f)] as const)));
    // A link, or a file that is mounted here, may lead to another file system.
    const isPlain = entries.every((e) => e.isFile() || !isListFile(e.name)) && files.length <= FEW_FILES;
    const [device] = stamp?.split(' ') ?? [];
    const isHere = isPlain && [...stamps.values()].every((s) => s.split(' ')[0] === device);
    return {
      stamps,
      left: left.map((name) => join(folder, name)),
      ...(stamp !== undefined && isHere ? { folder: stamp } : {}),
    };
  } catch (error) {
    const code = codeOrText(error);
    if (code === 'ENOENT') return { stamps: new Map(), left: [] };
    const problem = { detail: `cannot read ${folder}: ${code}`, remedy: remedyOf(code), file: folder };
    return { stamps: new Map(), left: [], problem };
  }
}

const overBound = (file: string): Problem => ({
  detail: `the folder has more than ${MAX_FILES} list files, and this one is not read`,
  remedy: 'merge lists, or remove files that no container uses',
  file,
  line: 1,
  column: 1,
});

/** The state with what lies beyond the bound: one problem for all of it, and the truth for each list. */
function withLeft(folder: string, state: FolderState, left: readonly string[]): FolderState {
  if (left.length === 0) return state;
  const names = left.map((file) => listNameOf(file));
  const more = names.length > MOST_NAMES ? ` and ${names.length - MOST_NAMES} more` : '';
  const problem: Problem = {
    detail: `the folder has more than ${MAX_FILES} list files: ${left.length} are not read (${names.slice(0, MOST_NAMES).join(', ')}${more})`,
    remedy: 'merge lists, or remove files that no container uses; lists that are in force stay in force',
    file: folder,
  };
  const absent = left
    .filter((file) => !state.lists.has(listNameOf(file)))
    .map((file) => [listNameOf(file), absenceOf(file)] as const);
  return { ...state, problems: [problem, ...state.problems], absent: new Map([...absent, ...state.absent]) };
}

function absenceOf(file: string): Problem {
  const { detail, remedy } = overBound(file);
  return { detail: `list "${listNameOf(file)}" adds nothing: ${detail}`, remedy };
}

export interface FolderWatch extends AsyncDisposable {
  /** The current state: the argument of the last call of `onChange`. */
  readonly state: FolderState;
}

/**
 * Reads the folder, then follows it. `onChange` is called for every change after the first reading, one call at a time;
 * where it throws, it is called again. Only files that have changed are read again, and large ones in a thread: other files do not wait for them.
 * The folder may be missing and come later. Disposing ends it; a scan that is under way is waited for.
 */
export async function watchFolder(
  folder: string,
  reader: ListReader,
  onChange: (state: FolderState) => void,
): Promise<FolderWatch> {
  const follower = new Follower(folder, reader, onChange);
  await follower.start();
  return follower;
}

/** A file, as it was when its stamp was taken. */
interface Known {
  readonly stamp: string;
  /** Undefined after the file is gone. */
  read: FileRead | undefined;
}

/** The usual pause ends with other work of the service; one that bounds the share of a core is kept whole. */
function after(ms: number, work: () => void): Disposable {
  if (ms <= RESCAN_MS) return atNext(RESCAN_MS, work);
  const timer = setTimeout(work, ms).unref();
  return { [Symbol.dispose]: () => clearTimeout(timer) };
}

class Follower implements FolderWatch {
  state: FolderState = EMPTY_FOLDER;
  readonly #folder: string;
  readonly #reader: ListReader;
  readonly #onChange: (state: FolderState) => void;
  readonly #known = new Map<string, Known>();
  /** Large files that are being read in the thread. */
  readonly #reading = new Set<Promise<void>>();
  /** The last one, after which all files were read. */
  #last: Scan | undefined;
  #left = '';
  #failure: string | undefined;
  #isChanged = true;
  #watcher: FSWatcher | undefined;
  #settle: NodeJS.Timeout | undefined;
  #timer: Disposable | undefined;
  #running: Promise<void> = Promise.resolve();
  /** Those that have not ended. */
  #runs = 0;
  #pauseMs = RESCAN_MS;
  #ended = false;

  constructor(folder: string, reader: ListReader, onChange: (state: FolderState) => void) {
    this.#folder = folder;
    this.#reader = reader;
    this.#onChange = onChange;
  }

  async start(): Promise<void> {
    await this.#check(() => undefined);
    await Promise.all(this.#reading);
    await this.#check(() => undefined);
    this.#again();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended = true;
    clearTimeout(this.#settle);
    this.#timer?.[Symbol.dispose]();
    this.#watcher?.close();
    await this.#running;
  }

  #again(): void {
    this.#timer?.[Symbol.dispose]();
    if (!this.#ended) this.#timer = after(this.#pauseMs, () => this.#look());
    this.#pauseMs = RESCAN_MS; // a long pause follows the scan that took long, and no later check
  }

  /** A regular check that would find nothing needs no run. */
  #look(): void {
    const isKnown = this.#runs === 0 && this.#watcher && !this.#isChanged && this.#last;
    if (isKnown && isSame(this.#folder, isKnown)) this.#again();
    else this.#run();
  }

  /** One check at a time; the next regular one begins when this has ended. */
  #run(): void {
    this.#timer?.[Symbol.dispose]();
    this.#runs += 1;
    const run = this.#running.then(() => (this.#ended ? undefined : this.#check(this.#onChange)));
    this.#running = run.catch(this.#failed).then(() => {
      this.#runs -= 1;
      this.#again();
    });
  }

  /** The next check takes and reports all that this one may not have. */
  readonly #failed = (error: unknown): void => {
    this.#isChanged = true;
    this.#last = undefined;
    contained(error, 'changes of the folder of lists are not in force yet: it is read again');
  };

  async #check(report: (state: FolderState) => void): Promise<void> {
    this.#attach();
    if (!this.#isChanged && this.#last && isSame(this.#folder, this.#last)) return;
    this.#last = undefined;
    const began = performance.now();
    const found = await scan(this.#folder, this.state);
    this.#pauseMs = Math.max(RESCAN_MS, (performance.now() - began) / RESCAN_SHARE);
    if (this.#ended) return;
    await this.#take(found);
    // A file that was refused is tried again with each check.
    if ([...found.stamps].every(([file, stamp]) => this.#known.get(file)?.stamp === stamp))
      this.#last = found;
    if (!this.#isChanged || this.#ended) return;
    this.#isChanged = false;
    this.state = this.#next(found);
    report(this.state);
  }

  /** Reads the files that have changed since they were read. */
  async #take(found: Scan): Promise<void> {
    const [left, failure] = [found.left.join('\n'), found.problem?.detail];
    if (left !== this.#left || failure !== this.#failure) this.#isChanged = true;
    [this.#left, this.#failure] = [left, failure];
    if (found.problem) return;
    for (const file of this.#known.keys())
      if (!found.stamps.has(file)) this.#isChanged = this.#known.delete(file);
    let began = performance.now();
    for (const [file, stamp] of found.stamps) {
      if (this.#known.get(file)?.stamp === stamp) continue;
      await this.#read(file, stamp);
      if (performance.now() - began < TURN_MS) continue;
      await turn();
      began = performance.now();
    }
  }

  async #read(file: string, stamp: string): Promise<void> {
    const contents = await readInside(this.#folder, file, MAX_BYTES);
    if (contents && 'problem' in contents) return this.#refuse(file, contents.problem);
    const known: Known = { stamp, read: contents && { reading: true } };
    this.#known.set(file, known);
    this.#isChanged = true;
    if (!contents) return;
    if (this.#reader.isSmall(contents.bytes))
      known.read = { parsed: parseListFile(file, contents.bytes.toString('utf8')) };
    else this.#readLarge(known, this.#reader.file(file, contents.bytes));
  }

  /** It is tried again with each check: why it could not be read may pass without a change of the file. */
  #refuse(file: string, problem: Problem): void {
    const before = this.#known.get(file)?.read;
    const isKnown = before !== undefined && 'problem' in before && before.problem.detail === problem.detail;
    this.#known.set(file, { stamp: '', read: { problem } });
    if (!isKnown) this.#isChanged = true;
  }

  #readLarge(known: Known, parsed: Promise<Parsed<List>>): void {
    const reading = parsed.then((result) => {
      known.read = { parsed: result };
      this.#isChanged = true;
      this.#reading.delete(reading);
      this.#settle = setTimeout(() => this.#run(), 0).unref();
    });
    this.#reading.add(reading);
  }

  #next(found: Scan): FolderState {
    // A folder that cannot be read has not lost its lists: the last good ones stay.
    if (found.problem) return { ...this.state, problems: [found.problem] };
    const reads = new Map<string, FileRead>();
    for (const [file, { read }] of this.#known) if (read) reads.set(file, read);
    return withLeft(this.#folder, nextFolder(new Map([...reads].sort()), this.state), found.left);
  }

  /** fs.watch fails while the folder is missing, and ends with it: the regular look tries again. */
  #attach(): void {
    if (this.#watcher || this.#ended) return;
    try {
      this.#watcher = watch(this.#folder, { persistent: false }, (event, name) => this.#stir(event, name));
      this.#watcher.on('error', () => this.#detach());
    } catch (error) {
      if (errorCode(error) !== 'ENOENT') this.#detach();
    }
  }

  #detach(): void {
    this.#watcher?.close();
    this.#watcher = undefined;
  }

  #stir(event: string, name: string | null): void {
    // fs.watch reports a folder that is renamed or removed by its own name; it needs a new watcher.
    if (event === 'rename' && name !== null && !isListFile(name)) this.#detach();
    clearTimeout(this.#settle);
    this.#settle = setTimeout(() => this.#run(), SETTLE_MS).unref();
  }
}

/** Of one file; the rest is shown by `drawbridge check`. */
const MOST_OF_FILE = 10;

/** Logs what is wrong with list files once, when it appears: a change of one file does not repeat what is wrong with the others. */
export class ListProblems {
  readonly #log: Logger;
  #known: ReadonlySet<string> = new Set();

  constructor(log: Logger) {
    this.#log = log;
  }

  /** `problems`: all there are now. */
  report(problems: readonly Problem[]): void {
    const all = new Map(problems.map((problem) => [JSON.stringify(problem), problem]));
    const byFile = new Map<string, Problem[]>();
    for (const [key, problem] of all) {
      const file = problem.file ?? '';
      if (!this.#known.has(key)) byFile.set(file, [...(byFile.get(file) ?? []), problem]);
    }
    this.#known = new Set(all.keys());
    for (const [file, fresh] of byFile) this.#reportFile(file, fresh);
  }

  #reportFile(file: string, problems: readonly Problem[]): void {
    for (const problem of problems.slice(0, MOST_OF_FILE))
      this.#log.error({ ...problem }, 'a list file is refused: its last good version stays in force');
    const more = problems.length - MOST_OF_FILE;
    if (more > 0)
      this.#log.error({ file, more }, 'a list file has more faults: see all with drawbridge check FILE');
  }
}
