import type { Range } from '../lib/ip.js';
import type { DestEntry, PortRange } from '../policy/entry.js';
import { effectivePorts, formatPorts, mergePorts } from '../policy/entry-ports.js';
import type { PolicyEntry } from '../policy/policy.js';

/** One (protocol, ports) of a policy: the unit that has a rule and a set of its own. */
interface PortClass {
  /** Canonical: "tcp:80,443", "udp:", "icmp:", "47:". */
  readonly key: string;
  readonly proto: 'tcp' | 'udp' | 'icmp' | number;
  /** Empty: every port. */
  readonly ports: readonly PortRange[];
}

/** A destination that does not change: an address entry, or neighbours that a container entry resolved to. */
interface StaticDest {
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

const classesByEntry = new WeakMap<DestEntry, readonly PortClass[]>();
/** Worked out once for an entry: a list of hundreds may be that of hundreds of containers. */
function classesOf(entry: DestEntry): readonly PortClass[] {
  const known = classesByEntry.get(entry) ?? findClasses(entry);
  classesByEntry.set(entry, known);
  return known;
}

/** The classes that an entry permits. ip-6 and ip-17 are protocols that have names: one class, one rule. */
function findClasses(entry: DestEntry): PortClass[] {
  return effectivePorts(entry).map(({ proto, number = 0, ports }) =>
    portClass(proto === 'other' ? (NAMED[number] ?? number) : proto, ports),
  );
}
const NAMED: Readonly<Record<number, 'tcp' | 'udp'>> = { 6: 'tcp', 17: 'udp' };

function portClass(proto: PortClass['proto'], ports: readonly PortRange[]): PortClass {
  const merged = mergePorts(ports);
  return { key: `${proto}:${formatPorts(merged)}`, proto, ports: merged };
}

/** Resolves `container:NAME` to ranges; called once an entry. */
export type ResolveContainer = (name: string) => readonly Range[];

interface Draft extends ClassPlan {
  readonly statics: StaticDest[];
  readonly names: PolicyEntry[];
  readonly any: PolicyEntry[];
  readonly host: PolicyEntry[];
}

/** Groups a policy's entries into classes, in a stable order, so that equal policies render to equal chains. */
export function planClasses(entries: readonly PolicyEntry[], resolve: ResolveContainer): ClassPlan[] {
  const drafts = new Map<string, Draft>();
  for (const pe of entries) {
    for (const cls of classesOf(pe.entry))
      file(draftFor(drafts, cls, pe.entry.flags.includes('dns=direct')), pe, resolve);
  }
  return [...drafts.values()].sort((a, b) => (a.key < b.key ? -1 : 1));
}

function draftFor(drafts: Map<string, Draft>, cls: PortClass, direct: boolean): Draft {
  const key = direct ? `direct ${cls.key}` : cls.key;
  const known = drafts.get(key);
  if (known) return known;
  const { proto, ports } = cls;
  const made: Draft = { key, proto, ports, direct, statics: [], names: [], any: [], host: [] };
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
