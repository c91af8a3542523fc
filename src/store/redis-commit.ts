import { randomBytes } from 'node:crypto';
import { RefusedError } from '../lib/refusal.js';
import { staleError } from './compare-and-set.js';
import { StoreError } from './errors.js';
import { isRefusal, type RedisLink } from './redis-link.js';
import { COMMIT } from './redis-scripts.js';
import type { Fence } from './store.js';

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
