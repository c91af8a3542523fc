/** Which lists a suggestion takes, and which it offers. Pure. */
import { decidedBy } from '../policy/deny-entries.js';
import type { DestEntry } from '../policy/entry.js';
import { Gathering } from '../policy/gathering.js';
import type { List, PolicyEntry } from '../policy/policy.js';
import { riskOfEntry } from '../policy/risk.js';
import { byText, permitsRow, type Row, targetsOf } from './needs.js';

/** A list as its entries, those of lists that it names included. */
interface Candidate {
  readonly name: string;
  readonly entries: readonly PolicyEntry[];
  readonly denied: readonly PolicyEntry[];
}
export interface Chosen {
  readonly list: string;
  /** Of the list, those of lists that it names included. */
  readonly size: number;
  readonly rows: readonly Row[];
}

/** A list with more entries than these for each one that is used opens more than what was used warrants: it is offered only. */
const MAX_EXCESS = 2;
/** With more than these it is not even offered. */
const MAX_OFFERED = 6;
const SEVERAL = 2;

/** Lists to take, and lists that are larger than what was used warrants: for a person to choose. */
export interface ListChoice {
  readonly chosen: readonly Chosen[];
  readonly offered: readonly Chosen[];
}

/**
 * Choose lists that permit several of the needed names, without much else: those that permit most first. `others`: what is used and
 * permitted already; a list must not deny it.
 */
export function chooseLists(
  lists: ReadonlyMap<string, List>,
  needed: readonly Row[],
  others: readonly Row[],
  now: number,
): ListChoice {
  const candidates = [...lists.values()]
    .filter((list) => !list.match && !list.hosts)
    .flatMap((list) => candidateOf(list, lists, now) ?? [])
    .filter(({ denied }) => ![...needed, ...others].some((row) => isDeniedBy(denied, row)));
  const chosen = mostWorth(candidates, needed, MAX_EXCESS);
  const open = needed.filter((row) => !chosen.some((c) => c.rows.includes(row)));
  return { chosen, offered: mostWorth(candidates, open, MAX_OFFERED) };
}

function mostWorth(
  candidates: readonly Candidate[],
  needed: readonly Row[],
  excess: number,
): readonly Chosen[] {
  const chosen: Chosen[] = [];
  let open = needed;
  for (;;) {
    const best = candidates
      .map((c) => ({ c, rows: open.filter((row) => permits(c, row)) }))
      .filter(({ c, rows }) => isWorth(c, rows, excess))
      .sort(
        (a, b) =>
          targetsOf(b.rows).length - targetsOf(a.rows).length ||
          a.c.entries.length - b.c.entries.length ||
          byText(a.c.name, b.c.name),
      )[0];
    if (!best) return chosen;
    chosen.push({ list: best.c.name, size: best.c.entries.length, rows: best.rows });
    open = open.filter((row) => !best.rows.includes(row));
  }
}

function candidateOf(list: List, lists: ReadonlyMap<string, List>, now: number): Candidate | undefined {
  const gathering = new Gathering(lists, now);
  gathering.addList(list.name, (name) => ({ from: 'list', list: name }));
  const { entries, denied } = gathering;
  const isOpen = entries.some(({ entry }) => isTooWide(entry) || riskOfEntry(entry) !== undefined);
  return isOpen || gathering.notes.length > 0 ? undefined : { name: list.name, entries, denied };
}

/** A list with such an entry permits what it does not name. */
const isTooWide = ({ target, flags }: DestEntry): boolean =>
  target.kind === 'any' ||
  flags.includes('broad') ||
  (target.kind === 'address' && target.range.hi - target.range.lo > MAX_ADDRESSES);
/** Of a /16. */
const MAX_ADDRESSES = 65_535n;

const isDeniedBy = (denied: readonly PolicyEntry[], { wanted }: Row): boolean =>
  wanted !== undefined && decidedBy({ entries: [], denied }, wanted).by !== undefined;

const permits = ({ entries }: Pick<Candidate, 'entries'>, { wanted }: Row): boolean =>
  wanted !== undefined && entries.some(({ entry }) => permitsRow(entry, wanted));

function isWorth({ entries }: Candidate, rows: readonly Row[], excess: number): boolean {
  const used = entries.filter(({ entry }) => rows.some((r) => r.wanted && permitsRow(entry, r.wanted)));
  return targetsOf(rows).length >= SEVERAL && entries.length <= excess * used.length;
}
