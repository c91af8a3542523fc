/** What of the present policy stays in a suggestion, what was not used, and which lists are taken for the rest. Pure. */
import { decidedBy, sourceText } from '../policy/deny-entries.js';
import type { DestEntry } from '../policy/entry.js';
import { Gathering } from '../policy/gathering.js';
import type { List, Mode, PolicyEntry } from '../policy/policy.js';
import { riskOfEntry, riskOfName } from '../policy/risk.js';
import {
  addUse,
  byText,
  iso,
  NO_USE,
  type Place,
  permitsRow,
  type Recorded,
  type Row,
  rowsOf,
  type ShownUse,
  shownUse,
  targetsOf,
  type Use,
  useOf,
  useText,
} from './needs.js';

export interface SuggestOptions {
  /** Only what was used within this time counts (ms); undefined: all that is recorded. */
  readonly withinMs?: number | undefined;
  /** Suggest what is denied now as well. */
  readonly includeDenied: boolean;
  /** Entries that were not used for this time are to be removed (ms). */
  readonly unusedMs: number;
}

/** The policy of the container as it is now. */
export interface PresentPolicy {
  readonly entries: readonly PolicyEntry[];
  readonly denied: readonly PolicyEntry[];
  /** Lists that its own labels name. */
  readonly lists: readonly string[];
}

export interface SuggestInput {
  readonly container: string;
  readonly record: Recorded;
  /** In the order of `record.seen`. */
  readonly places: readonly Place[];
  /** Undefined: the container does not exist now. */
  readonly policy: PresentPolicy | undefined;
  /** In force now; enforce while it is paused, and of a container that is gone. */
  readonly mode: Mode;
  /** Lists that are in force on this host. */
  readonly lists: ReadonlyMap<string, List>;
  /** Traffic that cannot be recorded, as sentences. */
  readonly notRecorded: readonly string[];
  /** ms since the epoch. */
  readonly now: number;
  readonly options: SuggestOptions;
}

export interface SuggestedEntry extends ShownUse {
  readonly entry: string;
  readonly comment: string;
  /** Why anyone can receive data there; null: not known to. */
  readonly risk: string | null;
}
/** What was used and is permitted now, with the entry that permits it. */
export interface Permitted {
  readonly row: Row;
  readonly by: PolicyEntry;
}

/** An entry of the present policy that is to go. */
export interface Removal {
  readonly entry: string;
  readonly from: string;
  /** RFC 3339. */
  readonly unusedSince: string;
}

/** Present entries that stay, and those that were not used. */
export function presentParts(input: SuggestInput, permitted: readonly Permitted[]) {
  const { policy, record } = input;
  const own = (policy?.entries ?? []).filter(
    ({ source }) => source.kind === 'label' || source.kind === 'grant',
  );
  const uses = new Map<string, Use>();
  for (const { row, by } of permitted)
    uses.set(by.entry.canonical, addUse(uses.get(by.entry.canonical) ?? NO_USE, row));
  const texts = [...new Set(own.map(({ entry }) => entry.canonical))].sort(byText);
  const entries: SuggestedEntry[] = [];
  const remove: Removal[] = [];
  for (const text of texts) {
    const pe = own.find(({ entry }) => entry.canonical === text);
    if (!pe) continue;
    const use = useOfEntry(input, pe.entry, uses.get(text) ?? NO_USE);
    const unusedSince = unusedFrom(input, use);
    if (unusedSince !== undefined)
      remove.push({ entry: text, from: sourceText(pe.source), unusedSince: iso(unusedSince) });
    else
      entries.push({
        entry: text,
        comment: `${use.count === 0 ? 'not seen in use' : useText(use, record.starts)}; now by ${sourceText(pe.source)}`,
        ...shownUse(use),
        risk: riskOfEntry(pe.entry)?.reason ?? riskOfRows(permitted, text),
      });
  }
  for (const { entry, source } of policy?.denied ?? [])
    if (source.kind === 'label')
      entries.push({
        entry: entry.canonical,
        comment: `denies; now by ${sourceText(source)}`,
        ...shownUse(NO_USE),
        risk: null,
      });
  const lists = presentLists(input, permitted);
  const removedLists = lists.flatMap(({ list, unusedSince }) =>
    unusedSince === undefined
      ? []
      : [{ entry: `list:${list}`, from: 'its labels', unusedSince: iso(unusedSince) }],
  );
  return {
    entries,
    remove: [...remove, ...removedLists].sort((a, b) => byText(a.entry, b.entry)),
    lists: lists.flatMap(({ unusedSince, ...shown }) => (unusedSince === undefined ? [shown] : [])),
    notes: inherited(permitted),
  };
}

/** An entry is in use as well when another entry permits the same. */
function useOfEntry({ record, places, options, now }: SuggestInput, entry: DestEntry, use: Use): Use {
  if (use.count > 0) return use;
  const from = options.withinMs === undefined ? Number.NEGATIVE_INFINITY : now - options.withinMs;
  const rows = rowsOf(record.seen, places).filter((r) => r.last >= from);
  return useOf(
    rows.filter(
      (r) => r.wanted && r.verdict !== 'threat' && (permitsRow(entry, r.wanted) || r.by === entry.canonical),
    ),
  );
}

const riskOfRows = (permitted: readonly Permitted[], text: string): string | null =>
  permitted
    .filter(({ by }) => by.entry.canonical === text)
    .flatMap(({ row }) => (row.name === null ? [] : (riskOfName(row.name)?.reason ?? [])))[0] ?? null;

/** Undefined: it was used within the time, or the recording does not cover that time. */
function unusedFrom({ record, now, options }: SuggestInput, use: Use): number | undefined {
  const begin = now - options.unusedMs;
  const isCovered =
    record.since !== null && record.since <= begin && !record.gaps.some((gap) => gap.to > begin);
  if (!isCovered || use.last > begin) return undefined;
  return use.count > 0 ? use.last : (record.since ?? undefined);
}

/** Lists of its own labels, with what each permits of what was used. */
function presentLists(input: SuggestInput, permitted: readonly Permitted[]) {
  const { policy, lists, now } = input;
  const names = [...new Set(policy?.lists ?? [])].sort(byText);
  return names.map((list) => {
    const gathering = new Gathering(lists, now);
    gathering.addList(list, (name) => ({ kind: 'list', name }));
    const rows = permitted
      .filter(({ by }) => by.source.kind === 'list' && gathering.lists.has(by.source.name))
      .map(({ row }) => row);
    const uses = gathering.entries.map(({ entry }) => useOfEntry(input, entry, NO_USE));
    return {
      list,
      comment: lists.has(list)
        ? 'now in its labels'
        : 'now in its labels; it does not exist, and adds nothing',
      covers: targetsOf(rows),
      // A list that denies something has an effect without being used.
      unusedSince:
        gathering.entries.length === 0 || gathering.denied.length > 0
          ? undefined
          : unusedFrom(input, useOf(uses)),
    };
  });
}

/** What is permitted by lists that need not be written. */
function inherited(permitted: readonly Permitted[]): readonly string[] {
  const bySource = new Map<string, Row[]>();
  for (const { row, by } of permitted)
    if (by.source.kind === 'claim' || by.source.kind === 'baseline')
      bySource.set(sourceText(by.source), [...(bySource.get(sourceText(by.source)) ?? []), row]);
  return [...bySource]
    .sort(([a], [b]) => byText(a, b))
    .map(([source, rows]) => `${source}, permits ${targetsOf(rows).join(', ')}: not repeated here`);
}

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
  gathering.addList(list.name, (name) => ({ kind: 'list', name }));
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
