/** The hosts that share a store, as each tells of itself. Pure. */
import { isRecord } from '../lib/json.js';

/** What a host says of itself with each sign of life. */
export interface NodeRecord {
  readonly version: string;
  /** Tells two processes of one name apart. */
  readonly instance: string;
  /** Revision of the store up to which its kernel holds what it should. */
  readonly revision: number;
  readonly inSync: boolean;
  readonly containers: number;
  /** Containers in mode enforce. Versions that do not write `fullyEnforced` count only those with full coverage. */
  readonly enforced: number;
  /** Those of them whose coverage is `enforced`; absent in what older versions write. */
  readonly fullyEnforced?: number;
  readonly observed: number;
  /** Containers of every mode by coverage. */
  readonly partial: number;
  readonly unenforced: number;
}

export interface NodeView extends Omit<NodeRecord, 'instance' | 'fullyEnforced'> {
  /** null: an older version runs there. */
  readonly fullyEnforced: number | null;
  readonly node: string;
  /** RFC 3339 UTC */
  readonly lastSeen: string;
  /** stale: it has been silent for too long. */
  readonly state: 'ok' | 'out of sync' | 'stale';
}

/** So often (ms) a host gives a sign of life, and after so long a silence it is stale. */
export const BEAT_MS = 5_000;
export const STALE_MS = 30_000;

const COUNTS = ['revision', 'containers', 'enforced', 'observed', 'partial', 'unenforced'] as const;

/** Undefined: written by a version that this one does not understand. */
export function nodeRecord(value: unknown): NodeRecord | undefined {
  if (!isRecord(value)) return undefined;
  const { version, instance, inSync, fullyEnforced } = value;
  if (typeof version !== 'string' || typeof instance !== 'string' || typeof inSync !== 'boolean')
    return undefined;
  const counts = COUNTS.map((field) => [field, value[field]] as const);
  if (!counts.every(([, count]) => typeof count === 'number')) return undefined;
  return {
    version,
    instance,
    inSync,
    ...(typeof fullyEnforced === 'number' && { fullyEnforced }),
    ...(Object.fromEntries(counts) as Pick<NodeRecord, (typeof COUNTS)[number]>),
  };
}

/** @param now ms since the epoch  @param ageMs since its last sign of life */
export function nodeView(node: string, record: NodeRecord, ageMs: number, now: number): NodeView {
  const { instance: _, fullyEnforced = null, ...told } = record;
  const state = ageMs > STALE_MS ? 'stale' : record.inSync ? 'ok' : 'out of sync';
  return { node, ...told, fullyEnforced, lastSeen: new Date(now - ageMs).toISOString(), state };
}
