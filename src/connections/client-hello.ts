/**
 * The ClientHello of TLS 1.0 to 1.3 (RFC 8446 4.1.2): the server name that a client asks for, from bytes that the client chose. A form
 * that servers read differently from each other is refused, because another reading could have another name.
 */
import { isIP } from 'node:net';
import { canonicalName } from '../lib/dns-name.js';
import { ByteReader, MalformedMessage } from './byte-reader.js';

/** What the server_name extension says (RFC 6066 3). */
export type AskedName =
  | { readonly kind: 'none' }
  /** Lower case, A-labels, without a trailing dot. */
  | { readonly kind: 'name'; readonly name: string }
  /** An address, several names, or text that is no host name: `text` is printable. */
  | { readonly kind: 'invalid'; readonly text: string; readonly why: string };

/** The extension encrypted_client_hello of a hello (RFC 9849 5), as far as it can be read without a key. */
interface EncryptedHello {
  /** The number that the server has given its key. A client without a key (GREASE) chooses one at random. */
  readonly configId: number;
}

export interface ClientHello {
  readonly name: AskedName;
  readonly encrypted: EncryptedHello | undefined;
  /** It announces data that are sent before the server has answered (early_data). */
  readonly hasEarlyData: boolean;
}

export type Reading<T> =
  /** `need`: it cannot be read from fewer bytes than these. */
  | { readonly kind: 'more'; readonly need: number }
  | { readonly kind: 'read'; readonly value: T; readonly end: number }
  | {
      readonly kind: 'refused';
      readonly why: 'not-tls' | 'malformed' | 'too-large';
      readonly detail: string;
    };

/** Bytes of one hello, with the headers of its records: the first flight of a client has about 14,000. */
export const MAX_HELLO = 16_384;

const RECORD_HEADER = 5;
const MAX_RECORD = 16_384;
export const CONTENT = { changeCipherSpec: 20, handshake: 22, applicationData: 23 } as const;
const CLIENT_HELLO = 1;
const MESSAGE_HEADER = 4;
const EXTENSION = { serverName: 0, earlyData: 42, encryptedHello: 0xfe0d, encryptedName: 0xffce } as const;

/** Reads the hello at the beginning of a stream of TLS records. */
export function readHelloRecords(stream: Buffer): Reading<ClientHello> {
  const parts: Buffer[] = [];
  let [at, gathered, wanted] = [0, 0, MESSAGE_HEADER];
  while (gathered < wanted) {
    const header = readRecordHeader(stream, at);
    if (header.kind !== 'read') return header;
    const end = header.end + header.value;
    if (end > MAX_HELLO) return TOO_LARGE;
    if (stream.length < end) return wholeMessageNeeds(stream, header.end, parts, end);
    parts.push(stream.subarray(header.end, end));
    gathered += header.value;
    at = end;
    if (wanted === MESSAGE_HEADER && gathered >= MESSAGE_HEADER) {
      const length = messageLength(parts.length === 1 ? (parts[0] as Buffer) : Buffer.concat(parts));
      if (typeof length !== 'number') return length;
      wanted = length;
    }
  }
  const message = parts.length === 1 ? (parts[0] as Buffer) : Buffer.concat(parts);
  if (gathered > wanted)
    return { kind: 'refused', why: 'malformed', detail: 'the record of the hello goes on after it' };
  return readHelloMessage(message, at);
}

const TOO_LARGE: Reading<never> = {
  kind: 'refused',
  why: 'too-large',
  detail: `a hello of more than ${MAX_HELLO} bytes`,
};

/** A record that is not complete yet: the first bytes of the hello, if they are there, show whether it can be one at all. */
function wholeMessageNeeds(
  stream: Buffer,
  from: number,
  parts: readonly Buffer[],
  need: number,
): Reading<never> {
  const begun = Buffer.concat([...parts, stream.subarray(from)]);
  if (begun.length >= MESSAGE_HEADER) {
    const length = messageLength(begun);
    if (typeof length !== 'number') return length;
  }
  return { kind: 'more', need };
}

