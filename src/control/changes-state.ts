import { listFromObject } from '../model/list-parse.js';
import type { Grant, List, Mode } from '../model/policy.js';
import { isRecord } from '../model/shape.js';
import type { Logger, Store } from '../ports.js';

/** What the API changed, as the store holds it (keys: list/NAME, grant/ID, mode/OWNER). */
export interface CurrentChanges {
  readonly lists: ReadonlyMap<string, List & { readonly revision: number }>;
  /** Without those whose time is over. */
  readonly grants: readonly Grant[];
  readonly modes: ReadonlyMap<string, Mode>;
}

/** A list's body: the fields of the YAML file, as they were given. */
export interface ListBody {
  readonly allow: readonly unknown[];
  readonly [field: string]: unknown;
}
export interface StoredList {
  readonly list: List & { readonly revision: number };
  readonly body: ListBody;
}

export const listKey = (name: string): string => `list/${name}`;
export const grantKey = (id: string): string => `grant/${id}`;
export const modeKey = (owner: string): string => `mode/${owner}`;

interface Revised<T> {
  readonly value: T;
  readonly revision: number;
}

/** The store's content in memory, parsed. Older or equal revisions of a key are ignored: they are our own echo. */
export class ChangesState {
  readonly lists = new Map<string, StoredList>();
  readonly grants = new Map<string, Revised<Grant>>();
  readonly modes = new Map<string, Revised<Mode>>();
  /** Revision of each key that the store holds, unreadable ones too. */
  readonly #revisions = new Map<string, number>();
  readonly #log: Logger;

  constructor(log: Logger) {
    this.#log = log;
  }

  async load(store: Store): Promise<void> {
    for (const prefix of ['list/', 'grant/', 'mode/']) {
      for (const item of await store.list(prefix)) this.apply(item.key, item.value, item.revision);
    }
  }

  /** True: something changed. `value` undefined: the key is gone. */
  apply(key: string, value: unknown, revision: number): boolean {
    if (revision <= this.revisionOf(key)) return false;
    const slash = key.indexOf('/');
    const [kind, name] = [key.slice(0, slash), key.slice(slash + 1)];
    if (kind !== 'list' && kind !== 'grant' && kind !== 'mode') return false;
    const known = this.#revisions.delete(key);
    this.#forget(kind, name);
    if (value === undefined) return known;
    this.#revisions.set(key, revision);
    this.#set(kind, name, value, revision);
    return true;
  }

  current(now: number): CurrentChanges {
    return {
      lists: new Map([...this.lists].map(([name, stored]) => [name, stored.list])),
      grants: [...this.grants.values()].map((g) => g.value).filter((g) => !isOver(g.expires, now)),
      modes: new Map([...this.modes].map(([owner, mode]) => [owner, mode.value])),
    };
  }

  /** 0: the store does not hold the key. */
  revisionOf(key: string): number {
    return this.#revisions.get(key) ?? 0;
  }

  #forget(kind: 'list' | 'grant' | 'mode', name: string): void {
    if (kind === 'list') this.lists.delete(name);
    else if (kind === 'grant') this.grants.delete(name);
    else this.modes.delete(name);
  }

  /** What this version cannot read is left out (it allows nothing) and said. */
  #set(kind: 'list' | 'grant' | 'mode', name: string, value: unknown, revision: number): void {
    if (kind === 'list') this.#setList(name, value, revision);
    else if (kind === 'grant' && isGrant(value)) this.grants.set(name, { value, revision });
    else if (kind === 'mode' && isModeRecord(value)) this.modes.set(name, { value: value.mode, revision });
    else
      this.#log.error(
        { key: `${kind}/${name}` },
        'the store holds a value that this version cannot read; left out',
      );
  }

  #setList(name: string, value: unknown, revision: number): void {
    const parsed = listFromObject(name, 'store', value);
    if (parsed.ok && isListBody(value)) {
      this.lists.set(name, { list: { ...parsed.value, revision }, body: value });
    } else {
      const problems = parsed.ok ? [] : parsed.problems;
      this.#log.error(
        { list: name, problems },
        'a stored list does not parse; it allows nothing until it is written again',
      );
    }
  }
}

function isListBody(value: unknown): value is ListBody {
  return isRecord(value) && Array.isArray(value.allow);
}

export function isOver(expires: string | undefined, now: number): boolean {
  return expires !== undefined && Date.parse(expires) <= now;
}

function isGrant(value: unknown): value is Grant {
  return (
    isRecord(value) && ['id', 'entry', 'owner', 'created'].every((field) => typeof value[field] === 'string')
  );
}

function isModeRecord(value: unknown): value is { readonly mode: Mode } {
  return isRecord(value) && (value.mode === 'enforce' || value.mode === 'observe' || value.mode === 'off');
}
