import type { Entry } from '../model/entry.js';
import { entryFromObject } from '../model/entry-object.js';
import { parseEntries } from '../model/entry-parse.js';
import { cyclicLists } from '../model/list-graph.js';
import { listFromObject } from '../model/list-parse.js';
import type { List } from '../model/policy.js';
import type { ListView } from '../ports.js';
import type { Committer } from './changes-commit.js';
import { refuse, refuseInvalid } from './changes-refuse.js';
import { type ChangesState, type ListBody, listKey } from './changes-state.js';

export interface ListChangeOptions {
  readonly state: ChangesState;
  readonly committer: Committer;
  /** The lists of the folder in force; read-only here. */
  folderLists(): readonly List[];
  /** Names of the containers whose policy has the list. */
  usedBy(list: string): readonly string[];
}

/** Lists as the API shows and changes them. A name is the store's or the folder's, never both. */
export class ListChanges {
  readonly #o: ListChangeOptions;

  constructor(options: ListChangeOptions) {
    this.#o = options;
  }

  lists(): readonly ListView[] {
    const stored = [...this.#o.state.lists.values()].map((s) => s.list);
    const folder = this.#o.folderLists().filter((list) => !this.#o.state.lists.has(list.name));
    return [...stored, ...folder.map((list) => ({ ...list, revision: 0 }))]
      .map((list) => ({ ...list, usedBy: this.#o.usedBy(list.name) }))
      .sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  list(name: string): ListView {
    const stored = this.#o.state.lists.get(name)?.list;
    const list = stored ?? this.#folderList(name);
    if (!list) return this.#unknown(name);
    return { ...list, revision: stored?.revision ?? 0, usedBy: this.#o.usedBy(name) };
  }

  put(name: string, body: unknown, ifMatch: number | undefined, who: string): Promise<ListView> {
    return this.#o.committer.serial(listKey(name), async () => {
      this.#refuseFolder(name);
      this.#checkRevision(name, ifMatch);
      return this.#write(name, this.#readBody(name, body), 'list.put', who);
    });
  }

  delete(name: string, ifMatch: number | undefined, who: string): Promise<void> {
    return this.#o.committer.serial(listKey(name), async () => {
      const before = this.#stored(name);
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
      const body = this.#stored(name);
      this.#checkRevision(name, ifMatch);
      const { canonical } = readEntry(entry);
      if (body.allow.flatMap(canonicals).includes(canonical)) {
        refuse('conflict', `${name} has ${canonical} already`, `see drawbridge lists show ${name}`);
      }
      return this.#write(
        name,
        this.#readBody(name, { ...body, allow: [...body.allow, entry] }),
        'entry.add',
        who,
      );
    });
  }

  removeEntry(name: string, canonical: string, ifMatch: number | undefined, who: string): Promise<ListView> {
    return this.#o.committer.serial(listKey(name), async () => {
      const body = this.#stored(name);
      this.#checkRevision(name, ifMatch);
      const wanted = readEntry(canonical).canonical;
      const texts = body.allow.flatMap(canonicals);
      if (!texts.includes(wanted)) {
        refuse('not-found', `${name} has no entry ${wanted}`, `it has: ${texts.join(', ') || 'none'}`);
      }
      const allow = body.allow.flatMap((item) => without(item, wanted));
      return this.#write(name, { ...body, allow }, 'entry.remove', who);
    });
  }

  async #write(name: string, body: ListBody, action: string, who: string): Promise<ListView> {
    const before = this.#o.state.lists.get(name)?.body;
    await this.#o.committer.commit({ key: listKey(name), before, after: body, who, action, target: name });
    return this.list(name);
  }

  #readBody(name: string, body: unknown): ListBody {
    const parsed = listFromObject(name, 'store', body);
    if (!parsed.ok) return refuseInvalid(parsed.problems);
    this.#refuseCycle(parsed.value);
    return { allow: [], ...(body as object) };
  }

  #stored(name: string): ListBody {
    this.#refuseFolder(name);
    return this.#o.state.lists.get(name)?.body ?? this.#unknown(name);
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
    const lists = new Map<string, List>(this.lists().map((l) => [l.name, l]));
    if (!cyclicLists(lists.set(list.name, list)).includes(list.name)) return;
    const refs = list.allow.flatMap((entry) => (entry.kind === 'list' ? [entry.canonical] : []));
    const detail = `the list ${list.name} would include itself`;
    refuseInvalid([{ detail, remedy: `take ${refs.join(' or ')} out of it`, pointer: '/allow' }]);
  }

  #unknown(name: string): never {
    const names = this.lists().map((list) => list.name);
    return refuse(
      'not-found',
      `there is no list ${name}`,
      names.length > 0 ? `lists are: ${names.join(', ')}` : 'make it with drawbridge lists create',
    );
  }
}

function readEntry(value: unknown): Entry {
  const parsed = entryFromObject(value);
  return parsed.ok ? parsed.value : refuseInvalid(parsed.problems);
}

/** One item of `allow`: an object is one entry, a text may hold several. */
function canonicals(item: unknown): readonly string[] {
  if (typeof item !== 'string') return [readEntry(item).canonical];
  const parsed = parseEntries(item);
  return parsed.ok ? parsed.value.map((entry) => entry.canonical) : refuseInvalid(parsed.problems);
}

/** The item as it was when the entry is not in it, else what is left of it. */
function without(item: unknown, canonical: string): readonly unknown[] {
  const texts = canonicals(item);
  return texts.includes(canonical) ? texts.filter((text) => text !== canonical) : [item];
}
