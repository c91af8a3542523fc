/** Unpacks bodies that are plain, gzip, xz or zip, which their first octets show, up to a limit. */
import { ReadableStream } from 'node:stream/web';
import { createGunzip } from 'node:zlib';
import { Unzip, UnzipInflate, UnzipPassThrough } from 'fflate';
import xz from 'xz-decompress';

/** The body cannot be unpacked; the message has the reason. */
export class UnpackError extends Error {}

export interface UnpackOptions {
  /** Octets after unpacking. */
  readonly maxSize: number;
  /** The file in a zip; undefined for the only one. */
  readonly member?: string | undefined;
}

const MAGIC = {
  gzip: [0x1f, 0x8b],
  xz: [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00],
  zip: [0x50, 0x4b, 0x03, 0x04],
} as const;

const CHUNK = 256 * 1024;

const begins = (body: Uint8Array, magic: readonly number[]): boolean =>
  magic.every((octet, i) => body[i] === octet);

const because = (what: string, error: unknown): UnpackError =>
  new UnpackError(`${what}: ${error instanceof Error ? error.message : String(error)}`);

function* chunks(body: Uint8Array): Generator<Uint8Array> {
  for (let at = 0; at < body.length; at += CHUNK) yield body.subarray(at, at + CHUNK);
}

async function* gunzip(body: Uint8Array): AsyncGenerator<Uint8Array> {
  const stream = createGunzip();
  stream.end(body);
  try {
    for await (const chunk of stream) yield chunk as Uint8Array;
  } catch (error) {
    throw because('the gzip body is damaged or was cut', error);
  }
}

async function* unxz(body: Uint8Array): AsyncGenerator<Uint8Array> {
  const source = new ReadableStream<Uint8Array>({
    start(controller) {
      controller.enqueue(body);
      controller.close();
    },
  });
  const reader = new xz.XzReadableStream(source as globalThis.ReadableStream<Uint8Array>).getReader();
  try {
    for (let step = await reader.read(); !step.done; step = await reader.read()) yield step.value;
  } catch (error) {
    throw because('the xz body is damaged or was cut', error);
  }
}

/** Read the files of a zip in order; only the wanted one is unpacked. */
function* unzip(body: Uint8Array, member: string | undefined): Generator<Uint8Array> {
  const names: string[] = [];
  let out: Uint8Array[] = [];
  let complete = false;
  const zip = new Unzip((file) => {
    if (file.name.endsWith('/')) return;
    names.push(file.name);
    if (member !== undefined && file.name !== member) return;
    file.ondata = (error, data, final) => {
      if (error) throw because(`the zip's file ${file.name} is damaged`, error);
      out.push(data);
      complete ||= final;
    };
    file.start();
  });
  zip.register(UnzipInflate);
  zip.register(UnzipPassThrough);
  for (const chunk of chunks(body)) {
    pushZip(zip, chunk);
    checkMembers(names, member);
    yield* out;
    out = [];
  }
  pushZip(zip, new Uint8Array(0), true);
  yield* out;
  checkWhole(names, member, complete);
}

function pushZip(zip: Unzip, chunk: Uint8Array, final = false): void {
  try {
    zip.push(chunk, final);
  } catch (error) {
    if (error instanceof UnpackError) throw error;
    throw because('the zip body is damaged or was cut', error);
  }
}

function checkMembers(names: readonly string[], member: string | undefined): void {
  if (member !== undefined || names.length < 2) return;
  throw new UnpackError(
    `the zip contains several files (${names.slice(0, 5).join(', ')}); name one as "member"`,
  );
}

function checkWhole(names: readonly string[], member: string | undefined, complete: boolean): void {
  if (complete) return;
  const missing = member !== undefined && !names.includes(member);
  throw new UnpackError(missing ? `the zip contains no "${member}"` : 'the zip body is empty or was cut');
}

async function* capped(
  parts: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  maxSize: number,
): AsyncGenerator<Uint8Array> {
  let size = 0;
  for await (const part of parts) {
    size += part.length;
    if (size > maxSize) throw new UnpackError(`unpacked, the body is bigger than ${maxSize} octets`);
    if (part.length > 0) yield part;
  }
}

function unpackedParts(
  body: Uint8Array,
  member: string | undefined,
): AsyncIterable<Uint8Array> | Iterable<Uint8Array> {
  if (begins(body, MAGIC.gzip)) return gunzip(body);
  if (begins(body, MAGIC.xz)) return unxz(body);
  return begins(body, MAGIC.zip) ? unzip(body, member) : chunks(body);
}

/** The content in chunks. Throws UnpackError while it is read. */
export const unpack = (body: Uint8Array, options: UnpackOptions): AsyncIterable<Uint8Array> =>
  capped(unpackedParts(body, options.member), options.maxSize);
