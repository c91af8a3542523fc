/**
 * Initial packets of QUIC version 1 (RFC 9000, RFC 9001) and 2 (RFC 9369). Their keys derive from a connection ID that is in the packet, so
 * that the ClientHello in them can be read on the way.
 */
import { createCipheriv, createDecipheriv, createHmac } from 'node:crypto';
import { ByteReader, MalformedMessage } from './byte-reader.js';

interface Version {
  readonly number: number;
  readonly salt: Buffer;
  readonly label: string;
  /** Types of long headers, by the two bits in the first byte. */
  readonly types: readonly [
    'initial' | 'retry',
    'initial' | '0-rtt',
    '0-rtt' | 'handshake',
    'handshake' | 'retry',
  ];
}
const VERSIONS: readonly Version[] = [
  {
    number: 0x00000001,
    salt: Buffer.from('38762cf7f55934b34d179ae6a4c80cadccbb7f0a', 'hex'),
    label: 'quic',
    types: ['initial', '0-rtt', 'handshake', 'retry'],
  },
  {
    number: 0x6b3343cf,
    salt: Buffer.from('0dede3def700a6db819381be6e269dcbf9bd2ed9', 'hex'),
    label: 'quicv2',
    types: ['retry', 'initial', '0-rtt', 'handshake'],
  },
];

/** An Initial packet that is still encrypted. */
export interface InitialPacket {
  readonly kind: 'initial';
  readonly version: number;
  readonly dcid: Buffer;
  /** The whole packet, and where its packet number begins. */
  readonly bytes: Buffer;
  readonly numberAt: number;
}
export type QuicPacket =
  | InitialPacket
  /** Encrypted with keys of the handshake: it cannot be read. */
  | { readonly kind: '0-rtt' | 'handshake'; readonly dcid: Buffer }
  /** A short header has no length: it goes to the end of its datagram (RFC 9000 12.2). */
  | { readonly kind: 'short'; readonly isOfGoogle: boolean };

export type Datagram =
  | { readonly kind: 'packets'; readonly packets: readonly QuicPacket[] }
  /** `version`: of another version, in which nothing is known but the version (RFC 8999). */
  | { readonly kind: 'refused'; readonly why: 'version' | 'malformed'; readonly detail: string };

const LONG_HEADER = 0x80;
const FIXED_BIT = 0x40;
const MAX_CONNECTION_ID = 20;
/** Bytes that are there at least behind the packet number, so that the header can be protected (RFC 9001 5.4.2). */
const SAMPLE_AT = 4;
const SAMPLE_BYTES = 16;
/** In one datagram: an Initial, a 0-RTT and a Handshake packet, and a short header are usual. */
const MAX_PACKETS = 16;

/** The packets of one datagram that a client has sent. */
export function readDatagram(datagram: Buffer): Datagram {
  const packets: QuicPacket[] = [];
  try {
    for (let at = 0; at < datagram.length; ) {
      const first = datagram[at] as number;
      if ((first & LONG_HEADER) === 0) {
        // behind a packet with a length, zeros are padding of the datagram, which receivers ignore; some could go on behind them
        const isPadding = packets.length > 0 && first === 0;
        if (isPadding && datagram.subarray(at).some((byte) => byte !== 0))
          throw new MalformedMessage('something behind the padding of a datagram');
        if (!isPadding) packets.push({ kind: 'short', isOfGoogle: isOfGoogle(datagram.subarray(at)) });
        break;
      }
      const { packet, end } = readLongHeader(datagram, at);
      if (packet === undefined) return { kind: 'refused', why: 'version', detail: versionText(datagram, at) };
      packets.push(packet);
      if (packets.length > MAX_PACKETS)
        throw new MalformedMessage(`more than ${MAX_PACKETS} packets in a datagram`);
      at = end;
    }
  } catch (error) {
    if (!(error instanceof MalformedMessage)) throw error;
    return { kind: 'refused', why: 'malformed', detail: error.message };
  }
  if (packets.length === 0) return { kind: 'refused', why: 'malformed', detail: 'an empty datagram' };
  return { kind: 'packets', packets };
}

