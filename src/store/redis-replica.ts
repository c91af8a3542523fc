import { mkdir, readFile, rename } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { isRecord } from '../lib/json.js';
import type { Logger } from '../lib/log.js';
import { ignoreMissing } from '../lib/problem.js';
import { Serial } from '../lib/serial.js';
import { parseJson } from './frame-file.js';
import { Lineage, type LineageFields, type Mark, type Origins } from './redis-lineage.js';
import { KEEP } from './redis-scripts.js';
import { replaceFile } from './state-file.js';
import { corruptError, newerError, StoreError, writeError } from './store-error.js';
import { LogFile, readLog, readSnapshot, writeSnapshot } from './store-files.js';
import { applyChange, type Change, type Stored } from './stored-item.js';

/** The point in the history of the store that a replica has reached. A new replica has revision 0 and an empty `id` and `nonce`. */
export interface Position {
  readonly id: string;
  readonly revision: number;
  readonly nonce: string;
}
export interface Step extends Position {
  readonly changes: readonly Change[];
  /** The batches since the last step, newest first. */
  readonly marks: readonly Mark[];
  /** Origins of the keys that were changed; of a leap, all. */
  readonly origins: Origins;
}
/** A step to another history than that of the local copy. */
export interface Leap extends Step {
  /** Keys and revisions of deletions in that history since the common one. */
  readonly gone: readonly Mark[];
  /** The newest deletion that Redis has forgotten. */
  readonly floor: number;
}

/** A reserved key under which log and snapshot keep id, nonce and marks. */
const META = '\u0000position';
/** The copy that was replaced when another store was accepted. */
const BEFORE = 'replica.before';
const COMPACT_AT = 4 * 1024 * 1024;

interface Meta extends Position, Partial<LineageFields> {
  readonly marks: readonly Mark[];
}

interface Opened {
  readonly snapshotPath: string;
  readonly file: LogFile;
  readonly items: Map<string, Stored>;
  readonly lineage: Lineage;
  readonly meta: Meta;
}

/**
 * The last good copy of a shared store at this host, in memory and on disk. Redis is authoritative: damaged files are
 * moved aside, and on a full disk the files only lag behind memory until there is space.
 */
export class Replica {
  readonly items: Map<string, Stored>;
  readonly #log: Logger;
  readonly #snapshot: string;
  readonly #file: LogFile;
  #lineage: Lineage;
  #position: Position;
  #marks: readonly Mark[];
  /** The files lack the last steps: the next step writes everything. */
  #behind = false;
  #compactAt = COMPACT_AT;

