import type { Config } from '../config/config.js';
import { isRecord } from '../lib/json.js';
import type { Logger } from '../lib/logger.js';
import { openStoreAlone } from './embedded-shared.js';
import { openRedisStore } from './redis.js';
import type { SharedStore } from './store.js';

/** The store of the configuration: embedded, or on Redis with its last good in `state`. */
export function openStore(config: Config, log: Logger): Promise<SharedStore> {
  const { state: dir, store } = config;
  return store.redis === ''
    ? openStoreAlone({ dir, log })
    : openRedisStore({ url: store.redis, dir, log, isLocal: concernsThisHost });
}

/** What one container has for a time, and the record of who gave it, waits here while Redis is away. */
function concernsThisHost(key: string, value: unknown): boolean {
  if (key.startsWith('audit/')) return true;
  const kept = key.startsWith('grant/') || key.startsWith('pause/');
  return kept && isRecord(value) && typeof value.owner === 'string' && value.owner.startsWith('id:');
}
