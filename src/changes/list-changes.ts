import { orNearest, refuse, refuseInvalid } from '../lib/problem.js';
import type { Entry } from '../policy/entry.js';
import { entryFromObject } from '../policy/entry-object.js';
import { parseEntries } from '../policy/entry-parse.js';
import type { ListParser } from '../policy/list-parse.js';
import { cyclicLists, type List } from '../policy/policy.js';
import type { Committer } from './commit.js';
import { type ChangesState, type ListBody, listKey, type StoredList } from './stored-state.js';

export interface ListChangeOptions {
  readonly state: ChangesState;
  readonly committer: Committer;
  readonly parse: ListParser;
  /** The lists of the folder in force; read-only here. */
  folderLists(): readonly List[];
  /** Names of the containers that use the list in their policy. */
  usedBy(list: string): readonly string[];
}

/** Lists as the API shows and changes them. A name is the store's or the folder's, never both. */
export class ListChanges {
  readonly #o: ListChangeOptions;

  constructor(options: ListChangeOptions) {
    this.#o = options;
  }

  all(): readonly ListView[] {
    const stored = [...this.#o.state.lists.values()].map((s) => s.list);
    const folder = this.#o.folderLists().filter((list) => !this.#o.state.lists.has(list.name));
    return [...stored, ...folder.map((list) => ({ ...list, revision: 0 }))]
      .map((list) => ({ ...list, usedBy: this.#o.usedBy(list.name) }))
      .sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  get(name: string): ListView {
    const stored = this.#o.state.lists.get(name)?.list;
    const list = stored ?? this.#folderList(name);
    if (!list) return this.#unknown(name);
    return { ...list, revision: stored?.revision ?? 0, usedBy: this.#o.usedBy(name) };
  }

  put(name: string, body: unknown, ifMatch: number | undefined, who: string): Promise<ListView> {
    return this.#o.committer.serial(listKey(name), async () => {
      this.#refuseFolder(name);
      this.#checkRevision(name, ifMatch);
      const parsed = await this.#o.parse(name, 'store', body);
      if (!parsed.ok) return refuseInvalid(parsed.problems);
      this.#refuseCycle(parsed.value);
      // Time has passed while it was read.
      this.#refuseFolder(name);
      this.#checkRevision(name, ifMatch);
      return this.#write(name, { allow: [], ...(body as object) }, parsed.value, 'list.put', who);
    });
  }

  delete(name: string, ifMatch: number | undefined, who: string): Promise<void> {
    return this.#o.committer.serial(listKey(name), async () => {
      const before = this.#stored(name).body;
      this.#checkRevision(name, ifMatch);
      await this.#o.committer.commit({
        key: listKey(name),
        before,
        after: undefined,
        who,
        action: 'list.delete',
        target: name,
      });
    });
  }

