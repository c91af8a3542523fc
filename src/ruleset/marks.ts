import { MASK_NEEDS, splitMask } from '../policy/mark-mask.js';
import type { Mode } from '../policy/policy.js';

/** How the bits of `kernel.markMask` are used. All values are masks or values in place, ready for `--mark value/mask`. */
export interface Marks {
  /** All bits that Drawbridge uses. */
  readonly all: number;
  /** The identity of the container whose veth a packet came through; 0 if there is none. Includes the `unknown` bit. */
  readonly identity: number;
  readonly shift: number;
  /** Highest bit of the identity field: the veth is not classified yet, and the bits below are its ifindex. */
  readonly unknown: number;
  /** Bits of an ifindex that fit below `unknown`, unshifted. */
  readonly ifindexMask: number;
  /** A rule of Drawbridge permitted the packet. The backstop requires it. */
  readonly evaluated: number;
  /** The packet has been in the hold queue once. */
  readonly held: number;
  /** The packet needs a permit of the policy. Set for unknown veths too. */
  readonly enforced: number;
  /** Not enforced, but DNS is redirected to Drawbridge while the service runs. */
  readonly redirect: number;
  /** In a connmark: the first packet was sent to an address of this host. The same bit as `redirect`. */
  readonly here: number;
  /**
   * In a connmark: the conntrack entry was deleted. A packet that was in the queue meanwhile keeps the entry and its state
   * ESTABLISHED, although the table no longer has it. The same bit as the flag of queued packets.
   */
  readonly ended: number;
  /** The largest identity of a known container. */
  readonly maxIdentity: number;
  /** In a connmark: the state of the check of names. In the mark of a packet that was queued for it: the next state. Absent: no room for it. */
  readonly check?: CheckMarks;
}

/** Values of the two bits. 0: the flow is not checked. */
export interface CheckMarks {
  readonly mask: number;
  /** The bit that `open` and `requests` have: packets of the flow are queued. */
  readonly queued: number;
  /** What has content is queued (TCP), or all (QUIC), in both directions. */
  readonly open: number;
  /** What has content is queued if the client has sent it (TCP); what has a long header or no fixed bit, or may be several datagrams (QUIC). */
  readonly requests: number;
  /** The flow was checked. */
  readonly verified: number;
}

/** Identity of forwarded sources that are no container. */
export const UNATTRIBUTED = 1;

/** Splits a mask: the four highest bits are flags, the lowest run of what is left is the identity. */
export function layoutMarks(mask: number): Marks {
  const bits = splitMask(mask);
  if (!bits) throw new RangeError(`kernel.markMask ${hex(mask)} is too small: ${MASK_NEEDS}`);
  const { flags, run, check } = bits;
  const [evaluated, held, enforced, redirect] = flags.map(bit) as [number, number, number, number];
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
    evaluated,
    held,
    enforced,
    redirect,
    here: redirect,
    ended: held,
    maxIdentity: ifindexMask,
    ...(check ? { check: checkMarks(bit(check[0]), bit(check[1])) } : {}),
  };
}

const checkMarks = (queued: number, other: number): CheckMarks => ({
  mask: queued + other,
  queued,
  open: queued,
  requests: queued + other,
  verified: other,
});

export function identityMark(marks: Marks, identity: number): number {
  return (identity << marks.shift) >>> 0;
}

export const hex = (n: number): string => `0x${n.toString(16)}`;
const bit = (n: number): number => 2 ** n;

/** The mark of the packets of a container: its identity and the flag of its mode. */
export function markOf(marks: Marks, identity: number, mode: Mode): number {
  const flag = mode === 'enforce' ? marks.enforced : mode === 'observe' ? marks.redirect : 0;
  return (identityMark(marks, identity) | flag) >>> 0;
}
