/** Makes hellos of TLS byte by byte, also such that no library would make. */
import { createCipheriv } from 'node:crypto';
import { initialKeys } from '../../../src/connections/quic-initial.js';

const u8 = (n: number): Buffer => Buffer.from([n]);
const u16 = (n: number): Buffer => Buffer.from([n >> 8, n & 255]);
const u24 = (n: number): Buffer => Buffer.from([n >> 16, (n >> 8) & 255, n & 255]);
const vector = (bytes: Buffer, size: 1 | 2): Buffer =>
  Buffer.concat([size === 1 ? u8(bytes.length) : u16(bytes.length), bytes]);

export const extension = (type: number, content: Buffer): Buffer =>
  Buffer.concat([u16(type), vector(content, 2)]);
export const serverNames = (...names: readonly (string | Buffer)[]): Buffer =>
  extension(0, vector(Buffer.concat(names.map((n) => Buffer.concat([u8(0), vector(Buffer.from(n), 2)]))), 2));
export const encryptedHello = (configId: number, payload = 144): Buffer =>
  extension(
    0xfe0d,
    Buffer.concat([
      u8(0),
      u16(1),
      u16(1),
      u8(configId),
      vector(Buffer.alloc(32, 7), 2),
      vector(Buffer.alloc(payload, 9), 2),
    ]),
  );
export const earlyData = extension(42, Buffer.alloc(0));
export const padding = (bytes: number): Buffer => extension(21, Buffer.alloc(bytes));

/** A ClientHello message with these extensions. */
export function helloMessage(...extensions: readonly Buffer[]): Buffer {
  const body = Buffer.concat([
    u16(0x0303),
    Buffer.alloc(32, 5),
    vector(Buffer.alloc(32, 6), 1),
    vector(Buffer.from('130113021303', 'hex'), 2),
    vector(u8(0), 1),
    vector(Buffer.concat(extensions), 2),
  ]);
  return Buffer.concat([u8(1), u24(body.length), body]);
}

/** The message in records of at most so many bytes. */
export function records(message: Buffer, size = 16_384, type = 22): Buffer {
  const out: Buffer[] = [];
  for (let at = 0; at < message.length; at += size)
    out.push(Buffer.from([type, 3, 1]), vector(message.subarray(at, at + size), 2));
  return Buffer.concat(out);
}

export const helloFor = (name: string, ...more: readonly Buffer[]): Buffer =>
  records(helloMessage(serverNames(name), ...more));

function varint(n: number): Buffer {
  if (n < 0x40) return u8(n);
  if (n < 0x4000) return u16(n | 0x4000);
  const four = Buffer.alloc(4);
  four.writeUInt32BE((n | 0x80000000) >>> 0);
  return four;
}
export const cryptoFrame = (offset: number, data: Buffer): Buffer =>
  Buffer.concat([u8(6), varint(offset), varint(data.length), data]);

interface InitialSpec {
  readonly version?: number;
  readonly dcid: Buffer;
  /** From which the keys derive, when the packet has another destination. */
  readonly keyId?: Buffer;
  /** Its last two bytes are sent. */
  readonly number?: number;
  readonly token?: Buffer;
  readonly frames: Buffer;
  /** Who has encrypted it; default: the client. */
  readonly side?: 'client' | 'server';
  /** Bytes of frames, with PADDING; default: for a packet of 1,200 bytes. */
  readonly size?: number;
}
const V2 = 0x6b3343cf;

/** The beginning of a ServerHello, in a CRYPTO frame. */
export const serverHello = cryptoFrame(0, Buffer.concat([u8(2), u24(40), u16(0x0303), Buffer.alloc(38, 4)]));

/** An Initial packet as RFC 9001 5 protects it, padded. */
export function initialPacket({
  version = 1,
  dcid,
  keyId = dcid,
  number = 0,
  token = Buffer.alloc(0),
  frames,
  side = 'client',
  size = 1_130,
}: InitialSpec): Buffer {
  const keys = initialKeys(version, keyId, side);
  const type = version === V2 ? 1 : 0;
  const padded = Buffer.concat([frames, Buffer.alloc(Math.max(0, size - frames.length))]);
  const four = Buffer.alloc(4);
  four.writeUInt32BE(version);
  const header = Buffer.concat([
    u8(0xc0 | (type << 4) | 1),
    four,
    vector(dcid, 1),
    vector(Buffer.alloc(8, 3), 1),
    varint(token.length),
    token,
    Buffer.concat([u16((padded.length + 2 + 16) | 0x4000)]),
    u16(number & 0xffff),
  ]);
  const numberAt = header.length - 2;
  const nonce = Buffer.from(keys.iv);
  nonce.writeUInt32BE((nonce.readUInt32BE(8) ^ number) >>> 0, 8);
  const cipher = createCipheriv('aes-128-gcm', keys.key, nonce, { authTagLength: 16 });
  cipher.setAAD(header);
  const sealed = Buffer.concat([cipher.update(padded), cipher.final(), cipher.getAuthTag()]);
  const packet = Buffer.concat([header, sealed]);
  const mask = createCipheriv('aes-128-ecb', keys.headerProtection, null).update(
    packet.subarray(numberAt + 4, numberAt + 20),
  );
  packet[0] = (packet[0] as number) ^ ((mask[0] as number) & 0x0f);
  for (let n = 0; n < 2; n++)
    packet[numberAt + n] = (packet[numberAt + n] as number) ^ (mask[n + 1] as number);
  return packet;
}
