/** Inputs out of other inputs: bytes and numbers changed, parts cut, repeated, moved, and words of the format put in. */
import type { Random } from './random.js';

export interface Seeds {
  readonly corpus: readonly Buffer[];
  /** Words that mean something in the format. */
  readonly words: readonly Buffer[];
  /** No input is longer, bytes. */
  readonly maxLength: number;
}
type Mutation = (input: Buffer, random: Random, seeds: Seeds) => Buffer;

const EDGES = [0, 1, 2, 0x1f, 0x20, 0x3f, 0x40, 0x7f, 0x80, 0xbf, 0xc0, 0xfe, 0xff];

/** A stretch of the input, mostly short. */
function stretch(length: number, random: Random): readonly [number, number] {
  const start = random.below(length + 1);
  const span = random.chance(4)
    ? random.below(length - start + 1)
    : Math.min(random.below(9), length - start);
  return [start, start + span];
}

const splice = (input: Buffer, start: number, end: number, middle: Buffer): Buffer =>
  Buffer.concat([input.subarray(0, start), middle, input.subarray(end)]);

const MUTATIONS: readonly Mutation[] = [
  (input, random) => {
    const out = Buffer.from(input);
    if (out.length > 0) out[random.below(out.length)] = random.below(256);
    return out;
  },
  (input, random) => {
    const out = Buffer.from(input);
    if (out.length > 0) out[random.below(out.length)] = random.pick(EDGES);
    return out;
  },
  (input, random) => {
    const out = Buffer.from(input);
    const at = random.below(out.length || 1);
    if (out.length > 0) out[at] = (out[at] as number) ^ (1 << random.below(8));
    return out;
  },
  // A length or count, of two or four bytes, in either order.
  (input, random) => {
    if (input.length < 4) return input;
    const out = Buffer.from(input);
    const at = random.below(out.length - 3);
    const value = random.pick([0, 1, 0xff, 0xffff, 0x7fffffff, 0xffffffff, out.length, out.length - at]);
    if (random.chance(2)) out.writeUInt16BE(value & 0xffff, at);
    else out.writeUInt32LE(value >>> 0, at);
    return out;
  },
  (input, random) => splice(input, ...stretch(input.length, random), Buffer.alloc(0)),
  (input, random, { words }) => {
    const [start, end] = stretch(input.length, random);
    return splice(input, start, random.chance(2) ? start : end, random.pick(words));
  },
  (input, random) => {
    const [start, end] = stretch(input.length, random);
    return splice(input, end, end, input.subarray(start, end));
  },
  (input, random, { corpus }) => {
    const other = random.pick(corpus);
    const [start, end] = stretch(other.length, random);
    const at = random.below(input.length + 1);
    return splice(input, at, at, other.subarray(start, end));
  },
  (input, random, { corpus }) => {
    const other = random.pick(corpus);
    return Buffer.concat([
      input.subarray(0, random.below(input.length + 1)),
      other.subarray(random.below(other.length + 1)),
    ]);
  },
  (input, random) => input.subarray(0, random.below(input.length + 1)),
];

/** The same part over and over, up to the longest input: what is quadratic shows itself. */
function swell(input: Buffer, random: Random, { words, maxLength }: Seeds): Buffer {
  const [start, end] = stretch(input.length, random);
  const part = random.chance(2) || end === start ? random.pick(words) : input.subarray(start, end);
  if (part.length === 0) return input;
  const room = Math.max(0, maxLength - input.length);
  const body = Buffer.alloc(random.chance(3) ? room : random.below(Math.min(room, 4096) + 1), part);
  return splice(input, end, end, body);
}

/** One to eight mutations of one seed; one in two hundred is swollen. */
export function mutate(random: Random, seeds: Seeds): Buffer {
  let out: Buffer = random.pick(seeds.corpus);
  for (let left = 1 + random.below(random.chance(3) ? 8 : 2); left > 0; left--)
    out = random.pick(MUTATIONS)(out, random, seeds);
  if (random.chance(200)) out = swell(out, random, seeds);
  return out.length > seeds.maxLength ? out.subarray(0, seeds.maxLength) : out;
}
