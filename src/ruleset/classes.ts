import type { Range } from '../lib/ip.js';
import type { DestEntry, PortRange } from '../policy/entry.js';
import { effectivePorts, formatPorts, mergePorts } from '../policy/entry-ports.js';
import type { PolicyEntry } from '../policy/policy.js';

/** One (protocol, ports) of a policy: the unit that has a rule of its own, and a set of its own for destinations that do not change. */
interface PortClass {
  /** Canonical: "tcp:80,443", "udp:", "icmp:", "47:". */
  readonly key: string;
  readonly proto: 'tcp' | 'udp' | 'icmp' | number;
  /** Empty: every port. */
  readonly ports: readonly PortRange[];
  /** Its connections must name what its name entries permit (docs/kernel.md). It has nothing but names. */
  readonly isChecked?: true;
  /** Of the set of addresses that its names resolved to. Classes of the same entries share it. */
  readonly namesKey: string;
}

/** Which connections are checked by the name that they ask for (config/schema.ts, `tls`). */
export interface NameChecks {
  readonly verify: boolean;
  readonly quic: 'verify' | 'deny';
  /** Of TLS and QUIC. Port 80 is that of HTTP. */
  readonly ports: readonly number[];
}
export const NO_NAME_CHECKS: NameChecks = { verify: false, quic: 'verify', ports: [] };

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

const classesByChecks = new WeakMap<NameChecks, WeakMap<DestEntry, readonly PortClass[]>>();
/** Worked out once for an entry: a list of hundreds may be that of hundreds of containers. */
function classesOf(entry: DestEntry, checks: NameChecks): readonly PortClass[] {
  const byEntry = classesByChecks.get(checks) ?? new WeakMap<DestEntry, readonly PortClass[]>();
  classesByChecks.set(checks, byEntry);
  const known = byEntry.get(entry) ?? findClasses(entry, checks);
  byEntry.set(entry, known);
  return known;
}

type Part = Pick<PortClass, 'proto' | 'ports' | 'isChecked'>;

/** The classes that an entry permits. ip-6 and ip-17 are protocols that have names: one class, one rule. */
function findClasses(entry: DestEntry, checks: NameChecks): PortClass[] {
  const parts = effectivePorts(entry).flatMap(({ proto, number = 0, ports }) => {
    const part = { proto: proto === 'other' ? (NAMED[number] ?? number) : proto, ports: mergePorts(ports) };
    return entry.target.kind === 'name' ? checkedParts(part, entry, checks) : [part];
  });
  const keyed = parts.map((part) => ({ ...part, key: keyOf(part) }));
  const namesKey = keyed.map(({ key }) => key).join(' ');
  // what a name resolves to is in one set, whatever the number of its classes
  const isShared = entry.target.kind === 'name' && keyed.length > 1;
  return keyed.map((part) =>
    isShared ? { ...part, key: `${part.key} of ${namesKey}`, namesKey } : { ...part, namesKey: part.key },
  );
}
const NAMED: Readonly<Record<number, 'tcp' | 'udp'>> = { 6: 'tcp', 17: 'udp' };
const keyOf = ({ proto, ports, isChecked }: Part): string =>
  `${proto}:${formatPorts(ports)}${isChecked ? ' checked' : ''}`;

const HTTP_PORT = 80;
/** The ports of a name entry whose connections are checked, and the others. */
function checkedParts(part: Part, { flags }: DestEntry, checks: NameChecks): Part[] {
  const { proto, ports } = part;
  if (!checks.verify || flags.includes('tls=off') || (proto !== 'tcp' && proto !== 'udp')) return [part];
  if (proto === 'tcp' && flags.includes('tls=verify')) return [{ ...part, isChecked: true }];
  const own = proto === 'tcp' ? [HTTP_PORT, ...checks.ports] : checks.ports;
  const isDenied = proto === 'udp' && (checks.quic === 'deny' || flags.includes('quic=deny'));
  const checked = isDenied ? [] : own.filter((port) => hasPort(ports, port));
  const others = without(ports, own);
  return [
    ...(others.length > 0 ? [{ proto, ports: others }] : []),
    ...(checked.length > 0
      ? [{ proto, ports: mergePorts(checked.map((lo) => ({ lo, hi: lo }))), isChecked: true as const }]
      : []),
  ];
}

const LAST_PORT = 65_535;
const hasPort = (ports: readonly PortRange[], port: number): boolean =>
  ports.length === 0 || ports.some(({ lo, hi }) => lo <= port && port <= hi);

/** All of these ports but some; no ports mean every port. */
function without(ports: readonly PortRange[], some: readonly number[]): readonly PortRange[] {
  const all = ports.length === 0 ? [{ lo: 1, hi: LAST_PORT }] : ports;
  const cut = (ranges: readonly PortRange[], port: number): PortRange[] =>
    ranges.flatMap(({ lo, hi }) => {
      if (port < lo || port > hi) return [{ lo, hi }];
      return [...(lo < port ? [{ lo, hi: port - 1 }] : []), ...(port < hi ? [{ lo: port + 1, hi }] : [])];
    });
  return some.reduce(cut, all);
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
export function planClasses(
  entries: readonly PolicyEntry[],
  resolve: ResolveContainer,
  checks: NameChecks = NO_NAME_CHECKS,
): ClassPlan[] {
  const drafts = new Map<string, Draft>();
  for (const pe of entries) {
    for (const cls of classesOf(pe.entry, checks))
      file(draftFor(drafts, cls, pe.entry.flags.includes('dns=direct')), pe, resolve);
  }
  return [...drafts.values()].sort((a, b) => (a.key < b.key ? -1 : 1));
}

function draftFor(drafts: Map<string, Draft>, cls: PortClass, direct: boolean): Draft {
  const key = direct ? `direct ${cls.key}` : cls.key;
  const known = drafts.get(key);
  if (known) return known;
  const made: Draft = { ...cls, key, direct, statics: [], names: [], any: [], host: [] };
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
