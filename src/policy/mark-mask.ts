/** Which bits of `kernel.markMask` are flags, and which number containers. */

const FLAGS = 4;
const MIN_IDENTITY_BITS = 8;

interface MarkBits {
  /** The highest bits. */
  readonly flags: readonly number[];
  /** The lowest run of neighbouring bits among the rest, lowest first. */
  readonly run: readonly number[];
}

/** Returns undefined when the mask has too few bits. */
export function splitMask(mask: number): MarkBits | undefined {
  const bits = Array.from({ length: 32 }, (_, n) => n).filter((n) => Math.floor(mask / 2 ** n) % 2 === 1);
  const flags = bits.slice(-FLAGS);
  const run = lowestRun(bits.slice(0, -FLAGS));
  return flags.length < FLAGS || run.length < MIN_IDENTITY_BITS ? undefined : { flags, run };
}

export const MASK_NEEDS = `it needs a run of at least ${MIN_IDENTITY_BITS} bits and ${FLAGS} more above it`;

function lowestRun(bits: readonly number[]): number[] {
  const gap = bits.findIndex((n, i) => i > 0 && n !== (bits[i - 1] as number) + 1);
  return bits.slice(0, gap === -1 ? bits.length : gap);
}
