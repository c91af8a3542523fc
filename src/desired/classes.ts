import type { DestEntry, PortRange, Proto } from '../model/entry.js';
import type { Family, Range } from '../model/ip.js';
import type { PolicyEntry } from '../model/policy.js';

/** One (protocol, ports) of a policy: the unit that has a rule and a set of its own. */
export interface PortClass {
  /** Canonical: "tcp:80,443", "udp:", "icmp:", "47:". */
  readonly key: string;
  readonly proto: 'tcp' | 'udp' | 'icmp' | number;
  /** Empty: every port. */
  readonly ports: readonly PortRange[];
}

/** A destination that does not change: an address entry, or neighbours that a container entry resolved to. */
export interface StaticDest {
  readonly range: Range;
  readonly entry: PolicyEntry;
}
export interface ClassPlan extends PortClass {
  readonly direct: boolean;
  readonly statics: readonly StaticDest[];
  readonly names: readonly PolicyEntry[];
  readonly any: readonly PolicyEntry[];
  readonly host: readonly PolicyEntry[];
}

const PROTO_NUMBERS = { sctp: 132, gre: 47, esp: 50 } as const;
const WEB: readonly PortRange[] = [
  { lo: 80, hi: 80 },
  { lo: 443, hi: 443 },
];

/** The classes that an entry permits (spec 2: "Ports without a protocol: tcp", defaults by kind of target). */
export function classesOf(entry: DestEntry): PortClass[] {
  const isName = entry.target.kind === 'name';
  if (entry.proto) return protocols(entry.proto).map((p) => portClass(p, entry.ports));
  if (entry.ports.length > 0) return [portClass('tcp', entry.ports)];
  if (isName) return [portClass('tcp', WEB)];
  return [portClass('tcp', []), portClass('udp', []), portClass('icmp', [])];
}

function protocols(proto: Proto): PortClass['proto'][] {
  if (proto === 'tcp+udp') return ['tcp', 'udp'];
  if (proto === 'tcp' || proto === 'udp' || proto === 'icmp') return [proto];
  if (proto === 'sctp' || proto === 'gre' || proto === 'esp') return [PROTO_NUMBERS[proto]];
  return [ipNumber(proto)];
}

/** ip-6, ip-17 and ip-1 are the protocols that have names: one class, one rule. */
function ipNumber(proto: string): PortClass['proto'] {
  const n = Number(proto.slice('ip-'.length));
  return n === 6 ? 'tcp' : n === 17 ? 'udp' : n;
}

export function portClass(proto: PortClass['proto'], ports: readonly PortRange[]): PortClass {
  const sorted = mergePorts(ports);
  const text = sorted.map((p) => (p.lo === p.hi ? `${p.lo}` : `${p.lo}-${p.hi}`)).join(',');
  return { key: `${proto}:${text}`, proto, ports: sorted };
}

function mergePorts(ports: readonly PortRange[]): PortRange[] {
  const merged: PortRange[] = [];
  for (const p of [...ports].sort((a, b) => a.lo - b.lo)) {
    const last = merged[merged.length - 1];
    if (last && p.lo <= last.hi + 1) merged[merged.length - 1] = { lo: last.lo, hi: Math.max(last.hi, p.hi) };
    else merged.push(p);
  }
  return merged;
}

/** Resolves `container:NAME` to ranges; called once an entry. */
export type ResolveContainer = (name: string) => readonly Range[];

interface Draft {
  cls: PortClass;
  direct: boolean;
  statics: StaticDest[];
  names: PolicyEntry[];
  any: PolicyEntry[];
  host: PolicyEntry[];
}

/** Groups a policy's entries into classes, in a stable order, so that equal policies render to equal chains. */
export function planClasses(entries: readonly PolicyEntry[], resolve: ResolveContainer): ClassPlan[] {
  const drafts = new Map<string, Draft>();
  for (const pe of entries) {
    for (const cls of classesOf(pe.entry))
      file(draftFor(drafts, cls, pe.entry.flags.includes('dns=direct')), pe, resolve);
  }
  return [...drafts.entries()].sort(([a], [b]) => (a < b ? -1 : 1)).map(([key, d]) => finish(key, d));
}

function draftFor(drafts: Map<string, Draft>, cls: PortClass, direct: boolean): Draft {
  const key = direct ? `direct ${cls.key}` : cls.key;
  const known = drafts.get(key);
  if (known) return known;
  const made: Draft = { cls, direct, statics: [], names: [], any: [], host: [] };
  drafts.set(key, made);
  return made;
}

function file(draft: Draft, pe: PolicyEntry, resolve: ResolveContainer): void {
  const target = pe.entry.target;
  switch (target.kind) {
    case 'address':
      draft.statics.push({ range: target.range, entry: pe });
      break;
    case 'container':
      for (const range of resolve(target.name)) draft.statics.push({ range, entry: pe });
      break;
    case 'name':
      draft.names.push(pe);
      break;
    case 'any':
      draft.any.push(pe);
      break;
    case 'host':
      draft.host.push(pe);
  }
}

const finish = (key: string, d: Draft): ClassPlan => ({
  ...d.cls,
  key,
  direct: d.direct,
  statics: d.statics,
  names: d.names,
  any: d.any,
  host: d.host,
});

export const familiesOf = (dests: readonly StaticDest[]): ReadonlySet<Family> =>
  new Set(dests.map((d) => d.range.family));
