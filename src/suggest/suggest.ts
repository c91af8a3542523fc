import { type CoverageParts, placeOf } from '../coverage/coverage.js';
import type { Overrides } from '../enforce/policies.js';
import { addressEntry } from '../flows/destination.js';
import type { OwnAddress } from '../flows/flow-record.js';
import { missingTexts } from '../flows/missing.js';
import { counted } from '../lib/units.js';
import type { ContainerFacts } from '../policy/container.js';
import { decidedBy, denialText } from '../policy/deny-entries.js';
import type { DestEntry } from '../policy/entry.js';
import { DENY } from '../policy/entry-canonical.js';
import { isDest } from '../policy/entry-parse.js';
import { Gathering } from '../policy/gathering.js';
import { readLabels } from '../policy/labels.js';
import type { Mode, PolicyEntry } from '../policy/policy.js';
import { riskOfEntry, riskOfName } from '../policy/risk.js';
import {
  byText,
  entriesOf,
  type Group,
  groupsOf,
  iso,
  joinSiblings,
  permitsRow,
  type Recorded,
  type Row,
  type ShownUse,
  type Stability,
  shownGap,
  shownUse,
  spanText,
  stabilityOf,
  targetsOf,
  type Use,
  usedRows,
  useOf,
  useText,
} from './needs.js';
import { placesOf } from './places.js';
import {
  type Chosen,
  chooseLists,
  type Permitted,
  type PresentPolicy,
  presentParts,
  type Removal,
  type SuggestedEntry,
  type SuggestInput,
  type SuggestOptions,
} from './present.js';
import { notRecorded, type PreviewParts } from './preview.js';

/** `decide`: it was used, and a person has to decide. `add`: the entry is valid, and nothing shows that it is needed. `none`: no entry is offered. */
type LeftAction = 'decide' | 'add' | 'none';

interface LeftEntry extends ShownUse {
  /** The entry that would permit it, or the destination where no entry can. */
  readonly entry: string;
  readonly why: string;
  readonly action: LeftAction;
}
export interface Suggestion {
  readonly container: string;
  readonly owner: string;
  /** Recorded since then, RFC 3339; null: never. */
  readonly since: string | null;
  readonly starts: number;
  readonly stable: Stability;
  /** In force now; enforce while it is paused, and of a container that is gone. */
  readonly mode: Mode;
  /** All that it used is left out, so that with these entries it would reach its free neighbours only. */
  readonly reachesNothing: boolean;
  readonly entries: readonly SuggestedEntry[];
  readonly lists: readonly {
    readonly list: string;
    readonly comment: string;
    readonly covers: readonly string[];
  }[];
  /** Lists that permit several of the destinations, and more than what was used warrants: in place of their entries. */
  readonly offered: readonly {
    readonly list: string;
    readonly size: number;
    readonly covers: readonly string[];
  }[];
  readonly left: readonly LeftEntry[];
  /** Entries of its label, grants and lists that were not used. */
  readonly remove: readonly Removal[];
  readonly notes: readonly string[];
}
export function suggest(input: SuggestInput): Suggestion {
  const { record, container, now } = input;
  const sorted = classify(input);
  const needed = sorted.needed;
  const others = sorted.permitted.map((p) => p.row);
  const { chosen, offered } = chooseLists(input.lists, needed, others, now);
  const open = needed.filter((row) => !chosen.some((c) => c.rows.includes(row)));
  const refused = sorted.left.filter((l) => l.isRefused).map((l) => l.row);
  const groups = joinSiblings(groupsOf(open, refused), refused);
  const isOdd = (group: Group): boolean => record.starts > 1 && useOf(group.rows).count === 1;
  const odd = groups
    .filter(isOdd)
    .flatMap((g) => leftGroup(g, `seen once, in one of ${record.starts} starts`, 'decide', container));
  const fresh = groups.filter((g) => !isOdd(g));
  const present = presentParts(input, sorted.permitted);
  const left = leftRows(container, sorted.left, [
    ...fresh.flatMap(entriesOf),
    ...entriesOfLists(input, chosen),
  ]);
  const entries = [...present.entries, ...fresh.flatMap((g) => suggestedOf(g, record.starts))];
  const reaches = sorted.permitted.length + chosen.length + present.lists.length > 0;
  return {
    container,
    owner: record.owner,
    since: record.since === null ? null : iso(record.since),
    starts: record.starts,
    stable: stabilityOf(record, now),
    mode: input.mode,
    reachesNothing:
      !reaches &&
      entries.every(({ entry }) => entry.startsWith(DENY)) &&
      [...left, ...odd].some(({ action }) => action === 'decide'),
    entries: entries.sort((a, b) => byText(a.entry, b.entry)),
    lists: [...present.lists, ...chosen.map((c) => ({ ...shownList(c), comment: NEW_LIST }))].sort((a, b) =>
      byText(a.list, b.list),
    ),
    offered: offered.map((c) => ({ ...shownList(c), size: c.size })),
    left: [...left, ...odd, ...(record.own ?? []).map(ownAddress)].sort(
      (a, b) => byText(a.entry, b.entry) || byText(a.why, b.why),
    ),
    remove: present.remove,
    notes: notesOf(input, sorted, chosen, present.notes),
  };
}

