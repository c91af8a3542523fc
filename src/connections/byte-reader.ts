/** Reads numbers and vectors from bytes of a message. Every read is checked against the end. */

/** A message does not have the form that its specification gives it. Caught where the message is read, never shown. */
export class MalformedMessage extends Error {}

export class ByteReader {
  readonly #bytes: Buffer;
  #at: number;
  readonly #end: number;

  constructor(bytes: Buffer, from = 0, end = bytes.length) {
    this.#bytes = bytes;
    this.#at = from;
    this.#end = end;
  }

  /** Offset of the next byte in the buffer. */
  get at(): number {
    return this.#at;
  }

  get left(): number {
    return this.#end - this.#at;
  }

  /** An unsigned number of 1 to 6 bytes, most significant first. */
  number(bytes: number, what: string): number {
    this.#need(bytes, what);
    // two bytes are what messages have most, and the method for any number of bytes takes five times as long
    const at = this.#at;
    this.#at += bytes;
    if (bytes === 2) return ((this.#bytes[at] as number) << 8) | (this.#bytes[at + 1] as number);
    return bytes === 1 ? (this.#bytes[at] as number) : this.#bytes.readUIntBE(at, bytes);
  }

  /** The next bytes, without a copy. */
  bytes(length: number, what: string): Buffer {
    this.#need(length, what);
    const part = this.#bytes.subarray(this.#at, this.#at + length);
    this.#at += length;
    return part;
  }

  /** A vector with its length before it (RFC 8446 3.4). */
  vector(lengthBytes: number, what: string): Buffer {
    return this.bytes(this.number(lengthBytes, what), what);
  }

  /** Passes bytes without making a Buffer of them, as `skipVector`, which returns their number. */
  skip(length: number, what: string): void {
    this.#need(length, what);
    this.#at += length;
  }
  skipVector(lengthBytes: number, what: string): number {
    const length = this.number(lengthBytes, what);
    this.skip(length, what);
    return length;
  }

  /** A variable-length integer (RFC 9000 16). Above 2^53 it is malformed here: nothing that is read has such a length. */
  varint(what: string): number {
    const first = this.number(1, what);
    const length = 1 << (first >> 6);
    let value = first & 0x3f;
    for (let n = 1; n < length; n++) value = value * 256 + this.number(1, what);
    if (value > Number.MAX_SAFE_INTEGER) throw new MalformedMessage(`${what} is too large`);
    return value;
  }

  finished(what: string): void {
    if (this.left > 0) throw new MalformedMessage(`${this.left} bytes after the end of ${what}`);
  }

  #need(bytes: number, what: string): void {
    if (bytes > this.left) throw new MalformedMessage(`${what} is longer than its message`);
  }
}
