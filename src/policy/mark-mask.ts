/** Which bits of `kernel.markMask` are flags, and which number containers. */

const FLAGS = 4;
const MIN_IDENTITY_BITS = 8;
/** For the state of the check of names. */
const CHECK_BITS = 2;

interface MarkBits {
  /** The highest bits. */
  readonly flags: readonly number[];
  /** The lowest run of neighbouring bits among the rest, lowest first. */
  readonly run: readonly number[];
  /** Two bits for the check of names: between the flags and the run, or the highest of a run that is long enough. Absent: there is no room. */
  readonly check?: readonly [number, number];
}

/** Returns undefined when the mask has too few bits. */
export function splitMask(mask: number): MarkBits | undefined {
  const bits = Array.from({ length: 32 }, (_, n) => n).filter((n) => Math.floor(mask / 2 ** n) % 2 === 1);
  const flags = bits.slice(-FLAGS);
  const others = bits.slice(0, -FLAGS);
  const run = lowestRun(others);
  if (flags.length < FLAGS || run.length < MIN_IDENTITY_BITS) return undefined;
  const spare = others.length - run.length;
  if (spare >= CHECK_BITS) return { flags, run, check: others.slice(-CHECK_BITS) as [number, number] };
  if (run.length < MIN_IDENTITY_BITS + CHECK_BITS) return { flags, run };
  return { flags, run: run.slice(0, -CHECK_BITS), check: run.slice(-CHECK_BITS) as [number, number] };
}

export const MASK_NEEDS = `it needs a run of at least ${MIN_IDENTITY_BITS} bits and ${FLAGS} more above it`;
export const CHECK_NEEDS = `the check of names needs ${CHECK_BITS} more bits`;

function lowestRun(bits: readonly number[]): number[] {
  const gap = bits.findIndex((n, i) => i > 0 && n !== (bits[i - 1] as number) + 1);
  return bits.slice(0, gap === -1 ? bits.length : gap);
}
