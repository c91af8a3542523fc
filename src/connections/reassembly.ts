/** Bytes of a stream that arrive in any order, in pieces that may overlap. Overlaps with different bytes are refused. */

interface Range {
  readonly from: number;
  readonly to: number;
}

/**
 * `known`: all of these bytes were there before. `conflict`: a byte was there with another value, so that the receiver may have another
 * one than we have. `beyond`: an end before the start of the stream, or behind the limit.
 */
export type Added = 'new' | 'known' | 'conflict' | 'beyond';

const FIRST_CAPACITY = 2_048;
const EMPTY = Buffer.alloc(0);

export class Reassembly {
  readonly #limit: number;
  #bytes = EMPTY;
  #consumed = 0;
  /** Disjoint, not adjacent, in order. */
  #ranges: readonly Range[] = [];

  /** `limit`: the most bytes that the stream may have here. */
  constructor(limit: number) {
    this.#limit = limit;
  }

  add(offset: number, piece: Buffer): Added {
    const end = offset + piece.length;
    if (offset < 0 || end > this.#limit) return 'beyond';
    if (piece.length === 0) return 'known';
    for (const { from, to } of this.#ranges) {
      const [low, high] = [Math.max(from, offset), Math.min(to, end)];
      if (low >= high) continue;
      if (!this.#bytes.subarray(low, high).equals(piece.subarray(low - offset, high - offset)))
        return 'conflict';
      if (low === offset && high === end) return 'known';
    }
    this.#reserve(end);
    piece.copy(this.#bytes, offset);
    this.#note(offset, end);
    return 'new';
  }

  /** The bytes from the start of the stream to the first gap, without a copy. */
  get whole(): Buffer {
    const [first] = this.#ranges;
    return this.#bytes.subarray(0, first?.from === 0 ? first.to : 0);
  }

  /** Bytes are there behind a gap. */
  get hasGap(): boolean {
    return (this.#ranges.at(-1)?.to ?? 0) > this.whole.length;
  }

  /** How much of the beginning was read and is done with. */
  get consumed(): number {
    return this.#consumed;
  }

  consume(bytes: number): void {
    this.#consumed += bytes;
  }

  #note(from: number, to: number): void {
    const last = this.#ranges.at(-1);
    if (!last || from > last.to) this.#ranges = [...this.#ranges, { from, to }];
    else this.#ranges = merged([...this.#ranges, { from, to }]);
  }

  #reserve(end: number): void {
    if (end <= this.#bytes.length) return;
    // what no piece has filled is never read: it is outside of all ranges
    const capacity = Math.min(this.#limit, Math.max(end, FIRST_CAPACITY, this.#bytes.length * 2));
    const grown = Buffer.allocUnsafe(capacity);
    this.#bytes.copy(grown);
    this.#bytes = grown;
  }
}

function merged(ranges: readonly Range[]): readonly Range[] {
  const sorted = [...ranges].sort((a, b) => a.from - b.from);
  const out: Range[] = [];
  for (const range of sorted) {
    const last = out.at(-1);
    if (last && range.from <= last.to)
      out[out.length - 1] = { from: last.from, to: Math.max(last.to, range.to) };
    else out.push(range);
  }
  return out;
}
