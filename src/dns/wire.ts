import { formatAddress, parseAddress } from '../lib/ip.js';
import { classIn, type NameLayout, nameLayout, type } from './dns-constants.js';

/**
 * DNS messages as records with raw, uncompressed rdata. A filter must carry every type unharmed, unknown ones and odd
 * bytes in labels included, which a codec that turns rdata into objects and labels into UTF-8 cannot.
 */

/**
 * Domain names on the wire (RFC 1035 4.1.4) and as text. Text is lossless: a byte that is no letter, digit, '-' or '_'
 * is written \DDD, so that a dot inside a label can never be taken for a border between labels. The root is ''.
 */
export class WireError extends Error {}

const plainLabel = /^[A-Za-z0-9_-]+$/;
const plainName = /^[a-z0-9_-]+(?:\.[a-z0-9_-]+)*$/;
/** Octets of a name with its length bytes and the root (RFC 1035 2.3.4). */
const maxName = 255;
/** No valid name needs more compression pointers than it can have labels. */
const maxJumps = 127;

/** True when the lower-case text has ordinary labels only; names that are not plain match no entry. */
export function isPlainName(lower: string): boolean {
  return plainName.test(lower);
}

function escapeLabel(label: string): string {
  if (plainLabel.test(label)) return label;
  return label.replace(/[^A-Za-z0-9_-]/g, (c) => `\\${String(c.charCodeAt(0)).padStart(3, '0')}`);
}

/** Reads the name at `at`; `next` is the offset behind it. Throws WireError on loops, overlong names and cut input. */
export function readName(msg: Buffer, at: number): { readonly name: string; readonly next: number } {
  const labels: string[] = [];
  let total = 1;
  let next = -1;
  let pos = at;
  let run = at;
  for (let jumps = 0; jumps <= maxJumps; ) {
    const len = msg[pos];
    if (len === undefined) throw new WireError('name runs past the end');
    if (len === 0) return { name: labels.join('.'), next: next < 0 ? pos + 1 : next };
    if (len < 0x40) {
      total += len + 1;
      if (total > maxName || pos + 1 + len > msg.length) throw new WireError('name too long');
      labels.push(escapeLabel(msg.toString('latin1', pos + 1, pos + 1 + len)));
      pos += len + 1;
      continue;
    }
    const target = ((len & 0x3f) << 8) | (msg[pos + 1] ?? 0);
    // Only backward: then every jump shortens what is left, and no loop is possible.
    if (len < 0xc0 || pos + 1 >= msg.length || target >= run) throw new WireError('bad compression pointer');
    if (next < 0) next = pos + 2;
    pos = target;
    run = target;
    jumps++;
  }
  throw new WireError('too many compression pointers');
}

/** The bytes of one label of a text name. */
function labelBytes(label: string): Buffer {
  const raw = label.includes('\\')
    ? label.replace(/\\(\d{3})/g, (_, d: string) => String.fromCharCode(Number(d)))
    : label;
  const bytes = Buffer.from(raw, 'latin1');
  if (bytes.length === 0 || bytes.length > 63)
    throw new WireError(`label of ${bytes.length} bytes in "${label}"`);
  return bytes;
}

/** The uncompressed wire form. Throws WireError when a label or the name is too long or empty. */
export function nameToWire(name: string): Buffer {
  if (name === '') return Buffer.from([0]);
  const parts: Buffer[] = [];
  for (const label of name.split('.')) {
    const bytes = labelBytes(label);
    parts.push(Buffer.from([bytes.length]), bytes);
  }
  const wire = Buffer.concat([...parts, Buffer.from([0])]);
  if (wire.length > maxName) throw new WireError('name too long');
  return wire;
}

/** `name` is `zone` or lies below it; both lower case. */
export function isWithin(name: string, zone: string): boolean {
  return zone === '' || name === zone || (name.endsWith(zone) && name[name.length - zone.length - 1] === '.');
}

/** Writes into one scratch buffer: encoding is synchronous, the result is copied out. */
const scratch = Buffer.allocUnsafeSlow(65_535 + 512);

class Writer {
  at = headerBytes;
  readonly #seen = new Map<string, number>();

  name(name: string): void {
    const labels = name === '' ? [] : name.split('.');
    for (let i = 0; i < labels.length; i++) {
      const key = labels.slice(i).join('.').toLowerCase();
      const known = this.#seen.get(key);
      if (known !== undefined) {
        this.u16(0xc000 | known);
        return;
      }
      if (this.at < 0x4000) this.#seen.set(key, this.at);
      const bytes = labelBytes(labels[i] ?? '');
      scratch[this.at] = bytes.length;
      bytes.copy(scratch, this.at + 1);
      this.at += bytes.length + 1;
    }
    scratch[this.at++] = 0;
  }

  u16(value: number): void {
    this.at = scratch.writeUInt16BE(value, this.at);
  }

