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
  /** Already in the replica's memory; in the order of their revisions. */
  tell(changes: readonly Change[]): void;
  /** The replica holds what Redis held a moment ago. */
  caughtUp(): void;
}
interface Waiter {
  readonly revision: number;
  done(reached: boolean): void;
}

/** Wakes come at once; what they miss is found by a look so often (ms), half of it by chance. */
const POLL_MS = 1_000;
const ROWS = 400;
const MARKS = 1000;
/** Steps of one look: more come with the next. */
const MOST_STEPS = 1000;

/** Follows Redis into the replica, one look at a time. */
export class Sync {
  readonly #o: SyncOptions;
  readonly #waiters = new Set<Waiter>();
  #looking: Promise<void> | undefined;
  #again = false;
  #timer: NodeJS.Timeout | undefined;
  #stopped = false;
  /** Undefined: in step. */
  #failure: { readonly since: number; readonly why: string } | undefined = { since: Date.now(), why: '' };

  constructor(options: SyncOptions) {
    this.#o = options;
  }

  /** Undefined: the last look succeeded. */
  get failure(): { readonly since: number; readonly why: string } | undefined {
    return this.#failure;
  }

  /** Looks now; while a look is under way, once more after it. */
  readonly wake = (): void => {
    if (this.#stopped) return;
    this.#again = true;
    this.#looking ??= this.#run();
  };

  /** Resolves true once the replica holds this revision, false after `ms`. */
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
    await this.#looking;
  }

  async #run(): Promise<void> {
    clearTimeout(this.#timer);
    while (this.#again && !this.#stopped) {
      this.#again = false;
      try {
        await this.#look();
        this.#failure = undefined;
        this.#o.caughtUp();
      } catch (e) {
        const why = e instanceof Error ? e.message : String(e);
        this.#failure = { since: this.#failure?.since ?? Date.now(), why };
      }
    }
    this.#looking = undefined;
    if (!this.#stopped) this.#timer = setTimeout(this.wake, POLL_MS / 2 + (Math.random() * POLL_MS) / 2);
  }

  /** Until nothing is new. */
  async #look(): Promise<void> {
    const { link } = this.#o;
    if (!link.canRead) throw new Error(link.lastError);
    for (let steps = 0; steps < MOST_STEPS; steps++) if (!(await this.#step())) return;
  }

  /** True: there may be more. */
  async #step(): Promise<boolean> {
    const { link, replica, log } = this.#o;
    const { id, revision, nonce } = replica.position;
    const [word, ...rest] = (await link.read(PULL, [id, revision, nonce, ROWS, MARKS])) as [
      string,
      ...unknown[],
    ];
    if (word === 'same' || (word === 'empty' && id === '')) return false;
    if (word === 'delta') {
      await this.#took(deltaOf(id, rest), (step) => replica.follow(step));
    } else {
      const step = await reunite({ link, replica, log }, word as DivergenceKind);
      if (step) await this.#took(step, (s) => replica.leap(s));
    }
    return true;
  }

  /** Told before it is on disk here: Redis has it, and nobody waits for this disk. */
  async #took(step: Step, take: (step: Step) => Promise<void>): Promise<void> {
    const saved = take(step);
    this.#o.tell(step.changes);
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

/** Why a replica cannot simply follow (see PULL). */
type DivergenceKind = 'empty' | 'other' | 'behind' | 'diverged';

interface ResyncContext {
  readonly link: RedisLink;
  readonly replica: Replica;
  readonly log: Logger;
}
const FIELDS_AT_ONCE = 200;

/** Brings the replica and Redis together. Undefined: Redis moved meanwhile, ask again. */
async function reunite(meeting: ResyncContext, parting: DivergenceKind): Promise<Step | undefined> {
  if (parting === 'empty') return seed(meeting);
  const { link, replica, log } = meeting;
  const { id, revision } = replica.position;
  const survey = await surveyed(link, replica.marks);
  const same = survey.id === id;
  const common = parting === 'behind' ? revision : survey.common;
  const agreed = { ...survey, common: same ? common : 0 };
  const plan = planReunion(replica.items, agreed, same && parting === 'diverged' && common > 0);
  if (revision > 0) said(log, parting, plan);
  const done = await settled(meeting, agreed, plan);
  return done && joined(meeting, agreed, plan, done);
}

/** A Redis without a store gets the last good of the first host that comes; without one the first write makes it. */
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
      'Redis was empty: it has the last good of this host now',
    );
}

async function surveyed(link: RedisLink, marks: readonly Mark[]): Promise<Survey> {
  const reply = await link.read(SURVEY, marks.flat());
  const [id, revision, nonce, common, flat] = reply as [string, string, string, string, string[]];
  const pairs = Array.from({ length: flat.length / 2 }, (_, i) => pairAt(flat, 2 * i));
  return { id, revision: Number(revision), nonce, common: Number(common), index: new Map(pairs) };
}

const pairAt = (flat: readonly string[], i: number): [string, number] => [flat[i] ?? '', Number(flat[i + 1])];

/** The writes that the reunion needs; none where Redis is ahead in everything. */
async function settled(
  { link, replica }: ResyncContext,
  survey: Survey,
  plan: Reunion,
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

async function joined(
  { link, replica }: ResyncContext,
  survey: Survey,
  plan: Reunion,
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

/** What has gone meanwhile is left out: the next step tells. */
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

/** Only what people would miss is worth a line. */
function said(log: Logger, parting: DivergenceKind, { restore, remove, touch, drop }: Reunion): void {
  if (parting === 'behind') return;
  const why =
    parting === 'other'
      ? 'store.redis holds another store than the last good one here: it is taken over'
      : 'Redis and this host have parted ways (a failover, or a crash without its last writes): brought together';
  log.warn({ restored: [...restore, ...remove], overruled: touch, dropped: drop }, why);
}

/** What a survey of Redis told. */
interface Survey {
  readonly id: string;
  readonly revision: number;
  readonly nonce: string;
  /** The revision up to which Redis and this host have the same past; 0: none of it. */
  readonly common: number;
  /** Every key in Redis and its revision. */
  readonly index: ReadonlyMap<string, number>;
}

/** How a replica and Redis come together again. */
interface Reunion {
  /** Written again: Redis has lost them. */
  readonly restore: readonly string[];
  /** Deleted again: Redis has lost the deletion. */
  readonly remove: readonly string[];
  /** To be given a newer revision in Redis: what this host told of them was newer, and is not to be. */
  readonly touch: readonly string[];
  /** To be read from Redis. */
  readonly adopt: readonly string[];
  /** Gone here, because Redis does not have them. */
  readonly drop: readonly string[];
}

/**
 * After a failover or a crash Redis may have gone back in time, or on without this host. Both agree up to
 * `survey.common`; with `hasLost`, what only this host saw change since is restored, and what changed in Redis since
 * stands. Without it Redis is right in everything.
 */
export function planReunion(
  items: ReadonlyMap<string, Stored>,
  { common, index }: Survey,
  hasLost: boolean,
): Reunion {
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
