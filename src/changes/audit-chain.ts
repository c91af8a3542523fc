import { createHash } from 'node:crypto';
import { isRecord } from '../lib/json.js';

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

/** A line whose hash is SHA-256 over the hash of the line before, a newline, and the line without its hash. */
export function seal(previous: string, content: object): { readonly line: string; readonly hash: string } {
  const body = JSON.stringify(content);
  const hash = hashOf(previous, body);
  return { line: `${body.slice(0, -1)},"hash":"${hash}"}\n`, hash };
}

/** Undefined: the text is no line of an audit file. Its hash is not checked. */
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

/** Undefined: the line is no header of a file. */
export function headerOf(line: Line | undefined): FileHeader | undefined {
  const { drawbridgeAudit, first, previous, time } = line?.content ?? {};
  return typeof drawbridgeAudit === 'number' && Number.isSafeInteger(first) && typeof previous === 'string'
    ? { drawbridgeAudit, first: Number(first), previous, time: String(time) }
    : undefined;
}

function hashOf(previous: string, body: string): string {
  return createHash('sha256').update(`${previous}\n${body}`).digest('hex');
}
