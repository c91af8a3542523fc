/** Addresses between bytes in network order and canonical text, pure. */
import { isIPv4 } from 'node:net';
import { formatAddress, parseV6 } from '../../lib/ip-address.js';

export const AF_INET = 2;
export const AF_INET6 = 10;

/** Bytes of an address, 4 or 16; undefined when the text is no address (zones such as %eth0 are refused). */
export function addressBytes(text: string): Buffer | undefined {
  if (isIPv4(text)) return Buffer.from(text.split('.').map(Number));
  const value = parseV6(text);
  return value === undefined ? undefined : Buffer.from(value.toString(16).padStart(32, '0'), 'hex');
}

/** Canonical text of 4 or 16 bytes (RFC 5952 for v6); undefined for any other length. */
export function addressText(bytes: Buffer | undefined): string | undefined {
  if (bytes?.length === 4) return bytes.join('.');
  return bytes?.length === 16 ? formatAddress(6, BigInt(`0x${bytes.toString('hex')}`)) : undefined;
}
