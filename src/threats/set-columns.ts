/** Compares columns of set members: which addresses a version contains, and which it adds to another version. Pure. */
import { type Family, parseAddress } from '../lib/ip.js';
import {
  DIRECTIONS_BY_END,
  type DirectedColumns,
  type FlowEnd,
  noColumns,
  type SetColumns,
} from '../policy/threat.js';

const V4 = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/;

/** An address as words; undefined when it is of the other family, or none. Fast for v4: conntrack has a hundred thousand flows. */
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

/** The index of the last address of `column` that is not above address `j` of `other`; -1 when all are above it. */
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

function hasNet(columns: SetColumns, of: Uint32Array, j: number): boolean {
  const at = lastUpTo(columns.nets, of, j, columns.words);
  return at >= 0 && isIn(columns, at, of, j);
}

/** The kind of set that contains the address. */
export function kindOf(columns: SetColumns, text: string): 'ip' | 'net' | undefined {
  const address = wordsOf(text, columns.words);
  if (!address) return undefined;
  if (hasSingle(columns, address, 0)) return 'ip';
  return hasNet(columns, address, 0) ? 'net' : undefined;
}

/** The same test for octets in network order, as in netlink messages of conntrack: for a hundred thousand flows at once. */
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

/** The content of one set: the single addresses of columns, or their networks. */
export interface SetContent {
  readonly columns: SetColumns;
  readonly kind: 'ip' | 'net';
}
const sizeOf = ({ columns, kind }: SetContent): number =>
  kind === 'net' ? columns.prefixes.length : columns.singles.length / columns.words;

/** Whether network `i` contains address `j` of `other`. */
function isIn({ nets, prefixes, words }: SetColumns, i: number, other: Uint32Array, j: number): boolean {
  for (let w = 0, left = prefixes[i] as number; left > 0; w++, left -= 32) {
    const mask = left >= 32 ? 0xffff_ffff : (0xffff_ffff << (32 - left)) >>> 0;
    if ((((nets[i * words + w] as number) ^ (other[j * words + w] as number)) & mask) !== 0) return false;
  }
  return true;
}

/** Whether network `i` of `columns` and the content of `by` have an address in common. */
function meets(columns: SetColumns, i: number, by: SetContent): boolean {
  const column = by.kind === 'net' ? by.columns.nets : by.columns.singles;
  const next = lastUpTo(column, columns.nets, i, columns.words) + 1;
  const at = next - 1;
  if (at >= 0 && isIn(columns, i, column, at)) return true; // both begin at the same address
  if (next < sizeOf(by) && isIn(columns, i, column, next)) return true;
  return by.kind === 'net' && at >= 0 && isIn(by.columns, at, columns.nets, i);
}

/**
 * The members of a set's next content (`after`) that were, completely or in part, in another set (`from`): they move, and
 * must be in both sets for a moment. Members that are in the set already (`before`) are left out.
 */
export function moving(
  { columns: after, kind }: SetContent,
  before: SetColumns,
  from: SetContent,
): SetColumns {
  const { words } = after;
  const isNets = kind === 'net';
  const column = isNets ? after.nets : after.singles;
  const moves = (i: number): boolean =>
    isNets
      ? !holdsNet(before, after, i) && meets(after, i, from)
      : !hasSingle(before, column, i) && contains(from, column, i);
  const found: number[] = [];
  const count = sizeOf(from) === 0 ? 0 : column.length / words;
  for (let i = 0; i < count; i++) if (moves(i)) found.push(i);
  const picked = Uint32Array.from(found.flatMap((i) => [...column.subarray(i * words, (i + 1) * words)]));
  const none = new Uint32Array(0);
  return isNets
    ? {
        words,
        singles: none,
        nets: picked,
        prefixes: Uint8Array.from(found, (i) => after.prefixes[i] as number),
      }
    : { words, singles: picked, nets: none, prefixes: new Uint8Array(0) };
}

const contains = ({ columns, kind }: SetContent, of: Uint32Array, j: number): boolean =>
  kind === 'net' ? hasNet(columns, of, j) : hasSingle(columns, of, j);

function holdsNet(columns: SetColumns, after: SetColumns, i: number): boolean {
  const at = lastUpTo(columns.nets, after.nets, i, columns.words);
  const isSameBase = at >= 0 && compare(columns.nets, at, after.nets, i, columns.words) === 0;
  return isSameBase && columns.prefixes[at] === after.prefixes[i];
}

/** The columns of one family that apply to an end of flows. */
export const columnsFor = (all: DirectedColumns, end: FlowEnd, family: Family): readonly SetColumns[] =>
  DIRECTIONS_BY_END[end].map((direction) => all[direction][family === 4 ? 'v4' : 'v6']);

const textOf = (column: Uint32Array, i: number): string =>
  [24, 16, 8, 0].map((shift) => ((column[i] as number) >>> shift) & 255).join('.');

/** Addresses that are blocked now and were not before: none, a few v4 addresses, or so many that all flows must be checked. */
export type Addition = 'none' | 'many' | readonly string[];

export function addition(before: readonly SetColumns[], after: readonly SetColumns[], few: number): Addition {
  const parts = after.map((columns, i) => added(before[i] ?? noColumns(columns.words), columns, few));
  if (parts.includes('many')) return 'many';
  const texts = parts.flatMap((part) => (typeof part === 'string' ? [] : part));
  if (texts.length > few) return 'many';
  return texts.length === 0 ? 'none' : texts;
}

function added(before: SetColumns, after: SetColumns, few: number): Addition {
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
