import { parseAddress, parseCidr, rangeHas } from '../lib/ip.js';
import type { Subject } from './state.js';

/**
 * Whether mode enforce would let a member reach a neighbour: what its chain says of static destinations. The bridge table logs
 * new flows between observed neighbours without asking for their policies.
 */
export function mayReach(
  member: Pick<Subject, 'neighbours' | 'classes'>,
  packet: { readonly dst: string; readonly proto: string; readonly dport: number },
): boolean {
  const to = parseAddress(packet.dst);
  if (!to) return false;
  const isFree = member.neighbours.some((text) => {
    const range = text.includes('/') ? parseCidr(text) : undefined;
    return range ? rangeHas(range, to) : text === to.text;
  });
  if (isFree) return true;
  return member.classes.some(
    (c) =>
      String(c.proto) === packet.proto &&
      (c.ports.length === 0 || c.ports.some((p) => p.lo <= packet.dport && packet.dport <= p.hi)) &&
      c.statics.some((s) => rangeHas(s.range, to)),
  );
}
