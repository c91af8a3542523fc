/** What is in columns of members, and what one version adds to another. Pure. */
import type { Family } from '../model/ip.js';
import { parseAddress } from '../model/ip.js';
import type { SetColumns } from '../model/threat.js';

const V4 = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/;

/** An address as words; undefined: it is of the other family, or none. Conntrack's v4 texts come by the hundred thousand. */
function wordsOf(text: string, words: 1 | 4): Uint32Array | undefined {
  if (words === 1) {
    const [, a, b, c, d] = V4.exec(text) ?? [];
    if (a === undefined) return undefined;
    return Uint32Array.of(((Number(a) << 24) | (Number(b) << 16) | (Number(c) << 8) | Number(d)) >>> 0);
  }
  const address = text.includes(':') ? parseAddress(text) : undefined;
  if (address?.family !== 6) return undefined;
  return Uint32Array.from([96n, 64n, 32n, 0n], (shift) => Number((address.value >> shift) & 0xffff_ffffn));
}

function compare(column: Uint32Array, i: number, other: Uint32Array, j: number, words: number): number {
  for (let w = 0; w < words; w++) {
    const x = column[i * words + w] as number;
    const y = other[j * words + w] as number;
    if (x !== y) return x < y ? -1 : 1;
  }
  return 0;
}

/** The last of `column` that is not above address `j` of `other`; -1: all are. */
function lastUpTo(column: Uint32Array, other: Uint32Array, j: number, words: number): number {
  let low = 0;
  let high = column.length / words;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (compare(column, middle, other, j, words) <= 0) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

const hasSingle = ({ singles, words }: SetColumns, of: Uint32Array, j: number): boolean => {
  const at = lastUpTo(singles, of, j, words);
  return at >= 0 && compare(singles, at, of, j, words) === 0;
};

function hasNet({ nets, prefixes, words }: SetColumns, of: Uint32Array, j: number): boolean {
  const at = lastUpTo(nets, of, j, words);
  const prefix = at < 0 ? 0 : (prefixes[at] as number);
  for (let w = 0, left = prefix; left > 0; w++, left -= 32) {
    const mask = left >= 32 ? 0xffff_ffff : (0xffff_ffff << (32 - left)) >>> 0;
    if ((((nets[at * words + w] as number) ^ (of[j * words + w] as number)) & mask) !== 0) return false;
  }
  return at >= 0;
}

/** The kind of set that holds the address. */
export function holderOf(columns: SetColumns, text: string): 'ip' | 'net' | undefined {
  const address = wordsOf(text, columns.words);
  if (!address) return undefined;
  if (hasSingle(columns, address, 0)) return 'ip';
  return hasNet(columns, address, 0) ? 'net' : undefined;
}

/** The same for octets in network order, as conntrack tells them: a hundred thousand flows are asked for at once. */
export function octetsTest(columns: SetColumns): (octets: Buffer, at: number) => boolean {
  const { words } = columns;
  const address = new Uint32Array(words);
  return (octets, at) => {
    for (let w = 0; w < words; w++) address[w] = octets.readUInt32BE(at + 4 * w);
    return hasSingle(columns, address, 0) || hasNet(columns, address, 0);
  };
}

export const isSame = (a: SetColumns, b: SetColumns, kind: 'ip' | 'net'): boolean => {
  const same = (x: Uint32Array | Uint8Array, y: Uint32Array | Uint8Array): boolean =>
    Buffer.from(x.buffer, x.byteOffset, x.byteLength).equals(
      Buffer.from(y.buffer, y.byteOffset, y.byteLength),
    );
  return kind === 'ip' ? same(a.singles, b.singles) : same(a.nets, b.nets) && same(a.prefixes, b.prefixes);
};

function pick(columns: SetColumns, wanted: (i: number) => boolean): Uint32Array {
  const { singles, words } = columns;
  const found: number[] = [];
  for (let i = 0; i < singles.length / words; i++)
    if (wanted(i)) for (let w = 0; w < words; w++) found.push(singles[i * words + w] as number);
  return Uint32Array.from(found);
}

/** Single addresses of `after` that `before` holds within a network: they move from one set to the other. */
export const movedOut = (before: SetColumns, after: SetColumns): Uint32Array =>
  before.prefixes.length === 0 ? new Uint32Array(0) : pick(after, (i) => hasNet(before, after.singles, i));

const textOf = (column: Uint32Array, i: number): string =>
  [24, 16, 8, 0].map((shift) => ((column[i] as number) >>> shift) & 255).join('.');

/** What may be bad now and was not: nothing, a few v4 addresses, or so much that all must be looked at. */
export type Addition = 'none' | 'many' | readonly string[];

export function addition(before: SetColumns, after: SetColumns, few: number): Addition {
  if (isSame(before, after, 'ip') && isSame(before, after, 'net')) return 'none';
  if (!isSame(before, after, 'net') || after.words !== 1) return 'many';
  const found: string[] = [];
  for (let i = 0; i < after.singles.length; i++) {
    if (hasSingle(before, after.singles, i)) continue;
    if (found.length === few) return 'many';
    found.push(textOf(after.singles, i));
  }
  return found.length === 0 ? 'none' : found;
}

export const familyOf = (words: 1 | 4): Family => (words === 1 ? 4 : 6);