  record(record: ResourceRecord): void {
    this.name(record.name);
    this.u16(record.type);
    this.u16(record.class);
    this.at = scratch.writeUInt32BE(record.ttl, this.at);
    const length = this.at;
    this.at += 2;
    // Of the types with names that may be compressed, only CNAME chains repeat them often.
    if (record.type === type.CNAME) this.name(readName(record.data, 0).name);
    else this.at += record.data.copy(scratch, this.at);
    scratch.writeUInt16BE(this.at - length - 2, length);
  }

  /** Forgets what was written behind `at`, pointer targets included. */
  rewind(at: number): void {
    for (const [key, offset] of this.#seen) if (offset >= at) this.#seen.delete(key);
    this.at = at;
  }
}

function writeSection(writer: Writer, records: readonly ResourceRecord[], limit: number): number {
  let written = 0;
  for (const record of records) {
    const before = writer.at;
    // The scratch buffer has room for one record past any message, so only the result is checked.
    if (before + record.data.length + 270 <= scratch.length) writer.record(record);
    if (writer.at === before || writer.at > limit) {
      writer.rewind(before);
      break;
    }
    written++;
  }
  return written;
}

function writeEdns(writer: Writer, edns: Edns): void {
  scratch[writer.at++] = 0;
  writer.u16(type.OPT);
  writer.u16(edns.size);
  writer.u16((edns.extendedRcode << 8) | edns.version);
  writer.u16(edns.dnssecOk ? 0x8000 : 0);
  writer.u16(edns.options.length);
  writer.at += edns.options.copy(scratch, writer.at);
}

/**
 * Encodes with compressed names, at most `limit` bytes. Answers that do not fit are left out and TC is set; authorities
 * and additionals that do not fit are left out.
 */
export function encodeMessage(message: Message, limit = 65_535): Buffer {
  const writer = new Writer();
  for (const q of message.questions) {
    writer.name(q.name);
    writer.u16(q.type);
    writer.u16(q.class);
  }
  const room = limit - (message.edns === undefined ? 0 : 11 + message.edns.options.length);
  const answers = writeSection(writer, message.answers, room);
  const cut = answers < message.answers.length;
  const authorities = cut ? 0 : writeSection(writer, message.authorities, room);
  const additionals = cut ? 0 : writeSection(writer, message.additionals, room);
  if (message.edns !== undefined) writeEdns(writer, message.edns);
  const counts = [
    message.questions.length,
    answers,
    authorities,
    additionals + (message.edns === undefined ? 0 : 1),
  ];
  scratch.writeUInt16BE(message.id, 0);
  scratch.writeUInt16BE(message.flags | (cut ? flag.TC : 0), 2);
  counts.forEach((count, i) => {
    scratch.writeUInt16BE(count, 4 + 2 * i);
  });
  return Buffer.from(scratch.subarray(0, writer.at));
}

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

/** A copy in memory of its own. Node cuts small buffers from pieces of 8 KiB, and one that is kept keeps its whole piece. */
export const ownBytes = (bytes: Uint8Array): Buffer => Buffer.from(new Uint8Array(bytes).buffer);

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
  return ownBytes(Buffer.concat(parts));
}

/** NAPTR (RFC 3403): order, preference and three strings come before the name. */
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

/** Canonical text of an A or AAAA record; undefined: another type, or rdata of a wrong length. */
export function recordAddress(record: ResourceRecord): string | undefined {
  const { data } = record;
  if (record.type === type.A && data.length === 4) return data.join('.');
  if (record.type !== type.AAAA || data.length !== 16) return undefined;
  return formatAddress(6, (data.readBigUInt64BE(0) << 64n) | data.readBigUInt64BE(8));
}

/** A or AAAA record for `name`; undefined when the text is no address. */
export function addressRecord(name: string, address: string, ttl: number): ResourceRecord | undefined {
  const parsed = parseAddress(address);
  if (parsed === undefined) return undefined;
  const data = Buffer.from(parsed.value.toString(16).padStart(parsed.family === 4 ? 8 : 32, '0'), 'hex');
  return { name, type: parsed.family === 4 ? type.A : type.AAAA, class: classIn, ttl, data };
}

function reverse4(labels: readonly string[]): string | undefined {
  return labels.length === 4 ? parseAddress([...labels].reverse().join('.'))?.text : undefined;
}

function reverse6(labels: readonly string[]): string | undefined {
  if (labels.length !== 32 || !labels.every((l) => /^[0-9a-f]$/.test(l))) return undefined;
  return formatAddress(6, BigInt(`0x${[...labels].reverse().join('')}`));
}

/** The address of a full reverse name (RFC 1035 3.5, RFC 3596 2.5), lower case; undefined: it is none. */
export function reverseAddress(name: string): string | undefined {
  const labels = name.split('.');
  const zone = labels.slice(-2).join('.');
  if (zone === 'in-addr.arpa') return reverse4(labels.slice(0, -2));
  return zone === 'ip6.arpa' ? reverse6(labels.slice(0, -2)) : undefined;
}
