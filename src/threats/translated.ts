/** What feeds list of IPv4, as translators (NAT64) write it in IPv6: sets of the kernel compare whole addresses only. */
import type { Range } from '../lib/ip-range.js';
import { writeAddress } from './address-columns.js';
import { subtract, unite } from './range-algebra.js';
import { countOf, fromModel, type Ranges } from './ranges.js';

/** The IPv4 ranges behind each prefix of 96 bits. */
function behind(v4: Ranges, { lo: prefix }: Range): Ranges {
  const count = countOf(v4);
  const head = new Uint32Array(4);
  writeAddress(prefix, head, 0, 4);
  const put = (column: Uint32Array): Uint32Array => {
    const made = new Uint32Array(4 * count);
    for (let i = 0; i < count; i++) {
      made.set(head, 4 * i);
      made[4 * i + 3] = column[i] as number;
    }
    return made;
  };
  return { words: 4, lo: put(v4.lo), hi: put(v4.hi) };
}

/** Both together; what is protected, an exception for such an address, is left out. */
export function withTranslated(
  v6: Ranges,
  v4: Ranges,
  nat64: readonly Range[],
  never: readonly Range[],
): Ranges {
  if (nat64.length === 0 || countOf(v4) === 0) return v6;
  const translated = unite(
    nat64.map((prefix) => behind(v4, prefix)),
    4,
  );
  return unite([v6, subtract(translated, unite([fromModel(never, 4)], 4))], 4);
}
