import { MASK_NEEDS, splitMask } from '../policy/mark-mask.js';
import type { Mode } from '../policy/policy.js';

/** How the bits of `kernel.markMask` are used. All values are masks or values in place, ready for `--mark value/mask`. */
export interface Marks {
  /** Everything that is ours. */
  readonly all: number;
  /** Which container's port a packet came through; 0: none of ours. Includes the `unknown` bit. */
  readonly identity: number;
  readonly shift: number;
  /** Highest bit of the identity field: nobody has classified this port; the bits below are its ifindex. */
  readonly unknown: number;
  /** Bits of an ifindex that fit below `unknown`, unshifted. */
  readonly ifindexMask: number;
  /** A permit was spoken by our own rules; the backstop wants it. */
  readonly judged: number;
  /** The packet has been in the hold queue once. */
  readonly held: number;
  /** Only the policy passes. Set for unknown ports too. */
  readonly enforced: number;
  /** Not enforced, but its DNS goes through us while we live. */
  readonly redirect: number;
  /** In the mark of a connection: its first packet was sent to an address of this host. The bit of `redirect`. */
  readonly here: number;
  /**
   * In the mark of a connection: it was ended. A packet that waited meanwhile keeps its connection, and stays ESTABLISHED,
   * though the table no longer has it. The bit of `held`.
   */
  readonly ended: number;
  /** The largest identity of a known container. */
  readonly maxIdentity: number;
}

/** Identity of forwarded sources that are no container. */
export const UNATTRIBUTED = 1;

/** Splits a mask: the four highest bits are flags, the lowest run of what is left is the identity. */
export function layoutMarks(mask: number): Marks {
  const bits = splitMask(mask);
  if (!bits) throw new RangeError(`kernel.markMask ${hex(mask)} is too small: ${MASK_NEEDS}`);
  const { flags, run } = bits;
  const [judged, held, enforced, redirect] = flags.map(bit) as [number, number, number, number];
  const shift = run[0] as number;
  const unknown = bit(run[run.length - 1] as number);
  const ifindexMask = 2 ** (run.length - 1) - 1;
  const identity = run.reduce((sum, n) => sum + bit(n), 0);
  return {
    all: mask,
    identity,
    shift,
    unknown,
    ifindexMask,
    judged,
    held,
    enforced,
    redirect,
    here: redirect,
    ended: held,
    maxIdentity: ifindexMask,
  };
}

export function identityMark(marks: Marks, identity: number): number {
  return (identity << marks.shift) >>> 0;
}

export const hex = (n: number): string => `0x${n.toString(16)}`;
const bit = (n: number): number => 2 ** n;

/** The mark of a container's packets: who, and how its policy is held. */
export function markOf(marks: Marks, identity: number, mode: Mode): number {
  const flag = mode === 'enforce' ? marks.enforced : mode === 'observe' ? marks.redirect : 0;
  return (identityMark(marks, identity) | flag) >>> 0;
}
