/** Addresses inside records. */
import { type Family, formatAddress, parseAddress } from '../lib/ip.js';
import { classIn, type } from './types.js';
import type { ResourceRecord } from './wire.js';

export const familyOf = (address: string): Family => (address.includes(':') ? 6 : 4);

/** Canonical text of an A or AAAA record; undefined: another type, or rdata of a wrong length. */
export function recordAddress(record: ResourceRecord): string | undefined {
  const { data } = record;
  if (record.type === type.A && data.length === 4) return data.join('.');
  if (record.type !== type.AAAA || data.length !== 16) return undefined;
  return formatAddress(6, (data.readBigUInt64BE(0) << 64n) | data.readBigUInt64BE(8));
}

/** A or AAAA record for `name`; undefined when the text is no address. */
export function addressRecord(name: string, address: string, ttl: number): ResourceRecord | undefined {
  const parsed = parseAddress(address);
  if (parsed === undefined) return undefined;
  const data = Buffer.from(parsed.value.toString(16).padStart(parsed.family === 4 ? 8 : 32, '0'), 'hex');
  return { name, type: parsed.family === 4 ? type.A : type.AAAA, class: classIn, ttl, data };
}

function reverse4(labels: readonly string[]): string | undefined {
  return labels.length === 4 ? parseAddress([...labels].reverse().join('.'))?.text : undefined;
}

function reverse6(labels: readonly string[]): string | undefined {
  if (labels.length !== 32 || !labels.every((l) => /^[0-9a-f]$/.test(l))) return undefined;
  return formatAddress(6, BigInt(`0x${[...labels].reverse().join('')}`));
}

/** The address of a full reverse name (RFC 1035 3.5, RFC 3596 2.5), lower case; undefined: it is none. */
export function reverseAddress(name: string): string | undefined {
  const labels = name.split('.');
  const zone = labels.slice(-2).join('.');
  if (zone === 'in-addr.arpa') return reverse4(labels.slice(0, -2));
  return zone === 'ip6.arpa' ? reverse6(labels.slice(0, -2)) : undefined;
}
