import { isDeepStrictEqual } from 'node:util';
import { contained } from '../lib/faults.js';
import type { Logger } from '../lib/log.js';
import { detailOf } from '../lib/problem.js';
import type { Store } from '../store/store-interface.js';
import type { Audit } from './audit.js';
import { type KeyChange, recordOf } from './change-record.js';
import type { ChangesState } from './stored-state.js';

export interface UnwrittenOptions {
  readonly store: Store;
  readonly state: ChangesState;
  readonly audit: Pick<Audit, 'record'>;
  readonly log: Logger;
  /** Runs the work when no other change of this key is under way. */
  serial<T>(key: string, work: () => Promise<T>): Promise<T>;
}
/** How the store refused a change that is to count all the same. */
export interface NotStored {
  /** Revision of the key for which the change was made. */
  readonly seen: number;
  readonly why: string;
  readonly now: string;
  /** The audit already contains the record that the change was made. */
  readonly isRecorded: boolean;
}
interface Held {
  /** What was done, in order. */
  readonly changes: KeyChange[];
  /** Of these, what the audit could not take: each is recorded once it can be. */
  readonly unrecorded: Set<KeyChange>;
  readonly since: string;
  /** The stored value of the key and its revision. */
  readonly stored: unknown;
  readonly revision: number;
  why: string;
}

const RETRY_MS = 3_000;
/** Of one key: the first and the last count. */
const MOST_RECORDS = 100;

/** Changes of an emergency that are in force from memory, because the store could not take them. They are written as soon as it can. */
export class UnwrittenChanges {
  readonly #o: UnwrittenOptions;
  readonly #held = new Map<string, Held>();
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(options: UnwrittenOptions) {
    this.#o = options;
  }

  list(): readonly UnwrittenChange[] {
    return [...this.#held].flatMap(([key, { changes, since, why }]) => {
      const last = changes.at(-1);
      return last ? [{ key, action: last.action, target: last.target, since, note: noteOf(why) }] : [];
    });
  }

  /** Applies a change that the store did not take. */
  hold(change: KeyChange, { seen, why, now, isRecorded }: NotStored): void {
    const { state, log } = this.#o;
    const known = this.#held.get(change.key);
    const held: Held = known ?? {
      changes: [],
      unrecorded: new Set(),
      since: now,
      stored: change.before,
      revision: seen,
      why: '',
    };
    held.why = why;
    if (!isRecorded && held.unrecorded.size < MOST_RECORDS) held.unrecorded.add(change);
    if (held.changes.length < MOST_RECORDS) held.changes.push(change);
    else held.changes[MOST_RECORDS - 1] = change;
    this.#held.set(change.key, held);
    state.override(change.key, change.after);
    log.error({ key: change.key, action: change.action, why: held.why }, HELD);
    this.#arm();
  }

  /** Takes back the last change of a key: it did not come into force. */
  takeBack(change: KeyChange): void {
    const held = this.#held.get(change.key);
    this.#o.state.override(change.key, change.before);
    held?.changes.pop();
    held?.unrecorded.delete(change);
    if (held?.changes.length === 0) this.#held.delete(change.key);
  }

  /** A later change of the key was stored with all that came before it: only the records are missing. */
  async stored(key: string): Promise<void> {
    const held = this.#held.get(key);
    if (!held) return;
    await this.#record(held);
    this.#held.delete(key);
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    for (const { key, action, target } of this.list()) this.#o.log.error({ key, action, target }, LOST);
  }

  #arm(): void {
    if (this.#held.size === 0 || this.#closed) return;
    this.#timer ??= setTimeout(() => void this.#retry(), RETRY_MS).unref();
  }

  async #retry(): Promise<void> {
    for (const key of [...this.#held.keys()])
      await this.#o
        .serial(key, () => this.#write(key))
        .catch((e: unknown) =>
          contained(e, 'a change is in force from memory only: storing it is tried again'),
        );
    this.#timer = undefined;
    this.#arm();
  }

  async #write(key: string): Promise<void> {
    const { store, state, log } = this.#o;
    const held = this.#held.get(key);
    if (!held || this.#closed) return;
    if (state.revisionOf(key) !== held.revision) return this.#overruled(key);
    const value = held.changes.at(-1)?.after;
    try {
      const ifRevision = held.revision;
      if (!isDeepStrictEqual(value, held.stored)) {
        if (value !== undefined) state.apply(key, value, await store.put(key, value, { ifRevision }));
        else {
          await store.delete(key, { ifRevision });
          state.apply(key, undefined, Number.MAX_SAFE_INTEGER);
        }
      }
      await this.stored(key);
      log.warn({ key }, 'a change that was in force from memory only is stored now');
    } catch (e) {
      held.why = detailOf(e);
    }
  }

  /** Another host has changed the same thing: what it stored counts. */
  #overruled(key: string): void {
    this.#held.delete(key);
    this.#o.log.warn(
      { key },
      'a change that was in force from memory only is dropped: another host has changed the same since',
    );
  }

  async #record({ unrecorded }: Held): Promise<void> {
    for (const change of unrecorded)
      await this.#o.audit.record(recordOf(change, 'done')).catch((err: unknown) => {
        this.#o.log.error(
          { err, key: change.key },
          'cannot record a change that was made while the store failed',
        );
      });
  }
}

const HELD =
  'a change is in force from memory, and not stored: a restart of the service brings back what is stored';
const LOST = 'the service ends with a change that was in force and could not be stored: it is lost';
const noteOf = (why: string): string =>
  `in force, but not stored (${why}): until it is, a restart of the service brings back what is stored`;

/** A change that is in force and could not be stored. */
export interface UnwrittenChange {
  /** The store's key: lockdown/all, pause/OWNER, grant/ID, list/NAME. */
  readonly key: string;
  readonly action: string;
  readonly target: string;
  /** RFC 3339 UTC */
  readonly since: string;
  /** Why, and what that means, as a person reads it. */
  readonly note: string;
}
