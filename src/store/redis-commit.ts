import { randomBytes } from 'node:crypto';
import { RefusedError } from '../lib/problem.js';
import { isRefusal, type RedisLink } from './redis-link.js';
import { COMMIT } from './redis-scripts.js';
import { StoreError } from './store-error.js';
import type { Fence } from './store-interface.js';
import { staleError } from './stored-item.js';

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
  /** For each write its revision; undefined: a deletion that found nothing; or why it was refused. */
  readonly verdicts: readonly (number | undefined | RefusedError)[];
}
interface Expectation {
  /** The nonce of the last batch; nothing is done when it is another. */
  readonly tip: string;
  /** Revisions of this batch are above it. */
  readonly above: number;
}

/** The nonce of a new batch. */
const newNonce = (): string => randomBytes(9).toString('base64url');
const NEW_ID_BYTES = 12;

/**
 * One batch, whole or not at all, and confirmed. Undefined: the store has moved on from `expected.tip`.
 * Throws StoreError `away`, `write` (refused; nothing done) or `unknown`.
 */
export async function commit(
  link: RedisLink,
  writes: readonly RedisWrite[],
  expected?: Expectation,
): Promise<Committed | undefined> {
  const session = await link.mayWrite();
  const nonce = newNonce();
  const head = [link.channel, nonce, expected?.tip ?? '*', randomBytes(NEW_ID_BYTES).toString('hex')];
  const reply = await sent(link, [
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

async function sent(link: RedisLink, args: readonly string[]): Promise<unknown[]> {
  try {
    return (await link.write(COMMIT, args)) as unknown[];
  } catch (e) {
    throw isRefusal(e)
      ? refusal(link, e)
      : link.unknown(`did not say so (${e instanceof Error ? e.message : e})`, e);
  }
}

function refusal(link: RedisLink, e: Error): StoreError {
  const remedy = REMEDIES.find(([pattern]) => pattern.test(e.message))?.[1] ?? 'look into its log';
  return new StoreError(
    'write',
    `Redis at ${link.target.shown} refused the change: ${e.message}. Nothing was changed; ${remedy}`,
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
  return new RefusedError({
    kind: 'conflict',
    detail: `${write.key}: the lease ${write.fence?.lease} is no longer held with token ${write.fence?.token}`,
    remedy: 'another host does it now: let it',
  });
}

interface Waiting extends RedisWrite {
  /** Undefined: a deletion that found nothing. */
  resolve(revision: number | undefined): void;
  reject(e: unknown): void;
}
const MOST_WRITES = 200;
const MOST_CHARACTERS = 16 * 1024 * 1024;

/** Group commit: what comes while a batch is being confirmed goes into the next. A batch is whole or not at all. */
export class Writer {
  readonly #link: RedisLink;
  #queue: Waiting[] = [];
  #flushing: Promise<void> | undefined;
  #closed = false;

  constructor(link: RedisLink) {
    this.#link = link;
  }

  /** Resolves with the revision once Redis keeps it. Throws StoreError and RefusedError as `commit` does. */
  write(write: RedisWrite): Promise<number | undefined> {
    if (this.#closed) return Promise.reject(new StoreError('closed', 'the store is closed'));
    return new Promise((resolve, reject) => {
      this.#queue.push({ ...write, resolve, reject });
      this.#flushing ??= this.#flush();
    });
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#flushing;
  }

  async #flush(): Promise<void> {
    await Promise.resolve();
    while (this.#queue.length > 0) await this.#commit(this.#nextBatch());
    // In one step with the look at the empty queue: a write that came between would wait for ever.
    this.#flushing = undefined;
  }

  #nextBatch(): Waiting[] {
    let characters = 0;
    const over = this.#queue.findIndex((write, i) => {
      characters += write.json.length;
      return i > 0 && (i >= MOST_WRITES || characters > MOST_CHARACTERS);
    });
    return this.#queue.splice(0, over < 0 ? this.#queue.length : over);
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