  constructor(disk: Opened, log: Logger) {
    this.#log = log;
    this.#snapshot = disk.snapshotPath;
    this.#file = disk.file;
    this.items = disk.items;
    this.#lineage = disk.lineage;
    const { id, revision, nonce } = disk.meta;
    this.#position = { id, revision, nonce };
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
        'the last good copy of the store cannot be read: it was moved aside (.damaged) and is read from Redis again',
      );
      for (const file of [snapshot, path]) await rename(file, `${file}.damaged`).catch(ignoreMissing);
      return new Replica(await load(snapshot, path), log);
    }
  }

  get position(): Position {
    return this.#position;
  }

  /** Whether this batch is in the history of the replica. */
  has([nonce, revision]: Mark): boolean {
    return this.#marks.some((mark) => mark[0] === nonce && mark[1] === revision);
  }

  /** Newest first. */
  get marks(): readonly Mark[] {
    return this.#marks;
  }

  get lineage(): Lineage {
    return this.#lineage;
  }

  /** Applies a step that continues the history. Resolves when it is on disk, or when writing it has failed. */
  async follow(step: Step): Promise<void> {
    this.#take(step);
    const { id, revision, nonce, marks, changes } = step;
    const origins = step.origins.size > 0 ? { origins: [...step.origins] } : {};
    const meta = { revision, key: META, json: JSON.stringify({ id, revision, nonce, marks, ...origins }) };
    try {
      if (this.#behind || this.#file.length > this.#compactAt) await this.#writeAll();
      else await this.#file.append([...changes, meta]);
      this.#behind = false;
    } catch (e) {
      this.#fellBehind(e);
    }
  }

  /** Applies a step to a different history: its `marks` replace all earlier ones, and the files are rewritten. */
  async leap(step: Leap): Promise<void> {
    this.#marks = [];
    if (step.id !== this.#position.id) this.#lineage = new Lineage({ gone: [], origins: [], floor: 0 });
    this.#take(step);
    this.#lineage.leap(step);
    try {
      await this.#writeAll();
      this.#behind = false;
    } catch (e) {
      this.#fellBehind(e);
    }
  }

  /** Keeps this copy as BEFORE, where no later step changes it. Throws StoreError `write`. */
  async keepBefore(): Promise<void> {
    await writeSnapshot(join(dirname(this.#snapshot), BEFORE), this.#whole(), this.#position.revision);
  }

  close(): Promise<void> {
    return this.#file.close();
  }

  #take({ id, revision, nonce, marks, changes, origins }: Step): void {
    for (const c of changes) applyChange(this.items, c);
    this.#lineage.apply(changes, origins);
    this.#position = { id, revision, nonce };
    this.#marks = [...marks, ...this.#marks].slice(0, KEEP);
  }

  #whole(): ReadonlyMap<string, Stored> {
    const meta: Meta = { ...this.#position, marks: this.#marks, ...this.#lineage.fields() };
    return new Map([...this.items, [META, { json: JSON.stringify(meta), revision: meta.revision }]]);
  }

  async #writeAll(): Promise<void> {
    const { revision } = this.#position;
    const bytes = await writeSnapshot(this.#snapshot, this.#whole(), revision);
    await this.#file.restart(revision);
    this.#compactAt = Math.max(COMPACT_AT, bytes);
  }

  #fellBehind(e: unknown): void {
    if (!this.#behind)
      this.#log.warn(
        { err: e },
        'the last good copy of the store cannot be written: a restart while Redis is away would use an older copy',
      );
    this.#behind = true;
  }
}

async function load(snapshotPath: string, logPath: string): Promise<Opened> {
  const { items, revision: base } = await readSnapshot(snapshotPath);
  const loaded = await readLog(logPath);
  const start = metaOf(items.get(META)?.json);
  const steps = [start];
  items.delete(META);
  // A snapshot of an earlier version has no deletions: all up to its revision are forgotten.
  const { gone = [], origins = [], floor = start.revision } = start;
  const lineage = new Lineage({ gone, origins, floor });
  // A log with another base was about to be restarted after a snapshot: the snapshot contains all of its changes.
  for (const c of loaded.base === base ? loaded.changes : []) {
    if (c.key !== META) {
      applyChange(items, c);
      lineage.apply([c], NONE);
    } else {
      const step = metaOf(c.json);
      lineage.apply([], new Map(step.origins));
      steps.push(step);
    }
  }
  const file = await LogFile.open(logPath, loaded);
  if (loaded.base !== base) await file.restart(base);
  return { snapshotPath, file, items, lineage, meta: joined(steps) };
}

const NONE: Origins = new Map();
const START: Meta = { id: '', revision: 0, nonce: '', marks: [] };

function metaOf(json: string | undefined): Meta {
  return json === undefined ? START : (JSON.parse(json) as Meta);
}

/** The position of the last step with the newest marks of all steps. */
function joined(steps: readonly Meta[]): Meta {
  const marks = steps.toReversed().flatMap((step) => step.marks);
  return { ...(steps.at(-1) ?? START), marks: marks.slice(0, KEEP) };
}

/** Changes that may wait for Redis at once. */
const MOST_WAITING = 2000;
/** Local revisions lie between two revisions of Redis, up to 2^20 after each one. */
const LOCAL_STEP = 2 ** -20;

/**
 * Changes that concern this host alone and were made while Redis was away, until they are in Redis. They are on disk
 * before they are acknowledged.
 */
export class LocalChanges {
  readonly #file: string;
  readonly #changes: Map<string, Change>;
  #last: number;
  readonly #saves = new Serial();

  private constructor(file: string, changes: readonly Change[]) {
    this.#file = file;
    this.#changes = new Map(changes.map((c) => [c.key, c]));
    this.#last = Math.max(0, ...changes.map((c) => c.revision));
  }

  /** Opens the file; one that cannot be read is moved aside (FILE.damaged), and the changes in it do not reach Redis. */
  static async open(file: string, log: Logger): Promise<LocalChanges> {
    try {
      return await LocalChanges.read(file);
    } catch (e) {
      if (!(e instanceof StoreError) || (e.code !== 'corrupt' && e.code !== 'newer')) throw e;
      log.error(
        { err: e, aside: `${file}.damaged` },
        'the changes of this host that waited for Redis cannot be read: the file was moved aside',
      );
      await rename(file, `${file}.damaged`);
      return LocalChanges.read(file);
    }
  }

  /** Throws StoreError `corrupt` or `newer`. */
  static async read(file: string): Promise<LocalChanges> {
    const text = (await readFile(file, 'utf8').catch(ignoreMissing)) ?? '[]';
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

  /** `after` is the newest revision of Redis that was reported. Resolves when the change is durable. Throws StoreError `write`. */
  async keep(key: string, json: string | undefined, after: number): Promise<Change> {
    if (this.#changes.size >= MOST_WAITING && !this.#changes.has(key))
      throw new StoreError(
        'write',
        `${MOST_WAITING} changes of this host wait for Redis already: ${key} is refused until it is back`,
      );
    const before = this.#changes.get(key);
    this.#last = Math.max(this.#last, after) + LOCAL_STEP;
    const change: Change = { key, revision: this.#last, json };
    this.#changes.set(key, change);
    await this.#save(() => this.#putBack(change, before));
    return change;
  }

  /** Forgets the change, unless a newer one of the same key has replaced it. */
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
    try {
      await this.#saves.run(() => replaceFile(this.#file, [Buffer.from(this.#text())]));
    } catch (e) {
      undo();
      throw writeError(this.#file, e);
    }
  }

  #text(): string {
    return JSON.stringify(this.all().map(({ revision, key, json }) => [revision, key, json ?? null]));
  }
}

/** Format 1 is an array of rows; later formats are objects with a version. */
function changesOf(file: string, text: string): Change[] {
  const content = parseJson(Buffer.from(text));
  if (isRecord(content) && typeof content.version === 'number')
    throw newerError(file, String(content.version), '1');
  const changes = Array.isArray(content) ? content.map(changeOf) : [undefined];
  if (changes.every((c) => c !== undefined)) return changes;
  throw corruptError(file, 0, 'it is not a list of changes');
}

function changeOf(row: unknown): Change | undefined {
  const [revision, key, json] = Array.isArray(row) ? row : [];
  const isChange = typeof revision === 'number' && typeof key === 'string';
  if (!isChange || (json !== null && typeof json !== 'string')) return undefined;
  if (typeof json === 'string' && parseJson(Buffer.from(json)) === undefined) return undefined;
  return { revision, key, json: json ?? undefined };
}
