import type { Config } from '../config/config.js';
import { nodeName } from '../config/node.js';
import { lockFolder } from '../store/folder-lock.js';
import { StoreError } from '../store/store-error.js';
import { AuditFile } from './audit-file.js';

/** A change that is made while the service does not have the audit open. */
export interface AloneRecord {
  readonly who: string;
  readonly action: 'teardown' | 'store.restore' | 'store.start-empty';
  readonly after: unknown;
  readonly outcome: 'done' | 'refused';
}

/**
 * Append a record to the audit's files of this host, under the lock of the state folder: the chain has one writer. The copies
 * for other hosts in Redis are not written. Resolves with the reason if the record was not written, and never rejects,
 * because the change (a teardown, a repair of the store) must be possible on a full disk as well.
 */
export async function recordAlone(
  config: Pick<Config, 'state' | 'node'>,
  { who, action, after, outcome }: AloneRecord,
  now: () => number = Date.now,
): Promise<string | undefined> {
  const node = nodeName(config);
  const target = action === 'teardown' ? node : 'store';
  const time = new Date(now()).toISOString();
  try {
    const lock = await lockFolder(config.state);
    try {
      const file = await AuditFile.open({ dir: config.state, now });
      try {
        await file.append({ time, node, who, action, target, before: null, after, outcome });
      } finally {
        await file.close();
      }
    } finally {
      await lock.release();
    }
    return undefined;
  } catch (e) {
    return reasonOf(e, config.state);
  }
}

/** The cause alone: the message of the audit says that nothing was changed, which is not true here. */
function reasonOf(e: unknown, state: string): string {
  if (e instanceof StoreError && e.code === 'locked') return `another process uses ${state}`;
  const cause = e instanceof Error && e.cause instanceof Error ? e.cause : e;
  return `the audit in ${state} cannot be written: ${cause instanceof Error ? cause.message : String(cause)}`;
}
