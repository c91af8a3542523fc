/** What a container has used, as entries: rows of one destination, groups of one target, and what joins several of them. Pure. */

import type { DestinationKind } from '../flows/destination.js';
import type { FlowGap, OwnerRecord, SeenDestination } from '../flows/flow-record.js';
import { registrableDomain } from '../lib/dns-name.js';
import { bracketed, counted } from '../lib/units.js';
import { permitsEntry } from '../policy/deny-entries.js';
import { attempt, type DestEntry, type PortRange, type Proto, type Target } from '../policy/entry.js';
import { formatTarget, sealEntry } from '../policy/entry-canonical.js';
import { isDest, parseEntry } from '../policy/entry-parse.js';
import { mergePorts, parseProto } from '../policy/entry-ports.js';
import { riskOfEntry, riskOfName } from '../policy/risk.js';

/** The record of an owner; `since` null: it was never recorded. */
export type Recorded = Omit<OwnerRecord, 'since'> & { readonly since: number | null };

/** Where a destination of the record is, as far as it is known now. */
export interface Place {
  /** The entry that permits it; null: no entry can. */
  readonly entry: string | null;
  readonly kind: DestinationKind;
  /** The name that was resolved, the neighbour, or the container that publishes the port; null: none. */
  readonly name: string | null;
  /** A name that was resolved, and led to the host or to a private address. */
  readonly isUsed?: boolean;
  /** A neighbour that needs no entry (eastWest). */
  readonly free: boolean;
  /** Why no entry should be written for it; null: one may. */
  readonly warning: string | null;
}

/** How often, since when, and in how many starts of its container something was used. Times are ms since the epoch. */
export interface Use {
  readonly count: number;
  readonly first: number;
  readonly last: number;
  readonly starts: number;
}

/** One destination on one port: what the record has of it under all verdicts. */
export interface Row extends Use {
  /** With this port alone; undefined: no entry can permit it. */
  readonly wanted: DestEntry | undefined;
  /** As a person reads it, where there is no entry. */
  readonly title: string;
  readonly name: string | null;
  /** Of the last contact; empty where a name was only resolved. */
  readonly address: string;
  readonly proto: string;
  readonly port: number;
  /** Of the last contact; threat, if a feed listed it at any time. */
  readonly verdict: SeenDestination['verdict'];
  /** The entry that permitted the last contact. */
  readonly by: string | null;
  readonly known: boolean;
  readonly place: Place;
}

export const NO_USE: Use = { count: 0, first: Number.POSITIVE_INFINITY, last: 0, starts: 0 };

/** Starts are counted for each destination, so that of several only the largest number is sure. */
export const addUse = (a: Use, b: Use): Use => ({
  count: a.count + b.count,
  first: Math.min(a.first, b.first),
  last: Math.max(a.last, b.last),
  starts: Math.max(a.starts, b.starts),
});

export const useOf = (rows: readonly Use[]): Use => rows.reduce(addUse, NO_USE);

/** By bytes, so that the order is the same on every host. */
export const byText = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

/** Names of the address of a row without one, by other rows: the name that was used last first. */
export function namesOf(row: SeenDestination, all: readonly SeenDestination[]): readonly string[] {
  if (row.name !== null) return [row.name];
  const named = all.filter((r) => r.address === row.address && r.address !== '' && r.name !== null);
  const isSamePort = (r: SeenDestination): number => (r.port === row.port && r.proto === row.proto ? 0 : 1);
  named.sort(
    (a, b) => isSamePort(a) - isSamePort(b) || b.last - a.last || byText(a.name ?? '', b.name ?? ''),
  );
  return [...new Set(named.flatMap((r) => r.name ?? []))];
}

const DNS_PORT = 53;

/**
 * What was used, of a record: a row for each destination and port; and the names that policies did not let resolve. Suggestions and the preview of mode enforce begin with these rows. Names
 * that were connected to are not among them, nor those of one label: these are of containers, and not resolved in mode observe either.
 * Port 53 of an enforced container leads to Drawbridge, which answers by the names of the policy.
 */
