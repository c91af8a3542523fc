import { type FileHandle, open, stat, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { errorText, ignoreMissing, isDiskFull, RemedyError } from '../lib/problem.js';
import {
  auditFilesIn,
  DURABLE,
  firstOf,
  NEW_DURABLE,
  openOrUndefined,
  segmentName,
  syncFolder,
  writeAll,
} from '../store/state-file.js';
import type { RecordLine } from '../store/store-interface.js';
import { AUDIT_FORMAT, GENESIS, headerOf, linesBackwards, parseLine, readEnd, seal } from './audit-chain.js';

type Content = Readonly<Record<string, unknown>>;

export interface AuditFileOptions {
  /** The state folder. */
  readonly dir: string;
  /** ms since the epoch. */
  readonly now: () => number;
  /** Bytes of one file, and how many there are: the budget is their product. */
  readonly segmentBytes?: number;
  readonly segments?: number;
}
const SEGMENT_BYTES = 8 * 1024 * 1024;
const SEGMENTS = 8;
const MOST_AT_ONCE = 500;

/** Called when the line of a record is known, right before it is written. */
export type OnSealed = (line: RecordLine) => void;

interface Waiting {
  readonly content: Content;
  readonly onSealed: OnSealed | undefined;
  resolve(n: number): void;
  reject(e: unknown): void;
}
interface Current {
  readonly name: string;
  readonly handle: FileHandle;
  length: number;
  /** Bytes behind `length` that an append has left which did not finish. */
  isDirty: boolean;
}

/**
 * The audit's files: lines that are only ever appended, each with a hash over itself and the line before. Beyond the
 * budget the oldest file is deleted, which is recorded. There is one writer at a time (the lock of the state folder).
 */
export class AuditFile {
  readonly #o: AuditFileOptions;
  #hash: string;
  #last: number;
  #current: Current | undefined;
  #names: string[];
  #queue: Waiting[] = [];
  #flushing: Promise<void> | undefined;

  private constructor(options: AuditFileOptions, names: readonly string[], hash: string, last: number) {
    this.#o = options;
    this.#names = [...names];
    this.#hash = hash;
    this.#last = last;
  }

  /** Writes nothing: a full disk does not keep it from opening. A damaged file is left alone, and another one begun. */
  static async open(options: AuditFileOptions): Promise<AuditFile> {
    const names = [...(await auditFilesIn(options.dir))];
    const name = names.at(-1);
    if (name === undefined) return new AuditFile(options, names, GENESIS, 0);
    const { hash, last, goodLength, isDamaged } = await readEnd(options.dir, name);
    if (goodLength === 0 && !isDamaged) {
      // Its header was being written when the host went down: nothing was recorded in it.
      await unlink(join(options.dir, name));
      return AuditFile.open(options);
    }
    const file = new AuditFile(options, names, hash, last);
    if (isDamaged) return file;
    const path = join(options.dir, name);
    const [handle, { size }] = [await open(path, DURABLE), await stat(path)];
    file.#current = { name, handle, length: goodLength, isDirty: size > goodLength };
    return file;
  }

  /** Resolves with the number of the durable record. Throws the error of the disk; the record is then not in the file. */
  append(content: Content, onSealed?: OnSealed): Promise<number> {
    return new Promise((resolve, reject) => {
      this.#queue.push({ content, onSealed, resolve, reject });
      this.#flushing ??= this.#flush();
    });
  }

  /** Newest first. `cursor` as `next` of the page before; what was deleted meanwhile is passed over. */
  async page(
    limit: number,
    cursor: string | undefined,
  ): Promise<{ readonly items: readonly Content[]; readonly next: string | undefined }> {
    const from = cursor === undefined ? { first: Number.MAX_SAFE_INTEGER, offset: 0 } : positionOf(cursor);
    const items: Content[] = [];
    let last = '';
    for (const name of this.#names.toReversed().filter((n) => firstOf(n) <= from.first)) {
      const end = firstOf(name) === from.first ? from.offset : undefined;
      for await (const { offset, content } of this.#records(name, end)) {
        if (items.length === limit) return { items, next: last };
        items.push(content);
        last = `${firstOf(name)}.${offset}`;
      }
    }
    return { items, next: undefined };
  }

  async close(): Promise<void> {
    await this.#flushing;
    await this.#current?.handle.close();
    this.#current = undefined;
  }

  async *#records(
    name: string,
    end: number | undefined,
  ): AsyncGenerator<{ offset: number; content: Content }> {
    const file = await openOrUndefined(join(this.#o.dir, name));
    if (!file) return;
    try {
      const durable = this.#current?.name === name ? this.#current.length : (await file.stat()).size;
      for await (const { offset, text } of linesBackwards(file, Math.min(end ?? durable, durable))) {
        const line = parseLine(text);
        if (line && !headerOf(line)) yield { offset, content: { ...line.content, hash: line.hash } };
      }
    } finally {
      await file.close();
    }
  }

  async #flush(): Promise<void> {
    await Promise.resolve();
    while (this.#queue.length > 0) await this.#write(this.#queue.splice(0, MOST_AT_ONCE));
    this.#flushing = undefined;
  }

  async #write(batch: readonly Waiting[]): Promise<void> {
    try {
      const current = await this.#open();
      const first = this.#last + 1;
      await this.#put(current, batch);
      for (const [i, { resolve }] of batch.entries()) resolve(first + i);
    } catch (e) {
      for (const { reject } of batch) reject(failure(this.#o.dir, e));
    }
  }

  /** The file that takes the next record: another one once it has its share of the budget. */
  async #open(): Promise<Current> {
    const current = this.#current;
    if (current && current.length < (this.#o.segmentBytes ?? SEGMENT_BYTES)) return current;
    const next = await this.#begin();
    await current?.handle.close();
    await this.#dropOldest(next);
    return next;
  }

  async #begin(): Promise<Current> {
    const first = this.#last + 1;
    const name = segmentName(first);
    const path = join(this.#o.dir, name);
    const time = new Date(this.#o.now()).toISOString();
    const header = { drawbridgeAudit: AUDIT_FORMAT, first, previous: this.#hash, time };
    const { line, hash } = seal(this.#hash, header);
    const handle = await open(path, NEW_DURABLE, 0o600);
    try {
      await writeAll(handle, Buffer.from(line), 0);
      await handle.sync();
      await syncFolder(this.#o.dir);
    } catch (e) {
      await handle.close();
      await unlink(path);
      throw e;
    }
    this.#hash = hash;
    this.#names.push(name);
    this.#current = { name, handle, length: Buffer.byteLength(line), isDirty: false };
    return this.#current;
  }

  /** The record comes before the deletion: files that are missing without one were taken away. */
  async #dropOldest(current: Current): Promise<void> {
    const surplus = this.#names.slice(0, Math.max(0, this.#names.length - (this.#o.segments ?? SEGMENTS)));
    for (const name of surplus) {
      const last = firstOf(this.#names[1] ?? '') - 1;
      await this.#put(current, [
        {
          content: {
            time: new Date(this.#o.now()).toISOString(),
            who: 'drawbridge',
            action: DROP,
            target: name,
            before: { first: firstOf(name), last },
            after: null,
            outcome: 'done',
          },
        },
      ]);
      await unlink(join(this.#o.dir, name)).catch(ignoreMissing);
      this.#names.shift();
    }
  }

  /** Durable, or not there at all. */
  async #put(
    current: Current,
    batch: readonly { readonly content: Content; readonly onSealed?: OnSealed | undefined }[],
  ): Promise<void> {
    let [hash, last, text] = [this.#hash, this.#last, ''];
    const lines: RecordLine[] = [];
    for (const { content } of batch) {
      const sealed = seal(hash, { n: ++last, ...content });
      hash = sealed.hash;
      text += sealed.line;
      lines.push({ n: last, hash });
    }
    const bytes = Buffer.from(text);
    try {
      if (current.isDirty) await cut(current);
      current.isDirty = true;
      for (const [i, line] of lines.entries()) batch[i]?.onSealed?.(line);
      await writeAll(current.handle, bytes, current.length);
    } catch (e) {
      // A cut that fails is tried again before the next record.
      await cut(current).catch(() => undefined);
      throw e;
    }
    current.isDirty = false;
    current.length += bytes.length;
    [this.#hash, this.#last] = [hash, last];
  }
}

/** The action of the record that a file of the audit was deleted because of the budget. */
export const DROP = 'audit.drop';

async function cut(current: Current): Promise<void> {
  await current.handle.truncate(current.length);
  current.isDirty = false;
}

/** A cursor that is none leads before the first record. */
function positionOf(cursor: string): { readonly first: number; readonly offset: number } {
  const [, first = 0, offset = 0] = /^(\d{1,15})\.(\d{1,15})$/.exec(cursor) ?? [];
  return { first: Number(first), offset: Number(offset) };
}

function failure(dir: string, e: unknown): Error {
  const isFull = isDiskFull(e);
  const remedy = isFull
    ? 'free space on that file system'
    : 'check that the file system is writable and healthy';
  return new RemedyError(
    `cannot write the audit in ${dir}: ${isFull ? 'the disk is full' : errorText(e)}`,
    `Nothing was changed; ${remedy}, then try again`,
    e,
  );
}
