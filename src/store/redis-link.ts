import type { Socket } from 'node:net';
import { TLSSocket } from 'node:tls';
import { Redis } from 'ioredis';
import type { Logger } from '../lib/log.js';
import type { RedisKey, Script } from './redis-scripts.js';
import { type Options, optionsOf, type RedisTarget } from './redis-target.js';
import { StoreError } from './store-error.js';
import type { Endpoint } from './store-interface.js';

const CONFIRM_MS = 4_000;

const NEVER = 'not connected yet';

type Argument = string | number | Buffer;

/** What a write and its confirmation share: one connection. */
export interface WriteSession {
  readonly connection: number;
  readonly canWaitForDisk: boolean;
}

/**
 * The connections to Redis: one reads, one writes (it waits for the disk), one listens for wakes. They come back by
 * themselves; nothing is queued while they are away, and nothing is ever sent twice.
 */
export class RedisLink {
  readonly target: RedisTarget;
  readonly #log: Logger;
  readonly #reader: Redis;
  readonly #writer: Redis;
  readonly #listener: Redis;
  readonly #master: MasterWatch;
  #durability: Promise<Durability> | undefined;
  /** Which connection of the writer this is. */
  #connection = 0;
  #lastError = NEVER;
  /** Since when the writer has no connection; undefined: it has one. */
  #writerLostAt: number | undefined = Date.now();
  #closed = false;

