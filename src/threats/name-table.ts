/**
 * A million names in one block of octets and a hash table of numbers, without a string for each. Names are hashed from
 * their end, so that one walk over a queried name finds every suffix of it with O(labels) probes.
 */
import { randomInt } from 'node:crypto';

/** Flags of an entry; a feed that lists a name more than once sets all of them. */
export const SELF = 1;
export const BELOW = 2;
/** The feed's own exception: the name and all below it are not listed, whatever other entries the feed has. */
export const ALLOW = 4;
/** Listed, but never blocked (a public suffix). */
export const WITHHELD = 8;

/** The columns of a table; `octets` contains the names (ASCII), name `i` ends before `ends[i]`. */
export interface NameColumns {
  readonly octets: Uint8Array;
  readonly ends: Uint32Array;
  readonly flags: Uint8Array;
  readonly line: Uint32Array;
  /** Seconds since the epoch. */
  readonly since: Uint32Array;
}

const DOT = 46;
const FNV_PRIME = 0x0100_0193;

/** Spreads FNV's state over the low bits (murmur3's finalizer). */
function spread(state: number): number {
  let hash = state ^ (state >>> 16);
  hash = Math.imul(hash, 0x85eb_ca6b);
  hash ^= hash >>> 13;
  hash = Math.imul(hash, 0xc2b2_ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}

function grow<T extends Uint8Array | Uint32Array>(column: T, size: number): T {
  const next = new (column.constructor as new (size: number) => T)(size);
  next.set(column);
  return next;
}

export class NameTable {
  /** The author of a feed does not know the seed, and so cannot choose names that make long chains. */
  readonly #seed = randomInt(2 ** 32 - 1);
  #octets: Uint8Array = new Uint8Array(4096);
  #ends: Uint32Array = new Uint32Array(256);
  #flags: Uint8Array = new Uint8Array(256);
  #line: Uint32Array = new Uint32Array(256);
  #since: Uint32Array = new Uint32Array(256);
  /** Index of a name plus one; 0 for a free slot. Never more than half full. */
  #slots: Uint32Array = new Uint32Array(512);
  #count = 0;

  static from(columns: NameColumns): NameTable {
    const table = new NameTable();
    table.#octets = columns.octets;
    table.#ends = columns.ends;
    table.#flags = columns.flags;
    table.#line = columns.line;
    table.#since = columns.since;
    table.#count = columns.ends.length;
    table.#rehash();
    return table;
  }

  get size(): number {
    return this.#count;
  }

  /** Memory of the table in octets. */
  get bytes(): number {
    const columns = [this.#octets, this.#ends, this.#flags, this.#line, this.#since, this.#slots];
    return columns.reduce((sum, column) => sum + column.byteLength, 0);
  }

  /** Add a canonical name (see lib/dns-name). A name that is in the table keeps its first line and gains the flags. */
  add(name: string, flags: number, line: number): void {
    let state = this.#seed;
    for (let i = name.length - 1; i >= 0; i--) state = Math.imul(state ^ name.charCodeAt(i), FNV_PRIME);
    const found = this.#probe(spread(state), name, 0);
    if (found >= 0) {
      this.#flags[found] = (this.#flags[found] as number) | flags;
      return;
    }
    this.#append(name, flags, line);
    this.#slots[-found - 1] = this.#count;
    if (this.#count * 2 > this.#slots.length) this.#rehash();
  }

  /** Index of exactly this name; -1 when it is not in the table. */
  indexOf(name: string): number {
    let index = -1;
    this.walk(name, (at, isWhole) => {
      if (isWhole) index = at;
    });
    return index;
  }

  /** Call `visit` with each entry that is `name` (canonical) or a suffix of it at a dot, shortest first. */
  walk(name: string, visit: (index: number, isWhole: boolean) => void): void {
    let state = this.#seed;
    for (let i = name.length - 1; i >= 0; i--) {
      state = Math.imul(state ^ name.charCodeAt(i), FNV_PRIME);
      if (i > 0 && name.charCodeAt(i - 1) !== DOT) continue;
      const found = this.#probe(spread(state), name, i);
      if (found >= 0) visit(found, i === 0);
    }
  }

  nameAt(index: number): string {
    const start = index === 0 ? 0 : (this.#ends[index - 1] as number);
    return Buffer.from(
      this.#octets.buffer,
      this.#octets.byteOffset + start,
      this.#end(index) - start,
    ).toString('latin1');
  }

  flagsAt(index: number): number {
    return this.#flags[index] as number;
  }
  lineAt(index: number): number {
    return this.#line[index] as number;
  }
  sinceAt(index: number): number {
    return this.#since[index] as number;
  }
  withhold(index: number): void {
    this.#flags[index] = this.flagsAt(index) | WITHHELD;
  }
  setSince(index: number, seconds: number): void {
    this.#since[index] = seconds;
  }

  /** The present columns as copies, no longer than necessary. */
  columns(): NameColumns {
    const end = this.#count === 0 ? 0 : this.#end(this.#count - 1);
    return {
      octets: this.#octets.slice(0, end),
      ends: this.#ends.slice(0, this.#count),
      flags: this.#flags.slice(0, this.#count),
      line: this.#line.slice(0, this.#count),
      since: this.#since.slice(0, this.#count),
    };
  }

  #end(index: number): number {
    return this.#ends[index] as number;
  }

  /** The entry that equals `name` from octet `at` on; when there is none, minus one minus the free slot for it. */
  #probe(hash: number, name: string, at: number): number {
    const mask = this.#slots.length - 1;
    for (let slot = hash & mask; ; slot = (slot + 1) & mask) {
      const index = (this.#slots[slot] as number) - 1;
      if (index < 0) return -slot - 1;
      if (this.#equals(index, name, at)) return index;
    }
  }

  #equals(index: number, name: string, at: number): boolean {
    const start = index === 0 ? 0 : this.#end(index - 1);
    const length = name.length - at;
    if (this.#end(index) - start !== length) return false;
    for (let k = 0; k < length; k++) if (this.#octets[start + k] !== name.charCodeAt(at + k)) return false;
    return true;
  }

  #append(name: string, flags: number, line: number): void {
    const index = this.#count;
    const start = index === 0 ? 0 : this.#end(index - 1);
    if (start + name.length > this.#octets.length)
      this.#octets = grow(this.#octets, this.#octets.length * 2 + name.length);
    if (index === this.#ends.length) this.#growColumns(index * 2 + 256);
    for (let k = 0; k < name.length; k++) this.#octets[start + k] = name.charCodeAt(k);
    this.#ends[index] = start + name.length;
    this.#flags[index] = flags;
    this.#line[index] = line;
    this.#count += 1;
  }

  #growColumns(size: number): void {
    this.#ends = grow(this.#ends, size);
    this.#flags = grow(this.#flags, size);
    this.#line = grow(this.#line, size);
    this.#since = grow(this.#since, size);
  }

  #rehash(): void {
    let size = 512;
    while (size < this.#count * 3) size *= 2;
    const slots = new Uint32Array(size);
    for (let index = 0; index < this.#count; index++) {
      let slot = spread(this.#stateOf(index)) & (size - 1);
      while (slots[slot] !== 0) slot = (slot + 1) & (size - 1);
      slots[slot] = index + 1;
    }
    this.#slots = slots;
  }

  #stateOf(index: number): number {
    const start = index === 0 ? 0 : this.#end(index - 1);
    let state = this.#seed;
    for (let i = this.#end(index) - 1; i >= start; i--)
      state = Math.imul(state ^ (this.#octets[i] as number), FNV_PRIME);
    return state;
  }
}
