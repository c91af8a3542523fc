/**
 * DNS messages as records with raw, uncompressed rdata. A filter must carry every type unharmed, unknown ones and odd
 * bytes in labels included, which a codec that turns rdata into objects and labels into UTF-8 cannot.
 */
import { type NameLayout, nameLayout, type } from './types.js';
import { nameToWire, readName, WireError } from './wire-name.js';

interface Question {
  /** As asked, case kept. */
  readonly name: string;
  readonly type: number;
  readonly class: number;
}
export interface ResourceRecord {
  readonly name: string;
  readonly type: number;
  readonly class: number;
  /** Seconds. */
  readonly ttl: number;
  /** Names inside are uncompressed. */
  readonly data: Buffer;
}
export interface Edns {
  /** Largest UDP message the sender takes, bytes. */
  readonly size: number;
  readonly version: number;
  readonly dnssecOk: boolean;
  readonly extendedRcode: number;
  readonly options: Buffer;
}
export interface Message {
  readonly id: number;
  /** The 16 flag bits of the header, response code included. */
  readonly flags: number;
  readonly questions: readonly Question[];
  readonly answers: readonly ResourceRecord[];
  readonly authorities: readonly ResourceRecord[];
  readonly additionals: readonly ResourceRecord[];
  readonly edns?: Edns;
}
export const flag = {
  QR: 0x8000,
  AA: 0x0400,
  TC: 0x0200,
  RD: 0x0100,
  RA: 0x0080,
  AD: 0x0020,
  CD: 0x0010,
} as const;
export const headerBytes = 12;

function expandData(msg: Buffer, number: number, start: number, end: number): Buffer {
  const layout = nameLayout.get(number) ?? (number === type.NAPTR ? naptrLayout(msg, start, end) : undefined);
  if (layout === undefined) return msg.subarray(start, end);
  if (end - start < layout.skip + layout.names) throw new WireError('rdata too short for its names');
  const parts = [msg.subarray(start, start + layout.skip)];
  let at = start + layout.skip;
  for (let i = 0; i < layout.names; i++) {
    const { name, next } = readName(msg, at);
    if (next > end) throw new WireError('name runs past its record');
    parts.push(nameToWire(name));
    at = next;
  }
  if (end - at !== layout.rest) throw new WireError('rdata that does not end where its type says');
  parts.push(msg.subarray(at, end));
  return Buffer.concat(parts);
}

/** NAPTR (RFC 3403): order, preference and three strings stand before the name. */
function naptrLayout(msg: Buffer, start: number, end: number): NameLayout {
  let at = start + 4;
  for (let i = 0; i < 3; i++) at += 1 + (msg[at] ?? 0);
  if (at >= end) throw new WireError('NAPTR cut short');
  return { skip: at - start, names: 1, rest: 0 };
}

interface Cursor {
  at: number;
  edns?: Edns;
}

function readRecord(msg: Buffer, cursor: Cursor): ResourceRecord | undefined {
  const { name, next } = readName(msg, cursor.at);
  if (next + 10 > msg.length) throw new WireError('record cut short');
  const number = msg.readUInt16BE(next);
  const klass = msg.readUInt16BE(next + 2);
  const ttl = msg.readUInt32BE(next + 4);
  const start = next + 10;
  const end = start + msg.readUInt16BE(next + 8);
  if (end > msg.length) throw new WireError('rdata cut short');
  cursor.at = end;
  if (number === type.OPT) {
    if (name !== '' || cursor.edns !== undefined) throw new WireError('second or misplaced OPT');
    cursor.edns = readEdns(klass, ttl, msg.subarray(start, end));
    return undefined;
  }
  // A TTL with its top bit set counts as zero (RFC 2181 section 8).
  return {
    name,
    type: number,
    class: klass,
    ttl: ttl > 0x7fffffff ? 0 : ttl,
    data: expandData(msg, number, start, end),
  };
}

function readEdns(size: number, ttl: number, options: Buffer): Edns {
  return {
    size,
    extendedRcode: ttl >>> 24,
    version: (ttl >>> 16) & 0xff,
    dnssecOk: (ttl & 0x8000) !== 0,
    options,
  };
}

function readSection(msg: Buffer, cursor: Cursor, count: number): ResourceRecord[] {
  const records: ResourceRecord[] = [];
  for (let i = 0; i < count; i++) {
    const record = readRecord(msg, cursor);
    if (record !== undefined) records.push(record);
  }
  return records;
}

function readQuestions(msg: Buffer, cursor: Cursor, count: number): Question[] {
  const questions: Question[] = [];
  for (let i = 0; i < count; i++) {
    const { name, next } = readName(msg, cursor.at);
    if (next + 4 > msg.length) throw new WireError('question cut short');
    questions.push({ name, type: msg.readUInt16BE(next), class: msg.readUInt16BE(next + 2) });
    cursor.at = next + 4;
  }
  return questions;
}

/** Decodes a whole message; throws WireError on anything malformed, never reads past the buffer. */
export function decodeMessage(msg: Buffer): Message {
  if (msg.length < headerBytes) throw new WireError('shorter than a header');
  const cursor: Cursor = { at: headerBytes };
  const questions = readQuestions(msg, cursor, msg.readUInt16BE(4));
  const answers = readSection(msg, cursor, msg.readUInt16BE(6));
  const authorities = readSection(msg, cursor, msg.readUInt16BE(8));
  const additionals = readSection(msg, cursor, msg.readUInt16BE(10));
  const base = {
    id: msg.readUInt16BE(0),
    flags: msg.readUInt16BE(2),
    questions,
    answers,
    authorities,
    additionals,
  };
  return cursor.edns === undefined ? base : { ...base, edns: cursor.edns };
}
