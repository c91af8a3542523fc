/** Queries that we send, and the check that an answer belongs to one of them. */
import { randomBytes, randomInt } from 'node:crypto';
import { classIn, rcode } from './types.js';
import { decodeMessage, flag, headerBytes, type Message } from './wire.js';
import { encodeMessage } from './wire-encode.js';
import { readName, WireError } from './wire-name.js';

export interface Question {
  /** Lower case. */
  readonly name: string;
  readonly type: number;
  readonly dnssecOk: boolean;
  readonly checkingDisabled: boolean;
  readonly authenticData: boolean;
}
export interface Outgoing {
  readonly packet: Buffer;
  readonly id: number;
}
/** `case`: all fits but the letters' case (draft-vixie-dnsext-dns0x20): forged, or a server that does not echo it. */
export type Match = 'ours' | 'case' | 'foreign';

const udpSize = 1232;

/** Random case on the letters of a name: bits that a blind forger has to guess. */
function mixCase(name: string): string {
  const bits = randomBytes(32);
  return name.replace(/[a-z]/g, (c, i: number) =>
    (bits[(i >> 3) & 31] ?? 0) & (1 << (i & 7)) ? c.toUpperCase() : c,
  );
}

/** Builds a query with a random id. Nothing of the client's own options (ECS, cookies) is carried over. */
export function buildQuery(
  q: Question,
  options: { readonly mixedCase: boolean; readonly edns: boolean },
): Outgoing {
  const id = randomInt(0x10000);
  const message: Message = {
    id,
    flags: flag.RD | (q.checkingDisabled ? flag.CD : 0) | (q.authenticData ? flag.AD : 0),
    questions: [{ name: options.mixedCase ? mixCase(q.name) : q.name, type: q.type, class: classIn }],
    answers: [],
    authorities: [],
    additionals: [],
  };
  const edns = {
    size: udpSize,
    version: 0,
    dnssecOk: q.dnssecOk,
    extendedRcode: 0,
    options: Buffer.alloc(0),
  };
  return { id, packet: encodeMessage(options.edns ? { ...message, edns } : message) };
}

function questionOf(packet: Buffer): { name: string; rest: Buffer } {
  const { name, next } = readName(packet, headerBytes);
  return { name, rest: packet.subarray(next, next + 4) };
}

/** Compares id and question of an answer with what was sent; the source was checked by the caller. */
export function matchAnswer(sent: Buffer, answer: Buffer): Match {
  if (answer.length < headerBytes || answer.readUInt16BE(0) !== sent.readUInt16BE(0)) return 'foreign';
  if ((answer.readUInt16BE(2) & flag.QR) === 0) return 'foreign';
  // Servers that understand nothing of a query may leave the question out.
  if (answer.readUInt16BE(4) === 0) return isBareRefusal(answer) ? 'ours' : 'foreign';
  try {
    const ours = questionOf(sent);
    const theirs = questionOf(answer);
    if (!ours.rest.equals(theirs.rest)) return 'foreign';
    if (ours.name === theirs.name) return 'ours';
    return ours.name.toLowerCase() === theirs.name.toLowerCase() ? 'case' : 'foreign';
  } catch (error) {
    if (error instanceof WireError) return 'foreign';
    throw error;
  }
}

function isBareRefusal(answer: Buffer): boolean {
  const code = answer.readUInt16BE(2) & 0x0f;
  return code === rcode.FORMERR || code === rcode.NOTIMP || code === rcode.SERVFAIL || code === rcode.REFUSED;
}

/** The answer decoded; undefined: malformed. */
export function readAnswer(answer: Buffer): Message | undefined {
  try {
    return decodeMessage(answer);
  } catch (error) {
    if (error instanceof WireError) return undefined;
    throw error;
  }
}
