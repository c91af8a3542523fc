import { Coalescer } from '../lib/async.js';
import type { Logger } from '../lib/log.js';
import { type Committed, commit, type RedisWrite } from './redis-commit.js';
import type { RedisLink } from './redis-link.js';
import type { Mark, Replica, Step } from './redis-replica.js';
import { PULL, SEED, SURVEY } from './redis-scripts.js';
import type { Change, Stored } from './stored-item.js';

export interface SyncOptions {
  readonly link: RedisLink;
  readonly replica: Replica;
  readonly log: Logger;
  /** Called with changes that the replica contains in memory, in the order of their revisions. */
  onChanges(changes: readonly Change[]): void;
  /** Called when the replica has caught up with Redis. */
  caughtUp(): void;
}
interface Waiter {
  readonly revision: number;
  done(reached: boolean): void;
}

/** A wake message starts a poll at once. Changes without one are found by a poll at this interval, half of it random. */
const POLL_MS = 1_000;
const ROWS = 400;
const MARKS = 1000;
/** The largest number of steps in one poll; the next poll continues. */
const MOST_STEPS = 1000;

/** Applies the changes in Redis to the replica, one poll at a time. */
export class Sync {
  readonly #o: SyncOptions;
  readonly #waiters = new Set<Waiter>();
  readonly #polls = new Coalescer(() => this.#pollAndSchedule());
  #timer: NodeJS.Timeout | undefined;
  #stopped = false;
  /** Undefined while the last poll succeeded. */
  #failure: { readonly since: number; readonly why: string } | undefined = { since: Date.now(), why: '' };

  constructor(options: SyncOptions) {
    this.#o = options;
  }

  /** Why the last poll failed, and since when polls fail; undefined after a poll that succeeded. */
  get failure(): { readonly since: number; readonly why: string } | undefined {
    return this.#failure;
  }

