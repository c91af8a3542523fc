/** What a feed says of addresses that many share: who lists all of a CDN takes down everybody behind it. */
import { formatRange } from '../lib/ip-range.js';
import { compareAt, rangeAt, sizeAt, type WordCount, wordsOf } from './address-columns.js';
import type { Sample } from './collect.js';
import { addressCount, intersect, unite } from './range-algebra.js';
import { overlaps, reachOf } from './range-search.js';
import { reorder, sortedOrder } from './range-sort.js';
import { countOf, fromModel, type ListedRanges, type Ranges } from './ranges.js';
import type { KnownRange } from './shared-ranges.js';

/** How a feed meets the ranges of one label. */
export interface KnownOverlap {
  readonly label: string;
  /** Lines that name the whole of a published range, or are wide and mostly of one: not blocked there. */
  readonly withheld: number;
  /** Lines about a small part: blocked, and told. */
  readonly inside: number;
  readonly samples: readonly Sample[];
}

interface Sorted {
  readonly ranges: Ranges;
  readonly reach: Uint32Array;
  readonly of: readonly KnownRange[];
}

/** A line this wide is no customer's: /16 in v4, /32 in v6 (what registries allocate to providers). */
const WIDE: Readonly<Record<WordCount, number>> = { 1: 2 ** 16, 4: 2 ** 96 };
const MOSTLY = 0.5;
const MAX_SAMPLES = 5;

function sortKnown(known: readonly KnownRange[], words: WordCount): Sorted {
  const mine = known.filter(({ range }) => wordsOf(range.family) === words);
  const raw = fromModel(
    mine.map(({ range }) => range),
    words,
  );
  const order = sortedOrder(raw);
  const ranges = { words, lo: reorder(raw.lo, order, words), hi: reorder(raw.hi, order, words) };
  return { ranges, reach: reachOf(ranges), of: Array.from(order, (index) => mine[index] as KnownRange) };
}

const oneRange = (ranges: Ranges, i: number): Ranges => {
  const { words, lo, hi } = ranges;
  const [start, end] = [i * words, (i + 1) * words];
  return { words, lo: lo.slice(start, end), hi: hi.slice(start, end) };
};

class Judge {
  readonly #list: ListedRanges;
  readonly #known: Sorted;
  readonly #overlaps = new Map<string, { withheld: number; inside: number; samples: Sample[] }>();
  readonly #withheld: Ranges[] = [];

  constructor(list: ListedRanges, known: Sorted) {
    this.#list = list;
    this.#known = known;
  }

  run(): { withheld: Ranges; overlaps: readonly KnownOverlap[] } {
    const { lo, hi, words } = this.#list;
    const { ranges, reach } = this.#known;
    if (countOf(ranges) > 0)
      for (let i = 0; i < countOf(this.#list); i++) {
        const [start, end] = [i * words, (i + 1) * words];
        const hits = [...overlaps(ranges, reach, lo.subarray(start, end), hi.subarray(start, end))];
        if (hits.length > 0) this.#line(i, hits);
      }
    const told = [...this.#overlaps].map(([label, overlap]) => ({ label, ...overlap }));
    return { withheld: unite(this.#withheld, words), overlaps: told };
  }

  #line(i: number, hits: readonly number[]): void {
    const { lo, hi, words } = this.#list;
    if (sizeAt(lo, hi, i, words) >= WIDE[words]) this.#wide(i, hits);
    else for (const hit of hits) this.#narrow(i, hit);
  }

  /** Mostly a provider's: the line is a mistake, and none of it counts. Otherwise just the provider's part does not. */
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
    for (const hit of hits) this.#tell(i, hit, kept.includes(hit));
  }

  #narrow(i: number, hit: number): void {
    const { lo, hi, words } = this.#list;
    const { ranges, of } = this.#known;
    const whole =
      compareAt(lo, i, ranges.lo, hit, words) <= 0 && compareAt(hi, i, ranges.hi, hit, words) >= 0;
    const withheld = whole && of[hit]?.rule === 'withhold';
    if (withheld) this.#withheld.push(oneRange(ranges, hit));
    this.#tell(i, hit, withheld);
  }

  #tell(i: number, hit: number, withheld: boolean): void {
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

/** One for each label, of both families. */
export function byLabel(overlaps: readonly KnownOverlap[]): readonly KnownOverlap[] {
  const sums = new Map<string, KnownOverlap>();
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

/** What of `list` is withheld (disjoint), and how it meets the known ranges. */
export const judgeKnown = (
  list: ListedRanges,
  known: readonly KnownRange[],
): { readonly withheld: Ranges; readonly overlaps: readonly KnownOverlap[] } =>
  new Judge(list, sortKnown(known, list.words)).run();
