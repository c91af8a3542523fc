import type { Stored } from './snapshot.js';

/** What a survey of Redis told. */
export interface Survey {
  readonly id: string;
  readonly revision: number;
  readonly nonce: string;
  /** The revision up to which Redis and this host have the same past; 0: none of it. */
  readonly common: number;
  /** Every key in Redis and its revision. */
  readonly index: ReadonlyMap<string, number>;
}

/** How a replica and Redis come together again. */
export interface Reunion {
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
