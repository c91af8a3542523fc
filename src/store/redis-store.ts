import { setTimeout as wait } from 'node:timers/promises';
import type { Logger } from '../lib/log.js';
import type { FolderLock } from './folder-lock.js';
import { type RedisWrite, RedisWriter } from './redis-commit.js';
import { HELD_REMEDY, RedisLink } from './redis-link.js';
import type { LocalChanges, Replica } from './redis-replica.js';
import { Sync } from './redis-sync.js';
import type { RedisTarget } from './redis-target.js';
import { StoreError } from './store-error.js';
import type { PutOptions, Store, StoreItem } from './store-interface.js';
import { type Change, jsonOf, staleError } from './stored-item.js';

type Watcher = Parameters<Store['watch']>[0];

export interface RedisStoreParts {
  readonly target: RedisTarget;
  readonly replica: Replica;
  readonly local: LocalChanges;
  /** Released when the store is closed. */
  readonly lock: FolderLock;
  readonly log: Logger;
  /**
   * Returns true when the change concerns this host alone, so that it may wait here while Redis is away. For a deletion
   * `value` is the deleted value.
   */
  isLocal(key: string, value: unknown): boolean;
}

/** How often `open` checks whether the replica has caught up. */
const OPEN_POLL_MS = 20;
/**
 * After Redis has taken a write, the replica must contain it within this time: the next read shows it then, and this host can put it
 * back when Redis loses it.
 */
const ECHO_MS = 10_000;

/** The store on Redis: reads are served from the local replica, writes are acknowledged by Redis. */
export class RedisStore implements Store {
  readonly link: RedisLink;
  readonly #p: RedisStoreParts;
  readonly #sync: Sync;
  readonly #writer: RedisWriter;
  readonly #watchers = new Set<Watcher>();
  #handingOver: Promise<void> | undefined;
  #closed = false;

