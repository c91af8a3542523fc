import type { Logger } from '../lib/logger.js';
import type { Change } from './frames.js';
import { type Committed, commit, type RedisWrite } from './redis-commit.js';
import type { RedisLink } from './redis-link.js';
import type { Mark, Replica, Step } from './redis-replica.js';
import { planReunion, type Reunion, type Survey } from './redis-resync-plan.js';
import { SEED, SURVEY } from './redis-scripts.js';

/** Why a replica cannot simply follow (see PULL). */
export type DivergenceKind = 'empty' | 'other' | 'behind' | 'diverged';

interface ResyncContext {
  readonly link: RedisLink;
  readonly replica: Replica;
  readonly log: Logger;
}
const FIELDS_AT_ONCE = 200;

/** Brings the replica and Redis together. Undefined: Redis moved meanwhile, ask again. */
export async function reunite(meeting: ResyncContext, parting: DivergenceKind): Promise<Step | undefined> {
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
