/**
 * DNS rebinding: a public name that answers with an address inside lets its owner aim the container at this network.
 * Such answers are refused unless somebody said that they are meant (spec 2).
 */

import { type Address, formatAddress, formatRange, parseAddress, type Range, rangeHas } from '../lib/ip.js';
import { carriedV4, privateRangeOf } from '../lib/special-use.js';
import { hitText, type ThreatLook } from '../policy/threat.js';
import { recordAddress } from './address.js';
import { type } from './types.js';
import type { ResourceRecord } from './wire.js';

export interface RebindingRules {
  /** The entry or the zone says that answers in private space are good. */
  readonly allowPrivate: boolean;
  /** An address entry of the asker covers it. */
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

/** Why this address may not be told; undefined: it may. */
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
