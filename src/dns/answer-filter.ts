/**
 * DNS rebinding: a public name that answers with an address inside lets its owner aim the container at this network.
 * Such answers are refused unless the entry, its zone or an address entry permits them (docs/concepts.md).
 */

import { type Address, formatAddress, formatRange, parseAddress, type Range, rangeHas } from '../lib/ip.js';
import { carriedV4, privateRangeOf } from '../lib/special-use.js';
import { hitText, type ThreatLook } from '../policy/threat.js';
import { classIn, type } from './dns-constants.js';
import { isWithin, type ResourceRecord, readName, recordAddress } from './wire.js';

/** Service binding records (RFC 9460). */

/** Which records of an answer belong to the question: the asked name's CNAME chain and its end, nothing else. */

export interface RebindingRules {
  /** The entry or the zone permits answers in private address space. */
  readonly allowPrivate: boolean;
  /** An address entry of the client covers it. */
  covers(address: string): boolean;
  readonly hostAddresses: ReadonlySet<string>;
  /** Public address space that Docker networks use. */
  readonly inside: readonly Range[];
  /** Prefixes of NAT64 translators. */
  readonly nat64?: readonly Range[] | undefined;
  readonly threats: Pick<ThreatLook, 'blockedAddress'>;
}

export interface Refusal {
  readonly verdict: 'deny' | 'threat';
  readonly reason: string;
}
const deny = (reason: string): Refusal => ({ verdict: 'deny', reason });

/** Returns why the client must not receive this address; undefined when it may. */
export function refusedAnswer(address: string, rules: RebindingRules): Refusal | undefined {
  const parsed = parseAddress(address);
  // IPv4-mapped: two texts for one destination, never on the wire.
  if (parsed === undefined) return deny(`${address} is not an address that can be held`);
  const hit = rules.threats.blockedAddress(parsed.text);
  if (hit !== undefined) return { verdict: 'threat', reason: `answer ${address} left out: ${hitText(hit)}` };
  const range = insideRange(parsed, rules);
  if (range === undefined || rules.allowPrivate || rules.covers(parsed.text)) return undefined;
  return deny(
    `private answer ${address} (${range}) refused: if it is meant, add the flag "private" to the entry, ` +
      '"private: true" to its zone in dns.zones, or an entry for the address',
  );
}

/**
 * What makes an address, or the IPv4 address that it carries, one of this host or its private networks, in words; undefined:
 * it is a public address.
 */
function insideRange(address: Address, rules: RebindingRules): string | undefined {
  return knownInside(address, rules) ?? carriedInside(address, rules) ?? privateRangeOf(address, rules.nat64);
}

function knownInside(
  address: Pick<Address, 'family' | 'value' | 'text'>,
  { hostAddresses, inside }: RebindingRules,
): string | undefined {
  if (hostAddresses.has(address.text)) return 'the host itself';
  const network = inside.find((range) => rangeHas(range, address));
  return network && `a Docker network, ${formatRange(network)}`;
}

function carriedInside(address: Address, rules: RebindingRules): string | undefined {
  if (address.family === 4) return undefined;
  const known = carriedV4(address.value, rules.nat64).flatMap(
    (value) => knownInside({ family: 4, value, text: formatAddress(4, value) }, rules) ?? [],
  );
  return known[0] && `${known[0]}, inside an IPv6 address`;
}

export interface Filtered {
  readonly records: readonly ResourceRecord[];
  readonly refused: readonly Refusal[];
}

/** Takes refused addresses out of an answer; malformed A and AAAA records too. */
export function filterAnswers(records: readonly ResourceRecord[], rules: RebindingRules): Filtered {
  const refused: Refusal[] = [];
  const kept = records.filter((record) => {
    if (record.type !== type.A && record.type !== type.AAAA) return true;
    const address = recordAddress(record);
    const why = address === undefined ? deny('malformed address record') : refusedAnswer(address, rules);
    if (why !== undefined) refused.push(why);
    return why === undefined;
  });
  return { records: kept, refused };
}

/** Names in one chain; real ones have two or three. */
export const maxChain = 16;

