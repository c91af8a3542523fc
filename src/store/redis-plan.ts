import { batchOf, type Lineage, type Mark, type Origins, originOf, timeOf } from './redis-lineage.js';
import type { RedisLink } from './redis-link.js';
import type { Position, Replica } from './redis-replica.js';
import { SURVEY, VALUES } from './redis-scripts.js';
import type { Change, Stored } from './stored-item.js';

/**
 * How Redis continues the copy of a host: behind (the copy is too old for a delta), forgotten (it is older than all that Redis
 * remembers), diverged (Redis lacks its last batch), other (another store), empty.
 */
type Relation = 'empty' | 'other' | 'behind' | 'delta' | 'forgotten' | 'diverged';

/** The state of Redis, compared with the marks of a replica. */
export interface Survey extends Position {
  readonly relation: Relation;
  /** The revision up to which Redis and this host have the same history; 0 when they have none in common. */
  readonly common: number;
  /** The newest deletion that Redis has forgotten. */
  readonly floor: number;
  /** Every key in Redis and its revision. */
  readonly index: ReadonlyMap<string, number>;
  /** Every key that was deleted since the common revision, and the revision of its deletion. */
  readonly gone: ReadonlyMap<string, number>;
  /** The batches since the common revision, newest first. */
  readonly marks: readonly Mark[];
  readonly origins: Origins;
}

const FIELDS_AT_ONCE = 200;

export async function takeSurvey(link: RedisLink, { position, marks }: Replica): Promise<Survey> {
  const reply = await link.read(SURVEY, [position.id, position.revision, position.nonce, ...marks.flat()]);
  const [relation, id, revision, nonce, common, floor] = reply as [Survey['relation'], ...string[]];
  const [index = [], gone = [], since = [], origins = []] = (reply as string[][]).slice(6);
  return {
    relation,
    id: id ?? '',
    revision: Number(revision),
    nonce: nonce ?? '',
    common: Number(common),
    floor: Number(floor),
    index: new Map(marksOf(index)),
    gone: new Map(marksOf(gone)),
    marks: marksOf(since),
    origins: new Map(pairsOf(origins)),
  };
}

/**
 * Reads the values of these keys after a batch. A key that was deleted since is left out: the next step contains its deletion.
 * Returns undefined when Redis has lost the batch since.
 */
export async function values(
  link: RedisLink,
  { id, revision, nonce }: Position,
  wanted: ReadonlyMap<string, number>,
): Promise<Change[] | undefined> {
  const keys = [...wanted.keys()];
  const changes: Change[] = [];
  for (let i = 0; i < keys.length; i += FIELDS_AT_ONCE) {
    const part = keys.slice(i, i + FIELDS_AT_ONCE);
    const found = (await link.read(VALUES, [id, revision, nonce, ...part])) as (string | null)[] | null;
    if (found === null) return undefined;
    for (const [n, key] of part.entries()) {
      const json = found[n];
      if (typeof json === 'string') changes.push({ key, json, revision: wanted.get(key) ?? 0 });
    }
  }
  return changes;
}

const pairsOf = (flat: readonly string[]): [string, string][] =>
  Array.from({ length: flat.length / 2 }, (_, i) => [flat[2 * i] ?? '', flat[2 * i + 1] ?? '']);
/** Pairs of a nonce or a key and a revision, as Redis returns them. */
export const marksOf = (flat: readonly string[]): Mark[] =>
  pairsOf(flat).map(([text, revision]) => [text, Number(revision)]);

/** The keys of each kind of difference between a replica and Redis, by what is done about it. */
export interface ResyncPlan {
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
  /** Those of `touch`, `adopt` and `drop` which undo a write or a deletion that this host has seen and Redis lost. */
  readonly overruled: readonly string[];
}

/** The copy of a host. */
export interface Local {
  readonly items: ReadonlyMap<string, Stored>;
  readonly marks: readonly Mark[];
  readonly lineage: Pick<Lineage, 'gone' | 'origins'>;
}

/** The origin of a host's value or deletion of this key. */
export function originHere({ items, marks, lineage }: Local, key: string): string {
  const revision = items.get(key)?.revision ?? lineage.gone.get(key) ?? 0;
  return lineage.origins.get(key) ?? originOf(marks, revision);
}

type Facts = Omit<Survey, keyof Position | 'relation' | 'floor'>;

/** The origin of the value or deletion of this key in Redis, when it is from after the common revision. */
export function originThere({ index, gone, marks, origins }: Facts, key: string): string {
  return origins.get(key) ?? originOf(marks, index.get(key) ?? gone.get(key) ?? 0);
}

/**
 * After a failover or a crash, Redis may have lost writes that this host has seen, or have writes that it has not seen.
 * Both have the same history up to `survey.common`. With `hasLost`, changes after it that only this host has are restored.
 * Where both have changed a key, the later change counts: that of the side which has seen the batch of the other one, or, when neither
 * has, the one that is later by the clock of Redis. Without `hasLost`, Redis is right for every key.
 */
export function planResync(local: Local, survey: Facts, hasLost: boolean): ResyncPlan {
  const { items, marks, lineage } = local;
  const { common, index, gone } = survey;
  const plan = {
    restore: [] as string[],
    remove: [] as string[],
    touch: [] as string[],
    adopt: [] as string[],
    drop: [] as string[],
  };
  const seen = [marks, survey.marks].map((known) => new Set(known.map(([nonce]) => nonce)));
  const [here = new Set(), there = new Set()] = seen;
  /** Whether this host's state of a key, changed after the common revision, is later than the one of Redis from this revision. */
  const isLater = (key: string, revision: number): boolean => {
    if (!hasLost || revision <= common) return hasLost;
    const [own, other] = [originHere(local, key), originThere(survey, key)];
    if (own === other || there.has(batchOf(own))) return false;
    return here.has(batchOf(other)) || timeOf(own) > timeOf(other);
  };
  for (const [key, inRedis] of index) {
    const revision = items.get(key)?.revision;
    if (revision === undefined) (isLater(key, inRedis) ? plan.remove : plan.adopt).push(key);
    else if (revision > common && isLater(key, inRedis)) plan.restore.push(key);
    else if (inRedis > revision) plan.adopt.push(key);
    else if (inRedis < revision || revision > common) plan.touch.push(key);
  }
  // Another host may have seen such a key in the lost history, and not its deletion.
  for (const [key, revision] of lineage.gone)
    if (!index.has(key) && revision > common && isLater(key, gone.get(key) ?? 0)) plan.remove.push(key);
  for (const [key, { revision }] of items)
    if (!index.has(key))
      (revision > common && isLater(key, gone.get(key) ?? 0) ? plan.restore : plan.drop).push(key);
  const isOverruled = (key: string): boolean => {
    const revision = items.get(key)?.revision ?? lineage.gone.get(key) ?? 0;
    const own = originHere(local, key);
    return revision > common && own !== originThere(survey, key) && !there.has(batchOf(own));
  };
  const others = hasLost ? [...plan.adopt, ...plan.touch, ...plan.drop] : [];
  return { ...plan, overruled: others.filter(isOverruled).sort() };
}
