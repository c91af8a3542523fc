import type { SocketEnds } from '../kernel/sockets.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { Subject } from '../ruleset/desired-state.js';
import type { Flow } from '../ruleset/flow.js';

/** Flows of one member that began before its rule stood, and so bear no mark. */
interface UnmarkedFlows {
  readonly kept: readonly Flow[];
  readonly doomed: readonly Flow[];
}

/** By its sockets: what it opened to where it sends. What others opened to it is not its egress. */
export function sortUnmarkedFlows(
  state: AppliedState,
  member: Subject,
  sockets: readonly SocketEnds[],
  flows: readonly Flow[],
): UnmarkedFlows {
  const own = flows.filter((f) => sockets.some((s) => isFrom(f, s)));
  const keeps = (f: Flow): boolean => state.evaluator.keeps(member, f);
  return { kept: own.filter(keeps), doomed: own.filter((f) => !keeps(f)) };
}

/** A UDP socket without a peer may have sent anywhere. */
export function isFrom(f: Flow, s: SocketEnds): boolean {
  if (f.proto !== s.proto || f.orig.sport !== s.port) return false;
  if (s.address !== undefined && s.address !== f.orig.src) return false;
  return s.peer === undefined || (s.peer.address === f.orig.dst && s.peer.port === f.orig.dport);
}