  /** `onWake`: somebody wrote, or a connection came or went. */
  constructor(target: RedisTarget, log: Logger, onWake: () => void) {
    this.target = target;
    this.#log = log;
    const options = optionsOf(target.options);
    this.#reader = new Redis(options);
    this.#writer = new Redis(options);
    this.#listener = new Redis({ ...options, autoResubscribe: false });
    for (const redis of [this.#reader, this.#writer, this.#listener])
      redis
        .on('error', (e: Error) => this.#failed(e))
        .on('close', () => {
          this.#ended();
          onWake();
        })
        .on('ready', onWake);
    this.#writer.on('ready', () => {
      this.#durability = undefined;
      this.#connection++;
      this.#writerLostAt = undefined;
    });
    this.#writer.on('close', () => {
      this.#writerLostAt ??= Date.now();
    });
    this.#listener.on('ready', () =>
      this.#listener.subscribe(this.channel).catch((e: Error) => this.#failed(e)),
    );
    this.#listener.on('message', onWake);
    this.#master = new MasterWatch(target, () => {
      for (const redis of [this.#reader, this.#writer, this.#listener]) giveUp(redis);
    });
  }

  /** Begins; resolves at once, the connections come when they can. */
  open(): void {
    for (const redis of [this.#reader, this.#writer, this.#listener]) redis.connect().catch(() => undefined);
  }

  /** Those that the URL names by address, and the one that the reader is connected to. */
  servers(): readonly Endpoint[] {
    const { remoteAddress, remotePort } = (this.#reader.stream as Partial<Socket> | undefined) ?? {};
    const connected =
      remoteAddress === undefined || remotePort === undefined
        ? []
        : [{ address: remoteAddress, port: remotePort }];
    return [...this.target.named, ...connected];
  }

  get channel(): string {
    return `${this.target.prefix}wake`;
  }
  get canRead(): boolean {
    return this.#reader.status === 'ready';
  }
  get canWrite(): boolean {
    return this.#writer.status === 'ready';
  }
  /** Milliseconds since the epoch; undefined while the writer has a connection. */
  get writerLostAt(): number | undefined {
    return this.#writerLostAt;
  }
  get lastError(): string {
    return this.#lastError;
  }

  read(script: Script, args: readonly Argument[]): Promise<unknown> {
    return this.#run(this.#reader, script, args);
  }
  write(script: Script, args: readonly Argument[]): Promise<unknown> {
    return this.#run(this.#writer, script, args);
  }
  /** Values of fields of one of our hashes. */
  fields(key: RedisKey, fields: readonly string[]): Promise<(string | null)[]> {
    return this.#guard(this.#reader, () => this.#reader.hmget(this.#key(key), ...fields));
  }
  bytes(key: RedisKey, field: string): Promise<Buffer | null> {
    return this.#guard(this.#reader, () => this.#reader.hgetBuffer(this.#key(key), field));
  }
  fieldNames(key: RedisKey): Promise<string[]> {
    return this.#guard(this.#reader, () => this.#reader.hkeys(this.#key(key)));
  }
  setField(key: RedisKey, field: string, value: Buffer): Promise<number> {
    return this.#guard(this.#writer, () => this.#writer.hset(this.#key(key), field, value));
  }
  removeField(key: RedisKey, field: string): Promise<number> {
    return this.#guard(this.#writer, () => this.#writer.hdel(this.#key(key), field));
  }

  /** Throws StoreError: `away`, or `write` when Redis does not keep what it is given. Before anything is sent. */
  async mayWrite(): Promise<WriteSession> {
    if (!this.canWrite) throw this.away();
    const connection = this.#connection;
    this.#durability ??= checkDurability(this.#writer);
    const found = await this.#durability.catch((e: unknown) => {
      this.#durability = undefined;
      throw this.away(e);
    });
    if (found.refusal === undefined) return { connection, canWaitForDisk: found.canWaitForDisk };
    this.#durability = undefined;
    throw new StoreError('write', `Redis at ${this.target.shown} ${found.refusal}`);
  }

  /**
   * Everything written so far in this session is on Redis's disk, and at as many replicas as asked for.
   * Throws StoreError `unknown`.
   */
  async confirm(session: WriteSession): Promise<void> {
    try {
      await this.#confirm(session);
    } catch (e) {
      // An append-only file can be turned off, a master be one no longer: looked at again before the next write.
      this.#durability = undefined;
      throw e instanceof StoreError
        ? e
        : this.unknown(`did not confirm it (${e instanceof Error ? e.message : e})`, e);
    }
  }

  async #confirm({ connection, canWaitForDisk }: WriteSession): Promise<void> {
    const { replicas } = this.target;
    const failures: string[] = [];
    if (canWaitForDisk && ((await this.#wait('WAITAOF', 1, 0)) as number[])[0] !== 1)
      failures.push('its disk');
    if (replicas > 0 && Number(await this.#wait('WAIT', replicas)) < replicas)
      failures.push(`${replicas} of its replicas`);
    // Redis waits for the writes of the connection that asks: another one has none.
    if (connection !== this.#connection) throw this.unknown('closed the connection before it confirmed it');
    if (failures.length === 0) return;
    giveUp(this.#writer);
    throw this.unknown(`${failures.join(' and ')} did not confirm it within ${CONFIRM_MS / 1000} s`);
  }

  away(cause?: unknown): StoreError {
    const why = cause instanceof Error ? cause.message : this.#lastError;
    const detail = `Redis at ${this.target.shown} does not answer (${why}): nothing was changed`;
    return new StoreError('away', `${detail}. Try again when it is back; drawbridge status tells`, cause);
  }

  unknown(why: string, cause?: unknown): StoreError {
    const detail = `Redis at ${this.target.shown} may have taken the change, and ${why}`;
    return new StoreError(
      'unknown',
      `${detail}. Read what is stored, and make the change again if it is missing`,
      cause,
    );
  }

  close(): void {
    this.#closed = true;
    this.#master[Symbol.dispose]();
    for (const redis of [this.#reader, this.#writer, this.#listener]) redis.disconnect();
  }

  #key(key: RedisKey): string {
    return `${this.target.prefix}${key}`;
  }

  #wait(command: string, ...args: readonly number[]): Promise<unknown> {
    return this.#guard(this.#writer, () => this.#writer.call(command, ...args, CONFIRM_MS));
  }

  #run(redis: Redis, script: Script, args: readonly Argument[]): Promise<unknown> {
    const all = [script.keys.length, ...script.keys.map((key) => this.#key(key)), ...args] as const;
    return this.#guard(redis, async () => {
      try {
        return await redis.call('EVALSHA', script.sha, ...all);
      } catch (e) {
        if (!(e instanceof Error && e.message.startsWith('NOSCRIPT'))) throw e;
        return redis.call('EVAL', script.lua, ...all);
      }
    });
  }

  /** A connection that does not answer is given up: behind a dead link TCP would go on trying for minutes. */
  async #guard<T>(redis: Redis, work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (e) {
      if (e instanceof Error && e.message === 'Command timed out' && !this.#closed) giveUp(redis);
      throw e;
    }
  }

  /** A server that ends closes without an error; what came before says more. */
  #ended(): void {
    if (this.#lastError === NEVER || this.canRead) this.#lastError = 'it closed the connection';
  }

  #failed(e: Error): void {
    if (e.message !== this.#lastError)
      this.#log.warn({ redis: this.target.shown, err: e.message }, 'no connection to Redis');
    this.#lastError = e.message;
  }
}

/**
 * Ends a connection with all that is on its way, and makes another. A socket that is merely closed goes on sending what it
 * holds: a change that was given up would come to Redis when the network does, and put itself in a newer one's place.
 */
function giveUp(redis: Redis): void {
  const stream = redis.stream as Partial<Socket> | undefined;
  // Node cannot reset TLS; a unix socket has no network between
  const isTcp = stream?.remotePort !== undefined && !(stream instanceof TLSSocket);
  if (isTcp && stream.resetAndDestroy !== undefined) stream.resetAndDestroy();
  else redis.disconnect(true);
}

/** Redis itself refused: nothing was done. Anything else may have happened after the command was on its way. */
export const isRefusal = (e: unknown): e is Error => e instanceof Error && e.name === 'ReplyError';

/** So often (ms) a Sentinel is asked, half of it by chance. */
const EVERY_MS = 10_000;

/**
 * Notices that Sentinel has named another master while the old one still answers here: a host that only reads would stay
 * with it for as long as they are cut off from one another.
 */
class MasterWatch implements Disposable {
  readonly #target: RedisTarget;
  readonly #onMoved: () => void;
  #timer: NodeJS.Timeout | undefined;
  /** Which Sentinel is asked: the same one for as long as it answers. */
  #asked = 0;
  #told: string | undefined;
  #closed = false;

  constructor(target: RedisTarget, onMoved: () => void) {
    this.#target = target;
    this.#onMoved = onMoved;
    if (target.sentinel) this.#later();
  }

  [Symbol.dispose](): void {
    this.#closed = true;
    clearTimeout(this.#timer);
  }

  #later(): void {
    if (this.#closed) return;
    this.#timer = setTimeout(() => void this.#look(), EVERY_MS / 2 + (Math.random() * EVERY_MS) / 2);
  }

  async #look(): Promise<void> {
    const told = await this.#ask();
    if (told === undefined) this.#asked++;
    else if (this.#told !== undefined && told !== this.#told && !this.#closed) this.#onMoved();
    this.#told = told ?? this.#told;
    this.#later();
  }

  /** The master's address as the Sentinel tells it; undefined: no answer. */
  async #ask(): Promise<string | undefined> {
    const redis = new Redis({
      ...optionsOf(sentinelOf(this.#target.options, this.#asked)),
      retryStrategy: null,
    });
    // Whoever asks next asks another.
    redis.on('error', () => undefined);
    try {
      await redis.connect();
      const address = await redis.call(
        'SENTINEL',
        'get-master-addr-by-name',
        this.#target.options.name ?? '',
      );
      return Array.isArray(address) ? address.join(' ') : undefined;
    } catch {
      return undefined;
    } finally {
      redis.disconnect();
    }
  }
}

function sentinelOf(
  { sentinels = [], sentinelUsername, sentinelPassword, sentinelTLS }: Options,
  n: number,
): Options {
  const { host = '', port = 0 } = sentinels[n % sentinels.length] ?? {};
  return {
    host,
    port,
    ...(sentinelUsername !== undefined && { username: sentinelUsername }),
    ...(sentinelPassword !== undefined && { password: sentinelPassword }),
    ...(sentinelTLS && { tls: sentinelTLS }),
  };
}

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
