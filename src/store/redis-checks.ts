import { Redis } from 'ioredis';
import { errorText } from '../lib/problem.js';
import { disconnect, optionsOf, parseRedisUrl, type RedisTarget } from './redis-target.js';
import { StoreError } from './store-error.js';

/** The result of one check of the Redis server. */
export interface RedisCheck {
  readonly name: string;
  readonly ok: boolean;
  readonly level: 'error' | 'warn';
  readonly detail: string;
  readonly remedy?: string;
}
type Info = ReadonlyMap<string, string>;
interface Found {
  readonly target: RedisTarget;
  readonly info: Info;
  readonly durability: Durability;
  /** Undefined when an ACL forbids CONFIG GET. */
  readonly appendfsync: string | undefined;
}

/** Checks whether the Redis of this URL is reachable and keeps acknowledged writes. Changes nothing there. */
export async function checkRedis(url: string): Promise<RedisCheck[]> {
  try {
    const target = parseRedisUrl(url);
    return await checkServer(target);
  } catch (e) {
    if (!(e instanceof StoreError)) throw e;
    return [failed('redis', e.message, 'correct store.redis')];
  }
}

async function checkServer(target: RedisTarget): Promise<RedisCheck[]> {
  const redis = new Redis({
    ...optionsOf(target.options),
    retryStrategy: null,
    sentinelRetryStrategy: () => null,
  });
  let why = '';
  redis.on('error', (e: Error) => {
    why = e.message;
  });
  try {
    await redis.connect();
    const found = await facts(redis, target);
    return [answers(found), appendOnly(found), fsync(found), eviction(found), replication(found)].flat();
  } catch (e) {
    const reason = why || errorText(e);
    const remedy =
      'start it, or correct store.redis; until then the last good copy is in use and changes are refused';
    return [failed('redis', `Redis does not answer at ${target.shown}: ${reason}`, remedy)];
  } finally {
    disconnect(redis);
  }
}

async function facts(redis: Redis, target: RedisTarget): Promise<Found> {
  const sections = await Promise.all(
    ['server', 'persistence', 'memory', 'replication'].map((s) => infoOf(redis, s)),
  );
  const config = (await redis.call('CONFIG', 'GET', 'appendfsync').catch(() => [])) as string[];
  return {
    target,
    info: new Map(sections.flatMap((section) => [...section])),
    durability: await checkDurability(redis),
    appendfsync: config[1],
  };
}

function answers({ target, info }: Found): RedisCheck {
  const version = info.get('valkey_version') ?? info.get('redis_version') ?? 'of an unknown version';
  return passed('redis', `Redis ${version} answers at ${target.shown}`);
}

function appendOnly({ durability, info }: Found): RedisCheck {
  const name = 'redis append-only file';
  if (durability.refusal !== undefined)
    return failed(
      name,
      'it is off: Redis would lose acknowledged changes, so none is made',
      'redis-cli CONFIG SET appendonly yes, and appendonly yes in redis.conf',
    );
  if (info.get('aof_last_write_status') === 'err')
    return failed(name, 'the last write to it failed', 'see the log of Redis; its disk may be full');
  return passed(name, info.has('aof_enabled') ? 'it is on' : 'unknown (INFO is not permitted)');
}

function fsync({ appendfsync, durability }: Found): RedisCheck {
  const name = 'redis appendfsync';
  const slow = durability.canWaitForDisk
    ? 'a change is acknowledged once it is on disk, which takes up to two seconds'
    : 'a change of the last second may be lost when the machine ends (this Redis has no WAITAOF, so Drawbridge cannot wait for its disk)';
  const always = 'redis-cli CONFIG SET appendfsync always';
  if (appendfsync === 'always') return passed(name, 'always: acknowledged changes are on disk');
  if (appendfsync === 'everysec') return warned(name, `everysec: ${slow}`, always);
  if (appendfsync === undefined)
    return warned(name, 'unknown (CONFIG is not permitted)', 'check that it is always');
  return failed(name, `${appendfsync}: it is unknown when a change is on disk`, always);
}

function eviction({ info }: Found): RedisCheck {
  const name = 'redis memory';
  const policy = info.get('maxmemory_policy');
  if (policy === undefined)
    return warned(name, 'unknown (INFO is not permitted)', 'check that maxmemory-policy is noeviction');
  if (policy === 'noeviction' || info.get('maxmemory') === '0')
    return passed(name, policy === 'noeviction' ? 'noeviction' : `${policy}, without a limit`);
  return failed(
    name,
    `${policy}: when memory is short, Redis deletes lists`,
    'redis-cli CONFIG SET maxmemory-policy noeviction',
  );
}

function replication({ target, info }: Found): RedisCheck[] {
  const name = 'redis replicas';
  const role = info.get('role');
  if (role === 'slave')
    return [
      failed(name, 'this is a replica: changes are refused', 'name the master, or use redis+sentinel://'),
    ];
  const connected = Number(info.get('connected_slaves') ?? 0);
  if (target.replicas === 0) return [];
  const detail = `${connected} are connected, ${target.replicas} must confirm a change`;
  if (connected >= target.replicas) return [passed(name, detail)];
  return [failed(name, detail, 'start them, or lower ?replicas= in store.redis')];
}

const passed = (name: string, detail: string): RedisCheck => ({ name, ok: true, level: 'error', detail });
const failed = (name: string, detail: string, remedy: string): RedisCheck => ({
  name,
  ok: false,
  level: 'error',
  detail,
  remedy,
});
const warned = (name: string, detail: string, remedy: string): RedisCheck => ({
  name,
  ok: false,
  level: 'warn',
  detail,
  remedy,
});

/** How far a Redis server guarantees that acknowledged writes survive a crash. */
export interface Durability {
  /** WAITAOF (Redis 7.2, Valkey) waits until a write is on disk, whatever appendfsync is. */
  readonly canWaitForDisk: boolean;
  /** Why no change may be written to this Redis, with the remedy; undefined when changes may be written. */
  readonly refusal: string | undefined;
}

/** Returns a section of INFO as a map, empty when an ACL forbids the command. */
async function infoOf(redis: Redis, section: string): Promise<ReadonlyMap<string, string>> {
  const text = await redis.info(section).catch((e: Error) => {
    if (/^NOPERM/.test(e.message)) return '';
    throw e;
  });
  return new Map([...text.matchAll(/^(\w+):(.*?)\r?$/gm)].map(([, key = '', value = '']) => [key, value]));
}

export async function checkDurability(redis: Redis): Promise<Durability> {
  const [persistence, waitaof] = await Promise.all([
    infoOf(redis, 'persistence'),
    isKnownCommand(redis, 'waitaof'),
  ]);
  const off = persistence.get('aof_enabled') === '0';
  return { canWaitForDisk: waitaof, refusal: off ? AOF_OFF : undefined };
}

const AOF_OFF =
  'has no append-only file: it would lose acknowledged changes when it ends, so none is made. ' +
  'Turn it on: redis-cli CONFIG SET appendonly yes, and appendonly yes in redis.conf';

async function isKnownCommand(redis: Redis, command: string): Promise<boolean> {
  const [found] = (await redis.call('COMMAND', 'INFO', command).catch(() => [null])) as unknown[];
  return found !== null && found !== undefined;
}