export interface Chain {
  /** The records to keep, unchanged. */
  readonly records: readonly ResourceRecord[];
  /** The last name of the chain, lower case. */
  readonly end: string;
  /** There is a record of the requested type at the end of the chain. */
  readonly complete: boolean;
  /** The chain bites its tail or is too long: no answer can come of it. */
  readonly broken: boolean;
  /** Names of the chain, asked name first. */
  readonly names: readonly string[];
}

/** The name inside rdata that is a name and nothing else (CNAME, DNAME, PTR), lower case. */
function dataName(record: ResourceRecord): string {
  return readName(record.data, 0).name.toLowerCase();
}

function aliases(answers: readonly ResourceRecord[]): Map<string, string> {
  const map = new Map<string, string>();
  for (const r of answers) {
    if (r.type === type.CNAME && !map.has(r.name.toLowerCase())) map.set(r.name.toLowerCase(), dataName(r));
  }
  return map;
}

function walk(name: string, answers: readonly ResourceRecord[]): { names: string[]; broken: boolean } {
  const next = aliases(answers);
  const names = [name];
  for (let at = next.get(name); at !== undefined; at = next.get(at)) {
    if (names.includes(at) || names.length >= maxChain) return { names, broken: true };
    names.push(at);
  }
  return { names, broken: false };
}

/** Follows the chain of `name` (lower case) within `answers`. */
export function followChain(name: string, asked: number, answers: readonly ResourceRecord[]): Chain {
  const ours = answers.filter((r) => r.class === classIn);
  const follow = asked !== type.CNAME && asked !== type.ANY;
  const { names, broken } = follow ? walk(name, ours) : { names: [name], broken: false };
  const known = new Set(names);
  const end = names[names.length - 1] ?? name;
  const records = ours.filter((r) => {
    const owner = r.name.toLowerCase();
    if (r.type === type.DNAME && asked !== type.DNAME)
      return names.some((n) => n !== owner && isWithin(n, owner));
    if (r.type === asked) return owner === end;
    return known.has(owner) && (asked === type.ANY || r.type === type.CNAME || r.type === type.RRSIG);
  });
  const complete = records.some(
    (r) => r.name.toLowerCase() === end && (r.type === asked || asked === type.ANY),
  );
  return { records, end, complete, broken, names };
}

/**
 * Keys that are removed: ech (5) hides the name from the TLS check; address hints (4, 6) are addresses that are in no set,
 * and clients without hints query A and AAAA (RFC 9460 7.3).
 */
const stripped = new Set([4, 5, 6]);
const mandatory = 0;

function* params(data: Buffer, start: number): Generator<{ key: number; whole: Buffer; value: Buffer }> {
  for (let at = start; at < data.length; ) {
    const end = at + 4 + data.readUInt16BE(at + 2);
    if (end > data.length) throw new RangeError('SvcParam cut short');
    yield { key: data.readUInt16BE(at), whole: data.subarray(at, end), value: data.subarray(at + 4, end) };
    at = end;
  }
}

/** True when the record makes a removed key mandatory for clients: then the record is useless without the key. */
function needsStripped(value: Buffer): boolean {
  for (let at = 0; at + 2 <= value.length; at += 2) if (stripped.has(value.readUInt16BE(at))) return true;
  return false;
}

/** The value of one SvcParamKey of HTTPS or SVCB rdata. Undefined: the record does not have it, or is malformed. */
export function serviceParam(data: Buffer, wanted: number): Buffer | undefined {
  try {
    const { next } = readName(data, 2);
    for (const { key, value } of params(data, next)) if (key === wanted) return value;
  } catch {
    // A client ignores a malformed record (RFC 9460 2.2).
  }
  return undefined;
}

/** HTTPS or SVCB rdata without ECH and address hints; undefined: the record has to go (malformed, or they are mandatory). */
export function stripServiceParams(data: Buffer): Buffer | undefined {
  try {
    const { next } = readName(data, 2);
    const kept = [data.subarray(0, next)];
    for (const { key, whole, value } of params(data, next)) {
      if (key === mandatory && needsStripped(value)) return undefined;
      if (!stripped.has(key)) kept.push(whole);
    }
    return Buffer.concat(kept);
  } catch {
    // Malformed in any way: closed by default.
    return undefined;
  }
}
