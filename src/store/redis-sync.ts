import { Coalescer } from '../lib/async.js';
import type { Logger } from '../lib/log.js';
import { errorText } from '../lib/problem.js';
import { type Committed, commit, type RedisWrite } from './redis-commit.js';
import type { Mark } from './redis-lineage.js';
import { HELD_REMEDY, type RedisLink } from './redis-link.js';
import {
  marksOf,
  originHere,
  originThere,
  planResync,
  type ResyncPlan,
  type Survey,
  takeSurvey,
  values,
} from './redis-plan.js';
import type { Leap, Position, Replica, Step } from './redis-replica.js';
import { KEEP, PULL, SEED } from './redis-scripts.js';
import type { Change } from './stored-item.js';

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
  readonly mark: Mark;
  done(reached: boolean): void;
}
interface Failure {
  readonly since: number;
  readonly why: string;
  /** Redis answers, and is not used: a person decides. */
  readonly held: Held | undefined;
}

/** A store in Redis that does not continue the local copy. */
type Held = Pick<Position, 'id' | 'revision'>;

class HeldError extends Error {
  readonly held: Held;
  constructor(found: Held, copy: Position) {
    const what =
      found.id === copy.id
        ? 'was set back to before all that this host remembers'
        : 'holds another store than this host has worked from';
    super(`${what} (revision ${found.revision}; the last good copy is at ${copy.revision})`);
    this.held = { id: found.id, revision: found.revision };
  }
}

