/** Finds the feeds that list an address or a name, since when, in which line, and whether the entry has an effect. */

import { type NameMatch, nameMatches } from '../lib/dns-name.js';
import {
  type Address,
  type Family,
  formatAddress,
  formatRange,
  parseAddress,
  type Range,
} from '../lib/ip.js';
import { carriedV4, nat64Ranges } from '../lib/special-use.js';
import type { ThreatHit } from '../policy/threat.js';
import type { FeedData, FeedInfo } from './feed-data.js';
import type { ProtectedRange } from './merge.js';
import { ALLOW, BELOW, NameTable, SELF, WITHHELD } from './name-table.js';
import { contains, overlaps, reachOf, SPECIAL_RANGES } from './range-algebra.js';
import { type ListedRanges, type Ranges, rangeAt, wordsOf, writeAddress } from './ranges.js';

/** A name that no feed may block: an exception, or a name of Redis. */
export interface ProtectedName {
  readonly label: string;
  readonly name: string;
  readonly match: NameMatch;
}

class FeedIndex {
  readonly info: FeedInfo;
  readonly names: NameTable;
  readonly #data: FeedData;
  readonly #reach: readonly [Uint32Array, Uint32Array];

  constructor(data: FeedData) {
    this.info = data;
    this.#data = data;
    this.names = NameTable.from(data.names);
    this.#reach = [reachOf(data.v4), reachOf(data.v6)];
  }

  get bytes(): number {
    const { v4, v6 } = this.#data;
    const lists = [v4, v6].flatMap((list) => [list.lo, list.hi, list.line, list.since]);
    return [...lists, ...this.#reach].reduce((sum, column) => sum + column.byteLength, this.names.bytes);
  }

  /** The most specific range that contains the address. */
  address(address: Address): ThreatHit | undefined {
    const four = address.family === 4;
    const list: ListedRanges = four ? this.#data.v4 : this.#data.v6;
    const key = keyOf(address);
    for (const i of overlaps(list, this.#reach[four ? 0 : 1], key, key)) {
      const withheld: Ranges = four ? this.#data.withheld4 : this.#data.withheld6;
      const spared = contains(withheld, key) ? 'shared by many: a CDN, a cloud or a public resolver' : null;
      return {
        ...this.#where(list.line[i] as number, list.since[i] as number),
        listed: formatRange(rangeAt(list.lo, list.hi, i, list.words)),
        spared,
      };
    }
    return undefined;
  }

  /** The longest listed name that equals `name` or is above it; an exception of the feed itself spares it. */
  name(name: string): ThreatHit | undefined {
    let hit = -1;
    let excepted = false;
    this.names.walk(name, (index, isWhole) => {
      const flags = this.names.flagsAt(index);
      if ((flags & ALLOW) !== 0) excepted = true;
      if ((flags & (isWhole ? SELF : BELOW)) === 0) return;
      const better = hit < 0 || (flags & WITHHELD) === 0;
      if (better) hit = index;
    });
    if (hit < 0) return undefined;
    const spared = excepted ? 'the feed itself makes an exception' : this.#sparedName(hit);
    return {
      ...this.#where(this.names.lineAt(hit), this.names.sinceAt(hit)),
      listed: this.names.nameAt(hit),
      spared,
    };
  }

  #sparedName(index: number): string | null {
    return (this.names.flagsAt(index) & WITHHELD) === 0
      ? null
      : 'a public suffix: unrelated parties register names below it';
  }

  #where(line: number, since: number): Pick<ThreatHit, 'feed' | 'line' | 'positions' | 'since'> {
    return { feed: this.info.feed, line, positions: this.info.positions, since: since * 1000 };
  }
}

function keyOf(address: Address): Uint32Array {
  const words = wordsOf(address.family);
  const key = new Uint32Array(words);
  writeAddress(address.value, key, 0, words);
  return key;
}

const isIn = ({ range }: Pick<ProtectedRange, 'range'>, family: Family, value: bigint): boolean =>
  range.family === family && range.lo <= value && value <= range.hi;

/** All accepted feeds of one kind (those that block, or those that only observe). */
export class ThreatIndex {
  readonly #feeds = new Map<string, FeedIndex>();
  #ranges: readonly ProtectedRange[] = [];
  #names: readonly ProtectedName[] = [];
  readonly #nat64: readonly Range[];

  constructor(nat64: readonly Range[] = nat64Ranges()) {
    this.#nat64 = nat64;
  }

  /** Replace the version of the feed. */
  put(data: FeedData): void {
    this.#feeds.set(data.feed, new FeedIndex(data));
  }

  remove(feed: string): void {
    this.#feeds.delete(feed);
  }

  /** A copy with some of the feeds; later changes of either do not change the other. */
  copy(of: (feed: string) => boolean): ThreatIndex {
    const copy = new ThreatIndex(this.#nat64);
    for (const [feed, index] of this.#feeds) if (of(feed)) copy.#feeds.set(feed, index);
    copy.protect(this.#ranges, this.#names);
    return copy;
  }

  /** Replace the addresses and names that are spared. Special-use space is always spared. */
  protect(ranges: readonly ProtectedRange[], names: readonly ProtectedName[]): void {
    this.#ranges = ranges;
    this.#names = names;
  }

  get feeds(): readonly FeedInfo[] {
    return [...this.#feeds.values()].map((index) => index.info);
  }

  /** Memory of the index in octets. */
  get bytes(): number {
    return [...this.#feeds.values()].reduce((sum, index) => sum + index.bytes, 0);
  }

  /** Every feed that lists the address; text that is no address gives none. */
  address(text: string): readonly ThreatHit[] {
    const address = parseAddress(text);
    return address ? [address, ...this.#embedded(address)].flatMap((one) => this.#listing(one)) : [];
  }

  #listing(address: Address): readonly ThreatHit[] {
    return this.#hits((index) => index.address(address), this.#sparedAddress(address));
  }

  /** IPv4 addresses that an IPv6 address embeds; none when the IPv6 address itself is an exception. */
  #embedded({ family, value }: Address): readonly Address[] {
    if (family === 4 || this.#ranges.some((one) => isIn(one, family, value))) return [];
    return carriedV4(value, this.#nat64).map((v4) => ({ family: 4, value: v4, text: formatAddress(4, v4) }));
  }

  /** Every feed that lists the name (canonical) or one above it. */
  name(name: string): readonly ThreatHit[] {
    return this.#hits((index) => index.name(name), this.#sparedName(name));
  }

  /** The first feed by which the name is blocked. */
  blockedName(name: string): ThreatHit | undefined {
    return this.name(name).find((hit) => hit.spared === null);
  }

  blockedAddress(text: string): ThreatHit | undefined {
    return this.address(text).find((hit) => hit.spared === null);
  }

  #hits(lookUp: (index: FeedIndex) => ThreatHit | undefined, spared: string | null): readonly ThreatHit[] {
    const hits: ThreatHit[] = [];
    for (const index of this.#feeds.values()) {
      const hit = lookUp(index);
      if (hit) hits.push(spared === null ? hit : { ...hit, spared });
    }
    return hits;
  }

  #sparedAddress({ family, value }: Address): string | null {
    const hasAddress = (one: Pick<ProtectedRange, 'range'>): boolean => isIn(one, family, value);
    const found = this.#ranges.find(hasAddress);
    if (found) return found.label;
    return SPECIAL_RANGES.some((range) => hasAddress({ range })) ? 'special-use space' : null;
  }

  #sparedName(name: string): string | null {
    return this.#names.find((spared) => nameMatches(spared, name))?.label ?? null;
  }
}
