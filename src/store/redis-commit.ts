import { randomBytes } from 'node:crypto';
import { GroupCommit } from '../lib/async.js';
import { RefusedError } from '../lib/problem.js';
import type { RedisLink } from './redis-link.js';
import { COMMIT, isRefusal } from './redis-scripts.js';
import { StoreError } from './store-error.js';
import type { Fence } from './store-interface.js';
import { fenceError, staleError } from './stored-item.js';

/** One write of a batch. */
export interface RedisWrite {
  readonly op: 'put' | 'delete' | 'touch';
  readonly key: string;
  readonly json: string;
  readonly ifRevision: number | undefined;
  readonly fence: Fence | undefined;
}
export interface Committed {
  readonly id: string;
  readonly revision: number;
  readonly nonce: string;
  /** The result of each write: its revision, undefined for a deletion of a missing key, or the refusal. */
  readonly verdicts: readonly (number | undefined | RefusedError)[];
}
interface Expectation {
  /** The nonce of the last batch in Redis; when another batch came after it, nothing is written. */
  readonly tip: string;
  /** Revisions of this batch are greater than this one. */
  readonly above: number;
}

/** Returns a random nonce for a new batch. */
const newNonce = (): string => randomBytes(9).toString('base64url');
const NEW_ID_BYTES = 12;

/**
 * Writes one batch, all of it or nothing, and waits until it is durable. Returns undefined when `expected.tip` is no
 * longer the last batch. Throws StoreError `away`, `write` (refused, nothing was changed) or `unknown`.
 */
export async function commit(
  link: RedisLink,
  writes: readonly RedisWrite[],
  expected?: Expectation,
): Promise<Committed | undefined> {
  const session = await link.mayWrite();
  const nonce = newNonce();
  const head = [link.channel, nonce, expected?.tip ?? '*', randomBytes(NEW_ID_BYTES).toString('hex')];
  const reply = await send(link, [
    ...head,
    expected ? String(expected.above) : '',
    ...writes.flatMap(argumentsOf),
  ]);
  if (reply[0] === 'moved') return undefined;
  await link.confirm(session);
  const [id, revision, verdicts] = reply as [string, string, string[]];
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
    throw isRefusal(e)
      ? refusal(link, e)
      : link.unknown(`did not confirm it (${e instanceof Error ? e.message : e})`, e);
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

function argumentsOf({ op, key, ifRevision, fence, json }: RedisWrite): string[] {
  const token = fence ? `${fence.lease} ${fence.token}` : '';
  return [op, key, ifRevision === undefined ? '' : String(ifRevision), token, json];
}

function verdictOf(write: RedisWrite, verdict: string): number | undefined | RefusedError {
  const [word, revision] = verdict.split(' ');
  if (word === 'ok') return Number(revision);
  if (word === 'none') return undefined;
  if (word === 'stale') return staleError(write.key, write.ifRevision ?? 0, Number(revision));
  return fenceError(write.key, write.fence ?? { lease: '', token: 0 });
}

interface Waiting extends RedisWrite {
  /** Called with undefined for a deletion of a key that does not exist. */
  resolve(revision: number | undefined): void;
  reject(e: unknown): void;
}
const BATCH_LIMITS = { writes: 200, characters: 16 * 1024 * 1024 };

/** Group commit to Redis: writes that arrive while a batch is being confirmed form the next batch. */
export class RedisWriter {
  readonly #link: RedisLink;
  readonly #writes = new GroupCommit<Waiting>(BATCH_LIMITS, (batch) => this.#commit(batch));
  #closed = false;

  constructor(link: RedisLink) {
    this.#link = link;
  }

  /** Resolves to the revision when the write is durable in Redis. Throws StoreError and RefusedError as `commit` does. */
  write(write: RedisWrite): Promise<number | undefined> {
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
      const done = await commit(this.#link, batch);
      for (const [i, write] of batch.entries()) {
        const verdict = done?.verdicts[i];
        if (verdict instanceof RefusedError) write.reject(verdict);
        else write.resolve(verdict);
      }
    } catch (e) {
      for (const write of batch) write.reject(e);
    }
  }
}
