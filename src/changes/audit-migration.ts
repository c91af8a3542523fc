import { isRecord } from '../lib/json.js';
import type { Logger } from '../lib/log.js';
import type { Store } from '../store/store-interface.js';
import { difference } from './audit-difference.js';
import type { AuditFile } from './audit-file.js';

const PREFIX = 'audit/';
const AT_ONCE = 50;

/**
 * Records that an older version kept in the store move to the files, oldest first, and leave the store only when they are
 * durable there. After a crash in between, or on a full disk, the rest moves at the next start; at most one group of
 * records is then in the files twice (each carries `from`, its key in the store).
 */
export async function moveOldRecords(store: Store, file: AuditFile, log: Logger): Promise<void> {
  const keys = await store.keys(PREFIX);
  try {
    for (let i = 0; i < keys.length; i += AT_ONCE) await moveGroup(store, file, keys.slice(i, i + AT_ONCE));
  } catch (err) {
    log.warn(
      { err },
      'audit records of an older version stay in the store for now: they move at the next start',
    );
    return;
  }
  if (keys.length > 0)
    log.info({ records: keys.length }, 'audit records of an older version are in the files of the audit now');
}

async function moveGroup(store: Store, file: AuditFile, keys: readonly string[]): Promise<void> {
  const moved = keys.map(async (key) => {
    const item = await store.get(key);
    if (item) await file.append(contentOf(key, item.value));
  });
  await Promise.all(moved);
  await Promise.all(keys.map((key) => store.delete(key)));
}

function contentOf(key: string, value: unknown): Readonly<Record<string, unknown>> {
  const record = isRecord(value) ? value : {};
  const { before = null, after = null, ...rest } = record;
  return { ...rest, ...difference(before, after), from: key.slice(PREFIX.length) };
}
