import type { Options } from './redis-url.js';

/** Longer than Redis is given to confirm a write. */
const COMMAND_MS = 6_000;
const CONNECT_MS = 2_000;
const LAST_RETRY_MS = 2_000;

/** How a connection behaves: it fails at once while it is away, never sends twice, and comes back by itself. */
export function optionsOf(place: Options): Options {
  return {
    ...place,
    lazyConnect: true,
    enableOfflineQueue: false,
    autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: 0,
    commandTimeout: COMMAND_MS,
    connectTimeout: CONNECT_MS,
    sentinelCommandTimeout: CONNECT_MS,
    keepAlive: 5_000,
    connectionName: 'drawbridge',
    retryStrategy: retryMs,
    sentinelRetryStrategy: retryMs,
    sentinelReconnectStrategy: retryMs,
    reconnectOnError: (e) => /^(READONLY|MASTERDOWN|LOADING)/.test(e.message),
  };
}

const FIRST_RETRY_MS = 50;
const DOUBLINGS = 6;
/** Half of it by chance: a fleet must not come back in one instant. */
function retryMs(attempt: number): number {
  const most = Math.min(FIRST_RETRY_MS * 2 ** Math.min(attempt, DOUBLINGS), LAST_RETRY_MS);
  return most / 2 + (Math.random() * most) / 2;
}