/** A name that the container has given to an address by itself does not make the address one of that name, where its connections are counted. */
const ownAddress = ({ name, address, port, proto, count, first, last }: OwnAddress): LeftEntry => ({
  entry: addressEntry(address, port, proto) ?? address,
  why: `used as ${name} (${counted(count, 'time')}, counted there), and only a resolver of the container itself gave this address for it: an entry for the name does not permit it`,
  action: 'none',
  ...{ count: 0, first: iso(first), last: iso(last), starts: 1 },
});

const NEW_LIST = 'permits several of the names';
const shownList = ({ list, rows }: Chosen) => ({ list, covers: targetsOf(rows) });

interface Left {
  readonly row: Row;
  readonly why: string;
  readonly action: LeftAction;
  /** A wildcard must not permit it. */
  readonly isRefused: boolean;
}
interface Classified {
  readonly permitted: readonly Permitted[];
  readonly needed: readonly Row[];
  readonly left: readonly Left[];
  /** Neighbours that need no entry. */
  readonly free: readonly Row[];
}

function classify(input: SuggestInput): Classified {
  const { record, places, now, options } = input;
  const from = options.withinMs === undefined ? Number.NEGATIVE_INFINITY : now - options.withinMs;
  const { rows, unresolved } = usedRows(record.seen, places, from);
  const found = { permitted: [], needed: [], left: [], free: [] } as {
    permitted: Permitted[];
    needed: Row[];
    left: Left[];
    free: Row[];
  };
  for (const row of rows) {
    const by = row.verdict === 'threat' ? undefined : permittedBy(input, row, unresolved);
    if (by) found.permitted.push({ row, by });
    else if (row.place.free) found.free.push(row);
    else {
      const reason = leftReason(input, row);
      if (reason) found.left.push({ row, ...reason });
      else found.needed.push(row);
    }
  }
  return found;
}

/** The entry of its policy that permits it now, deny entries taken into account. */
function permittedBy(
  { policy }: SuggestInput,
  row: Row,
  unresolved: ReadonlySet<string>,
): PolicyEntry | undefined {
  const { wanted, verdict, by } = row;
  if (!policy || !wanted) return undefined;
  const decided = decidedBy({ entries: [], denied: policy.denied }, wanted);
  if (decided.by) return undefined;
  const used = verdict === 'allow' ? policy.entries.find(({ entry }) => entry.canonical === by) : undefined;
  const found = used ?? policy.entries.find(({ entry }) => permitsRow(entry, wanted));
  // An entry for addresses does not let the name resolve.
  const isByName = found?.entry.target.kind === 'name' || row.name === null || !unresolved.has(row.name);
  return isByName ? found : undefined;
}

