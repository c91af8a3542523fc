/**
 * DNS rebinding: a public name that answers with an address inside lets its owner aim the container at this network.
 * Such answers are refused unless somebody said that they are meant (spec 2).
 */
import { parseAddress, type Range } from '../model/ip.js';
import { privateRangeOf } from '../model/special-use.js';
import { hitText, type ThreatLook } from '../model/threat.js';
import { recordAddress } from './address.js';
import { type } from './types.js';
import type { ResourceRecord } from './wire.js';

export interface RebindingRules {
  /** The entry or the zone says that answers in private space are good. */
  readonly allowPrivate: boolean;
  /** An address entry of the asker covers it. */
  covers(address: string): boolean;
  readonly hostAddresses: ReadonlySet<string>;
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
  if (parsed === undefined) return deny(`${address} is no address that can be held`);
  const hit = rules.threats.blockedAddress(parsed.text);
  if (hit !== undefined) return { verdict: 'threat', reason: `answer ${address} left out: ${hitText(hit)}` };
  const range = rules.hostAddresses.has(parsed.text)
    ? 'the host itself'
    : privateRangeOf(parsed, rules.nat64);
  if (range === undefined || rules.allowPrivate || rules.covers(parsed.text)) return undefined;
  return deny(
    `private answer ${address} (${range}) refused: if it is meant, add the flag "private" to the entry, ` +
      '"private: true" to its zone in dns.zones, or an entry for the address',
  );
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