/** Behind the flags and a connection ID of 0, 1, 4 or 8 bytes. */
const LABEL_AT = [1, 2, 5, 9];
const LABEL = /^Q\d{3}/;
/**
 * The hello of a version of Google before Q046, which names its site in the clear. Its first byte has no fixed bit, as short headers of ends that
 * have agreed on RFC 9287 (ngtcp2 and others), so that the label of its version and the tag of its message decide.
 */
function isOfGoogle(packet: Buffer): boolean {
  if (((packet[0] ?? 0) & FIXED_BIT) !== 0) return false;
  const hasLabel = LABEL_AT.some((at) => LABEL.test(packet.toString('latin1', at, at + 4)));
  return hasLabel || packet.includes('CHLO');
}

/** The Initial packets at the beginning of a datagram of a server, which goes on whatever it is. */
export function initialsOfServer(datagram: Buffer): readonly InitialPacket[] {
  const found: InitialPacket[] = [];
  try {
    for (let at = 0; ((datagram[at] ?? 0) & LONG_HEADER) !== 0 && found.length < MAX_PACKETS; ) {
      const { packet, end } = readLongHeader(datagram, at);
      if (packet?.kind !== 'initial') break;
      found.push(packet);
      at = end;
    }
  } catch (error) {
    if (!(error instanceof MalformedMessage)) throw error;
  }
  return found;
}

const versionText = (datagram: Buffer, at: number): string =>
  `QUIC version 0x${datagram.subarray(at + 1, at + 5).toString('hex')}`;

function readLongHeader(datagram: Buffer, from: number): { packet: QuicPacket | undefined; end: number } {
  const reader = new ByteReader(datagram, from);
  const first = reader.number(1, 'header');
  const number = reader.number(4, 'version');
  const version = VERSIONS.find((v) => v.number === number);
  if (!version) return { packet: undefined, end: datagram.length };
  const dcid = connectionId(reader);
  connectionId(reader);
  const kind = version.types[(first >> 4) & 3] as 'initial' | '0-rtt' | 'handshake' | 'retry';
  if (kind === 'retry') throw new MalformedMessage('a Retry packet from a client');
  if (kind === 'initial') reader.bytes(reader.varint('length of the token'), 'token');
  const length = reader.varint('length of the packet');
  const numberAt = reader.at - from;
  reader.bytes(length, 'packet');
  const bytes = datagram.subarray(from, reader.at);
  if (kind === 'initial') return { packet: { kind, version: number, dcid, bytes, numberAt }, end: reader.at };
  return { packet: { kind, dcid }, end: reader.at };
}

function connectionId(reader: ByteReader): Buffer {
  const id = reader.vector(1, 'connection ID');
  if (id.length > MAX_CONNECTION_ID) throw new MalformedMessage(`a connection ID of ${id.length} bytes`);
  return id;
}

/** Of the packets that one side sends (RFC 9001 5.2). */
export interface InitialKeys {
  readonly key: Buffer;
  readonly iv: Buffer;
  readonly headerProtection: Buffer;
}

const hmac = (key: Buffer, ...data: readonly Buffer[]): Buffer => {
  const made = createHmac('sha256', key);
  for (const part of data) made.update(part);
  return made.digest();
};

/** HKDF-Expand-Label (RFC 8446 7.1) of at most 32 bytes, without a context. */
function expandLabel(secret: Buffer, label: string, length: number): Buffer {
  const full = Buffer.from(`tls13 ${label}`, 'latin1');
  const info = Buffer.concat([Buffer.from([0, length, full.length]), full, Buffer.from([0, 1])]);
  return hmac(secret, info).subarray(0, length);
}

/** `dcid`: the destination of the client's first Initial packet, or of the first one after a Retry. */
export function initialKeys(
  version: number,
  dcid: Buffer,
  side: 'client' | 'server' = 'client',
): InitialKeys {
  const known = VERSIONS.find((v) => v.number === version);
  if (!known) throw new RangeError(`no QUIC version ${version}`);
  const secret = expandLabel(hmac(known.salt, dcid), `${side} in`, 32);
  return {
    key: expandLabel(secret, `${known.label} key`, 16),
    iv: expandLabel(secret, `${known.label} iv`, 12),
    headerProtection: expandLabel(secret, `${known.label} hp`, 16),
  };
}

const TAG_BYTES = 16;

export interface OpenedInitial {
  readonly frames: Buffer;
  readonly number: number;
}

