/** What of the present policy stays in a suggestion, and what was not used. Pure. */
import { sourceText } from '../policy/deny-entries.js';
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
  /** In force now; of a container that is gone, the default of the host. */
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
    ({ source }) => source.from === 'label' || source.from === 'grant',
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
    if (source.from === 'label')
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
    gathering.addList(list, (name) => ({ from: 'list', list: name }));
    const rows = permitted
      .filter(({ by }) => by.source.from === 'list' && gathering.lists.has(by.source.list))
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
    if (by.source.from === 'claim' || by.source.from === 'baseline')
      bySource.set(sourceText(by.source), [...(bySource.get(sourceText(by.source)) ?? []), row]);
  return [...bySource]
    .sort(([a], [b]) => byText(a, b))
    .map(([source, rows]) => `${source}, permits ${targetsOf(rows).join(', ')}: not repeated here`);
}
