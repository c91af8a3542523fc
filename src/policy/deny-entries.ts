/** Deny entries ("!gist.github.com"), and what entries cover of each other, by name and by port. Pure. */

import { nameMatches } from '../lib/dns-name.js';
import { parseCidr, type Range } from '../lib/ip.js';
import { memo } from '../lib/memo.js';
import { anyNetworks } from '../lib/special-use.js';
import type { DestEntry, Target } from './entry.js';
import { classHas, deniedPorts, effectivePorts, type PortClass, portsOf } from './entry-ports.js';
import type { EntrySource, PolicyEntry } from './policy.js';

/** Where an entry is written, in words. */
export function sourceText(s: EntrySource): string {
  if (s.kind === 'label') return 'its label drawbridge.allow';
  if (s.kind === 'grant') return `grant ${s.name}`;
  if (s.kind === 'claim') return `list ${s.name}, which claims it`;
  return s.kind === 'baseline' ? `list ${s.name}, which every container has` : `list ${s.name}`;
}

/** The list that has an entry; null: it is one of a label or a grant. */
export const listOf = (s: EntrySource): string | null =>
  s.kind === 'label' || s.kind === 'grant' ? null : s.name;

export const denialText = ({ entry, source }: PolicyEntry): string =>
  `${entry.canonical} denies it (${sourceText(source)})`;

/** A deny entry for names beats all that permit: how to permit something all the same. */
export const denialRemedy = ({ entry, source }: PolicyEntry): string =>
  `remove ${entry.canonical} from ${source.kind === 'label' ? 'the label drawbridge.allow' : sourceText(source)}: no other entry permits what a deny entry covers`;

/** Whether a deny entry covers this port of what it denies. */
export const deniesPort = ({ entry }: PolicyEntry, proto: PortClass['proto'], port: number): boolean =>
  deniedPorts(entry)?.some((c) => classHas(c, proto, port)) ?? true;

/** What port-limited deny entries leave out of the ports of a name. */
export interface WithheldPorts {
  /** Canonical: equal for equal ports, and empty for none. */
  readonly key: string;
  readonly classes: readonly PortClass[];
}
const NOTHING: WithheldPorts = { key: '', classes: [] };

/** More combinations than these get no rules: names with others of them do not resolve. */
const MAX_COMBINATIONS = 16;
/** Below every name, and equal to none that an entry or a query has. */
const ANY_LABEL = '*';

/** The deny entries of one policy that are for names. Looking a name up takes a step for each of its labels, whatever their number. */
export class DeniedNames {
  readonly entries: readonly PolicyEntry[];
  readonly #byName = new Map<string, PolicyEntry[]>();
  #combinations: readonly WithheldPorts[] | undefined;

  constructor(entries: readonly PolicyEntry[]) {
    this.entries = entries;
    for (const pe of entries) {
      const { target } = pe.entry;
      if (target.kind !== 'name') continue;
      const known = this.#byName.get(target.name);
      if (known) known.push(pe);
      else this.#byName.set(target.name, [pe]);
    }
  }

  /** Those that match a name, the most specific first. */
  #matching(name: string): readonly PolicyEntry[] {
    const found: PolicyEntry[] = [];
    for (let rest = name; ; rest = rest.slice(rest.indexOf('.') + 1)) {
      for (const pe of this.#byName.get(rest) ?? [])
        if (pe.entry.target.kind === 'name' && nameMatches(pe.entry.target, name)) found.push(pe);
      if (!rest.includes('.')) return found;
    }
  }

  /** The entry that denies this name on every port: it does not resolve. */
  whole(name: string): PolicyEntry | undefined {
    return this.#matching(name).find(({ entry }) => deniedPorts(entry) === undefined);
  }

  /** The entry that denies this name on one port. */
  on(name: string, proto: 'tcp' | 'udp', port: number): PolicyEntry | undefined {
    return this.#matching(name).find((pe) => deniesPort(pe, proto, port));
  }

  /** Entries with ports that match this name. */
  onPorts(name: string): readonly PolicyEntry[] {
    return this.#matching(name).filter(({ entry }) => deniedPorts(entry) !== undefined);
  }

  /** The ports that are denied of this name, while it resolves for others. */
  withheld(name: string): WithheldPorts {
    return joined(this.onPorts(name));
  }

  /** Every `withheld` that some name can have, but for nothing; bounded. */
  get combinations(): readonly WithheldPorts[] {
    this.#combinations ??= this.#findCombinations();
    return this.#combinations;
  }

  #findCombinations(): readonly WithheldPorts[] {
    const found = new Map<string, WithheldPorts>();
    for (const name of this.#byName.keys())
      for (const one of [this.withheld(name), this.withheld(`${ANY_LABEL}.${name}`)])
        if (one.key !== '') found.set(one.key, one);
    return [...found.values()].sort((a, b) => (a.key < b.key ? -1 : 1)).slice(0, MAX_COMBINATIONS);
  }

