import type { Mark, Position, Replica } from './redis-replica.js';
import type { Stored } from './stored-item.js';

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
  /** Where restored keys come from, see originOf. */
  readonly origins: ReadonlyMap<string, string>;
}

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
}

type Local = { readonly items: ReadonlyMap<string, Stored> } & Pick<Replica, 'marks' | 'gone'>;

/**
 * After a failover or a crash, Redis may have lost writes that this host has seen, or have writes that it has not seen.
 * Both have the same history up to `survey.common`. With `hasLost`, changes after it that only this host has are
 * restored, and changes after it in Redis are kept: they were made later. Only where Redis has what another host restored from
 * the same lost history, the later change of that history counts. Without `hasLost`, Redis is right for every key.
 */
export function planResync(
  { items, marks, gone: deleted }: Local,
  { common, index, gone, origins }: Pick<Survey, 'common' | 'index' | 'gone' | 'origins'>,
  hasLost: boolean,
): ResyncPlan {
  const plan = {
    restore: [] as string[],
    remove: [] as string[],
    touch: [] as string[],
    adopt: [] as string[],
    drop: [] as string[],
  };
  const known = new Set(marks.map(([nonce, revision]) => `${nonce} ${revision}`));
  /** The revision in the lost history of what another host has restored; undefined when this host did not see that history. */
  const restoredAs = (key: string): number | undefined => {
    const [nonce, batch, revision] = (origins.get(key) ?? '').split(' ');
    return known.has(`${nonce} ${batch}`) ? Number(revision) : undefined;
  };
  /** True when this host's state of a key that was changed here after the common revision is later than that of Redis. */
  const isLater = (key: string, there: number, here: number): boolean =>
    hasLost && (there <= common || here > (restoredAs(key) ?? Number.POSITIVE_INFINITY));
  for (const [key, there] of index) {
    const here = items.get(key)?.revision;
    if (here === undefined)
      (hasLost && (there <= common || restoredAs(key) !== undefined) ? plan.remove : plan.adopt).push(key);
    else if (here > common && isLater(key, there, here)) plan.restore.push(key);
    else if (there > here) plan.adopt.push(key);
    else if (there < here || here > common) plan.touch.push(key);
  }
  // Another host may have seen such a key in the lost history, and not its deletion.
  for (const [key, revision] of deleted)
    if (!index.has(key) && revision > common && isLater(key, gone.get(key) ?? 0, revision))
      plan.remove.push(key);
  for (const [key, { revision }] of items)
    if (!index.has(key))
      (revision > common && isLater(key, gone.get(key) ?? 0, revision) ? plan.restore : plan.drop).push(key);
  return plan;
}

/** The batch in the history of this host that made a revision, and that revision; '' when the host does not remember it. */
export function originOf(marks: readonly Mark[], revision: number): string {
  const batch = marks.findLast(([, after]) => after >= revision);
  return batch === undefined || revision === 0 ? '' : `${batch[0]} ${batch[1]} ${revision}`;
}
