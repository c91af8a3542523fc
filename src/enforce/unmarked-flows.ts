import type { FlowFacts } from '../kernel/delete-flows.js';
import type { SocketEnds } from '../kernel/sockets.js';
import type { Member } from '../ruleset/state.js';
import type { InForce } from './pass.js';

/** Flows of one member that began before its rule stood, and so bear no mark. */
interface Unmarked<F> {
  readonly kept: readonly F[];
  readonly doomed: readonly F[];
}

/** By its sockets: what it opened to where it sends. What others opened to it is not its egress. */
export function sortUnmarked<F extends FlowFacts>(
  state: InForce,
  member: Member,
  sockets: readonly SocketEnds[],
  flows: readonly F[],
): Unmarked<F> {
  const own = flows.filter((f) => sockets.some((s) => isFrom(f, s)));
  const keeps = (f: F): boolean => state.judge.keeps(member, f);
  return { kept: own.filter(keeps), doomed: own.filter((f) => !keeps(f)) };
}

/** A UDP socket without a peer may have sent anywhere. */
export function isFrom(f: FlowFacts, s: SocketEnds): boolean {
  if (f.proto !== s.proto || f.orig.sport !== s.port) return false;
  if (s.address !== undefined && s.address !== f.orig.src) return false;
  return s.peer === undefined || (s.peer.address === f.orig.dst && s.peer.port === f.orig.dport);
}
