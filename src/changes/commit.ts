import type { Reconciler } from '../enforce/reconciler.js';
import type { Logger } from '../lib/log.js';
import { detailOf, errorCode, errorText, RefusedError, refuse } from '../lib/problem.js';
import { KeyedSerial } from '../lib/serial.js';
import type { Store, WriteRecord } from '../store/store-interface.js';
import type { Audit } from './audit.js';
import { type KeyChange, type Outcome, recordOf } from './change-record.js';
import type { ChangesState } from './stored-state.js';
import { UnwrittenChanges } from './unwritten-changes.js';

interface CommitOptions {
  readonly store: Store;
  readonly state: ChangesState;
  readonly audit: Pick<Audit, 'record'>;
  readonly reconciler: Pick<Reconciler, 'inForce'>;
  readonly log: Logger;
  onChange(): void;
}

/** A change is in force within this time, or it is undone (docs/api.md). */
const IN_FORCE_MS = 5000;
/** Nothing but policies can have changed: the pass looks at nothing else. */
const CHANGES = { kind: 'changes' } as const;

/** The change is not in force, and the store still has it, because it could not be written. */
class NotTakenBackError extends RefusedError {}

/** Makes a change durable, waits until it is in force, and takes it back when it is not. */
export class Committer {
  readonly #options: CommitOptions;
  readonly #keys = new KeyedSerial();
  readonly unwritten: UnwrittenChanges;

  constructor(options: CommitOptions) {
    this.#options = options;
    const { store, state, audit, log } = options;
    const serial = <T>(key: string, work: () => Promise<T>): Promise<T> => this.serial(key, work);
    this.unwritten = new UnwrittenChanges({ store, state, audit, log, serial });
  }

  /** Runs one after the other per key: an undo never meets a later change of the same key. */
  serial<T>(key: string, work: () => Promise<T>): Promise<T> {
    return this.#keys.run(key, work);
  }

  /** Throws RefusedError: precondition (another change came first), not-in-force (store or kernel failed; undone). */
  async commit(change: KeyChange): Promise<void> {
    const revision = await this.#writeWithAudit(change);
    this.#options.onChange();
    try {
      await this.#options.reconciler.inForce(IN_FORCE_MS, CHANGES);
    } catch (e) {
      await this.#undo(change, revision, e);
    }
  }

  /**
   * For emergencies and changes that only tighten: they come into force although the store cannot be written. The change stays in
   * memory then, and `unwritten` lists it. Throws as `commit` does in all other cases.
   */
  async commitUrgent(change: KeyChange, now: number): Promise<void> {
    const { isRecorded, revision } = await this.#writeOrHold(change, now);
    this.#options.onChange();
    try {
      await this.#options.reconciler.inForce(IN_FORCE_MS, CHANGES);
    } catch (e) {
      if (revision !== undefined) await this.#undo(change, revision, e);
      this.unwritten.takeBack(change);
      this.#options.onChange();
      if (isRecorded) await this.#correct(change, 'undone');
      refuse(
        'not-in-force',
        `not in force, and undone: ${String(e)}`,
        'see drawbridge status and drawbridge doctor, then try again',
      );
    }
  }

