/** Watches a folder of list files: a saved file is in force, or refused, within a second. */
import { type FSWatcher, watch } from 'node:fs';
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Problem } from '../model/problem.js';
import { EMPTY_FOLDER, type FileRead, type FolderState, nextFolder } from './list-files.js';
import { isListFile } from './lists.js';

/** Long enough for an editor's truncate-then-write, short enough for the promise of a second. */
const SETTLE_MS = 60;
/** Finds what fs.watch does not tell: a folder that appears, links turned to another target, network file systems. */
const RESCAN_MS = 500;
const MAX_BYTES = 4_000_000;
const MAX_FILES = 2_000;

interface Scan {
  /** Changes whenever a file does. */
  readonly stamp: string;
  readonly files: readonly string[];
  readonly problem?: Problem;
}

const codeOf = (error: unknown): string => (error as NodeJS.ErrnoException).code ?? String(error);

async function stampOf(file: string): Promise<string> {
  try {
    const { mtimeMs, ctimeMs, size, ino } = await stat(file);
    return `${file} ${ino} ${size} ${mtimeMs} ${ctimeMs}`;
  } catch (error) {
    return `${file} ${codeOf(error)}`;
  }
}

async function scan(folder: string): Promise<Scan> {
  try {
    const names = (await readdir(folder)).filter(isListFile).sort();
    const files = names.slice(0, MAX_FILES).map((name) => join(folder, name));
    const stamps = await Promise.all(files.map(stampOf));
    const tooMany = {
      detail: `more than ${MAX_FILES} lists`,
      remedy: 'remove some; the rest is not read',
      file: folder,
    };
    return { stamp: stamps.join('\n'), files, ...(names.length > MAX_FILES && { problem: tooMany }) };
  } catch (error) {
    const code = codeOf(error);
    if (code === 'ENOENT') return { stamp: code, files: [] };
    return {
      stamp: code,
      files: [],
      problem: { detail: `cannot read ${folder}: ${code}`, remedy: 'check its rights', file: folder },
    };
  }
}

async function readOne(file: string): Promise<FileRead | undefined> {
  try {
    const found = await stat(file);
    // Reading a pipe would wait for its writer, and every later change with it.
    if (!found.isFile())
      return {
        problem: { detail: 'it is no file', remedy: 'move it away', file, line: 1, column: 1 },
      };
    if (found.size <= MAX_BYTES) return { text: await readFile(file, 'utf8') };
    return {
      problem: { detail: `more than ${MAX_BYTES} bytes`, remedy: 'split the list', file, line: 1, column: 1 },
    };
  } catch (error) {
    const code = codeOf(error);
    if (code === 'ENOENT') return undefined;
    return {
      problem: { detail: `cannot read it: ${code}`, remedy: 'check its rights', file, line: 1, column: 1 },
    };
  }
}

/** All list files, read one after another; one that went away meanwhile is left out. */
async function readAll(files: readonly string[]): Promise<ReadonlyMap<string, FileRead>> {
  const reads = new Map<string, FileRead>();
  for (const file of files) {
    const read = await readOne(file);
    if (read) reads.set(file, read);
  }
  return reads;
}

/** One reading of a folder, for `check` and for the start. Never throws; what cannot be read is a problem. */
export async function readFolder(folder: string, last: FolderState = EMPTY_FOLDER): Promise<FolderState> {
  return (await readScan(await scan(folder), last)) ?? last;
}

async function readScan(found: Scan, last: FolderState): Promise<FolderState> {
  // A folder that cannot be read has not lost its lists: the last good ones stay.
  if (found.problem && found.files.length === 0) return { lists: last.lists, problems: [found.problem] };
  const next = nextFolder(await readAll(found.files), last);
  return found.problem ? { ...next, problems: [found.problem, ...next.problems] } : next;
}

export interface FolderWatch extends AsyncDisposable {
  /** The state now: what the last call of `onChange` said. */
  readonly state: FolderState;
}

/**
 * Reads the folder, then follows it. `onChange` is called for every change after the first reading, one call at a time;
 * it must not throw.
 * The folder may be missing and come later. Disposing ends it; a scan that is under way is waited for.
 */
export async function watchFolder(
  folder: string,
  onChange: (state: FolderState) => void,
): Promise<FolderWatch> {
  const follower = new Follower(folder, onChange);
  await follower.start();
  return follower;
}

class Follower implements FolderWatch {
  state: FolderState = EMPTY_FOLDER;
  readonly #folder: string;
  readonly #onChange: (state: FolderState) => void;
  #stamp: string | undefined;
  #watcher: FSWatcher | undefined;
  #settle: NodeJS.Timeout | undefined;
  #timer: NodeJS.Timeout | undefined;
  #running: Promise<void> = Promise.resolve();
  #ended = false;

  constructor(folder: string, onChange: (state: FolderState) => void) {
    this.#folder = folder;
    this.#onChange = onChange;
  }

  async start(): Promise<void> {
    await this.#look(() => undefined);
    this.#again();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended = true;
    clearTimeout(this.#settle);
    clearTimeout(this.#timer);
    this.#watcher?.close();
    await this.#running;
  }

  #again(): void {
    clearTimeout(this.#timer);
    if (!this.#ended) this.#timer = setTimeout(() => this.#run(), RESCAN_MS).unref();
  }

  /** One look at a time; the next regular one begins when this has ended. */
  #run(): void {
    clearTimeout(this.#timer);
    this.#running = this.#running.then(() => (this.#ended ? undefined : this.#look(this.#onChange)));
    void this.#running.then(() => this.#again());
  }

  async #look(tell: (state: FolderState) => void): Promise<void> {
    this.#attach();
    const found = await scan(this.#folder);
    if (found.stamp === this.#stamp || this.#ended) return;
    this.#stamp = found.stamp;
    this.state = await readScan(found, this.state);
    tell(this.state);
  }

  /** fs.watch fails while the folder is missing, and ends with it: the regular look tries again. */
  #attach(): void {
    if (this.#watcher) return;
    try {
      this.#watcher = watch(this.#folder, { persistent: false }, (event, name) => this.#stir(event, name));
      this.#watcher.on('error', () => this.#detach());
    } catch (error) {
      if (codeOf(error) !== 'ENOENT') this.#detach();
    }
  }

  #detach(): void {
    this.#watcher?.close();
    this.#watcher = undefined;
  }

  #stir(event: string, name: string | null): void {
    // A folder that is renamed or removed tells of itself by its own name; a new watcher is due.
    if (event === 'rename' && name !== null && !isListFile(name)) this.#detach();
    clearTimeout(this.#settle);
    this.#settle = setTimeout(() => this.#run(), SETTLE_MS).unref();
  }
}
