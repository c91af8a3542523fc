import type { Problem } from '../lib/problem.js';
import type { Entry } from './entry.js';
import { isDest } from './entry-parse.js';
import { isForHost } from './list-graph.js';
import { type EntrySource, type List, MISSING_LIST, type PolicyEntry, type PolicyNote } from './policy.js';

/** Gathers the entries of one policy: lists unfolded, expired ones dropped, missing lists noted. */
export class Gathering {
  readonly entries: PolicyEntry[] = [];
  readonly notes: PolicyNote[] = [];
  readonly lists = new Set<string>();
  readonly #all: ReadonlyMap<string, List>;
  readonly #absent: ReadonlyMap<string, Problem>;
  readonly #now: number;
  readonly #node: string | undefined;
  readonly #seen = new Set<string>();

  /** `absent`: lists that have a file and are not in force, with the reason. `now`: ms since the epoch. `node`: this host's name. */
  constructor(
    all: ReadonlyMap<string, List>,
    now: number,
    node?: string,
    absent: ReadonlyMap<string, Problem> = new Map(),
  ) {
    this.#all = all;
    this.#absent = absent;
    this.#now = now;
    this.#node = node;
  }

  /** `sourceOf` tells an entry's source from the list where it stands; `reached` guards against cycles. */
  addList(name: string, sourceOf: (list: string) => EntrySource, reached: Set<string> = new Set()): void {
    if (reached.has(name)) return;
    reached.add(name);
    const list = this.#all.get(name);
    if (!list) this.#missing(name);
    else if (!isForHost(list, this.#node)) this.#elsewhere(list);
    else {
      this.lists.add(name);
      for (const entry of list.allow) this.#add(entry, sourceOf(name), sourceOf, reached);
    }
  }

  addEntry(entry: Entry, source: EntrySource, sourceOf: (list: string) => EntrySource): void {
    this.#add(entry, source, sourceOf, new Set());
  }

  #add(
    entry: Entry,
    source: EntrySource,
    sourceOf: (list: string) => EntrySource,
    reached: Set<string>,
  ): void {
    if (!isDest(entry)) {
      this.addList(entry.list, sourceOf, reached);
      return;
    }
    const expired = entry.expires !== undefined && Date.parse(entry.expires) <= this.#now;
    const key = JSON.stringify([entry.canonical, source]);
    if (expired || this.#seen.has(key)) return;
    this.#seen.add(key);
    this.entries.push({ entry, source });
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
