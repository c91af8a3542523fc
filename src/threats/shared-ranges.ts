/** Addresses that a feed must not take down as a whole: public resolvers, CDNs, and the large networks of clouds. */
import { formatRange, parseCidr, type Range } from '../lib/ip.js';
import { CLOUD_NETWORKS } from './clouds.js';
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

/** What a feed says of addresses that many share: who lists all of a CDN takes down everybody behind it. */

export interface SharedRange {
  /** Whose it is, for reports. */
  readonly label: string;
  readonly range: Range;
  /**
   * withhold: a line that names the whole of it does not block it. warn: told, and blocked.
   * A line about a small part of it is told and blocked either way.
   */
  readonly rule: 'withhold' | 'warn';
}

/** label → networks, each with the page that publishes it. */
const PUBLISHED: Readonly<Record<string, readonly string[]>> = {
  // https://developers.google.com/speed/public-dns/docs/using
  'Google Public DNS': ['8.8.8.8', '8.8.4.4', '2001:4860:4860::8888', '2001:4860:4860::8844'],
  // https://developers.cloudflare.com/1.1.1.1/ip-addresses/
  'Cloudflare 1.1.1.1': [
    '1.1.1.1',
    '1.1.1.2',
    '1.1.1.3',
    '1.0.0.1',
    '1.0.0.2',
    '1.0.0.3',
    '2606:4700:4700::1111',
    '2606:4700:4700::1112',
    '2606:4700:4700::1113',
    '2606:4700:4700::1001',
    '2606:4700:4700::1002',
    '2606:4700:4700::1003',
  ],
  // https://quad9.net/service/service-addresses-and-features/
  Quad9: [
    '9.9.9.9',
    '9.9.9.10',
    '9.9.9.11',
    '149.112.112.112',
    '149.112.112.10',
    '149.112.112.11',
    '2620:fe::fe',
    '2620:fe::9',
    '2620:fe::10',
    '2620:fe::11',
  ],
  // https://www.opendns.com/setupguide/
  OpenDNS: ['208.67.222.222', '208.67.220.220', '2620:119:35::35', '2620:119:53::53'],
  // https://adguard-dns.io/en/public-dns.html
  'AdGuard DNS': ['94.140.14.14', '94.140.15.15', '2a10:50c0::ad1:ff', '2a10:50c0::ad2:ff'],
  // https://www.cloudflare.com/ips/
  Cloudflare: [
    '173.245.48.0/20',
    '103.21.244.0/22',
    '103.22.200.0/22',
    '103.31.4.0/22',
    '141.101.64.0/18',
    '108.162.192.0/18',
    '190.93.240.0/20',
    '188.114.96.0/20',
    '197.234.240.0/22',
    '198.41.128.0/17',
    '162.158.0.0/15',
    '104.16.0.0/13',
    '104.24.0.0/14',
    '172.64.0.0/13',
    '131.0.72.0/22',
    '2400:cb00::/32',
    '2606:4700::/32',
    '2803:f800::/32',
    '2405:b500::/32',
    '2405:8100::/32',
    '2a06:98c0::/29',
    '2c0f:f248::/32',
  ],
  // https://api.fastly.com/public-ip-list
  Fastly: [
    '23.235.32.0/20',
    '43.249.72.0/22',
    '103.244.50.0/24',
    '103.245.222.0/23',
    '103.245.224.0/24',
    '104.156.80.0/20',
    '140.248.64.0/18',
    '140.248.128.0/17',
    '146.75.0.0/17',
    '151.101.0.0/16',
    '157.52.64.0/18',
    '167.82.0.0/17',
    '167.82.128.0/20',
    '167.82.160.0/20',
    '167.82.224.0/20',
    '172.111.64.0/18',
    '185.31.16.0/22',
    '199.27.72.0/21',
    '199.232.0.0/16',
    '2a04:4e40::/32',
    '2a04:4e42::/32',
  ],
};

function known(label: string, text: string): SharedRange {
  const range = parseCidr(text);
  if (!range) throw new Error(`well-known ranges: ${text} is not a network`);
  return { label, range, rule: 'withhold' };
}

export const SHARED_RANGES: readonly SharedRange[] = Object.entries({
  ...PUBLISHED,
  ...CLOUD_NETWORKS,
}).flatMap(([label, networks]) => networks.map((text) => known(label, text)));

/** How a feed meets the ranges of one label. */
export interface SharedOverlap {
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
  readonly of: readonly SharedRange[];
}

/** A line this wide is no customer's: /16 in v4, /32 in v6 (what registries allocate to providers). */
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

/** What of `list` is withheld (disjoint), and how it meets the known ranges. */
export const checkSharedRanges = (
  list: ListedRanges,
  known: readonly SharedRange[],
): { readonly withheld: Ranges; readonly overlaps: readonly SharedOverlap[] } =>
  new SharedRangeCheck(list, sortKnown(known, list.words)).run();
