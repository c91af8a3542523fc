/** Least recently used, bounded by bytes, each entry until its own end. */
interface Entry<T> {
  readonly value: T;
  readonly expires: number;
  readonly bytes: number;
}

export class Cache<T> {
  readonly #entries = new Map<string, Entry<T>>();
  readonly #maxBytes: number;
  #bytes = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  get(key: string, now: number): T | undefined {
    const entry = this.#entries.get(key);
    if (entry === undefined) return undefined;
    this.#entries.delete(key);
    if (entry.expires <= now) {
      this.#bytes -= entry.bytes;
      return undefined;
    }
    // A Map keeps insertion order: back in at the end means used last.
    this.#entries.set(key, entry);
    return entry.value;
  }

  set(key: string, value: T, expires: number, bytes: number): void {
    const old = this.#entries.get(key);
    if (old !== undefined) this.#bytes -= old.bytes;
    this.#entries.delete(key);
    if (bytes > this.#maxBytes) return;
    this.#entries.set(key, { value, expires, bytes });
    this.#bytes += bytes;
    for (const [oldest, entry] of this.#entries) {
      if (this.#bytes <= this.#maxBytes) break;
      this.#entries.delete(oldest);
      this.#bytes -= entry.bytes;
    }
  }

  get bytes(): number {
    return this.#bytes;
  }
}