/** A wake message starts a poll at once. Changes without one are found by a poll at this interval, half of it random. */
const POLL_MS = 1_000;
const ROWS = 400;
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
  #failure: Failure | undefined = { since: Date.now(), why: '', held: undefined };
  /** Resolves when the last step is on the disk of this host. */
  #saved: Promise<void> = Promise.resolve();
  /** The id of the store that a person has accepted, until it is taken over. */
  #accepted: string | undefined;

  constructor(options: SyncOptions) {
    this.#o = options;
  }

  /** Why the last poll failed, and since when polls fail; undefined after a poll that succeeded. */
  get failure(): Failure | undefined {
    return this.#failure;
  }

  /** Polls now; during a poll, once more after it. */
  readonly wake = (): void => {
    if (!this.#stopped) void this.#polls.run();
  };

  /** Polls now, and heals a Redis that was emptied or set back. Throws StoreError `away` when the two do not agree after it. */
  async heal(): Promise<void> {
    await this.#polls.run();
    const { link } = this.#o;
    if (!this.#failure) return;
    throw link.canRead ? link.notHealed(this.#failure.why, link.held && HELD_REMEDY) : link.away();
  }

  /** Takes over the store that is held, in place of the local copy. Throws StoreError `away`. */
  async accept(): Promise<void> {
    this.#accepted = this.#failure?.held?.id;
    this.#o.link.held = undefined;
    try {
      await this.heal();
    } finally {
      this.#accepted = undefined;
    }
  }

  /**
   * Resolves to true when the replica contains this batch and its files do, or could not be written; to false after `ms`, or
   * when the replica follows a history without the batch.
   */
  reached(mark: Mark, ms: number): Promise<boolean> {
    if (this.#o.replica.has(mark)) return this.#saved.then(() => true);
    this.wake();
    return new Promise((resolve) => {
      const timer = setTimeout(() => waiter.done(false), ms);
      const waiter: Waiter = {
        mark,
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
      this.#o.link.held = undefined;
      this.#o.caughtUp();
    } catch (e) {
      this.#failed(e);
    }
    if (!this.#stopped) this.#timer = setTimeout(this.wake, POLL_MS / 2 + (Math.random() * POLL_MS) / 2);
  }

  #failed(e: unknown): void {
    const held = e instanceof HeldError ? e.held : undefined;
    if (held && !this.#failure?.held)
      this.#o.log.error({ ...held }, `${errorText(e)}: the last good copy stays in use. ${HELD_REMEDY}`);
    this.#failure = { since: this.#failure?.since ?? Date.now(), why: errorText(e), held };
    this.#o.link.held = held && errorText(e);
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
    if (id !== '') link.holds();
    const [word, ...rest] = (await link.read(PULL, [id, revision, nonce, ROWS, KEEP])) as [
      string,
      ...unknown[],
    ];
    if (word === 'same' || (word === 'empty' && id === '')) return false;
    if (word === 'delta') {
      const step = deltaOf(id, rest);
      await this.#apply(step, () => replica.follow(step));
    } else if (word === 'empty') {
      await seed({ link, replica, log });
    } else {
      await this.#leap();
    }
    return true;
  }

  /** Makes the replica and Redis agree again, unless the store in Redis does not continue the replica: then it is held. */
  async #leap(): Promise<void> {
    const { link, replica, log } = this.#o;
    const survey = await takeSurvey(link, replica);
    const { id } = replica.position;
    const { relation, common } = survey;
    if (relation === 'empty') return;
    const isForeign = id !== '' && (relation === 'other' || (relation === 'diverged' && common === 0));
    if (isForeign && survey.id !== this.#accepted) throw new HeldError(survey, replica.position);
    if (isForeign || (relation === 'forgotten' && id !== '')) await replica.keepBefore();
    const step = await resync({ link, replica, log }, survey);
    if (step) await this.#apply(step, () => replica.leap(step));
  }

  /** Watchers hear of the changes before they are on the disk of this host: they are durable in Redis already. */
  async #apply(step: Step, take: () => Promise<void>): Promise<void> {
    this.#saved = take();
    this.#o.onChanges(step.changes);
    await this.#saved;
    const { replica } = this.#o;
    for (const waiter of [...this.#waiters]) {
      if (replica.has(waiter.mark)) waiter.done(true);
      else if (step.revision >= waiter.mark[1]) waiter.done(false);
    }
  }
}

function deltaOf(id: string, reply: readonly unknown[]): Step {
  const [revision, nonce, marks, rows] = reply as [string, string, string[], (string | null)[]];
  const changes: Change[] = [];
  const origins = new Map<string, string>();
  for (let i = 0; i < rows.length; i += 4) {
    const [key, at, json, origin] = [rows[i] ?? '', Number(rows[i + 1]), rows[i + 2], rows[i + 3]];
    changes.push({ key, revision: at, json: json ?? undefined });
    if (typeof origin === 'string') origins.set(key, origin);
  }
  return { id, revision: Number(revision), nonce, changes, marks: marksOf(marks), origins };
}

interface ResyncContext {
  readonly link: RedisLink;
  readonly replica: Replica;
  readonly log: Logger;
}

/** Makes the replica and Redis agree again. Returns undefined when Redis was changed meanwhile: poll again. */
async function resync(context: ResyncContext, survey: Survey): Promise<Leap | undefined> {
  const { replica, log } = context;
  const { id, revision } = replica.position;
  const isSame = survey.id === id;
  const hasLost = isSame && survey.relation === 'diverged' && survey.common > 0;
  const isOlder = survey.relation !== 'diverged' && isSame;
  const agreed = { ...survey, common: isOlder ? revision : survey.common };
  const plan = planResync(replica, agreed, hasLost);
  if (revision > 0) logPlan(log, survey, plan);
  const done = await writeDifferences(context, agreed, plan);
  return done && stepAfter(context, agreed, plan, done);
}

/** A Redis without a store gets the local copy of the first host that notices. Without a copy the first write creates the store. */
async function seed({ link, replica, log }: ResyncContext): Promise<void> {
  const session = await link.mayWrite();
  const { id, revision, nonce } = replica.position;
  const { gone, origins, floor } = replica.lineage.fields();
  const past = [replica.marks, gone, origins];
  const rows = [...replica.items].flatMap(([key, item]) => [key, item.revision, item.json]);
  const head = [link.channel, id, revision, nonce, floor, ...past.map((pairs) => pairs.length)];
  const done = await link.write(SEED, [...head, ...past.flat(2), ...rows]);
  await link.confirm(session);
  if (done === 1)
    log.warn(
      { items: replica.items.size, revision },
      'Redis was empty: the last good copy of this host was written to it',
    );
}

/** Writes to Redis what the plan restores, removes and touches; nothing when Redis is ahead in every key. */
async function writeDifferences(
  { link, replica }: ResyncContext,
  survey: Survey,
  plan: ResyncPlan,
): Promise<Committed | undefined> {
  const origin = (key: string): string => originHere(replica, key);
  const writes = [
    ...plan.restore.map((key) =>
      write('put', key, { json: replica.items.get(key)?.json ?? 'null', origin: origin(key) }),
    ),
    ...plan.remove.map((key) => write('delete', key, { origin: origin(key) })),
    ...plan.touch.map((key) => write('touch', key, { origin: originThere(survey, key) })),
  ];
  const { revision } = replica.position;
  const lost = lostBy(survey, replica);
  if (writes.length === 0 && lost.length === 0 && survey.revision > revision)
    return { ...survey, verdicts: [] };
  return commit(link, writes, () => survey, { lost, above: revision });
}

/** The batches that this host has seen and Redis does not have. */
function lostBy({ relation, common, marks }: Survey, replica: Replica): string[] {
  if (relation !== 'diverged') return [];
  const there = new Set(marks.map(([nonce]) => nonce));
  return replica.marks.flatMap(([nonce, at]) => (at > common && !there.has(nonce) ? [nonce] : []));
}

const write = (
  op: RedisWrite['op'],
  key: string,
  { json = '', origin = '' }: { readonly json?: string; readonly origin?: string } = {},
): RedisWrite => ({ op, key, json, origin, ifRevision: undefined, fence: undefined });

async function stepAfter(
  { link, replica }: ResyncContext,
  survey: Survey,
  plan: ResyncPlan,
  done: Committed,
): Promise<Leap | undefined> {
  const fresh = new Map<string, number>(plan.adopt.map((key) => [key, survey.index.get(key) ?? 0]));
  const [first, last] = [plan.restore.length + plan.remove.length, done.verdicts.length];
  for (let i = first; i < last; i++) fresh.set(plan.touch[i - first] ?? '', revisionOf(done, i));
  const restored = plan.restore.map((key, i) => ({
    key,
    json: replica.items.get(key)?.json ?? 'null',
    revision: revisionOf(done, i),
  }));
  const adopted = await values(link, done, fresh);
  if (adopted === undefined) return undefined;
  const gone = plan.drop.map((key) => ({ key, json: undefined, revision: done.revision }));
  const own: readonly Mark[] = done.nonce === survey.nonce ? [] : [[done.nonce, done.revision]];
  // COMMIT gives them the revision before its own: no item has that.
  const lifted = Math.max(survey.revision, replica.position.revision) + 1;
  const lost = lostBy(survey, replica).map((nonce): Mark => [nonce, lifted]);
  const origins = new Map(survey.origins);
  for (const key of [...plan.restore, ...plan.remove]) origins.set(key, originHere(replica, key));
  for (const key of plan.touch) origins.set(key, originThere(survey, key));
  const removed = plan.remove.map((key, i): Mark => [key, revisionOf(done, plan.restore.length + i)]);
  return {
    id: done.id,
    revision: done.revision,
    nonce: done.nonce,
    changes: [...adopted, ...restored, ...gone],
    marks: [
      ...own,
      ...lost,
      ...survey.marks,
      ...replica.marks.filter(([, revision]) => revision <= survey.common),
    ],
    gone: [...survey.gone, ...removed],
    floor: survey.floor,
    origins: new Map([...origins].filter(([, origin]) => origin !== '')),
  };
}

function revisionOf({ verdicts, revision }: Committed, i: number): number {
  const verdict = verdicts[i];
  return typeof verdict === 'number' ? verdict : revision;
}

/** A replica that was only too old is not logged; a change that was acknowledged and is undone is an error. */
function logPlan(log: Logger, { relation }: Survey, plan: ResyncPlan): void {
  if (relation === 'behind' || relation === 'delta') return;
  const { restore, remove, drop, overruled } = plan;
  log.warn({ restored: [...restore, ...remove], dropped: drop }, RESYNCED[relation]);
  if (overruled.length > 0)
    log.error(
      { overruled },
      'these changes were acknowledged and lost, and other hosts have changed the same since: what they wrote counts. Check it, and change it again if need be',
    );
}

const REPLACED = 'the local copy was replaced, and is kept as state/redis/replica.before';
const RESYNCED: Readonly<Record<Exclude<Survey['relation'], 'behind' | 'delta'>, string>> = {
  empty: '',
  other: `another store was accepted: ${REPLACED}`,
  forgotten: `this host was away for longer than Redis remembers: ${REPLACED}`,
  diverged:
    'Redis history diverged from the local replica (a failover, or a crash that lost writes): resynchronised',
};