export function usedRows(
  seen: readonly SeenDestination[],
  places: readonly Place[],
  from: number,
): { readonly rows: readonly Row[]; readonly unresolved: ReadonlySet<string> } {
  const rows = rowsOf(seen, places).filter((row) => row.last >= from);
  const unresolved = rows.filter((r) => r.proto === 'dns' && r.verdict !== 'allow');
  const connected = new Set(rows.flatMap((r) => (r.proto === 'dns' || r.name === null ? [] : [r.name])));
  const used = rows.filter(({ proto, port, verdict, name, place }) => {
    if (port === DNS_PORT && (proto === 'tcp' || proto === 'udp')) return false;
    if (proto !== 'dns' || verdict === 'threat') return true;
    return name?.includes('.') !== false && (!connected.has(name ?? '') || place.isUsed === true);
  });
  return { rows: used, unresolved: new Set(unresolved.flatMap(({ name }) => name ?? [])) };
}

/** The rows of a record: one for each destination and port. `places`: in the order of `seen`. */
export function rowsOf(seen: readonly SeenDestination[], places: readonly Place[]): readonly Row[] {
  const rows = new Map<string, Row>();
  for (const [i, one] of seen.entries()) {
    const place = places[i];
    if (!place) continue;
    const row = rowOf(one, place);
    const key = `${row.proto} ${row.wanted?.canonical ?? row.title}`;
    const known = rows.get(key);
    rows.set(key, known ? joinRows(known, row) : row);
  }
  return [...rows.entries()].sort(([a], [b]) => byText(a, b)).map(([, row]) => row);
}

function rowOf(seen: SeenDestination, place: Place): Row {
  const { name, proto, port, address, verdict, entry, known, count, first, last, starts } = seen;
  const host = name ?? bracketed(address);
  const title = proto === 'dns' ? host : port > 0 ? `${host}:${port}/${proto}` : `${host}/${proto}`;
  const use = { count, first, last, starts };
  return {
    ...use,
    wanted: exactly(seen, place),
    title,
    name,
    address,
    proto,
    port,
    verdict,
    by: entry,
    known,
    place,
  };
}

function joinRows(a: Row, b: Row): Row {
  const newer = b.last > a.last || (b.last === a.last && byText(a.verdict, b.verdict) < 0) ? b : a;
  const isThreat = a.verdict === 'threat' || b.verdict === 'threat';
  return {
    ...newer,
    ...addUse(a, b),
    verdict: isThreat ? 'threat' : newer.verdict,
    known: a.known || b.known,
  };
}

/** The destination with this port alone. A name that was only resolved has the ports of an entry without ports. */
function exactly({ proto, port }: SeenDestination, { entry }: Place): DestEntry | undefined {
  const parsed = entry === null ? undefined : parseEntry(entry);
  if (!parsed?.ok || !isDest(parsed.value)) return undefined;
  const { target, flags, ports: written } = parsed.value;
  if (proto === 'dns') return parsed.value;
  // A published port of another container is reached by the port of the host, which only the entry has.
  const number = target.kind === 'host' ? (written[0]?.lo ?? port) : port;
  const ports = number > 0 ? [{ lo: number, hi: number }] : [];
  return sealed(() => ({ target, ports, proto: protoOf(proto), flags }));
}

/** 47 is gre. */
const protoOf = (proto: string): Proto => parseProto(/^\d+$/.test(proto) ? `ip-${Number(proto)}` : proto, 0);

/** Undefined: there is no such entry. */
function sealed(parts: () => Parameters<typeof sealEntry>[0]): DestEntry | undefined {
  const made = attempt(() => sealEntry(parts()));
  return made.ok ? made.value : undefined;
}

/** All ports of one target that were used. */
export interface Group {
  readonly target: Target;
  readonly flags: DestEntry['flags'];
  readonly rows: readonly Row[];
  /** Each port is written, because another one of these names is refused. */
  readonly isExact?: boolean;
}