  constructor(parts: RedisStoreParts) {
    this.#p = parts;
    const { target, replica, log } = parts;
    this.link = new RedisLink(target, log, () => this.#sync.wake());
    this.#writer = new RedisWriter(this.link, replica, () => this.#sync.heal());
    this.#sync = new Sync({
      link: this.link,
      replica,
      log,
      onChanges: (changes) => this.#notify(changes.filter((c) => !this.#isHidden(c.key))),
      caughtUp: () => this.#handOver(),
    });
  }

  /** Connects. Resolves to true when the replica has caught up with Redis, to false after `ms`. */
  async open(ms: number): Promise<boolean> {
    this.link.open();
    const end = Date.now() + ms;
    while (this.#sync.failure && Date.now() < end) {
      this.#sync.wake();
      await wait(OPEN_POLL_MS);
    }
    return this.#sync.failure === undefined;
  }

  async get<T>(key: string): Promise<StoreItem<T> | undefined> {
    const item = this.#item(key);
    return item && { key, value: JSON.parse(item.json), revision: item.revision };
  }

  async list<T>(prefix: string): Promise<readonly StoreItem<T>[]> {
    const { replica, local } = this.#p;
    const keys = new Set([...replica.items.keys(), ...local.all().map((c) => c.key)]);
    return [...keys]
      .filter((key) => key.startsWith(prefix))
      .sort()
      .flatMap((key) => {
        const item = this.#item(key);
        return item ? [{ key, value: JSON.parse(item.json), revision: item.revision }] : [];
      });
  }

  async keys(prefix: string): Promise<readonly string[]> {
    const { replica, local } = this.#p;
    const keys = new Set([...replica.items.keys(), ...local.all().map((c) => c.key)]);
    return [...keys].filter((key) => key.startsWith(prefix) && this.#item(key)).sort();
  }

  async put<T>(key: string, value: T, options: PutOptions = {}): Promise<number> {
    const json = jsonOf(key, value);
    const { ifRevision, fence, record } = options;
    await record?.durable;
    const done = await this.#write({ op: 'put', key, json, ifRevision, fence }, value);
    return done ?? this.revision();
  }

  async delete(key: string, options?: { readonly ifRevision?: number }): Promise<boolean> {
    const item = this.#item(key);
    const ifRevision = options?.ifRevision;
    const value: unknown = item && JSON.parse(item.json);
    return (
      (await this.#write({ op: 'delete', key, json: '', ifRevision, fence: undefined }, value)) !== undefined
    );
  }

  watch(onChange: Watcher): Disposable {
    const watcher: Watcher = (item) => onChange(item);
    this.#watchers.add(watcher);
    return { [Symbol.dispose]: () => void this.#watchers.delete(watcher) };
  }

  revision(): number {
    return this.#p.replica.position.revision;
  }

  /** The id that is stored in Redis; all hosts of a store see the same one. */
  identity(): string {
    return this.#p.replica.position.id;
  }

  health(): { readonly ok: boolean; readonly detail: string } {
    const { target, local } = this.#p;
    const { failure } = this.#sync;
    const waiting = local.size > 0 ? `; ${local.size} changes of this host wait for it` : '';
    const at = `revision ${this.revision()}`;
    if (!failure && this.link.canWrite) return { ok: true, detail: `${target.shown} at ${at}${waiting}` };
    const inUse = `the last good copy, ${at}, is in use${waiting}`;
    if (failure?.held)
      return { ok: false, detail: `${target.shown} ${failure.why}: ${inUse}. ${HELD_REMEDY}` };
    // The reading and the writing connection notice a dead link at different times; report the earlier one.
    const now = Date.now();
    const since = new Date(Math.min(failure?.since ?? now, this.link.writerLostAt ?? now)).toISOString();
    const why = failure?.why || this.link.lastError;
    return { ok: false, detail: `${target.shown} does not answer since ${since} (${why}): ${inUse}` };
  }

  replacement(): { readonly id: string; readonly revision: number } | undefined {
    return this.#sync.failure?.held;
  }

  takeOver(): Promise<void> {
    return this.#sync.accept();
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#writer.close();
    this.link.close();
    await this.#sync.stop();
    await this.#handingOver;
    await this.#p.replica.close();
    await this.#p.lock.release();
  }

  #item(key: string): { readonly json: string; readonly revision: number } | undefined {
    const local = this.#p.local.get(key);
    if (!local) return this.#p.replica.items.get(key);
    return local.json === undefined ? undefined : { json: local.json, revision: local.revision };
  }

  async #write(write: RedisWrite, value: unknown): Promise<number | undefined> {
    if (this.#p.local.get(write.key)) return this.#keep(write);
    try {
      return await this.#writeThrough(write);
    } catch (e) {
      const failed = e instanceof StoreError && ['away', 'unknown', 'write'].includes(e.code);
      if (!failed || write.fence || !this.#p.isLocal(write.key, value)) throw e;
      return this.#keep(write);
    }
  }

  async #writeThrough(write: RedisWrite): Promise<number | undefined> {
    const { revision, mark } = await this.#writer.write(write);
    if (revision !== undefined && !(await this.#sync.reached(mark, ECHO_MS)))
      throw this.link.unknown('this host could not read it back');
    return revision;
  }

  /** Keeps the change at this host until Redis is back. */
  async #keep({ op, key, json, ifRevision }: RedisWrite): Promise<number | undefined> {
    const { local, replica } = this.#p;
    const current = this.#item(key)?.revision ?? 0;
    if (ifRevision !== undefined && ifRevision !== current) throw staleError(key, ifRevision, current);
    if (op === 'delete' && current === 0) return undefined;
    const change = await local.keep(key, op === 'delete' ? undefined : json, replica.position.revision);
    this.#notify([change]);
    this.#handOver();
    return change.revision;
  }

  /** True for a key whose deletion waits here: changes from Redis must not show it again. */
  #isHidden(key: string): boolean {
    const local = this.#p.local.get(key);
    return local !== undefined && local.json === undefined;
  }

  /** Sends the waiting changes to Redis. Reads use them until the replica contains them, so that values do not flap. */
  #handOver(): void {
    if (this.#p.local.size === 0 || !this.link.canWrite || this.#sync.failure || this.#closed) return;
    this.#handingOver ??= this.#handOverAll().finally(() => {
      this.#handingOver = undefined;
    });
  }

  async #handOverAll(): Promise<void> {
    const { local, log } = this.#p;
    const results = await Promise.allSettled(local.all().map((change) => this.#handOverOne(change)));
    const failed = results.find((r) => r.status === 'rejected');
    if (failed)
      log.warn({ err: failed.reason, waiting: local.size }, 'changes of this host still wait for Redis');
    else log.info({ changes: results.length }, 'changes made while Redis was away are in Redis now');
  }

  async #handOverOne(change: Change): Promise<void> {
    const { key, json } = change;
    const op = json === undefined ? 'delete' : 'put';
    await this.#writeThrough({ op, key, json: json ?? '', ifRevision: undefined, fence: undefined });
    await this.#p.local.drop(change);
  }

  #notify(changes: readonly Change[]): void {
    for (const { key, revision, json } of changes) {
      const value: unknown = json === undefined ? undefined : JSON.parse(json);
      for (const watcher of this.#watchers) {
        try {
          watcher({ key, revision, value });
        } catch (e) {
          this.#p.log.error({ err: e, key }, 'a watcher of the store failed');
        }
      }
    }
  }
}
