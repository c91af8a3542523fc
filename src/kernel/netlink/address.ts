/** Addresses between bytes in network order and canonical text, pure. */
import { isIPv4, isIPv6 } from 'node:net';

export const AF_INET = 2;
export const AF_INET6 = 10;

/** AF_INET or AF_INET6 of an address's text; undefined when it is none. */
export function familyOf(text: string): typeof AF_INET | typeof AF_INET6 | undefined {
  if (isIPv4(text)) return AF_INET;
  return isIPv6(text) && !text.includes('%') ? AF_INET6 : undefined;
}

/** Bytes of an address, 4 or 16; undefined when the text is no address (zones such as %eth0 are refused). */
export function addressBytes(text: string): Buffer | undefined {
  const family = familyOf(text);
  if (family === undefined) return undefined;
  return family === AF_INET ? Buffer.from(text.split('.').map(Number)) : ipv6Bytes(text);
}

function ipv6Bytes(text: string): Buffer {
  const [head = '', tail] = dottedTailAsHex(text).split('::');
  const left = head === '' ? [] : head.split(':');
  const right = tail === undefined || tail === '' ? [] : tail.split(':');
  const groups = [...left, ...Array<string>(8 - left.length - right.length).fill('0'), ...right];
  const out = Buffer.alloc(16);
  groups.forEach((g, i) => {
    out.writeUInt16BE(Number.parseInt(g, 16), i * 2);
  });
  return out;
}

function dottedTailAsHex(text: string): string {
  const dotted = /\d+\.\d+\.\d+\.\d+$/.exec(text)?.[0];
  if (dotted === undefined) return text;
  const [a = 0, b = 0, c = 0, d = 0] = dotted.split('.').map(Number);
  return `${text.slice(0, -dotted.length)}${((a << 8) | b).toString(16)}:${((c << 8) | d).toString(16)}`;
}

/** Canonical text of 4 or 16 bytes (RFC 5952 for v6); undefined for any other length. */
export function addressText(bytes: Buffer | undefined): string | undefined {
  if (bytes?.length === 4) return bytes.join('.');
  return bytes?.length === 16 ? ipv6Text(bytes) : undefined;
}

function ipv6Text(bytes: Buffer): string {
  const groups = Array.from({ length: 8 }, (_, i) => bytes.readUInt16BE(i * 2));
  if (groups.slice(0, 5).every((g) => g === 0) && groups[5] === 0xffff) {
    return `::ffff:${bytes.subarray(12).join('.')}`;
  }
  const hex = groups.map((g) => g.toString(16));
  const { start, length } = longestZeroRun(groups);
  if (length < 2) return hex.join(':');
  return `${hex.slice(0, start).join(':')}::${hex.slice(start + length).join(':')}`;
}

/** RFC 5952 4.2.3: the longest run of zero groups, the first of several. */
function longestZeroRun(groups: readonly number[]): { start: number; length: number } {
  let best = { start: 0, length: 0 };
  for (let i = 0; i < groups.length; i++) {
    let end = i;
    while (groups[end] === 0) end++;
    if (end - i > best.length) best = { start: i, length: end - i };
    i = Math.max(i, end);
  }
  return best;
}
