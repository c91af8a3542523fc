import { parseAddress, parseCidr, type Range, rangeHas } from '../lib/ip.js';
import type { DesiredState } from './state.js';
import type { HasMember, TracePacket } from './trace.js';

/** Learned members are the ledger's to know, those of threat sets the feeds'. */
export type LearnedHas = (set: string, address: string) => boolean;

/** Membership as the kernel would answer: static sets from the desired state, timed ones from the ledger. */
export function membershipOf(desired: DesiredState, learned: LearnedHas): HasMember {
  return (name, dir, packet) => {
    const set = desired.sets.get(name);
    if (!set) return false;
    if (dir.includes(',')) return !set.timed && set.members.includes(pairOf(dir, packet));
    const address = dir === 'src' ? packet.src : packet.dst;
    if (set.timed || set.isThreats) return learned(name, address);
    if (set.type === 'hash:ip') return set.members.includes(address);
    const value = parseAddress(address);
    return value !== undefined && rangesOf(set.members).some((r) => rangeHas(r, value));
  };
}

const pairOf = (dir: string, p: TracePacket): string =>
  dir === 'dst,dst' ? `${p.dst},${p.proto}:${p.dport ?? 0}` : `${p.dst},${p.proto}:${p.dport ?? 0},${p.src}`;

/** By the list itself: those of constant sets are parsed once. */
const parsed = new WeakMap<readonly string[], readonly Range[]>();
function rangesOf(members: readonly string[]): readonly Range[] {
  const known = parsed.get(members) ?? members.flatMap(rangeOfMember);
  parsed.set(members, known);
  return known;
}

function rangeOfMember(text: string): Range[] {
  const cidr = parseCidr(text.includes('/') ? text : `${text}/${text.includes(':') ? 128 : 32}`);
  return cidr ? [cidr] : [];
}
