import { readFile } from 'node:fs/promises';
import { isRecord } from '../lib/json.js';
import { corruptError, errorCode, newerError, StoreError, writeError } from './errors.js';
import { replaceFile } from './files.js';
import { type Change, parseJson } from './frames.js';

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