/** Its value is the length of the record's content. */
function readRecordHeader(stream: Buffer, at: number): Reading<number> {
  const notTls = (detail: string): Reading<never> => ({
    kind: 'refused',
    why: at === 0 ? 'not-tls' : 'malformed',
    detail,
  });
  const [type, major, minor] = [stream[at], stream[at + 1], stream[at + 2]];
  if (type !== undefined && type !== CONTENT.handshake)
    return notTls('it does not begin with a handshake of TLS');
  if (major !== undefined && major !== 3) return notTls(`record of version ${major}`);
  if (minor !== undefined && minor > 4) return notTls(`record of version 3.${minor}`);
  if (stream.length < at + RECORD_HEADER) return { kind: 'more', need: at + RECORD_HEADER };
  const length = stream.readUInt16BE(at + 3);
  if (length === 0 || length > MAX_RECORD) return notTls(`a record of ${length} bytes`);
  return { kind: 'read', value: length, end: at + RECORD_HEADER };
}

/** Bytes of the whole message, header included, or why it is no hello that can be read. */
function messageLength(message: Buffer): number | Reading<never> {
  if (message[0] !== CLIENT_HELLO)
    return { kind: 'refused', why: 'not-tls', detail: `a handshake message of type ${message[0]}` };
  const length = message.readUIntBE(1, 3) + MESSAGE_HEADER;
  return length > MAX_HELLO ? TOO_LARGE : length;
}

/**
 * Reads a whole handshake message, as a record or the CRYPTO frames of QUIC carry it. `end` is returned with what was read; without it,
 * the length of the message.
 */
export function readHelloMessage(message: Buffer, end?: number): Reading<ClientHello> {
  if (message.length < MESSAGE_HEADER) return { kind: 'more', need: MESSAGE_HEADER };
  const length = messageLength(message);
  if (typeof length !== 'number') return length;
  if (message.length < length) return { kind: 'more', need: length };
  try {
    const value = readBody(new ByteReader(message, MESSAGE_HEADER, length));
    return { kind: 'read', value, end: end ?? length };
  } catch (error) {
    if (!(error instanceof MalformedMessage)) throw error;
    return { kind: 'refused', why: 'malformed', detail: error.message };
  }
}

function readBody(body: ByteReader): ClientHello {
  body.skip(2 + 32, 'version and random');
  if (body.skipVector(1, 'session ID') > 32) throw new MalformedMessage('session ID of more than 32 bytes');
  const suites = body.skipVector(2, 'cipher suites');
  if (suites === 0 || suites % 2 === 1) throw new MalformedMessage('list of cipher suites');
  if (body.skipVector(1, 'compression methods') === 0) throw new MalformedMessage('no compression method');
  const none: ClientHello = { name: { kind: 'none' }, encrypted: undefined, hasEarlyData: false };
  if (body.left === 0) return none; // before TLS 1.3 a hello may end here
  const extensions = body.vector(2, 'extensions');
  body.finished('the hello');
  return readExtensions(new ByteReader(extensions), none);
}

const READ: ReadonlySet<number> = new Set(Object.values(EXTENSION));

function readExtensions(reader: ByteReader, none: ClientHello): ClientHello {
  const seen = new Set<number>();
  let hello = none;
  while (reader.left > 0) {
    const type = reader.number(2, 'extension');
    if (seen.has(type)) throw new MalformedMessage(`extension ${type} twice`);
    seen.add(type);
    if (!READ.has(type)) {
      reader.skipVector(2, 'extension');
      continue;
    }
    const content = reader.vector(2, 'extension');
    if (type === EXTENSION.serverName) hello = { ...hello, name: readServerName(content) };
    else if (type === EXTENSION.earlyData) hello = { ...hello, hasEarlyData: true };
    else if (type === EXTENSION.encryptedHello) hello = { ...hello, encrypted: readEncrypted(content) };
    else if (type === EXTENSION.encryptedName)
      throw new MalformedMessage('an encrypted server name of the draft before ECH');
  }
  return hello;
}

const HOST_NAME = 0;

