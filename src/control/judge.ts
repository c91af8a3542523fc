import { markOf } from '../desired/bridge.js';
import { membershipOf } from '../desired/membership.js';
import { namesFor } from '../desired/naming.js';
import type { Rule } from '../desired/rules.js';
import type { DesiredState, Member, Shape } from '../desired/state.js';
import { type HasMember, type TracePacket, type TraceResult, trace } from '../desired/trace.js';
import type { Family } from '../model/ip.js';
import { type FlowFacts, isDns, opening } from './cut.js';

/** Judges packets and flows by the rules as they are rendered: what `explain` says and what a revocation ends. */
export class Judge {
  readonly #shape: Shape;
  readonly #has: HasMember;
  readonly #filter: ReadonlyMap<Family, ReadonlyMap<string, readonly Rule[]>>;
  readonly #hostAddresses: ReadonlySet<string>;

  constructor(
    shape: Shape,
    desired: DesiredState,
    learned: (set: string, address: string) => boolean,
    hostAddresses: ReadonlySet<string>,
  ) {
    this.#shape = shape;
    this.#has = membershipOf(desired, learned);
    this.#filter = new Map(
      desired.tables.filter((t) => t.table === 'filter').map((t) => [t.family, t.chains]),
    );
    this.#hostAddresses = hostAddresses;
  }

  markOf(member: Member): number {
    return markOf(this.#shape.marks, member.identity, member.policy.mode);
  }

  judge(packet: TracePacket): TraceResult {
    const names = namesFor(this.#shape.prefix);
    const start = this.#hostAddresses.has(packet.dst) ? names.input : names.forward;
    return trace(this.#filter.get(packet.family) ?? new Map(), start, packet, this.#has);
  }

  /** A permit: judged where it is enforced, or nothing against it where not. */
  permits(packet: TracePacket): boolean {
    const result = this.judge(packet);
    if (result.verdict === 'accept') return true;
    const enforced = (packet.mark & this.#shape.marks.enforced) !== 0;
    return result.verdict === 'return' && (!enforced || (result.mark & this.#shape.marks.judged) !== 0);
  }

  /** Whether a flow that a member opened may go on. Its DNS flows go where nat sends them now, so old ones end. */
  keeps(member: Member, flow: FlowFacts): boolean {
    const { dns } = this.#shape;
    const atOurs = flow.reply.src === dns.v4 || flow.reply.src === dns.v6;
    if (isDns(flow) && member.policy.mode !== 'off' && !atOurs && !this.#hasDirect(member)) return false;
    if (isDns(flow) && member.policy.mode === 'off' && atOurs) return false;
    if (atOurs || member.policy.mode !== 'enforce') return true;
    return this.permits(opening(flow, this.markOf(member)));
  }

  #hasDirect(member: Member): boolean {
    return member.policy.mode === 'enforce' && member.classes.some((c) => c.direct);
  }
}
