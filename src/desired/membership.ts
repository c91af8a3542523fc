import { parseAddress, parseCidr, type Range, rangeHas } from '../model/ip.js';
import type { DesiredState } from './state.js';
import type { HasMember, TracePacket } from './trace.js';

/** Learned members are the ledger's to know. */
export type LearnedHas = (set: string, address: string) => boolean;

/** Membership as the kernel would answer: static sets from the desired state, timed ones from the ledger. */
export function membershipOf(desired: DesiredState, learned: LearnedHas): HasMember {
  const ranges = new Map<string, readonly Range[]>();
  return (name, dir, packet) => {
    const set = desired.sets.get(name);
    if (!set) return false;
    if (dir.includes(',')) return !set.timed && set.members.includes(pairOf(dir, packet));
    const address = dir === 'src' ? packet.src : packet.dst;
    if (set.timed) return learned(name, address);
    if (set.type === 'hash:ip') return set.members.includes(address);
    const known = ranges.get(name) ?? set.members.flatMap(rangeOfMember);
    ranges.set(name, known);
    const value = parseAddress(address);
    return value !== undefined && known.some((r) => rangeHas(r, value));
  };
}

const pairOf = (dir: string, p: TracePacket): string =>
  dir === 'dst,dst' ? `${p.dst},${p.proto}:${p.dport ?? 0}` : `${p.dst},${p.proto}:${p.dport ?? 0},${p.src}`;

function rangeOfMember(text: string): Range[] {
  const cidr = parseCidr(text.includes('/') ? text : `${text}/${text.includes(':') ? 128 : 32}`);
  return cidr ? [cidr] : [];
}