/** One group for each target. `refused`: what the entries must not permit. Rows without an entry are left out. */
export function groupsOf(rows: readonly Row[], refused: readonly Row[] = []): readonly Group[] {
  const groups = new Map<string, { target: Target; flags: DestEntry['flags']; rows: Row[] }>();
  for (const row of rows) {
    if (!row.wanted) continue;
    const { target, flags } = row.wanted;
    const key = [formatTarget(target), ...flags].join(' ');
    const known = groups.get(key);
    if (known) known.rows.push(row);
    else groups.set(key, { target, flags, rows: [row] });
  }
  const targets = new Set(targetsOf(refused.filter(isWeb)));
  return [...groups.entries()]
    .sort(([a], [b]) => byText(a, b))
    .map(([, group]) => ({ ...group, isExact: targets.has(formatTarget(group.target)) }));
}

/** The entries that permit the ports of a group: one without ports, if a name was used on 80/tcp, 443/tcp and 443/udp only. */
export function entriesOf({ target, flags, rows, isExact }: Group): readonly DestEntry[] {
  if (target.kind === 'name' && !isExact && rows.every(isWeb))
    return [sealEntry({ target, ports: [], flags })];
  const tcp = portsOf(rows, 'tcp');
  const udp = portsOf(rows, 'udp');
  const same = tcp.length > 0 && JSON.stringify(tcp) === JSON.stringify(udp);
  const others = [
    ...new Set(rows.flatMap(({ proto }) => (['tcp', 'udp', 'dns'].includes(proto) ? [] : [proto]))),
  ];
  const made = [
    ...(tcp.length > 0 ? [{ ports: tcp, proto: (same ? 'tcp+udp' : 'tcp') as Proto }] : []),
    ...(udp.length > 0 && !same ? [{ ports: udp, proto: 'udp' as Proto }] : []),
    ...others.sort(byText).map((proto) => ({ ports: [], proto: protoOf(proto) })),
  ];
  return made.flatMap((parts) => sealed(() => ({ target, flags, ...parts })) ?? []);
}

const WEB: readonly string[] = ['tcp 80', 'tcp 443', 'udp 443'];
const isWeb = ({ proto, port }: Row): boolean => proto === 'dns' || WEB.includes(`${proto} ${port}`);

const portsOf = (rows: readonly Row[], proto: string): readonly PortRange[] =>
  mergePorts(rows.flatMap((row) => (row.proto === proto ? (row.wanted?.ports ?? []) : [])));

const SIBLINGS = 3;
/** One number in the first label. */
const NUMBERED = /^([^\d.]*)\d+([^\d.]*)\.(.+)$/;

/**
 * Join three or more names that differ only by the number in their first label to a wildcard. The name below which they are must belong
 * to one registrable name, and no customer of a shared service. `refused`: what the wildcard must not permit.
 */
export function joinSiblings(groups: readonly Group[], refused: readonly Row[]): readonly Group[] {
  const families = new Map<string, { parent: string; members: Group[] }>();
  for (const group of groups) {
    const [, before, after, parent] = exactNameOf(group)?.match(NUMBERED) ?? [];
    if (parent === undefined) continue;
    const ports = entriesOf(group).map((e) => e.canonical.slice(formatTarget(e.target).length));
    const key = [before, after, parent, ...ports].join(' ');
    const known = families.get(key);
    if (known) known.members.push(group);
    else families.set(key, { parent, members: [group] });
  }
  const joined = new Map<string, Group>();
  for (const { parent, members } of families.values()) {
    const wildcard = members.length >= SIBLINGS ? wildcardFor(parent, members, refused) : undefined;
    if (wildcard) for (const member of members) joined.set(formatTarget(member.target), wildcard);
  }
  const all = groups.map((group) => joined.get(formatTarget(group.target)) ?? group);
  return [...new Set(all)].sort((a, b) => byText(formatTarget(a.target), formatTarget(b.target)));
}

const exactNameOf = ({ target }: Group): string | undefined =>
  target.kind === 'name' && target.match === 'exact' ? target.name : undefined;

