import type { Mark, Origins } from './redis-lineage.js';
import type { RedisLink } from './redis-link.js';
import type { Position, Replica } from './redis-replica.js';
import { SURVEY, VALUES } from './redis-scripts.js';
import type { Change } from './stored-item.js';

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
