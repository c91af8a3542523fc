import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import type { RedisOptions } from 'ioredis';
import { type RedisUrl, readRedisUrl } from '../config/redis-url.js';
import { StoreError } from './store-error.js';
import type { Endpoint } from './store-interface.js';

/** ioredis' own types refuse its `replyMapping` where that is left open. */
export type Options = Omit<RedisOptions, 'replyMapping'>;

/** Where Redis is and how it is spoken to, from `store.redis`. */
export interface RedisTarget {
  readonly options: Options;
  /** Every key of ours begins with it, in braces: one slot of a cluster. */
  readonly prefix: string;
  /** Replicas that must have a write before it counts. */
  readonly replicas: number;
  readonly sentinel: boolean;
  /** Servers that the URL names by their address, Sentinels among them. */
  readonly named: readonly Endpoint[];
  /** For messages: without user and password. */
  readonly shown: string;
}

/** Throws StoreError `value` with what is wrong. The file of `ca` is read here. */
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
    throw new StoreError(
      'value',
      `store.redis: the certificate of ca=${file} cannot be read (${e instanceof Error ? e.message : e}). ` +
        'Name a file that is there and may be read',
    );
  }
}

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