/** Why a destination is not suggested; undefined: it is. */
function leftReason({ policy, options }: SuggestInput, row: Row): Omit<Left, 'row'> | undefined {
  const { wanted, verdict, place, known, proto, name } = row;
  const refused = (why: string, action: LeftAction = 'none') => ({ why, action, isRefused: true });
  if (verdict === 'threat')
    return refused('a threat feed lists it: no container reaches it, whatever its entries');
  if (known) return refused('marked as known and refused');
  if (!wanted) return refused(place.warning ?? 'no entry can permit it');
  const denial = decidedBy({ entries: [], denied: policy?.denied ?? [] }, wanted).by;
  if (denial) return refused(denialText(denial));
  if (place.warning !== null) return refused(place.warning);
  const risk = name === null ? undefined : riskOfName(name);
  if (risk)
    return refused(
      risk.hasTenants
        ? `anyone can have a name below ${risk.pattern.slice(2)}: add it if this one is yours; ${risk.reason}`
        : `anyone can receive data there: ${risk.reason}`,
      'decide',
    );
  const address = wanted.target.kind === 'address' ? riskOfEntry(wanted) : undefined;
  if (address) return refused(`many parties share the address: ${address.reason}`, 'decide');
  if ((verdict === 'deny' || verdict === 'ask') && !options.includeDenied)
    return refused(DENIED_NOW, 'decide');
  if (proto === 'dns' && !place.isUsed)
    return { why: 'only resolved: no connection to it was seen', action: 'add', isRefused: false };
  return undefined;
}

const DENIED_NOW = 'denied now';
const quoted = (entry: string): string => (/[\s*]/.test(entry) ? `'${entry}'` : entry);

/** Rows by the entries that would permit them. Names that were only resolved are dropped where what is suggested permits them. */
function leftRows(
  container: string,
  left: readonly Left[],
  suggested: readonly DestEntry[],
): readonly LeftEntry[] {
  const byWhy = new Map<string, { readonly rows: Row[]; readonly action: LeftAction }>();
  const shown: LeftEntry[] = [];
  for (const { row, why, action, isRefused } of left) {
    if (!isRefused && suggested.some((entry) => row.wanted && permitsRow(entry, row.wanted))) continue;
    if (!row.wanted) shown.push({ entry: row.title, why, action: 'none', ...shownUse(row) });
    else byWhy.set(why, { rows: [...(byWhy.get(why)?.rows ?? []), row], action });
  }
  for (const [why, { rows, action }] of byWhy)
    shown.push(...groupsOf(rows).flatMap((g) => leftGroup(g, why, action, container)));
  return shown;
}

function leftGroup(group: Group, why: string, action: LeftAction, container: string): readonly LeftEntry[] {
  return entriesOf(group).map((entry) => {
    const command = `; drawbridge allow ${container} ${quoted(entry.canonical)} permits it`;
    return {
      entry: entry.canonical,
      why: `${why}${why === DENIED_NOW ? command : ''}`,
      action,
      ...shownUse(useBy(entry, group)),
    };
  });
}

function suggestedOf(group: Group, starts: number): readonly SuggestedEntry[] {
  return entriesOf(group).map((entry) => {
    const use = useBy(entry, group);
    const joined = entry.target.kind === 'name' && entry.target.match === 'below';
    const what = joined ? `${targetsOf(group.rows).length} numbered names, ` : '';
    return {
      entry: entry.canonical,
      comment: `${what}${useText(use, starts)}`,
      ...shownUse(use),
      risk: riskOfEntry(entry)?.reason ?? null,
    };
  });
}

/** Of several entries of one target, each counts what it permits itself. */
const useBy = (entry: DestEntry, { rows }: Group): Use =>
  useOf(rows.filter(({ wanted }) => wanted && permitsRow(entry, wanted)));

