/**
 * Destinations where anyone can receive data: a table of names (destination-risks.json) and of addresses that many parties share
 * (shared-ranges.json), and what an entry opens of them. Pure.
 */
import { nameMatches } from '../lib/dns-name.js';
import { parseCidr, type Range } from '../lib/ip.js';
import table from './destination-risks.json' with { type: 'json' };
import type { DestEntry } from './entry.js';
import { deniedPorts } from './entry-ports.js';
import shared from './shared-ranges.json' with { type: 'json' };

/** Why a name is one where anyone can receive data. */
export interface Risk {
  /** A key of the table, such as "object-store". */
  readonly category: string;
  /** The name of the table that fits: "*.x" with the customer in the name, "x" with all customers behind one name. */
  readonly pattern: string;
  /** For a person: what it is, and what anyone can do there. */
  readonly reason: string;
}
export interface RiskPattern extends Risk {
  /** From the last label to the first, without the "*" that it begins with. */
  readonly labels: readonly string[];
  /** It begins with "*.": each customer has names of its own. */
  readonly hasTenants: boolean;
}

function patternOf(category: string, what: string, pattern: string, of: string): RiskPattern {
  const hasTenants = pattern.startsWith('*.');
  const labels = (hasTenants ? pattern.slice(2) : pattern).split('.').reverse();
  return { category, pattern, reason: `${of} (${what})`, labels, hasTenants };
}

/** Every name of the table. */
export const RISKS: readonly RiskPattern[] = Object.entries(table).flatMap(([category, { what, names }]) =>
  Object.entries(names).map(([pattern, of]) => patternOf(category, what, pattern, of)),
);

/** By the last two labels, which no pattern leaves open. */
const byEnd = new Map<string, RiskPattern[]>();
for (const risk of RISKS) {
  const key = endOf(risk.labels);
  const known = byEnd.get(key);
  if (known) known.push(risk);
  else byEnd.set(key, [risk]);
}
function endOf([last = '', second = '']: readonly string[]): string {
  return `${second}.${last}`;
}

/** "*" within a label of a pattern fits any characters of one label. */
function fits(pattern: string, label: string): boolean {
  const at = pattern.indexOf('*');
  if (at < 0) return pattern === label;
  const [before, after] = [pattern.slice(0, at), pattern.slice(at + 1)];
  return label.length >= before.length + after.length && label.startsWith(before) && label.endsWith(after);
}

const startsWith = (name: readonly string[], labels: readonly string[]): boolean =>
  name.length >= labels.length && labels.every((label, i) => fits(label, name[i] ?? ''));

/** Whether a name of the table fits this name; the one with all customers behind one name first. */
export function riskOfName(name: string): RiskPattern | undefined {
  const labels = name.split('.').reverse();
  const found = (byEnd.get(endOf(labels)) ?? []).filter(
    (risk) =>
      startsWith(labels, risk.labels) &&
      (risk.hasTenants ? labels.length > risk.labels.length : labels.length === risk.labels.length),
  );
  return found.find((risk) => !risk.hasTenants) ?? found[0];
}

/**
 * What an entry permits to anyone: a name with all customers behind it, or the names of every customer. The name of one customer, or
 * names below it, are that customer's; no other one receives what is sent there. `denied`: deny entries of the same policy.
 */
export function riskOfEntry(
  { target, deny }: DestEntry,
  denied: readonly DestEntry[] = [],
): Risk | undefined {
  if (!deny && target.kind === 'address') return riskOfRange(target.range);
  if (deny || target.kind !== 'name') return undefined;
  const { match, name } = target;
  const own = match === 'below' ? undefined : riskOfName(name);
  if (own && !own.hasTenants && !isDenied(own, denied)) return own;
  return match === 'exact' ? undefined : riskBelow(name, denied);
}

/** The first name of the table that lies below this one, and that not only one customer has. */
function riskBelow(name: string, denied: readonly DestEntry[]): Risk | undefined {
  const labels = name.split('.').reverse();
  const isBelow = (risk: RiskPattern): boolean =>
    risk.labels.length >= labels.length + (risk.hasTenants ? 0 : 1) &&
    labels.every((label, i) => fits(risk.labels[i] ?? '', label));
  return RISKS.find((risk) => isBelow(risk) && !isDenied(risk, denied));
}

/** A label of the pattern that is open is compared as it is written, so that an entry for one of its values denies only that one. */
const isDenied = ({ pattern }: RiskPattern, denied: readonly DestEntry[]): boolean =>
  denied.some(
    (entry) =>
      entry.target.kind === 'name' && deniedPorts(entry) === undefined && nameMatches(entry.target, pattern),
  );

export interface SharedNetwork {
  /** The owner, for reports. */
  readonly label: string;
  readonly kind: keyof typeof OF_KIND;
  readonly range: Range;
}
const OF_KIND = {
  resolver: 'a public resolver: data can leave in queries for names of anyone',
  cdn: 'a CDN: at one of its addresses each of its sites can be reached',
  cloud: 'a cloud or hoster: anyone can rent an address there, also one that was of another customer',
} as const;

/**
 * Public resolvers, CDNs, and large networks of clouds and hosters, in shared-ranges.json with the source of each. Of
 * clouds and hosters these are networks of /16 and wider (/18 where most are smaller) of which nine tenths or more belong
 * to the provider, by what it publishes or announces; in IPv6 the /32 or wider in which it has a /36 or more. Smaller ones
 * are left out: malware on single addresses of clouds is what feeds are for. Compiled from MISP warning lists (CC0-1.0),
 * lord-alfred/ipranges and ipverse/asn-ip (CC0-1.0), which fetch from the sources that the file names. They are read when they are first
 * needed: it takes some ms of a start.
 */
export function sharedNetworks(): readonly SharedNetwork[] {
  networks ??= Object.entries(shared).flatMap(([label, { kind, networks: texts }]) =>
    texts.map((text) => sharedNetwork(label, kind as SharedNetwork['kind'], text)),
  );
  return networks;
}
let networks: readonly SharedNetwork[] | undefined;

function sharedNetwork(label: string, kind: SharedNetwork['kind'], text: string): SharedNetwork {
  const range = parseCidr(text);
  if (!range) throw new Error(`shared ranges: ${text} is not a network`);
  return { label, kind, range };
}

/** The first network with one of these addresses; of networks that are not in the file nothing is known. */
export function riskOfRange({ family, lo, hi }: Range): Risk | undefined {
  const found = sharedNetworks().find(
    ({ range }) => range.family === family && range.lo <= hi && lo <= range.hi,
  );
  return (
    found && { category: found.kind, pattern: found.label, reason: `${found.label} (${OF_KIND[found.kind]})` }
  );
}
