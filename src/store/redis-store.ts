import { setTimeout as wait } from 'node:timers/promises';
import type { Logger } from '../lib/log.js';
import { type RedisWrite, Writer } from './redis-commit.js';
import { RedisLink } from './redis-link.js';
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
  readonly log: Logger;
  /**
   * This change concerns this host alone, and may wait here while Redis is away. Of a deletion `value` is what is
   * deleted.
   */
  isLocal(key: string, value: unknown): boolean;
}

/** A write has been acknowledged by Redis; so long its echo is waited for, so that what is read next shows it. */
const ECHO_MS = 3_000;

/** The Store on Redis: reads come from the last good at this host, writes from Redis's word. */
export class RedisStore implements Store {
  readonly link: RedisLink;
  readonly #p: RedisStoreParts;
  readonly #sync: Sync;
  readonly #writer: Writer;
  readonly #watchers = new Set<Watcher>();
  #handing: Promise<void> | undefined;
  #closed = false;

  constructor(parts: RedisStoreParts) {
    this.#p = parts;
    const { target, replica, log } = parts;
    this.link = new RedisLink(target, log, () => this.#sync.wake());
    this.#writer = new Writer(this.link);
    this.#sync = new Sync({
      link: this.link,
      replica,
      log,
      tell: (changes) => this.#tell(changes.filter((c) => !this.#isHidden(c.key))),
      caughtUp: () => this.#handOver(),
    });
  }

  /** Connects; resolves when in step with Redis, or after `ms` without it. True: in step. */
  async open(ms: number): Promise<boolean> {
    this.link.open();
    const end = Date.now() + ms;
    while (this.#sync.failure && Date.now() < end) {
      this.#sync.wake();
      await wait(LOOK_MS);
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
    const { ifRevision, fence } = options;
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

  /** Redis has it: all hosts of a store see the same. */
  identity(): string {
    return this.#p.replica.position.id;
  }

  health(): { readonly ok: boolean; readonly detail: string } {
    const { target, local } = this.#p;
    const { failure } = this.#sync;
    const waiting = local.size > 0 ? `; ${local.size} changes of this host wait for it` : '';
    const at = `revision ${this.revision()}`;
    if (!failure && this.link.canWrite) return { ok: true, detail: `${target.shown} at ${at}${waiting}` };
    // The reader and the writer notice a dead link one after the other.
    const now = Date.now();
    const since = new Date(Math.min(failure?.since ?? now, this.link.writerLostAt ?? now)).toISOString();
    const why = failure?.why || this.link.lastError;
    const detail = `${target.shown} does not answer since ${since} (${why}): the last good, ${at}, holds${waiting}`;
    return { ok: false, detail };
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#writer.close();
    this.link.close();
    await this.#sync.stop();
    await this.#handing;
    await this.#p.replica.close();
  }

  #item(key: string): { readonly json: string; readonly revision: number } | undefined {
    const local = this.#p.local.get(key);
    if (!local) return this.#p.replica.items.get(key);
    return local.json === undefined ? undefined : { json: local.json, revision: local.revision };
  }

  async #write(write: RedisWrite, value: unknown): Promise<number | undefined> {
    if (this.#p.local.get(write.key)) return this.#keep(write);
    try {
      const revision = await this.#writer.write(write);
      if (revision !== undefined) await this.#sync.reached(revision, ECHO_MS);
      return revision;
    } catch (e) {
      const failed = e instanceof StoreError && ['away', 'unknown', 'write'].includes(e.code);
      if (!failed || write.fence || !this.#p.isLocal(write.key, value)) throw e;
      return this.#keep(write);
    }
  }

  /** Redis gets it when it is back. */
  async #keep({ op, key, json, ifRevision }: RedisWrite): Promise<number | undefined> {
    const { local, replica } = this.#p;
    const current = this.#item(key)?.revision ?? 0;
    if (ifRevision !== undefined && ifRevision !== current) throw staleError(key, ifRevision, current);
    if (op === 'delete' && current === 0) return undefined;
    const change = await local.keep(key, op === 'delete' ? undefined : json, replica.position.revision);
    this.#tell([change]);
    this.#handOver();
    return change.revision;
  }

  /** A deletion that waits here hides what Redis still has. */
  #isHidden(key: string): boolean {
    const local = this.#p.local.get(key);
    return local !== undefined && local.json === undefined;
  }

  /** What waited here goes to Redis; it is read from here until its echo has come, so that nothing flaps. */
  #handOver(): void {
    if (this.#p.local.size === 0 || !this.link.canWrite || this.#sync.failure || this.#closed) return;
    this.#handing ??= this.#handAll().finally(() => {
      this.#handing = undefined;
    });
  }

  async #handAll(): Promise<void> {
    const { local, log } = this.#p;
    const handed = await Promise.allSettled(local.all().map((change) => this.#hand(change)));
    const failed = handed.find((h) => h.status === 'rejected');
    if (failed)
      log.warn({ err: failed.reason, waiting: local.size }, 'changes of this host still wait for Redis');
    else log.info({ changes: handed.length }, 'what was changed here while Redis was away is in Redis now');
  }

  async #hand(change: Change): Promise<void> {
    const { key, json } = change;
    const op = json === undefined ? 'delete' : 'put';
    const revision = await this.#writer.write({
      op,
      key,
      json: json ?? '',
      ifRevision: undefined,
      fence: undefined,
    });
    if (revision !== undefined) await this.#sync.reached(revision, ECHO_MS);
    await this.#p.local.drop(change);
  }

  #tell(changes: readonly Change[]): void {
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

const LOOK_MS = 20;