/**
 * An Initial packet that is decrypted; undefined when it was not encrypted with these keys. `largest`: of the packet numbers of its connection
 * before it. A client may begin with any number, and sends the last digits of those that follow (RFC 9000 17.1).
 */
export function openInitial(
  packet: InitialPacket,
  keys: InitialKeys,
  largest: number | undefined,
): OpenedInitial | undefined {
  const { bytes, numberAt } = packet;
  if (bytes.length < numberAt + SAMPLE_AT + SAMPLE_BYTES) return undefined;
  const sample = bytes.subarray(numberAt + SAMPLE_AT, numberAt + SAMPLE_AT + SAMPLE_BYTES);
  const mask = createCipheriv('aes-128-ecb', keys.headerProtection, null).update(sample);
  const first = (bytes[0] as number) ^ ((mask[0] as number) & 0x0f);
  const numberLength = (first & 3) + 1;
  const header = Buffer.from(bytes.subarray(0, numberAt + numberLength));
  header[0] = first;
  for (let n = 0; n < numberLength; n++)
    header[numberAt + n] = (header[numberAt + n] as number) ^ (mask[n + 1] as number);
  const digits = header.readUIntBE(numberAt, numberLength);
  const number = largest === undefined ? digits : wholeNumber(digits, numberLength, largest);
  const nonce = Buffer.from(keys.iv);
  const low = nonce.readUIntBE(nonce.length - 6, 6);
  nonce.writeUIntBE(xor48(low, number), nonce.length - 6, 6);
  const end = bytes.length - TAG_BYTES;
  if (end < header.length) return undefined;
  const cipher = createDecipheriv('aes-128-gcm', keys.key, nonce, { authTagLength: TAG_BYTES });
  cipher.setAAD(header);
  cipher.setAuthTag(bytes.subarray(end));
  const frames = cipher.update(bytes.subarray(header.length, end));
  try {
    cipher.final();
  } catch {
    return undefined; // another key, or a forged packet
  }
  return { frames, number };
}

/** The packet number with these last digits that is closest to the next one (RFC 9000 A.3). */
function wholeNumber(digits: number, bytes: number, largest: number): number {
  const window = 2 ** (8 * bytes);
  const expected = largest + 1;
  const near = expected - (expected % window) + digits;
  if (near <= expected - window / 2) return near + window;
  if (near > expected + window / 2 && near >= window) return near - window;
  return near;
}

/** Of numbers with up to 48 bits, of which the operators of JavaScript take 32. */
const xor48 = (a: number, b: number): number =>
  ((Math.floor(a / 2 ** 32) ^ Math.floor(b / 2 ** 32)) >>> 0) * 2 ** 32 + ((a ^ b) >>> 0);

export interface CryptoFrame {
  readonly offset: number;
  readonly data: Buffer;
}
const FRAME = { padding: 0, ping: 1, ack: 2, ackEcn: 3, crypto: 6, close: 0x1c } as const;

/** The CRYPTO frames. Throws MalformedMessage for frames that an Initial packet may not have (RFC 9000 12.4, table 3). */
export function cryptoFrames(frames: Buffer): CryptoFrame[] {
  const reader = new ByteReader(frames);
  const found: CryptoFrame[] = [];
  while (reader.left > 0) {
    const type = reader.varint('frame');
    if (type === FRAME.padding || type === FRAME.ping) continue;
    if (type === FRAME.crypto) {
      const offset = reader.varint('offset of a CRYPTO frame');
      found.push({ offset, data: reader.bytes(reader.varint('length of a CRYPTO frame'), 'CRYPTO frame') });
    } else if (type === FRAME.ack || type === FRAME.ackEcn) skipAck(reader, type === FRAME.ackEcn);
    else if (type === FRAME.close) {
      reader.varint('error code');
      reader.varint('type of a frame');
      reader.bytes(reader.varint('length of the reason'), 'reason');
    } else throw new MalformedMessage(`a frame of type ${type} in an Initial packet`);
  }
  return found;
}

function skipAck(reader: ByteReader, withCounts: boolean): void {
  reader.varint('largest acknowledged');
  reader.varint('delay of the acknowledgement');
  const ranges = reader.varint('number of ranges');
  for (let n = 0; n < 1 + 2 * ranges; n++) reader.varint('range');
  if (withCounts) for (let n = 0; n < 3; n++) reader.varint('ECN count');
}
