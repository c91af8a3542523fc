import { createHash } from 'node:crypto';
import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import { isRecord } from '../lib/json.js';
import { firstOf } from '../store/state-file.js';

/** What the first line of the first file continues. */
export const GENESIS = '0'.repeat(64);
/** Of the lines below; a reader refuses a greater one. */
export const AUDIT_FORMAT = 1;

/** One line of an audit file. */
export interface Line {
  readonly hash: string;
  /** What the hash is over, after the hash of the line before. */
  readonly body: string;
  readonly content: Readonly<Record<string, unknown>>;
}

/** The first line of each file: it carries the chain on from the last line of the file before. */
export interface FileHeader {
  readonly drawbridgeAudit: number;
  /** Number of the first record. */
  readonly first: number;
  /** Hash of the last line before. */
  readonly previous: string;
  readonly time: string;
}

/** Return a line with its hash: SHA-256 over the hash of the previous line, a newline, and this line without its hash. */
export function seal(previous: string, content: object): { readonly line: string; readonly hash: string } {
  const body = JSON.stringify(content);
  const hash = hashOf(previous, body);
  return { line: `${body.slice(0, -1)},"hash":"${hash}"}\n`, hash };
}

/** Returns undefined when the text is not a line of an audit file. The hash is not checked. */
export function parseLine(text: string): Line | undefined {
  const [, start, hash] = /^(\{.*),"hash":"([0-9a-f]{64})"\}$/s.exec(text) ?? [];
  if (start === undefined || hash === undefined) return undefined;
  const body = `${start}}`;
  try {
    const content: unknown = JSON.parse(body);
    return isRecord(content) ? { hash, body, content } : undefined;
  } catch {
    return undefined; // the caller reports the line as damaged
  }
}

export const follows = (previous: string, line: Line): boolean => line.hash === hashOf(previous, line.body);

/** Returns undefined when the line is not the header of a file. */
export function headerOf(line: Line | undefined): FileHeader | undefined {
  const { drawbridgeAudit, first, previous, time } = line?.content ?? {};
  return typeof drawbridgeAudit === 'number' && Number.isSafeInteger(first) && typeof previous === 'string'
    ? { drawbridgeAudit, first: Number(first), previous, time: String(time) }
    : undefined;
}

function hashOf(previous: string, body: string): string {
  return createHash('sha256').update(`${previous}\n${body}`).digest('hex');
}

/** Where a file's chain ends, as far as it is whole. */
interface SegmentEnd {
  readonly hash: string;
  /** Number of the last record that is in the file, whole or not; 0: none. */
  readonly last: number;
  /** Bytes up to the end of the last whole line. */
  readonly goodLength: number;
  /** What follows is no unfinished write: the file must not be written any more. */
  readonly isDamaged: boolean;
}

/** Reads one file from its beginning. It is never much larger than its share of the budget. */
export async function readEnd(dir: string, name: string): Promise<SegmentEnd> {
  const file = await open(join(dir, name), 'r');
  try {
    return endOf(await file.readFile(), firstOf(name));
  } finally {
    await file.close();
  }
}

function endOf(bytes: Buffer, first: number): SegmentEnd {
  let [at, hash, last] = [0, GENESIS, first - 1];
  for (let end = bytes.indexOf(10); end >= 0; end = bytes.indexOf(10, at)) {
    const line = parseLine(bytes.toString('utf8', at, end));
    const header = at === 0 ? headerOf(line) : undefined;
    const previous = header?.previous ?? hash;
    if (!line || !follows(previous, line) || (header && header.drawbridgeAudit > AUDIT_FORMAT)) {
      return { hash: line?.hash ?? hash, last: last + linesIn(bytes, at), goodLength: at, isDamaged: true };
    }
    hash = line.hash;
    if (!header) last++;
    at = end + 1;
  }
  return { hash, last, goodLength: at, isDamaged: false };
}

function linesIn(bytes: Buffer, from: number): number {
  let lines = 0;
  for (let at = bytes.indexOf(10, from); at >= 0; at = bytes.indexOf(10, at + 1)) lines++;
  return lines;
}

interface Located {
  /** Where the line begins. */
  readonly offset: number;
  readonly text: string;
}
const BLOCK = 64 * 1024;

/** Whole lines that begin before `end`, last first. The header is one of them. */
export async function* linesBackwards(file: FileHandle, end: number): AsyncGenerator<Located> {
  let rest = Buffer.alloc(0);
  let at = end;
  while (at > 0) {
    const start = Math.max(0, at - BLOCK);
    const block = Buffer.alloc(at - start);
    const { bytesRead } = await file.read(block, 0, block.length, start);
    rest = Buffer.concat([block.subarray(0, bytesRead), rest]);
    at = start;
    for (;;) {
      const feed = rest.length < 2 ? -1 : rest.lastIndexOf(10, rest.length - 2);
      if (feed < 0) break;
      yield { offset: at + feed + 1, text: rest.toString('utf8', feed + 1, rest.length - 1) };
      rest = rest.subarray(0, feed + 1);
    }
  }
  if (rest.length > 1) yield { offset: 0, text: rest.toString('utf8', 0, rest.length - 1) };
}
