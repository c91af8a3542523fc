/** Messages to bytes, with compressed names and a bound on the size (RFC 1035 4.1). */
import { type } from './types.js';
import { type Edns, flag, headerBytes, type Message, type ResourceRecord } from './wire.js';
import { labelBytes, readName } from './wire-name.js';

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
    // Of the types whose names may be compressed only chains repeat them often.
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
