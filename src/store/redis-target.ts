import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import type { Redis, RedisOptions } from 'ioredis';
import { type RedisUrl, readRedisUrl } from '../config/redis-url.js';
import { errorText } from '../lib/problem.js';
import { StoreError } from './store-error.js';
import type { Endpoint } from './store-interface.js';

/** Options without `replyMapping`, which the types of ioredis reject when it may be absent. */
export type Options = Omit<RedisOptions, 'replyMapping'>;

/** The address and connection options of Redis, from `store.redis`. */
export interface RedisTarget {
  readonly options: Options;
  /** Prefix of every key, in braces, so that all keys are in one slot of a cluster. */
  readonly prefix: string;
  /** The number of replicas that must confirm a write. */
  readonly replicas: number;
  readonly sentinel: boolean;
  /** Servers, including Sentinels, that the URL names by their address. */
  readonly named: readonly Endpoint[];
  /** The URL for messages, without user and password. */
  readonly shown: string;
}

/** Parses the URL and reads the file of `ca`. Throws StoreError `value` that lists the problems. */
export function parseRedisUrl(text: string): RedisTarget {
  const parsed = readRedisUrl(text);
  if (!parsed.ok)
    throw new StoreError(
      'value',
      parsed.problems.map(({ detail, remedy }) => `store.redis: ${detail}; ${remedy}`).join('. '),
    );
  const url = parsed.value;
  const { addresses, db, user, password, replicas, shown } = url;
  const tls = url.tls ? tlsOf(url.ca) : undefined;
  const server = url.socket === undefined ? { ...addresses[0], ...(tls && { tls }) } : { path: url.socket };
  const place = url.master === undefined ? server : sentinels(url, tls);
  return {
    options: { ...place, ...(user && { username: user }), ...(password && { password }), db },
    prefix: `{${url.prefix}}:`,
    replicas,
    sentinel: url.master !== undefined,
    named: addresses.flatMap(({ host, port }) =>
      isIP(host) || host === 'localhost'
        ? [{ address: host === 'localhost' ? '127.0.0.1' : host, port }]
        : [],
    ),
    shown,
  };
}

function sentinels(
  { addresses, master, sentinelUser, sentinelPassword }: RedisUrl,
  tls: { ca?: Buffer } | undefined,
): Options {
  return {
    sentinels: [...addresses],
    ...(master && { name: master }),
    ...(sentinelUser !== undefined && { sentinelUsername: sentinelUser }),
    ...(sentinelPassword !== undefined && { sentinelPassword }),
    ...(tls && { tls, sentinelTLS: tls, enableTLSForSentinelMode: true }),
  };
}

function tlsOf(file: string | undefined): { ca?: Buffer } {
  if (file === undefined) return {};
  try {
    return { ca: readFileSync(file) };
  } catch (e) {
    throw new StoreError('value', {
      detail: `store.redis: the certificate of ca=${file} cannot be read (${errorText(e)})`,
      remedy: 'Name an existing, readable file',
    });
  }
}

/** Longer than the time that Redis has to confirm a write. */
const COMMAND_MS = 6_000;
const CONNECT_MS = 2_000;
const LAST_RETRY_MS = 2_000;

/** Options of each connection: commands fail at once while it is down, none is sent twice, and it reconnects by itself. */
export function optionsOf(place: Options): Options {
  return {
    ...place,
    lazyConnect: true,
    enableOfflineQueue: false,
    autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: 0,
    commandTimeout: COMMAND_MS,
    connectTimeout: CONNECT_MS,
    // ioredis ends its own connection to a Sentinel then: not within the handshake (see disconnect)
    sentinelCommandTimeout: CONNECT_MS + 1_000,
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
/** Half of the delay is random, so that the hosts of a fleet do not reconnect in the same instant. */
function retryMs(attempt: number): number {
  const most = Math.min(FIRST_RETRY_MS * 2 ** Math.min(attempt, DOUBLINGS), LAST_RETRY_MS);
  return most / 2 + (Math.random() * most) / 2;
}

/**
 * Ends a connection. A TLS socket that is ended within its handshake may report two errors: that the certificate is not trusted, and the alert
 * with which the server answers the end (Node.js, lib/_tls_wrap.js, _emitTLSError). ioredis listens to the first one only, and an error without a
 * listener ends the process.
 */
export function disconnect(redis: Redis, reconnects = false): void {
  (redis.stream as typeof redis.stream | undefined)?.on('error', () => undefined);
  redis.disconnect(reconnects);
}
