/** Readers for JSON whose shape is not trusted: each gives a usable value or says that there is none. Pure. */
import { isIP, isIPv6 } from 'node:net';

export type Json = Readonly<Record<string, unknown>>;

export function asRecord(value: unknown): Json | undefined {
  const plain =
    typeof value === 'object' && value !== null && !Array.isArray(value) && !Buffer.isBuffer(value);
  return plain ? (value as Json) : undefined;
}

/** The record under `key`; an empty one when it is missing or something else. */
export function recordAt(record: Json | undefined, key: string): Json {
  return asRecord(record?.[key]) ?? {};
}

export function listAt(record: Json | undefined, key: string): readonly unknown[] {
  const value = record?.[key];
  return Array.isArray(value) ? value : [];
}

export function textAt(record: Json | undefined, key: string): string {
  const value = record?.[key];
  return typeof value === 'string' ? value : '';
}

export function flagAt(record: Json | undefined, key: string): boolean {
  return record?.[key] === true;
}

/** A whole number ≥ 0, else 0. */
export function countAt(record: Json | undefined, key: string): number {
  const value = record?.[key];
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0 ? value : 0;
}

export function textsAt(record: Json | undefined, key: string): readonly string[] {
  return listAt(record, key).filter((v): v is string => typeof v === 'string');
}

/** String values only. A prototype-free record, so that a key named `__proto__` or `constructor` is a key like any other. */
export function textMap(value: unknown): Readonly<Record<string, string>> {
  const out: Record<string, string> = Object.create(null);
  for (const [key, text] of Object.entries(asRecord(value) ?? {})) {
    if (typeof text === 'string') out[key] = text;
  }
  return out;
}

/** A full container, network or image-config id: 64 hex digits. */
export function isFullId(text: string): boolean {
  return /^[0-9a-f]{64}$/.test(text);
}

/** EUI-48 with colons, lower case; undefined for anything else. */
export function canonicalMac(text: string): string | undefined {
  const lower = text.toLowerCase().replaceAll('-', ':');
  return /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/.test(lower) ? lower : undefined;
}

/** Canonical text (RFC 5952 for v6) of an address that may carry a prefix length; undefined when it is no address. */
export function canonicalIp(text: string): string | undefined {
  const address = text.split('/', 1)[0] ?? '';
  if (!isIPv6(address)) return isIP(address) === 4 ? address : undefined;
  // The URL standard's serializer compresses as RFC 5952 does; a zone is no part of an address.
  return address.includes('%') ? undefined : new URL(`http://[${address}]/`).hostname.slice(1, -1);
}

/** Canonical CIDR text; undefined when it is none. Host bits stay as they are (Docker shows networks). */
export function canonicalCidr(text: string): string | undefined {
  const [address = '', length = ''] = text.split('/');
  const ip = canonicalIp(address);
  const max = ip?.includes(':') ? 128 : 32;
  return ip !== undefined && /^\d{1,3}$/.test(length) && Number(length) <= max
    ? `${ip}/${Number(length)}`
    : undefined;
}
