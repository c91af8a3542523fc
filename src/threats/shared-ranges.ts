/** Addresses that many parties share, such as all of a CDN: a feed that lists them as a whole would block thousands of sites. */
import { formatRange, type Range } from '../lib/ip.js';
import { sharedNetworks } from '../policy/risk.js';
import type { Sample } from './formats/collector.js';
import { addressCount, intersect, overlaps, reachOf, reorder, sortedOrder, unite } from './range-algebra.js';
import {
  compareAt,
  countOf,
  fromModel,
  type ListedRanges,
  type Ranges,
  rangeAt,
  sizeAt,
  type WordCount,
  wordsOf,
} from './ranges.js';

export interface SharedRange {
  /** The owner, for reports. */
  readonly label: string;
  readonly range: Range;
  /**
   * withhold: a line that names the whole range does not block it. warn: such a line is reported, and blocks. A line about
   * a small part of the range is reported and blocks in either case.
   */
  readonly rule: 'withhold' | 'warn';
}

/** See policy/risk.ts. They are read when the first feed is updated. */
export const sharedRanges = (): readonly SharedRange[] =>
  sharedNetworks().map(({ label, range }) => ({ label, range, rule: 'withhold' }));

/** How the lines of a feed overlap the ranges of one label. */
export interface SharedOverlap {
  readonly label: string;
  /** Lines that name a whole range, or that are wide and mostly inside ranges: not blocked there. */
  readonly withheld: number;
  /** Lines about a small part: blocked and reported. */
  readonly inside: number;
  readonly samples: readonly Sample[];
}

interface Sorted {
  readonly ranges: Ranges;
  readonly reach: Uint32Array;
  readonly of: readonly SharedRange[];
}

/** No customer has a network this wide: /16 in v4, /32 in v6 (what registries allocate to providers). */
const WIDE: Readonly<Record<WordCount, number>> = { 1: 2 ** 16, 4: 2 ** 96 };
const MOSTLY = 0.5;
const MAX_SAMPLES = 5;

function sortKnown(known: readonly SharedRange[], words: WordCount): Sorted {
  const mine = known.filter(({ range }) => wordsOf(range.family) === words);
  const raw = fromModel(
    mine.map(({ range }) => range),
    words,
  );
  const order = sortedOrder(raw);
  const ranges = { words, lo: reorder(raw.lo, order, words), hi: reorder(raw.hi, order, words) };
  return { ranges, reach: reachOf(ranges), of: Array.from(order, (index) => mine[index] as SharedRange) };
}

const oneRange = (ranges: Ranges, i: number): Ranges => {
  const { words, lo, hi } = ranges;
  const [start, end] = [i * words, (i + 1) * words];
  return { words, lo: lo.slice(start, end), hi: hi.slice(start, end) };
};

class SharedRangeCheck {
  readonly #list: ListedRanges;
  readonly #known: Sorted;
  readonly #overlaps = new Map<string, { withheld: number; inside: number; samples: Sample[] }>();
  readonly #withheld: Ranges[] = [];

  constructor(list: ListedRanges, known: Sorted) {
    this.#list = list;
    this.#known = known;
  }

  run(): { withheld: Ranges; overlaps: readonly SharedOverlap[] } {
    const { lo, hi, words } = this.#list;
    const { ranges, reach } = this.#known;
    if (countOf(ranges) > 0)
      for (let i = 0; i < countOf(this.#list); i++) {
        const [start, end] = [i * words, (i + 1) * words];
        const hits = [...overlaps(ranges, reach, lo.subarray(start, end), hi.subarray(start, end))];
        if (hits.length > 0) this.#line(i, hits);
      }
    const found = [...this.#overlaps].map(([label, overlap]) => ({ label, ...overlap }));
    return { withheld: unite(this.#withheld, words), overlaps: found };
  }

  #line(i: number, hits: readonly number[]): void {
    const { lo, hi, words } = this.#list;
    if (sizeAt(lo, hi, i, words) >= WIDE[words]) this.#wide(i, hits);
    else for (const hit of hits) this.#narrow(i, hit);
  }

  /** A line mostly of providers is a mistake: all of it is withheld. Of another line only the providers' part is withheld. */
  #wide(i: number, hits: readonly number[]): void {
    const kept = hits.filter((hit) => this.#known.of[hit]?.rule === 'withhold');
    const line = oneRange(this.#list, i);
    const union = unite(
      kept.map((hit) => oneRange(this.#known.ranges, hit)),
      line.words,
    );
    const shared = intersect(line, union);
    const all = addressCount(shared) >= MOSTLY * addressCount(line);
    this.#withheld.push(all ? line : shared);
    for (const hit of hits) this.#count(i, hit, kept.includes(hit));
  }

  #narrow(i: number, hit: number): void {
    const { lo, hi, words } = this.#list;
    const { ranges, of } = this.#known;
    const whole =
      compareAt(lo, i, ranges.lo, hit, words) <= 0 && compareAt(hi, i, ranges.hi, hit, words) >= 0;
    const withheld = whole && of[hit]?.rule === 'withhold';
    if (withheld) this.#withheld.push(oneRange(ranges, hit));
    this.#count(i, hit, withheld);
  }

  #count(i: number, hit: number, withheld: boolean): void {
    const label = this.#known.of[hit]?.label ?? '';
    const overlap = this.#overlaps.get(label) ?? { withheld: 0, inside: 0, samples: [] };
    this.#overlaps.set(label, overlap);
    overlap[withheld ? 'withheld' : 'inside'] += 1;
    if (overlap.samples.length >= MAX_SAMPLES) return;
    const { lo, hi, line, words } = this.#list;
    const what = withheld ? 'all of' : 'within';
    const published = formatRange(rangeAt(this.#known.ranges.lo, this.#known.ranges.hi, hit, words));
    overlap.samples.push({
      line: line[i] as number,
      text: formatRange(rangeAt(lo, hi, i, words)),
      reason: `${what} ${published}`,
    });
  }
}

/** The overlaps of both families, one for each label. */
export function byLabel(overlaps: readonly SharedOverlap[]): readonly SharedOverlap[] {
  const sums = new Map<string, SharedOverlap>();
  for (const one of overlaps) {
    const sum = sums.get(one.label);
    sums.set(one.label, {
      label: one.label,
      withheld: (sum?.withheld ?? 0) + one.withheld,
      inside: (sum?.inside ?? 0) + one.inside,
      samples: [...(sum?.samples ?? []), ...one.samples].slice(0, MAX_SAMPLES),
    });
  }
  return [...sums.values()];
}

/** The ranges of `list` that are withheld (disjoint), and the overlaps with the known ranges. */
export const checkSharedRanges = (
  list: ListedRanges,
  known: readonly SharedRange[],
): { readonly withheld: Ranges; readonly overlaps: readonly SharedOverlap[] } =>
  new SharedRangeCheck(list, sortKnown(known, list.words)).run();
