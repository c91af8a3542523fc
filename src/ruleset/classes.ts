import { type Family, type Range, rangeToCidrs } from '../lib/ip.js';
import { memo } from '../lib/memo.js';
import type { DeniedNames, WithheldPorts } from '../policy/deny-entries.js';
import type { DestEntry, PortRange } from '../policy/entry.js';
import {
  type PortClass as EntryPorts,
  effectivePorts,
  formatPorts,
  hasPort,
  mergePorts,
  portsOf,
} from '../policy/entry-ports.js';
import type { PolicyEntry } from '../policy/policy.js';
import { type Match, portParts } from './rules.js';

/** One (protocol, ports) of a policy: the unit that has a rule of its own, and a set of its own for destinations that do not change. */
interface PortClass {
  /** Canonical: "tcp:80,443", "udp:", "icmp:", "47:". */
  readonly key: string;
  readonly proto: 'tcp' | 'udp' | 'icmp' | number;
  /** Empty: every port. */
  readonly ports: readonly PortRange[];
  /**
   * Its connections must name what its name entries permit (docs/kernel.md). Address entries are in such a class while the container has
   * deny entries for names on these ports: their connections must not name what is denied.
   */
  readonly isChecked?: true;
  /** It is for names of which deny entries leave out these ports (`WithheldPorts.key`), and for no others. */
  readonly withheld?: string;
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

/** Ports on which connections to permitted addresses are checked, because a deny entry for names covers them. */
export interface CheckedPorts {
  readonly tcp: readonly number[];
  readonly udp: readonly number[];
}
/** What deny entries change in the classes of other entries. */
export interface DeniedParts {
  readonly names: DeniedNames;
  readonly checked?: CheckedPorts;
}
const checkedByKey = new Map<string, CheckedPorts>();
/** Undefined: nothing is checked because of deny entries. The same object for the same ports. */
export function checkedByDenial(names: DeniedNames, checks: NameChecks): CheckedPorts | undefined {
  if (!checks.verify) return undefined;
  const tcp = [HTTP_PORT, ...checks.ports].filter((port) => names.coversPort('tcp', port));
  const udp = checks.ports.filter((port) => names.coversPort('udp', port));
  if (tcp.length + udp.length === 0) return undefined;
  const key = `${tcp} ${udp}`;
  const known = checkedByKey.get(key) ?? { tcp, udp };
  checkedByKey.set(key, known);
  return known;
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

/** Worked out once for an entry: a list of hundreds may be that of hundreds of containers. */
const byChecks = memo((checks: NameChecks) => memo((entry: DestEntry) => findClasses(entry, checks)));
const classesOf = (entry: DestEntry, checks: NameChecks): readonly PortClass[] => byChecks(checks)(entry);

type Part = Pick<PortClass, 'proto' | 'ports' | 'isChecked'>;

/** The classes that an entry permits. ip-6 and ip-17 are protocols that have names: one class, one rule. */
function findClasses(entry: DestEntry, checks: NameChecks): PortClass[] {
  const parts = effectivePorts(entry).flatMap(({ proto, number = 0, ports }) => {
    const part = { proto: protoOf({ proto, number }), ports: mergePorts(ports) };
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
export const protoOf = ({ proto, number = 0 }: Omit<EntryPorts, 'ports'>): PortClass['proto'] =>
  proto === 'other' ? (NAMED[number] ?? number) : proto;
const NAMED: Readonly<Record<number, 'tcp' | 'udp'>> = { 6: 'tcp', 17: 'udp' };
const keyOf = ({ proto, ports, isChecked }: Part): string =>
  `${proto}:${formatPorts(ports)}${isChecked ? ' checked' : ''}`;

const partsFor = memo((checked: CheckedPorts) =>
  memo((all: readonly PortClass[]) =>
    all.flatMap(({ proto, ports }) => splitAt({ proto, ports }, checked)).map(keyedAlone),
  ),
);
/** The classes of an entry for addresses where these ports are checked. Worked out once for an entry, too. */
function addressClasses(
  entry: DestEntry,
  checks: NameChecks,
  checked: CheckedPorts | undefined,
): readonly PortClass[] {
  const all = classesOf(entry, checks);
  if (!checked || entry.target.kind === 'host' || entry.flags.includes('tls=off')) return all;
  return partsFor(checked)(all);
}
const keyedAlone = (part: Part): PortClass => ({ ...part, key: keyOf(part), namesKey: keyOf(part) });

function splitAt(part: Part, checked: CheckedPorts): Part[] {
  const { proto, ports } = part;
  if (proto !== 'tcp' && proto !== 'udp') return [part];
  return checkedAt(part, checked[proto], (port) => hasPort(ports, port));
}

/** A class without the ports that deny entries leave out of a name; undefined: nothing is left. */
function withoutWithheld(cls: PortClass, { key, classes }: WithheldPorts): PortClass | undefined {
  const same = classes.filter((c) => protoOf(c) === cls.proto);
  const rest = {
    ...cls,
    key: `${cls.key} but ${key}`,
    namesKey: `${cls.namesKey} but ${key}`,
    withheld: key,
  };
  if (same.length === 0) return rest;
  if (same.some((c) => c.ports.length === 0)) return undefined;
  const ports = without(
    cls.ports,
    same.flatMap((c) => c.ports),
  );
  return ports.length > 0 ? { ...rest, ports } : undefined;
}

/** The classes of a name entry for names of which deny entries leave out some ports: others have what `classesOf` returns. */
function withheldClasses(entry: DestEntry, checks: NameChecks, names: DeniedNames): PortClass[] {
  const { target } = entry;
  if (target.kind !== 'name' || names.combinations.length === 0) return [];
  const own = target.match === 'exact' ? names.withheld(target.name).key : undefined;
  const possible = names.combinations.filter(({ key }) => own === undefined || key === own);
  return possible.flatMap((ports) =>
    classesOf(entry, checks).flatMap((cls) => withoutWithheld(cls, ports) ?? []),
  );
}

const HTTP_PORT = 80;
/** The ports of a name entry whose connections are checked, and the others. */
function checkedParts(part: Part, { flags }: DestEntry, checks: NameChecks): Part[] {
  const { proto, ports } = part;
  if (!checks.verify || flags.includes('tls=off') || (proto !== 'tcp' && proto !== 'udp')) return [part];
  if (proto === 'tcp' && flags.includes('tls=verify')) return [{ ...part, isChecked: true }];
  const own = proto === 'tcp' ? [HTTP_PORT, ...checks.ports] : checks.ports;
  const isDenied = proto === 'udp' && (checks.quic === 'deny' || flags.includes('quic=deny'));
  return checkedAt(part, own, (port) => !isDenied && hasPort(ports, port));
}

/** Splits a part at these ports. Those that `isWanted` are checked, and the others of them are left out. */
function checkedAt(
  { proto, ports }: Part,
  at: readonly number[],
  isWanted: (port: number) => boolean,
): Part[] {
  const checked = at.filter(isWanted).map(only);
  const others = without(ports, at.map(only));
  return [
    ...(others.length > 0 ? [{ proto, ports: others }] : []),
    ...(checked.length > 0 ? [{ proto, ports: mergePorts(checked), isChecked: true as const }] : []),
  ];
}

const only = (port: number): PortRange => ({ lo: port, hi: port });

/** All of these ports but some; no ports mean every port. */
function without(ports: readonly PortRange[], some: readonly PortRange[]): readonly PortRange[] {
  const all = portsOf({ ports });
  const cut = (ranges: readonly PortRange[], out: PortRange): PortRange[] =>
    ranges.flatMap(({ lo, hi }) => {
      if (out.hi < lo || out.lo > hi) return [{ lo, hi }];
      return [
        ...(lo < out.lo ? [{ lo, hi: out.lo - 1 }] : []),
        ...(out.hi < hi ? [{ lo: out.hi + 1, hi }] : []),
      ];
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

function classesFor(
  entry: DestEntry,
  checks: NameChecks,
  denied: DeniedParts | undefined,
): readonly PortClass[] {
  if (!denied) return classesOf(entry, checks);
  if (entry.target.kind !== 'name') return addressClasses(entry, checks, denied.checked);
  return [...classesOf(entry, checks), ...withheldClasses(entry, checks, denied.names)];
}

/** Groups a policy's entries into classes, in a stable order, so that equal policies render to equal chains. */
export function planClasses(
  entries: readonly PolicyEntry[],
  resolve: ResolveContainer,
  checks: NameChecks = NO_NAME_CHECKS,
  denied?: DeniedParts,
): ClassPlan[] {
  const drafts = new Map<string, Draft>();
  for (const pe of entries) {
    for (const cls of classesFor(pe.entry, checks, denied))
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

/** `all`: every protocol. */
interface Matched {
  readonly proto: 'tcp' | 'udp' | 'icmp' | 'all' | number;
  readonly ports: readonly PortRange[];
}

/** Protocol and ports of a class; several when its ports do not fit one match. */
export function classMatches(c: Matched): Match[][] {
  if (c.proto === 'all') return [[]];
  const proto: Match = { k: 'proto', proto: c.proto };
  if (c.proto === 'icmp') return [[proto, { k: 'icmpType', type: 'echo-request' }]];
  if (c.ports.length === 0) return [[proto]];
  return portParts(c.ports).map((ports) => [proto, { k: 'dports', ports }]);
}

/** Canonical texts, each once. */
export const entriesOf = (
  entries: readonly { readonly entry: { readonly canonical: string } }[],
): string[] => {
  const [first] = entries;
  if (first && entries.length === 1) return [first.entry.canonical];
  return [...new Set(entries.map((e) => e.entry.canonical))];
};

export const cidrsOf = (statics: readonly StaticDest[], family: Family): string[] => [
  ...new Set(statics.flatMap((s) => (s.range.family === family ? setCidrs(s.range) : []))),
];

/** CIDRs of a range; a set has no /0, so everything is two halves. */
const setCidrs = memo((range: Range): readonly string[] =>
  rangeToCidrs(range).flatMap((c) => {
    if (c.prefix > 0) return [c.text];
    return c.family === 4 ? ['0.0.0.0/1', '128.0.0.0/1'] : ['::/1', '8000::/1'];
  }),
);