  addEntry(name: string, entry: unknown, ifMatch: number | undefined, who: string): Promise<ListView> {
    return this.#o.committer.serial(listKey(name), async () => {
      const { body, list } = this.#stored(name);
      this.#checkRevision(name, ifMatch);
      const fresh = readEntry(entry);
      if (list.allow.some(({ canonical }) => canonical === fresh.canonical)) {
        refuse('conflict', `${name} has ${fresh.canonical} already`, `see drawbridge lists show ${name}`);
      }
      const next = { ...list, allow: [...list.allow, fresh] };
      this.#refuseCycle(next);
      return this.#write(name, { ...body, allow: [...body.allow, entry] }, next, 'entry.add', who);
    });
  }

  removeEntry(name: string, canonical: string, ifMatch: number | undefined, who: string): Promise<ListView> {
    return this.#o.committer.serial(listKey(name), async () => {
      const { body, list } = this.#stored(name);
      this.#checkRevision(name, ifMatch);
      const wanted = readEntry(canonical).canonical;
      if (!list.allow.some((entry) => entry.canonical === wanted)) {
        const texts = list.allow.slice(0, MOST_SHOWN).map((entry) => entry.canonical);
        const more = list.allow.length > MOST_SHOWN ? ` and ${list.allow.length - MOST_SHOWN} more` : '';
        refuse('not-found', `${name} has no entry ${wanted}`, `it has: ${texts.join(', ') || 'none'}${more}`);
      }
      const next = { ...list, allow: list.allow.filter((entry) => entry.canonical !== wanted) };
      return this.#write(
        name,
        { ...body, allow: without(body.allow, list.allow, wanted) },
        next,
        'entry.remove',
        who,
      );
    });
  }

  async #write(
    name: string,
    body: ListBody,
    list: List,
    action: 'list.put' | 'entry.add' | 'entry.remove',
    who: string,
  ): Promise<ListView> {
    this.#o.state.remember(body, list);
    const before = this.#o.state.lists.get(name)?.body;
    const change = { key: listKey(name), before, after: body, who, action, target: name };
    if (action === 'entry.remove') await this.#o.committer.commitUrgent(change, Date.now());
    else await this.#o.committer.commit(change);
    return this.get(name);
  }

  #stored(name: string): StoredList {
    this.#refuseFolder(name);
    return this.#o.state.lists.get(name) ?? this.#unknown(name);
  }

  #folderList(name: string): List | undefined {
    return this.#o.folderLists().find((list) => list.name === name);
  }

  #refuseFolder(name: string): void {
    const folder = this.#o.state.lists.has(name) ? undefined : this.#folderList(name);
    if (!folder) return;
    const file = folder.file ?? `${name}.yaml in the allowlists folder`;
    refuse(
      'read-only',
      `the list ${name} is a file, read-only here`,
      `edit ${file}; it is in force within a second`,
    );
  }

  #checkRevision(name: string, ifMatch: number | undefined): void {
    const revision = this.#o.state.revisionOf(listKey(name));
    if (ifMatch === undefined || ifMatch === revision) return;
    if (ifMatch === 0)
      refuse(
        'precondition',
        `there is a list ${name} already, at revision ${revision}`,
        `take another name, or replace it: drawbridge lists create ${name} --replace`,
      );
    const is = revision === 0 ? 'does not exist' : `is at revision ${revision}`;
    refuse(
      'precondition',
      `the list ${name} ${is}; the change was made for revision ${ifMatch}`,
      'read it again and make the change to what it is now',
    );
  }

  #refuseCycle(list: List): void {
    const lists = new Map<string, List>(this.all().map((l) => [l.name, l]));
    if (!cyclicLists(lists.set(list.name, list)).includes(list.name)) return;
    const refs = list.allow.flatMap((entry) => (entry.kind === 'list' ? [entry.canonical] : []));
    const detail = `the list ${list.name} would include itself`;
    refuseInvalid([{ detail, remedy: `take ${refs.join(' or ')} out of it`, pointer: '/allow' }]);
  }

  #unknown(name: string): never {
    const names = this.all().map((list) => list.name);
    return refuse(
      'not-found',
      `there is no list ${name}`,
      names.length > 0
        ? orNearest(name, names, `lists are: ${names.join(', ')}`)
        : 'make it with drawbridge lists create',
    );
  }
}

function readEntry(value: unknown): Entry {
  const parsed = entryFromObject(value);
  return parsed.ok ? parsed.value : refuseInvalid(parsed.problems);
}

/** An item that may hold several entries; an object is one. */
const mayBeMany = (item: unknown): item is string => typeof item === 'string' && /[,\r\n]/.test(item);

function canonicals(text: string): readonly string[] {
  const parsed = parseEntries(text);
  return parsed.ok ? parsed.value.map((entry) => entry.canonical) : refuseInvalid(parsed.problems);
}

/** The items of a body without one entry. `entries`: all that the items hold, in their order. */
function without(
  items: readonly unknown[],
  entries: readonly Entry[],
  canonical: string,
): readonly unknown[] {
  let at = 0;
  return items.flatMap((item) => {
    const texts = mayBeMany(item) ? canonicals(item) : [entries[at]?.canonical ?? ''];
    at += texts.length;
    return texts.includes(canonical) ? texts.filter((text) => text !== canonical) : [item];
  });
}

const MOST_SHOWN = 50;

export interface ListView extends List {
  readonly revision: number;
  readonly usedBy: readonly string[];
}