  /** Polls now; during a poll, once more after it. */
  readonly wake = (): void => {
    if (!this.#stopped) void this.#polls.run();
  };

  /** Resolves to true when the replica has reached this revision, to false after `ms`. */
  reached(revision: number, ms: number): Promise<boolean> {
    if (this.#o.replica.position.revision >= revision) return Promise.resolve(true);
    this.wake();
    return new Promise((resolve) => {
      const timer = setTimeout(() => waiter.done(false), ms);
      const waiter: Waiter = {
        revision,
        done: (reached) => {
          clearTimeout(timer);
          this.#waiters.delete(waiter);
          resolve(reached);
        },
      };
      this.#waiters.add(waiter);
    });
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    for (const waiter of [...this.#waiters]) waiter.done(false);
    await this.#polls.settled();
  }

  /** Does not reject. */
  async #pollAndSchedule(): Promise<void> {
    clearTimeout(this.#timer);
    if (this.#stopped) return;
    try {
      await this.#poll();
      this.#failure = undefined;
      this.#o.caughtUp();
    } catch (e) {
      const why = e instanceof Error ? e.message : String(e);
      this.#failure = { since: this.#failure?.since ?? Date.now(), why };
    }
    if (!this.#stopped) this.#timer = setTimeout(this.wake, POLL_MS / 2 + (Math.random() * POLL_MS) / 2);
  }

  /** Applies steps until Redis has no newer ones. */
  async #poll(): Promise<void> {
    const { link } = this.#o;
    if (!link.canRead) throw new Error(link.lastError);
    for (let steps = 0; steps < MOST_STEPS; steps++) if (!(await this.#step())) return;
  }

  /** Returns true when there may be more steps. */
  async #step(): Promise<boolean> {
    const { link, replica, log } = this.#o;
    const { id, revision, nonce } = replica.position;
    const [word, ...rest] = (await link.read(PULL, [id, revision, nonce, ROWS, MARKS])) as [
      string,
      ...unknown[],
    ];
    if (word === 'same' || (word === 'empty' && id === '')) return false;
    if (word === 'delta') {
      await this.#apply(deltaOf(id, rest), (step) => replica.follow(step));
    } else {
      const step = await resync({ link, replica, log }, word as DivergenceKind);
      if (step) await this.#apply(step, (s) => replica.leap(s));
    }
    return true;
  }

  /** Reports the changes before they are on the disk of this host: they are durable in Redis already. */
  async #apply(step: Step, take: (step: Step) => Promise<void>): Promise<void> {
    const saved = take(step);
    this.#o.onChanges(step.changes);
    for (const waiter of [...this.#waiters]) if (waiter.revision <= step.revision) waiter.done(true);
    await saved;
  }
}

function deltaOf(id: string, reply: readonly unknown[]): Step {
  const [revision, nonce, marks, rows] = reply as [string, string, string[], (string | null)[]];
  const changes: Change[] = [];
  for (let i = 0; i < rows.length; i += 3) {
    const [key, at, json] = [rows[i] ?? '', Number(rows[i + 1]), rows[i + 2]];
    changes.push({ key, revision: at, json: json ?? undefined });
  }
  return { id, revision: Number(revision), nonce, changes, marks: marksOf(marks) };
}

const marksOf = (flat: readonly string[]): Mark[] =>
  Array.from({ length: flat.length / 2 }, (_, i): Mark => [flat[2 * i] ?? '', Number(flat[2 * i + 1])]);

/** Why a replica cannot continue with a delta (see PULL). */
type DivergenceKind = 'empty' | 'other' | 'behind' | 'diverged';

interface ResyncContext {
  readonly link: RedisLink;
  readonly replica: Replica;
  readonly log: Logger;
}
const FIELDS_AT_ONCE = 200;

/** Makes the replica and Redis agree again. Returns undefined when Redis was changed meanwhile: poll again. */
async function resync(context: ResyncContext, kind: DivergenceKind): Promise<Step | undefined> {
  if (kind === 'empty') return seed(context);
  const { link, replica, log } = context;
  const { id, revision } = replica.position;
  const survey = await takeSurvey(link, replica.marks);
  const same = survey.id === id;
  const common = kind === 'behind' ? revision : survey.common;
  const agreed = { ...survey, common: same ? common : 0 };
  const plan = planResync(replica.items, agreed, same && kind === 'diverged' && common > 0);
  if (revision > 0) logPlan(log, kind, plan);
  const done = await writeDifferences(context, agreed, plan);
  return done && stepAfter(context, agreed, plan, done);
}

/** A Redis without a store gets the local copy of the first host that connects. Without a copy the first write creates the store. */
async function seed({ link, replica, log }: ResyncContext): Promise<undefined> {
  const { id, revision, nonce } = replica.position;
  if (id === '') return;
  const session = await link.mayWrite();
  const marks = replica.marks.flat();
  const rows = [...replica.items].flatMap(([key, item]) => [key, item.revision, item.json]);
  const done = await link.write(SEED, [id, revision, nonce, marks.length / 2, ...marks, ...rows]);
  await link.confirm(session);
  if (done === 1)
    log.warn(
      { items: replica.items.size, revision },
      'Redis was empty: the last good copy of this host was written to it',
    );
}

async function takeSurvey(link: RedisLink, marks: readonly Mark[]): Promise<Survey> {
  const reply = await link.read(SURVEY, marks.flat());
  const [id, revision, nonce, common, flat] = reply as [string, string, string, string, string[]];
  const pairs = Array.from({ length: flat.length / 2 }, (_, i) => pairAt(flat, 2 * i));
  return { id, revision: Number(revision), nonce, common: Number(common), index: new Map(pairs) };
}

const pairAt = (flat: readonly string[], i: number): [string, number] => [flat[i] ?? '', Number(flat[i + 1])];

/** Writes to Redis what the plan restores, removes and touches; nothing when Redis is ahead in every key. */
async function writeDifferences(
  { link, replica }: ResyncContext,
  survey: Survey,
  plan: ResyncPlan,
): Promise<Committed | undefined> {
  const writes = [
    ...plan.restore.map((key) => write('put', key, replica.items.get(key)?.json ?? 'null')),
    ...plan.remove.map((key) => write('delete', key)),
    ...plan.touch.map((key) => write('touch', key)),
  ];
  const { revision } = replica.position;
  if (writes.length === 0 && survey.revision > revision)
    return { id: survey.id, revision: survey.revision, nonce: survey.nonce, verdicts: [] };
  return commit(link, writes, { tip: survey.nonce, above: revision });
}

const write = (op: RedisWrite['op'], key: string, json = ''): RedisWrite => ({
  op,
  key,
  json,
  ifRevision: undefined,
  fence: undefined,
});

async function stepAfter(
  { link, replica }: ResyncContext,
  survey: Survey,
  plan: ResyncPlan,
  done: Committed,
): Promise<Step> {
  const fresh = new Map<string, number>(plan.adopt.map((key) => [key, survey.index.get(key) ?? 0]));
  const [first, last] = [plan.restore.length + plan.remove.length, done.verdicts.length];
  for (let i = first; i < last; i++) fresh.set(plan.touch[i - first] ?? '', revisionOf(done, i));
  const restored = plan.restore.map((key, i) => ({
    key,
    json: replica.items.get(key)?.json ?? 'null',
    revision: revisionOf(done, i),
  }));
  const gone = plan.drop.map((key) => ({ key, json: undefined, revision: done.revision }));
  const mark: Mark = [done.nonce, done.revision];
  return {
    id: done.id,
    revision: done.revision,
    nonce: done.nonce,
    changes: [...(await values(link, fresh)), ...restored, ...gone],
    marks: [mark, ...replica.marks.filter(([, revision]) => revision <= survey.common)],
  };
}

function revisionOf({ verdicts, revision }: Committed, i: number): number {
  const verdict = verdicts[i];
  return typeof verdict === 'number' ? verdict : revision;
}

/** Reads the values of these keys. A key that was deleted meanwhile is left out: the next step contains its deletion. */
async function values(link: RedisLink, wanted: ReadonlyMap<string, number>): Promise<Change[]> {
  const keys = [...wanted.keys()];
  const changes: Change[] = [];
  for (let i = 0; i < keys.length; i += FIELDS_AT_ONCE) {
    const part = keys.slice(i, i + FIELDS_AT_ONCE);
    const found = await link.fields('items', part);
    for (const [n, key] of part.entries()) {
      const json = found[n];
      if (typeof json === 'string') changes.push({ key, json, revision: wanted.get(key) ?? 0 });
    }
  }
  return changes;
}

/** A replica that was only too old is not worth a log line. */
function logPlan(log: Logger, kind: DivergenceKind, { restore, remove, touch, drop }: ResyncPlan): void {
  if (kind === 'behind') return;
  const why =
    kind === 'other'
      ? 'store.redis is another store than that of the local copy: the local copy was replaced'
      : 'Redis history diverged from the local replica (a failover, or a crash that lost writes): resynchronised';
  log.warn({ restored: [...restore, ...remove], overruled: touch, dropped: drop }, why);
}

/** The state of Redis, compared with the marks of a replica. */
interface Survey {
  readonly id: string;
  readonly revision: number;
  readonly nonce: string;
  /** The revision up to which Redis and this host have the same history; 0 when they have none in common. */
  readonly common: number;
  /** Every key in Redis and its revision. */
  readonly index: ReadonlyMap<string, number>;
}

/** The keys of each kind of difference between a replica and Redis, by what is done about it. */
interface ResyncPlan {
  /** Written to Redis again, because Redis lost the writes. */
  readonly restore: readonly string[];
  /** Deleted in Redis again, because Redis lost the deletions. */
  readonly remove: readonly string[];
  /** Given a newer revision in Redis, because this host has reported a greater revision for a value that is now dropped. */
  readonly touch: readonly string[];
  /** Read from Redis. */
  readonly adopt: readonly string[];
  /** Removed from the replica, because Redis does not have them. */
  readonly drop: readonly string[];
}

/**
 * After a failover or a crash, Redis may have lost writes that this host has seen, or have writes that it has not seen.
 * Both have the same history up to `survey.common`. With `hasLost`, changes after it that only this host has are
 * restored, and changes after it in Redis are kept. Without it, Redis is right for every key.
 */
export function planResync(
  items: ReadonlyMap<string, Stored>,
  { common, index }: Survey,
  hasLost: boolean,
): ResyncPlan {
  const plan = {
    restore: [] as string[],
    remove: [] as string[],
    touch: [] as string[],
    adopt: [] as string[],
  };
  for (const [key, revision] of index) {
    const here = items.get(key)?.revision;
    const unchanged = revision <= common;
    if (here === undefined) (hasLost && unchanged ? plan.remove : plan.adopt).push(key);
    else if (revision > here) plan.adopt.push(key);
    else if (revision < here || here > common) (hasLost && unchanged ? plan.restore : plan.touch).push(key);
  }
  const onlyHere = [...items].filter(([key]) => !index.has(key));
  const isLost = (revision: number): boolean => hasLost && revision > common;
  return {
    ...plan,
    restore: [...plan.restore, ...onlyHere.filter(([, i]) => isLost(i.revision)).map(([key]) => key)],
    drop: onlyHere.filter(([, i]) => !isLost(i.revision)).map(([key]) => key),
  };
}
