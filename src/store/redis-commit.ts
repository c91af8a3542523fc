import { randomBytes } from 'node:crypto';
import { setTimeout as wait } from 'node:timers/promises';
import { GroupCommit } from '../lib/group-commit.js';
import { errorText, RefusedError } from '../lib/problem.js';
import type { Mark } from './redis-lineage.js';
import type { RedisLink } from './redis-link.js';
import type { Position } from './redis-replica.js';
import { COMMIT, isRefusal } from './redis-scripts.js';
import { NotSentError, StoreError } from './store-error.js';
import type { Fence } from './store-interface.js';
import { fenceError, type Stored, staleError } from './stored-item.js';

/** One write of a batch. */
export interface RedisWrite {
  readonly op: 'put' | 'delete' | 'touch';
  readonly key: string;
  readonly json: string;
  readonly ifRevision: number | undefined;
  readonly fence: Fence | undefined;
  /** Where a restored value comes from (see `origins` in redis-scripts.ts). */
  readonly origin?: string;
}
export interface Committed extends Position {
  /** The result of each write: its revision, undefined for a deletion of a missing key, or the refusal. */
  readonly verdicts: readonly (number | undefined | RefusedError)[];
}
interface Restoring {
  /** Batches that Redis had lost, and that this one puts back. */
  readonly lost: readonly string[];
  /** Revisions of this batch are greater than this one. */
  readonly above: number;
}

const NONCE_BYTES = 9;
const NEW_ID_BYTES = 12;

/**
 * Writes one batch, all of it or nothing, and waits until it is durable. Returns undefined, with nothing written, when
 * the history of Redis lacks the position `known` (Redis was emptied, exchanged or set back); with `restoring`, which
 * names the position that a survey found, when Redis has gone on since. Throws StoreError `away`, `write` (refused,
 * nothing was changed) or `unknown`.
 */
export async function commit(
  link: RedisLink,
  writes: readonly RedisWrite[],
  known: () => Position,
  restoring?: Restoring,
): Promise<Committed | undefined> {
  const session = await link.mayWrite();
  const position = known();
  const reply = await send(link, [
    ...[
      link.channel,
      randomBytes(NONCE_BYTES).toString('base64url'),
      position.id,
      String(position.revision),
      position.nonce,
    ],
    ...[restoring ? '1' : '', randomBytes(NEW_ID_BYTES).toString('hex')],
    restoring ? String(restoring.above) : '',
    ...[String(restoring?.lost.length ?? 0), ...(restoring?.lost ?? [])],
    ...writes.flatMap(argumentsOf),
  ]);
  if (reply[0] === 'moved') return undefined;
  await link.confirm(session);
  const [id, revision, nonce, verdicts] = reply as [string, string, string, string[]];
  return {
    id,
    revision: Number(revision),
    nonce,
    verdicts: writes.map((write, i) => verdictOf(write, verdicts[i] ?? '')),
  };
}

async function send(link: RedisLink, args: readonly string[]): Promise<unknown[]> {
  try {
    return (await link.write(COMMIT, args)) as unknown[];
  } catch (e) {
    if (e instanceof NotSentError) throw link.away(e);
    throw isRefusal(e) ? refusal(link, e) : link.unknown(`did not confirm it (${errorText(e)})`, e);
  }
}

function refusal(link: RedisLink, e: Error): StoreError {
  const remedy = REMEDIES.find(([pattern]) => pattern.test(e.message))?.[1] ?? 'see its log';
  return new StoreError(
    'write',
    {
      detail: `Redis at ${link.target.shown} refused the change: ${e.message}`,
      remedy: `Nothing was changed; ${remedy}`,
    },
    e,
  );
}

const REMEDIES: readonly (readonly [RegExp, string])[] = [
  [/^OOM/, 'give it more memory (maxmemory)'],
  [/^READONLY/, 'it is a replica: name the master, or use redis+sentinel://'],
  [/^NOREPLICAS/, 'its replicas are away: see min-replicas-to-write'],
  [/^MISCONF/, 'its disk is full or fails: see its log'],
  [/^(NOPERM|NOAUTH|WRONGPASS)/, 'give its user the rights of docs/redis.md'],
];

