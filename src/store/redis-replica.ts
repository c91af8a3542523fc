import { mkdir, readFile, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { isRecord } from '../lib/json.js';
import type { Logger } from '../lib/log.js';
import { replaceFile } from './durable-file.js';
import { parseJson } from './frame-file.js';
import { LogFile, readLog } from './log-file.js';
import { readSnapshot, writeSnapshot } from './snapshot-file.js';
import { corruptError, errorCode, newerError, StoreError, writeError } from './store-error.js';
import { applyChange, type Change, type Stored } from './stored-item.js';

/** A batch of the store's past: the nonce that its writer gave it, and the revision after it. */
export type Mark = readonly [nonce: string, revision: number];

/** Where in the store's past a replica stands. `id` and `nonce` empty, revision 0: nowhere yet. */
export interface Position {
  readonly id: string;
  readonly revision: number;
  readonly nonce: string;
}
export interface Step extends Position {
  readonly changes: readonly Change[];
  /** Batches since the last step, newest first. */
  readonly marks: readonly Mark[];
}

/** A key that no store key can be: it carries id, nonce and marks through log and snapshot. */
const META = '\u0000position';
const KEEP_MARKS = 1000;
const COMPACT_AT = 4 * 1024 * 1024;

interface Meta {
  readonly id: string;
  readonly revision: number;
  readonly nonce: string;
  readonly marks: readonly Mark[];
}

interface Opened {
  readonly snapshotPath: string;
  readonly file: LogFile;
  readonly items: Map<string, Stored>;
  readonly meta: Meta;
}

/**
 * The last good of a shared store at this host, in memory and on disk. Redis has the truth: files that are damaged are
 * moved aside, and a full disk only means that the files stay behind until there is space.
 */
export class Replica {
  readonly items: Map<string, Stored>;
  readonly #log: Logger;
  readonly #snapshot: string;
  readonly #file: LogFile;
  #position: Position;
  #marks: readonly Mark[];
  /** The files do not hold the last steps: the next one writes everything. */
  #behind = false;
  #compactAt = COMPACT_AT;

  constructor(disk: Opened, log: Logger) {
    this.#log = log;
    this.#snapshot = disk.snapshotPath;
    this.#file = disk.file;
    this.items = disk.items;
    this.#position = disk.meta;
    this.#marks = disk.meta.marks;
  }

  static async open(dir: string, log: Logger): Promise<Replica> {
    await mkdir(dir, { recursive: true, mode: 0o700 });
    const [snapshot, path] = [join(dir, 'replica.snapshot'), join(dir, 'replica.log')];
    try {
      return new Replica(await load(snapshot, path), log);
    } catch (e) {
      if (!(e instanceof StoreError) || (e.code !== 'corrupt' && e.code !== 'newer')) throw e;
      log.error(
        { err: e },
        'the last good copy of the store cannot be read: moved aside (.damaged), and read from Redis again',
      );
      for (const file of [snapshot, path]) await rename(file, `${file}.damaged`).catch(ignoreMissing);
      return new Replica(await load(snapshot, path), log);
    }
  }

  get position(): Position {
    return this.#position;
  }

  /** Newest first. */
  get marks(): readonly Mark[] {
    return this.#marks;
  }

  /** A step of the same past; resolves when it is on disk, or is known not to be. */
  async follow(step: Step): Promise<void> {
    this.#take(step);
    const { id, revision, nonce, marks, changes } = step;
    const meta = { revision, key: META, json: JSON.stringify({ id, revision, nonce, marks }) };
    try {
      if (this.#behind || this.#file.length > this.#compactAt) await this.#writeAll();
      else await this.#file.append([...changes, meta]);
      this.#behind = false;
    } catch (e) {
      this.#fellBehind(e);
    }
  }

  /** A step to another past: `marks` are all that are known of it, and the files are written anew. */
  async leap(step: Step): Promise<void> {
    this.#marks = [];
    this.#take(step);
    try {
      await this.#writeAll();
      this.#behind = false;
    } catch (e) {
      this.#fellBehind(e);
    }
  }

  close(): Promise<void> {
    return this.#file.close();
  }

  #take({ id, revision, nonce, marks, changes }: Step): void {
    for (const c of changes) applyChange(this.items, c);
    this.#position = { id, revision, nonce };
    this.#marks = [...marks, ...this.#marks].slice(0, KEEP_MARKS);
  }

  async #writeAll(): Promise<void> {
    const json = JSON.stringify({ ...this.#position, marks: this.#marks });
    const { revision } = this.#position;
    const all = new Map([...this.items, [META, { json, revision }]]);
    const bytes = await writeSnapshot(this.#snapshot, all, revision);
    await this.#file.restart(revision);
    this.#compactAt = Math.max(COMPACT_AT, bytes);
  }

  #fellBehind(e: unknown): void {
    if (!this.#behind)
      this.#log.warn(
        { err: e },
        'the last good copy of the store cannot be written: without Redis a restart would bring back an older one',
      );
    this.#behind = true;
  }
}

async function load(snapshotPath: string, logPath: string): Promise<Opened> {
  const { items, revision: base } = await readSnapshot(snapshotPath);
  const loaded = await readLog(logPath);
  const meta = [metaOf(items.get(META)?.json)];
  items.delete(META);
  // A log of another base was to be emptied when the snapshot had been written: the snapshot holds it all.
  for (const c of loaded.base === base ? loaded.changes : []) {
    if (c.key === META) meta.push(metaOf(c.json));
    else applyChange(items, c);
  }
  const file = await LogFile.open(logPath, loaded);
  if (loaded.base !== base) await file.restart(base);
  return { snapshotPath, file, items, meta: joined(meta) };
}

const NOWHERE: Meta = { id: '', revision: 0, nonce: '', marks: [] };

function metaOf(json: string | undefined): Meta {
  return json === undefined ? NOWHERE : (JSON.parse(json) as Meta);
}

/** The last position, and the newest marks of all. */
function joined(steps: readonly Meta[]): Meta {
  const marks = steps.toReversed().flatMap((step) => step.marks);
  return { ...(steps.at(-1) ?? NOWHERE), marks: marks.slice(0, KEEP_MARKS) };
}

function ignoreMissing(e: unknown): void {
  if (errorCode(e) !== 'ENOENT') throw e;
}

/** More than this is no short absence any more. */
const MOST = 2000;
/** Local revisions lie between two of Redis's: 2^20 of them behind each. */
const PART = 2 ** -20;

/**
 * Changes that were made while Redis was away and concern this host alone, until Redis has them too. On disk before they
 * are acknowledged.
 */
export class LocalChanges {
  readonly #file: string;
  readonly #changes: Map<string, Change>;
  #last: number;
  #tail: Promise<unknown> = Promise.resolve();

  private constructor(file: string, changes: readonly Change[]) {
    this.#file = file;
    this.#changes = new Map(changes.map((c) => [c.key, c]));
    this.#last = Math.max(0, ...changes.map((c) => c.revision));
  }

  /** Throws StoreError `corrupt`. */
  static async open(file: string): Promise<LocalChanges> {
    const text = await readFile(file, 'utf8').catch((e: unknown) => {
      if (errorCode(e) === 'ENOENT') return '[]';
      throw e;
    });
    return new LocalChanges(file, changesOf(file, text));
  }

  get size(): number {
    return this.#changes.size;
  }
  get(key: string): Change | undefined {
    return this.#changes.get(key);
  }
  all(): readonly Change[] {
    return [...this.#changes.values()];
  }

  /** `behind`: the newest revision that anybody was told. Resolves when durable; throws StoreError `write`. */
  async keep(key: string, json: string | undefined, behind: number): Promise<Change> {
    if (this.#changes.size >= MOST && !this.#changes.has(key))
      throw new StoreError(
        'write',
        `${MOST} changes of this host wait for Redis already: ${key} is refused until it is back`,
      );
    const before = this.#changes.get(key);
    this.#last = Math.max(this.#last, behind) + PART;
    const change: Change = { key, revision: this.#last, json };
    this.#changes.set(key, change);
    await this.#save(() => this.#putBack(change, before));
    return change;
  }

  /** Forgets the change, if it is still this one. */
  async drop(change: Change): Promise<void> {
    if (this.#changes.get(change.key) !== change) return;
    this.#changes.delete(change.key);
    await this.#save(() => this.#putBack(undefined, change));
  }

  #putBack(now: Change | undefined, before: Change | undefined): void {
    const key = now?.key ?? before?.key ?? '';
    if (this.#changes.get(key) !== now) return;
    if (before) this.#changes.set(key, before);
    else this.#changes.delete(key);
  }

  async #save(undo: () => void): Promise<void> {
    const saved = this.#tail.then(() => replaceFile(this.#file, [Buffer.from(this.#text())]));
    this.#tail = saved.catch(() => undefined);
    try {
      await saved;
    } catch (e) {
      undo();
      throw writeError(this.#file, e);
    }
  }

  #text(): string {
    return JSON.stringify(this.all().map(({ revision, key, json }) => [revision, key, json ?? null]));
  }
}

/** An array of rows is format 1; a later one is an object with its version. */
function changesOf(file: string, text: string): Change[] {
  const content = parseJson(Buffer.from(text));
  if (isRecord(content) && typeof content.version === 'number')
    throw newerError(file, String(content.version), '1');
  const changes = Array.isArray(content) ? content.map(changeOf) : [undefined];
  if (changes.every((c) => c !== undefined)) return changes;
  throw corruptError(file, 0, 'it does not hold changes');
}

function changeOf(row: unknown): Change | undefined {
  const [revision, key, json] = Array.isArray(row) ? row : [];
  const isChange = typeof revision === 'number' && typeof key === 'string';
  if (!isChange || (json !== null && typeof json !== 'string')) return undefined;
  if (typeof json === 'string' && parseJson(Buffer.from(json)) === undefined) return undefined;
  return { revision, key, json: json ?? undefined };
}