function wildcardFor(parent: string, members: readonly Group[], refused: readonly Row[]): Group | undefined {
  const target: Target = { kind: 'name', match: 'below', name: parent };
  const flags = members[0]?.flags ?? [];
  const wildcard = sealed(() => ({ target, ports: [], flags }));
  if (!wildcard || registrableDomain(parent) === undefined) return undefined;
  if (riskOfEntry(wildcard) || riskOfName(`x.${parent}`)) return undefined;
  const covers = (row: Row): boolean =>
    row.wanted?.target.kind === 'name' && row.wanted.target.name.endsWith(`.${parent}`);
  return refused.some(covers) ? undefined : { target, flags, rows: members.flatMap((m) => m.rows) };
}

export const targetsOf = (rows: readonly Row[]): readonly string[] =>
  [...new Set(rows.map((row) => (row.wanted ? formatTarget(row.wanted.target) : row.title)))].sort(byText);

/** An entry for a name that leads to private addresses must accept them. */
export const permitsRow = (entry: DestEntry, wanted: DestEntry): boolean =>
  permitsEntry(entry, wanted) && (!wanted.flags.includes('private') || entry.flags.includes('private'));

/** RFC 3339 without fractions of a second. */
export const iso = (ms: number): string => new Date(ms).toISOString().replace(/\.\d+Z$/, 'Z');

const UNITS = [
  [86_400_000, 'day'],
  [3_600_000, 'hour'],
  [60_000, 'minute'],
] as const;

/** With times in RFC 3339. */
export const shownGap = ({ from, to, reason }: FlowGap) => ({ from: iso(from), to: iso(to), reason });

/** In the largest unit that fits, rounded down: "3 days". */
export function spanText(ms: number): string {
  const [size, noun] = UNITS.find(([unit]) => ms >= unit) ?? [1000, 'second'];
  return counted(Math.max(0, Math.floor(ms / size)), noun);
}

/** "41 times since 2026-11-28T07:02:00Z, last 2026-11-30T07:02:00Z, in 12 of 17 starts". */
export const useText = (use: Use, starts: number): string =>
  `${counted(use.count, 'time')} since ${iso(use.first)}, last ${iso(use.last)}, in ${use.starts} of ${counted(Math.max(starts, use.starts), 'start')}`;

export interface ShownUse {
  readonly count: number;
  /** RFC 3339; null: it was not used. */
  readonly first: string | null;
  readonly last: string | null;
  readonly starts: number;
}
export const shownUse = ({ count, first, last, starts }: Use): ShownUse => ({
  count,
  first: count === 0 ? null : iso(first),
  last: count === 0 ? null : iso(last),
  starts,
});

export interface Stability {
  /** The last time at which a new destination was found, RFC 3339; null: none was. */
  readonly since: string | null;
  /** From then until now, in words; null: none was. */
  readonly for: string | null;
  /** Starts since then, at least: those in which the newest destination was seen again. */
  readonly starts: number;
  /** Recorded for a day, or over ten starts. */
  readonly enough: boolean;
  readonly text: string;
}

const ENOUGH_MS = 86_400_000;
const ENOUGH_STARTS = 10;

/** Whether something new was found lately. Destinations that are marked as known do not count. */
export function stabilityOf({ since, seen, starts }: Recorded, now: number): Stability {
  if (since === null)
    return { since: null, for: null, starts: 0, enough: false, text: 'nothing is recorded of it' };
  const enough = now - since >= ENOUGH_MS || starts >= ENOUGH_STARTS;
  const [newest] = seen
    .filter((row) => !row.known)
    .sort((a, b) => b.first - a.first || b.starts - a.starts || byText(a.address, b.address));
  const short = enough ? '' : `; recording since ${iso(since)} only`;
  if (!newest) {
    const text = `no destination in ${spanText(now - since)}, ${counted(starts, 'start')}${short}`;
    return { since: null, for: null, starts: 0, enough, text };
  }
  const after = Math.max(0, newest.starts - 1);
  const span = spanText(now - newest.first);
  const text = `nothing new for ${span}${after > 0 ? `, and at least ${counted(after, 'start')}` : ''} (${counted(starts, 'start')} recorded since ${iso(since)})${short}`;
  return { since: iso(newest.first), for: span, starts: after, enough, text };
}
