import type { Redis } from 'ioredis';

/** Whether Redis keeps what it acknowledges. */
export interface Durability {
  /** WAITAOF (Redis 7.2, Valkey): it tells when a write is on disk, whatever appendfsync says. */
  readonly canWaitForDisk: boolean;
  /** Why nothing may be written to it, with the remedy; undefined: it may. */
  readonly refusal: string | undefined;
}

/** INFO as a map; empty where an ACL forbids it. */
export async function infoOf(redis: Redis, section: string): Promise<ReadonlyMap<string, string>> {
  const text = await redis.info(section).catch((e: Error) => {
    if (/^NOPERM/.test(e.message)) return '';
    throw e;
  });
  return new Map([...text.matchAll(/^(\w+):(.*?)\r?$/gm)].map(([, key = '', value = '']) => [key, value]));
}

export async function checkDurability(redis: Redis): Promise<Durability> {
  const [persistence, waitaof] = await Promise.all([infoOf(redis, 'persistence'), knows(redis, 'waitaof')]);
  const off = persistence.get('aof_enabled') === '0';
  return { canWaitForDisk: waitaof, refusal: off ? AOF_OFF : undefined };
}

const AOF_OFF =
  'has no append-only file: it would lose acknowledged changes when it ends, so none is made. ' +
  'Turn it on: redis-cli CONFIG SET appendonly yes, and appendonly yes in redis.conf';

async function knows(redis: Redis, command: string): Promise<boolean> {
  const [found] = (await redis.call('COMMAND', 'INFO', command).catch(() => [null])) as unknown[];
  return found !== null && found !== undefined;
}