  /** Whether an entry denies a port of some name. */
  coversPort(proto: 'tcp' | 'udp', port: number): boolean {
    return this.entries.some((pe) => deniesPort(pe, proto, port));
  }
}

const joinedAlone = memo((entry: DestEntry) => join([entry]));
function joined(entries: readonly PolicyEntry[]): WithheldPorts {
  const [first, ...others] = entries;
  if (!first) return NOTHING;
  if (others.length > 0) return join(entries.map(({ entry }) => entry));
  return joinedAlone(first.entry);
}

function join(entries: readonly DestEntry[]): WithheldPorts {
  const classes = entries.flatMap((entry) => deniedPorts(entry) ?? []);
  const texts = classes.map(({ proto, number, ports }) => {
    const text = ports.map(({ lo, hi }) => (lo === hi ? lo : `${lo}-${hi}`)).join(',');
    return `${number ?? proto}:${text}`;
  });
  return { key: [...new Set(texts)].sort().join(' '), classes };
}

/** Whether a deny entry covers all that another entry permits: such an entry has no effect. */
export const coversEntry = (denied: DestEntry, entry: DestEntry): boolean =>
  coversTarget(denied.target, entry.target) && coversPorts(deniedPorts(denied), entry);

/** Whether an entry that permits, permits all that another one does. */
export const permitsEntry = (permitting: DestEntry, entry: DestEntry): boolean =>
  coversTarget(permitting.target, entry.target) && coversPorts(effectivePorts(permitting), entry);

/**
 * The entry that decides about one destination, by the entries alone: addresses that names resolve to, neighbours that need no entry
 * and threat feeds are not known here. `by` undefined: no entry covers it, so that it is denied.
 */
export function decidedBy(
  { entries, denied }: { readonly entries: readonly PolicyEntry[]; readonly denied: readonly PolicyEntry[] },
  to: DestEntry,
): { readonly verdict: 'allow' | 'deny'; readonly by?: PolicyEntry } {
  const denying = denied.find(({ entry }) => coversEntry(entry, to));
  if (denying) return { verdict: 'deny', by: denying };
  const permitting = entries.find(({ entry }) => permitsEntry(entry, to));
  return permitting ? { verdict: 'allow', by: permitting } : { verdict: 'deny' };
}

function coversTarget(denied: Target, target: Target): boolean {
  if (denied.kind === 'any' && target.kind === 'address') return isPublic(target.range);
  if (denied.kind === 'address' && target.kind === 'address') return isInside(target.range, denied.range);
  if (denied.kind === 'container' && target.kind === 'container') return denied.name === target.name;
  if (denied.kind === 'name' && target.kind === 'name') return coversName(denied, target);
  return denied.kind === target.kind && (denied.kind === 'any' || denied.kind === 'host');
}

type NameTarget = Extract<Target, { kind: 'name' }>;
function coversName(denied: NameTarget, { match, name }: NameTarget): boolean {
  if (match === 'exact') return nameMatches(denied, name);
  if (denied.match === 'exact') return false;
  if (denied.name === name) return denied.match === 'both' || match === 'below';
  return name.endsWith(`.${denied.name}`);
}

/** Whether some name may match both. */
export function mayOverlap(a: DestEntry, b: DestEntry): boolean {
  if (a.target.kind !== 'name' || b.target.kind !== 'name') return false;
  const isBelow = (below: NameTarget, above: NameTarget): boolean =>
    above.match !== 'exact' && below.name.endsWith(`.${above.name}`);
  return a.target.name === b.target.name || isBelow(a.target, b.target) || isBelow(b.target, a.target);
}

const isInside = (inner: Range, outer: Range): boolean =>
  inner.family === outer.family && outer.lo <= inner.lo && inner.hi <= outer.hi;

/** Part of `any` on every host: it depends on the networks of Docker what else is not. */
const isPublic = (range: Range): boolean =>
  anyNetworks([], range.family).some((text) => {
    const network = parseCidr(text);
    return network !== undefined && isInside(range, network);
  });

/** `all` undefined: every port and protocol. */
function coversPorts(all: readonly PortClass[] | undefined, entry: DestEntry): boolean {
  if (!all) return true;
  return effectivePorts(entry).every((wanted) => {
    const same = all.filter((c) => c.proto === wanted.proto && c.number === wanted.number);
    if (same.some((c) => c.ports.length === 0)) return true;
    const ranges = portsOf(wanted);
    return ranges.every(({ lo, hi }) => same.some((c) => c.ports.some((r) => r.lo <= lo && hi <= r.hi)));
  });
}
