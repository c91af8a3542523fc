/** Gathers the entries of one policy from lists, labels and grants. Pure. */
import { memo } from '../lib/memo.js';
import type { Problem } from '../lib/problem.js';
import type { DestEntry, Entry } from './entry.js';
import { isDest } from './entry-parse.js';
import {
  type EntrySource,
  isForHost,
  type List,
  MISSING_LIST,
  Moment,
  type PolicyEntry,
  type PolicyNote,
} from './policy.js';

/** Entries that permit, and deny entries. */
interface Sorted {
  readonly entries: readonly PolicyEntry[];
  readonly denied: readonly PolicyEntry[];
}
/** `deny`: of a source that may only tighten the policy, deny entries alone count. */
export type Counted = 'all' | 'deny';

/** Gathers the entries of one policy: lists unfolded, expired ones dropped, missing lists noted. */
export class Gathering {
  readonly entries: PolicyEntry[] = [];
  readonly denied: PolicyEntry[] = [];
  readonly notes: PolicyNote[] = [];
  /** Those whose entries all count. */
  readonly lists = new Set<string>();
  readonly #all: ReadonlyMap<string, List>;
  readonly #absent: ReadonlyMap<string, Problem>;
  readonly #moment: Moment;
  readonly #node: string | undefined;
  readonly #seen = new Set<string>();
  /** Plain lists whose entries it has, by their source. */
  readonly #plain = new Set<string>();

  /** `absent`: lists that have a file and are not in force, with the reason. `now`: ms since the epoch. `node`: this host's name. */
  constructor(
    all: ReadonlyMap<string, List>,
    now: number | Moment,
    node?: string,
    absent: ReadonlyMap<string, Problem> = new Map(),
  ) {
    this.#all = all;
    this.#absent = absent;
    this.#moment = Moment.at(now);
    this.#node = node;
  }

  /** `sourceOf` derives an entry's source from its list. */
  addList(name: string, sourceOf: SourceOf, counted: Counted = 'all'): void {
    this.#addList(name, { sourceOf, counted, reached: new Set() });
  }

  #addList(name: string, walk: Walk): void {
    if (walk.reached.has(name)) return;
    walk.reached.add(name);
    const list = this.#all.get(name);
    const isWhole = walk.counted === 'all';
    if (!list || !isForHost(list, this.#node)) {
      if (isWhole) this.#absentHere(name, list);
      return;
    }
    if (isWhole) this.lists.add(name);
    const source = walk.sourceOf(name);
    const plain = plainEntries(list, source);
    if (plain) this.#addPlain(name, source, plain, walk.counted);
    else for (const entry of list.allow) this.#add(entry, source, walk);
  }

  #addPlain(name: string, source: EntrySource, { entries, denied }: Sorted, counted: Counted): void {
    const key = JSON.stringify([name, source, counted]);
    if (this.#plain.has(key)) return;
    this.#plain.add(key);
    if (counted === 'all')
      for (const one of entries) if (!this.#hasExpired(one.entry)) this.entries.push(one);
    for (const one of denied) if (!this.#hasExpired(one.entry)) this.denied.push(one);
  }

  addEntry(entry: Entry, source: EntrySource, sourceOf: SourceOf, counted: Counted = 'all'): void {
    this.#add(entry, source, { sourceOf, counted, reached: new Set() });
  }

  #add(entry: Entry, source: EntrySource, walk: Walk): void {
    if (!isDest(entry)) {
      this.#addList(entry.list, walk);
      return;
    }
    if (walk.counted === 'deny' && !entry.deny) return;
    const key = JSON.stringify([entry.canonical, source]);
    if (this.#hasExpired(entry) || this.#seen.has(key)) return;
    this.#seen.add(key);
    (entry.deny ? this.denied : this.entries).push({ entry, source });
  }

  #hasExpired({ expires }: DestEntry): boolean {
    return expires !== undefined && this.#moment.hasReached(Date.parse(expires));
  }

  #absentHere(name: string, list: List | undefined): void {
    if (list) this.#elsewhere(list);
    else this.#missing(name);
  }

  #missing(name: string): void {
    const { detail, remedy } = this.#absent.get(name) ?? {
      detail: `list "${name}" does not exist, and adds nothing`,
      remedy: `create ${name}.yaml in the allowlists folder, or the list through the API; it takes effect at once`,
    };
    this.#note(name, detail, remedy, MISSING_LIST);
  }

  #elsewhere({ name, hosts = [] }: List): void {
    this.#note(
      name,
      `list "${name}" is for other hosts (${hosts.join(', ')}), and adds nothing here`,
      `add this host to its hosts, or remove the list from the container`,
    );
  }

  #note(list: string, detail: string, remedy: string, code?: PolicyNote['code']): void {
    const pointer = `/lists/${list}`;
    if (this.notes.some((note) => note.pointer === pointer)) return;
    this.notes.push({ detail, remedy, pointer, ...(code && { code }) });
  }
}

type SourceOf = (list: string) => EntrySource;
/** `reached` guards against cycles. */
interface Walk {
  readonly sourceOf: SourceOf;
  readonly counted: Counted;
  readonly reached: Set<string>;
}

const plainLists = memo((_list: List) => new Map<EntrySource['kind'], Sorted | undefined>());
/**
 * The entries of a list, the same objects for every container that has it from the same kind of source. Undefined: it names other
 * lists, or an entry twice, or the source is a grant.
 */
function plainEntries(list: List, source: EntrySource): Sorted | undefined {
  if (source.kind === 'grant') return undefined;
  const bySource = plainLists(list);
  if (!bySource.has(source.kind)) {
    const entries = list.allow.filter(isDest);
    const isPlain = new Set(entries.map((e) => e.canonical)).size === list.allow.length;
    bySource.set(source.kind, isPlain ? sorted(entries.map((entry) => ({ entry, source }))) : undefined);
  }
  return bySource.get(source.kind);
}

const sorted = (all: readonly PolicyEntry[]): Sorted => ({
  entries: all.filter(({ entry }) => !entry.deny),
  denied: all.filter(({ entry }) => entry.deny),
});