function readServerName(content: Buffer): AskedName {
  const reader = new ByteReader(content);
  const list = new ByteReader(reader.vector(2, 'list of server names'));
  reader.finished('the list of server names');
  const type = list.number(1, 'type of server name');
  const name = list.vector(2, 'server name');
  if (list.left > 0) return { kind: 'invalid', text: printable(name), why: 'several server names' };
  if (type !== HOST_NAME) throw new MalformedMessage(`a server name of type ${type}`);
  return hostName(name);
}

const LETTERS_DIGITS = /^[a-z0-9_-]+(\.[a-z0-9_-]+)*$/i;
/** All digits, or 0x: what inet_aton reads as an address (the last label of a name is no number, RFC 3696 2). */
const NUMBER_LABEL = /(^|\.)(\d+|0x[0-9a-f]*)$/i;

/** Clients ask for the same names again and again: each is read once. */
const recentNames = new Map<string, AskedName>();
const MAX_RECENT = 1_024;

/** A host name as a client has written it, in a hello or in a Host line of HTTP, without a port. */
export function hostName(bytes: Buffer): AskedName {
  const text = bytes.toString('latin1');
  const known = recentNames.get(text);
  if (known) return known;
  const read = readHostName(text, bytes);
  if (recentNames.size >= MAX_RECENT) recentNames.clear();
  if (read.kind === 'name') recentNames.set(text, read);
  return read;
}

function readHostName(text: string, bytes: Buffer): AskedName {
  const invalid = (why: string): AskedName => ({ kind: 'invalid', text: printable(bytes), why });
  if (isIP(text) !== 0 || NUMBER_LABEL.test(text)) return invalid('an address as name');
  if (text.length > 253 || !LETTERS_DIGITS.test(text)) return invalid('no host name');
  const name = canonicalName(text, 1);
  return name.ok && name.value === text.toLowerCase()
    ? { kind: 'name', name: name.value }
    : invalid('no host name');
}

const MAX_SHOWN = 253;
/** For logs: at most 253 characters, those that are not printable as "?". */
export const printable = (bytes: Buffer): string =>
  bytes
    .subarray(0, MAX_SHOWN)
    .toString('latin1')
    .replace(/[^\x21-\x7e]/g, '?');

const OUTER = 0;

/** RFC 9849 5: type, KDF, AEAD, config_id, enc and payload. An inner hello is never sent in the clear. */
function readEncrypted(content: Buffer): EncryptedHello {
  const reader = new ByteReader(content);
  if (reader.number(1, 'type of encrypted hello') !== OUTER)
    throw new MalformedMessage('an inner hello that is not encrypted');
  reader.bytes(4, 'cipher suite of the encrypted hello');
  const configId = reader.number(1, 'config_id');
  reader.vector(2, 'encapsulated key');
  if (reader.vector(2, 'encrypted hello').length === 0)
    throw new MalformedMessage('an empty encrypted hello');
  reader.finished('the encrypted hello');
  return { configId };
}

const SERVER_HELLO = 2;
/** The random of a HelloRetryRequest (RFC 8446 4.1.3). */
const RETRY_RANDOM = Buffer.from('cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c', 'hex');
const RETRY_NEEDS = RECORD_HEADER + MESSAGE_HEADER + 2 + RETRY_RANDOM.length;

/**
 * Whether the first bytes that a server has sent ask for another hello (HelloRetryRequest). Undefined while it cannot be known. A server that
 * splits its first message so that it cannot be recognized counts as one that asks.
 */
export function asksForAnotherHello(stream: Buffer): boolean | undefined {
  if (stream.length > 0 && stream[0] !== CONTENT.handshake) return false;
  if (stream.length < RECORD_HEADER + MESSAGE_HEADER) return undefined;
  if (stream.readUInt16BE(3) < MESSAGE_HEADER + 2 + RETRY_RANDOM.length) return true;
  if (stream[RECORD_HEADER] !== SERVER_HELLO) return false;
  if (stream.length < RETRY_NEEDS) return undefined;
  return stream.subarray(RETRY_NEEDS - RETRY_RANDOM.length, RETRY_NEEDS).equals(RETRY_RANDOM);
}