function entriesOfLists({ lists, now }: SuggestInput, chosen: readonly Chosen[]): readonly DestEntry[] {
  const gathering = new Gathering(lists, now);
  for (const { list } of chosen) gathering.addList(list, (name) => ({ kind: 'list', name }));
  return gathering.entries.map(({ entry }) => entry);
}

function notesOf(
  { record, policy, container, now, options, notRecorded }: SuggestInput,
  { permitted, needed, free }: Classified,
  chosen: readonly Chosen[],
  more: readonly string[],
): readonly string[] {
  const all = [...permitted.map((p) => p.row), ...needed];
  const explained = targetsOf(chosen.flatMap((c) => c.rows)).length;
  const names = chosen.map((c) => c.list).sort(byText);
  const begin = now - options.unusedMs;
  const gaps = record.gaps.filter((gap) => gap.to > begin);
  const isShort = record.since === null || record.since > begin;
  return [
    ...(chosen.length > 0
      ? [
          `${joinedWith(names)} ${names.length === 1 ? 'explains' : 'explain'} ${explained} of ${targetsOf(all).length} destinations`,
        ]
      : []),
    ...more,
    ...(free.length > 0
      ? [`${targetsOf(free).join(', ')}: permitted without an entry (neighbours, eastWest)`]
      : []),
    ...(policy ? [] : [`${container} does not exist now: what its labels permit is not known`]),
    ...(isShort && record.since !== null && (policy?.entries.length ?? 0) > 0
      ? [
          `no entry is to be removed: recorded since ${iso(record.since)}, and not for ${spanText(options.unusedMs)}`,
        ]
      : []),
    ...(!isShort && gaps.length > 0
      ? [`no entry is to be removed: the record of the last ${spanText(options.unusedMs)} has gaps`]
      : []),
    ...missingTexts({ gaps: gaps.map(shownGap), dropped: record.dropped }),
    ...notRecorded,
  ];
}

const joinedWith = (names: readonly string[]): string =>
  names.length < 2 ? names.join('') : `${names.slice(0, -1).join(', ')} and ${names.at(-1)}`;

/** What is asked of the record of one owner. */
export interface SuggestionRequest {
  /** The container of the owner that exists, or the name by which it was asked for. */
  readonly container: ContainerFacts | string;
  readonly record: Recorded;
  readonly options: SuggestOptions;
  /** ms since the epoch. */
  readonly now: number;
}

/** What the container was seen to use, as a policy. */
export async function suggestFor(
  parts: PreviewParts & CoverageParts,
  { lists }: Pick<Overrides, 'lists'>,
  { container, record, options, now }: SuggestionRequest,
): Promise<Suggestion> {
  const facts = typeof container === 'string' ? undefined : placeOf(parts, container);
  const member = facts && parts.applied.value?.subjects.get(facts.holder.id);
  return suggest({
    container: typeof container === 'string' ? container : container.name,
    record,
    places: placesOf(parts, member, facts?.holder, record.seen),
    policy: facts && presentPolicy(facts),
    // A pause ends, and the labels of a container that is gone are not known: neither shows that the service is observed.
    mode: facts && facts.policy.modeSource.kind !== 'pause' ? facts.policy.mode : 'enforce',
    lists,
    notRecorded: facts ? await notRecorded(parts, facts.holder, member) : [],
    now,
    options,
  });
}

function presentPolicy({ holder, policy }: ReturnType<typeof placeOf>): PresentPolicy {
  // Labels of the image stay with it: they are not repeated, whether they are trusted or not.
  const intent = readLabels(holder, []);
  const named = intent.allow.flatMap((entry) => (isDest(entry) ? [] : [entry.list]));
  return { entries: policy.entries, denied: policy.denied ?? [], lists: [...intent.lists, ...named] };
}