function argumentsOf({ op, key, ifRevision, fence, origin, json }: RedisWrite): string[] {
  const token = fence ? `${fence.lease} ${fence.token}` : '';
  return [op, key, ifRevision === undefined ? '' : String(ifRevision), token, origin ?? '', json];
}

function verdictOf(write: RedisWrite, verdict: string): number | undefined | RefusedError {
  const [word, revision] = verdict.split(' ');
  if (word === 'ok') return Number(revision);
  if (word === 'none') return undefined;
  if (word === 'stale') return staleError(write.key, write.ifRevision ?? 0, Number(revision));
  return fenceError(write.key, write.fence ?? { lease: '', token: 0 });
}

/** The batch that made a write, and the revision; undefined for a deletion of a key that does not exist. */
interface Written {
  readonly revision: number | undefined;
  readonly mark: Mark;
}
interface Waiting extends RedisWrite {
  resolve(written: Written): void;
  reject(e: unknown): void;
}
const BATCH_LIMITS = { writes: 200, characters: 16 * 1024 * 1024 };
/** In this time (ms) a Redis that was emptied or set back must be healed, so that a write can be made after all. */
const HEAL_MS = 5_000;
const RETRY_MS = 50;

/** This host's copy of the store, which writes continue. */
export interface Continued {
  readonly items: ReadonlyMap<string, Stored>;
  readonly position: Position;
}

/** Group commit to Redis: writes that arrive while a batch is being confirmed form the next batch. */
export class RedisWriter {
  readonly #link: RedisLink;
  readonly #replica: Continued;
  readonly #heal: () => Promise<void>;
  readonly #writes = new GroupCommit<Waiting>(BATCH_LIMITS, (batch) => this.#commit(batch));
  #closed = false;

  /** `heal` makes Redis and the copy agree, and throws StoreError `away` when it cannot. */
  constructor(link: RedisLink, replica: Continued, heal: () => Promise<void>) {
    this.#link = link;
    this.#replica = replica;
    this.#heal = heal;
  }

  /** Resolves when the write is durable in Redis. Throws StoreError and RefusedError as `commit` does. */
  write(write: RedisWrite): Promise<Written> {
    if (this.#closed) return Promise.reject(new StoreError('closed', 'the store is closed'));
    return new Promise((resolve, reject) => {
      this.#writes.add({ ...write, resolve, reject });
    });
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#writes.settled();
  }

  async #commit(batch: readonly Waiting[]): Promise<void> {
    try {
      const { verdicts, nonce, revision } = await this.#commitHealed(batch);
      for (const [i, write] of batch.entries()) {
        const verdict = verdicts[i];
        if (verdict instanceof RefusedError) write.reject(verdict);
        else write.resolve({ revision: verdict, mark: [nonce, revision] });
      }
    } catch (e) {
      for (const write of batch) write.reject(e);
    }
  }

  /** A Redis that lacks the history of this host takes nothing: it is healed first, and then the batch is written. */
  async #commitHealed(batch: readonly Waiting[]): Promise<Committed> {
    const { items } = this.#replica;
    const seen = batch.map(({ key }) => items.get(key));
    const end = performance.now() + HEAL_MS;
    for (;;) {
      const writes = batch.map((write, i) => ({ ...write, ifRevision: expected(write, seen[i], items) }));
      const done = await commit(this.#link, writes, () => this.#replica.position);
      if (done) return done;
      await this.#heal();
      if (this.#closed || performance.now() > end) throw this.#link.notHealed('another host does that');
      await wait(RETRY_MS);
    }
  }
}

/** A value that was restored unchanged has another revision, which a write that expects the value expects now. */
function expected(
  { key, ifRevision }: RedisWrite,
  seen: Stored | undefined,
  items: ReadonlyMap<string, Stored>,
): number | undefined {
  const now = items.get(key);
  const isSame = ifRevision === (seen?.revision ?? 0) && now?.json === seen?.json;
  return isSame ? (now?.revision ?? 0) : ifRevision;
}