  /** Write the change, or keep it in memory (`revision` undefined): the disk may be full for the store, or for the audit too. */
  async #writeOrHold(
    change: KeyChange,
    now: number,
  ): Promise<{ readonly isRecorded: boolean; readonly revision?: number }> {
    const seen = this.#options.state.revisionOf(change.key);
    let isRecorded = false;
    try {
      await this.#options.audit.record(recordOf(change, 'done'));
      isRecorded = true;
      return { isRecorded, revision: await this.#put(change.key, change.after, seen) };
    } catch (e) {
      const refused = refusalOf(e);
      if (refused.refusal.kind !== 'not-in-force') {
        if (isRecorded) await this.#correct(change, 'refused');
        throw refused;
      }
      this.unwritten.hold(change, {
        seen,
        why: refusalOf(e, detailOf(e)).message,
        now: new Date(now).toISOString(),
        isRecorded,
      });
    }
    return { isRecorded };
  }

  /** All of them, or none: in force with one pass, else all taken back. Throws as `commit` does. */
  commitAll(changes: readonly KeyChange[]): Promise<void> {
    const keys = changes.map((change) => change.key).sort();
    // Planned before their turn came: what has changed meanwhile was not seen.
    const planned = new Map(keys.map((key) => [key, this.#options.state.revisionOf(key)]));
    const work = async (): Promise<void> => {
      const moved = keys.find((key) => this.#options.state.revisionOf(key) !== planned.get(key));
      if (moved !== undefined) refuse('precondition', `${moved} was changed meanwhile`, 'do it again');
      await this.#commitAll(changes);
    };
    return keys.reduceRight((inner, key) => () => this.serial(key, inner), work)();
  }

  async #commitAll(changes: readonly KeyChange[]): Promise<void> {
    const written = await Promise.allSettled(changes.map((change) => this.#writeWithAudit(change)));
    const failed = written.find((w) => w.status === 'rejected');
    const done = changes.flatMap((change, i) => {
      const result = written[i];
      return result?.status === 'fulfilled' ? [{ change, revision: result.value }] : [];
    });
    this.#options.onChange();
    try {
      if (failed) throw failed.reason;
      await this.#options.reconciler.inForce(IN_FORCE_MS, CHANGES);
    } catch (e) {
      const undone = await Promise.allSettled(
        done.map(({ change, revision }) => this.#undo(change, revision, e)),
      );
      // Report a change that could not be undone, if there is one; otherwise the error that started the undo.
      const stuck = undone.find((u) => u.status === 'rejected' && u.reason instanceof NotTakenBackError);
      throw stuck?.status === 'rejected' ? stuck.reason : refusalOf(e);
    }
  }

  /** For what no rule of the kernel's depends on: in force as soon as it is stored. Throws as `commit` does. */
  async store(change: KeyChange): Promise<void> {
    await this.#writeWithAudit(change);
    this.#options.onChange();
  }

  /**
   * Takes away what no longer counts (expired grants), without waiting for the kernel. Another host may have been first:
   * then its own word of that is on its way.
   */
  async tidy(change: KeyChange): Promise<void> {
    try {
      await this.#writeWithAudit(change);
    } catch (e) {
      if (!(e instanceof RefusedError && e.refusal.kind === 'precondition')) throw e;
    }
    this.#options.onChange();
  }

  /**
   * No change without a record, not even when the process ends in between: a value is written together with its record, and the store
   * shows it when both are durable (`record` of PutOptions); a deletion is written after its record. Resolves with the revision of the
   * key. What another host stores while the record is written was not seen by this change: then it is refused.
   */
  async #writeWithAudit(change: KeyChange): Promise<number> {
    const { key, after } = change;
    const seen = this.#options.state.revisionOf(key);
    let written: Promise<number> | undefined;
    const durable = this.#options.audit.record(recordOf(change, 'done'), (line) => {
      if (after !== undefined) written = this.#put(key, after, seen, { ...line, durable });
      written?.catch(() => undefined); // awaited below, once the record is durable
    });
    try {
      await durable;
    } catch (e) {
      await written?.catch(() => undefined);
      throw refusalOf(e);
    }
    try {
      return await (written ?? this.#put(key, after, seen));
    } catch (e) {
      await this.#correct(change, isUnsure(e) ? 'unknown' : 'refused');
      throw refusalOf(e);
    }
  }

  /** Resolves with the revision that the key has now; 0: it is gone. */
  async #put(key: string, value: unknown, ifRevision: number, record?: WriteRecord): Promise<number> {
    const { store, state } = this.#options;
    let revision = 0;
    if (value !== undefined) {
      revision = await store.put(key, value, { ifRevision, ...(record && { record }) });
      state.apply(key, value, revision);
    } else {
      await store.delete(key, { ifRevision }); // what is in force from memory only is not there
      state.apply(key, undefined, Number.MAX_SAFE_INTEGER);
    }
    await this.unwritten.stored(key);
    return revision;
  }

  /** `revision` is the revision of the key after the change. A later change of the key by another host is kept. */
  async #undo(change: KeyChange, revision: number, cause: unknown): Promise<never> {
    const { audit, log } = this.#options;
    const why = errorText(cause);
    try {
      await this.#put(change.key, change.before, revision);
      this.#options.onChange();
      await audit.record(recordOf(change, 'undone'));
    } catch (e) {
      if (e instanceof RefusedError && e.refusal.kind === 'precondition')
        return refuse(
          'not-in-force',
          `not in force: ${why}; it is not undone, because ${change.target} was changed again meanwhile`,
          'check what is stored now, and see drawbridge status',
        );
      log.error({ err: e, key: change.key }, 'a change that is not in force could not be taken back');
      throw new NotTakenBackError({
        kind: 'not-in-force',
        detail: `not in force: ${why}; and the store did not take it back: ${errorText(e)}`,
        remedy: 'repair the store (see drawbridge status), check what is stored, and make the change again',
      });
    }
    return refuse(
      'not-in-force',
      `not in force, and undone: ${why}`,
      'see drawbridge status and drawbridge doctor, then try again',
    );
  }

  async #correct(change: KeyChange, outcome: Outcome): Promise<void> {
    await this.#options.audit.record(recordOf(change, outcome)).catch((e: unknown) => {
      this.#options.log.error(
        { err: e, key: change.key, outcome },
        'the audit records this change as made, and the correcting record cannot be written',
      );
    });
  }
}

function refusalOf(e: unknown, why = errorText(e)): RefusedError {
  if (e instanceof RefusedError) return e;
  if (isUnsure(e))
    return new RefusedError({
      kind: 'not-in-force',
      detail: `it is unknown whether the change was stored: ${why}`,
      remedy: 'check what is stored when the store answers again, and repeat the change if it is missing',
    });
  const detail = `the change was not stored: ${why}`;
  if (isTooLarge(e))
    return new RefusedError({ kind: 'too-large', detail, remedy: 'send less; split a list into several' });
  return new RefusedError({ kind: 'not-in-force', detail, remedy: 'repair the store, then try again' });
}

/** A shared store took the write and did not confirm it (StoreError `unknown`). */
const isUnsure = (e: unknown): boolean => errorCode(e) === 'unknown';
/** The store takes no value of that size (StoreError `value`). */
const isTooLarge = (e: unknown): boolean => errorCode(e) === 'value';
