import type { Socket } from 'node:net';
import { TLSSocket } from 'node:tls';
import { Redis } from 'ioredis';
import { Repeated } from '../lib/clock.js';
import type { Logger } from '../lib/log.js';
import { errorText } from '../lib/problem.js';
import { checkDurability, type Durability } from './redis-checks.js';
import { HELD, type RedisKey, type Script } from './redis-scripts.js';
import { disconnect, type Options, optionsOf, type RedisTarget } from './redis-target.js';
import { NotSentError, StoreError } from './store-error.js';
import type { Endpoint } from './store-interface.js';

const CONFIRM_MS = 4_000;

const NEVER = 'not connected yet';

/** What a person does about another store in Redis. */
export const HELD_REMEDY =
  'Put the store of this fleet back, or take over the one in Redis: drawbridge store accept';

type Argument = string | number | Buffer;

/** Identifies the connection on which a write was sent: the confirmation must use the same one. */
export interface WriteSession {
  readonly connection: number;
  readonly canWaitForDisk: boolean;
}

/**
 * The connections to Redis: one for reads, one for writes (it waits for the disk), one for wake messages. They reconnect
 * by themselves. While they are down, no command is queued, and no command is ever sent twice.
 */
export class RedisLink {
  readonly target: RedisTarget;
  readonly #log: Logger;
  readonly #reader: Redis;
  readonly #writer: Redis;
  readonly #listener: Redis;
  readonly #master: MasterWatch;
  /** Why nothing is written to this Redis: it holds another store. */
  held: string | undefined;
  #durability: Promise<Durability> | undefined;
  /** Counts the connections of the writer. */
  #connection = 0;
  #lastError = NEVER;
  #holds = false;
  /** When the writer lost its connection; undefined while it is connected. */
  #writerLostAt: number | undefined = Date.now();
  #closed = false;

  /** `onWake` is called when another host wrote, or when a connection was opened or closed. */
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
    this.#listener.on('ready', () => this.#subscribe());
    this.#listener.on('message', onWake);
    this.#master = new MasterWatch(target, () => {
      for (const redis of [this.#reader, this.#writer, this.#listener]) abandon(redis);
    });
  }

  /** Starts connecting and returns at once. */
  open(): void {
    for (const redis of [this.#reader, this.#writer, this.#listener]) redis.connect().catch(() => undefined);
  }

  /** The servers that the URL names by address, and the one that the reader is connected to. */
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
    return isWritable(this.#reader);
  }
  get canWrite(): boolean {
    return isWritable(this.#writer);
  }
  /** Milliseconds since the epoch; undefined while the writer has a connection. */
  get writerLostAt(): number | undefined {
    return this.#writerLostAt;
  }
  get lastError(): string {
    return this.#lastError;
  }

  /** Reports to other hosts that this one has a copy of the store. */
  holds(): void {
    if (this.#holds) return;
    this.#holds = true;
    if (isWritable(this.#listener)) this.#subscribe();
  }

  read(script: Script, args: readonly Argument[]): Promise<unknown> {
    return this.#run(this.#reader, script, args);
  }
  write(script: Script, args: readonly Argument[]): Promise<unknown> {
    return this.#run(this.#writer, script, args);
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

  /** Checks before a write is sent that Redis is durable. Throws StoreError `away`, or `write` when it has no append-only file. */
  async mayWrite(): Promise<WriteSession> {
    if (this.held !== undefined) throw this.notHealed(this.held, HELD_REMEDY);
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
   * Waits until all writes of this session are on the disk of Redis, and at the configured number of replicas.
   * Throws StoreError `unknown`.
   */
  async confirm(session: WriteSession): Promise<void> {
    try {
      await this.#confirm(session);
    } catch (e) {
      // The append-only file may have been turned off, or the master demoted: check again before the next write.
      this.#durability = undefined;
      throw e instanceof StoreError ? e : this.unknown(`did not confirm it (${errorText(e)})`, e);
    }
  }

  async #confirm({ connection, canWaitForDisk }: WriteSession): Promise<void> {
    const { replicas } = this.target;
    const failures: string[] = [];
    if (canWaitForDisk && ((await this.#wait('WAITAOF', 1, 0)) as number[])[0] !== 1)
      failures.push('its disk');
    if (replicas > 0 && Number(await this.#wait('WAIT', replicas)) < replicas)
      failures.push(`${replicas} of its replicas`);
    // WAIT and WAITAOF cover only writes of their own connection: after a reconnect they would confirm nothing.
    if (connection !== this.#connection) throw this.unknown('closed the connection before it confirmed it');
    if (failures.length === 0) return;
    abandon(this.#writer);
    throw this.unknown(`${failures.join(' and ')} did not confirm it within ${CONFIRM_MS / 1000} s`);
  }

  away(cause?: unknown): StoreError {
    const why = cause instanceof Error ? cause.message : this.#lastError;
    const detail = `Redis at ${this.target.shown} does not answer (${why}): nothing was changed`;
    return new StoreError(
      'away',
      { detail, remedy: 'Try again when it is back; see drawbridge status' },
      cause,
    );
  }

  /** Redis does not continue the history of this host, and nothing is written before it does. */
  notHealed(why: string, remedy = 'Try again; see drawbridge status'): StoreError {
    const detail = `Redis at ${this.target.shown} is not as this host knows it (${why}): nothing was changed`;
    return new StoreError('away', { detail, remedy });
  }

  unknown(why: string, cause?: unknown): StoreError {
    const detail = `Redis at ${this.target.shown} may have taken the change, and ${why}`;
    return new StoreError(
      'unknown',
      { detail, remedy: 'Read what is stored, and make the change again if it is missing' },
      cause,
    );
  }

  close(): void {
    this.#closed = true;
    this.#master[Symbol.dispose]();
    for (const redis of [this.#reader, this.#writer, this.#listener]) disconnect(redis);
  }

  #subscribe(): void {
    const channels = this.#holds ? [this.channel, `${this.channel}${HELD}`] : [this.channel];
    this.#listener.subscribe(...channels).catch((e: Error) => this.#failed(e));
  }

  #key(key: RedisKey): string {
    return `${this.target.prefix}${key}`;
  }

  #wait(command: string, ...args: readonly number[]): Promise<unknown> {
    return this.#guard(this.#writer, () => this.#writer.call(command, ...args, CONFIRM_MS));
  }

  #run(redis: Redis, script: Script, args: readonly Argument[]): Promise<unknown> {
    const all = [script.keys.length, ...script.keys.map((key) => this.#key(key)), ...args] as const;
    return this.#guard(redis, () => redis.call('EVALSHA', script.sha, ...all)).catch((e: unknown) => {
      if (!(e instanceof Error && e.message.startsWith('NOSCRIPT'))) throw e;
      return this.#guard(redis, () => redis.call('EVAL', script.lua, ...all));
    });
  }

  /** Abandons a connection whose command timed out: over a dead link TCP would retransmit for minutes. */
  async #guard<T>(redis: Redis, work: () => Promise<T>): Promise<T> {
    // ioredis rejects a command that it cannot send with a plain error, after which it is unknown whether it was sent.
    if (!isWritable(redis)) throw new NotSentError(this.#lastError);
    try {
      return await work();
    } catch (e) {
      if (e instanceof Error && e.message === 'Command timed out' && !this.#closed) abandon(redis);
      throw e;
    }
  }

  /** A server that shuts down closes without an error. An earlier connection error is more specific and stays. */
  #ended(): void {
    if (this.#lastError === NEVER || this.canRead) this.#lastError = 'it closed the connection';
  }

  #failed(e: Error): void {
    if (e.message !== this.#lastError)
      this.#log.warn({ redis: this.target.shown, err: e.message }, 'no connection to Redis');
    this.#lastError = e.message;
  }
}

/** A connection that was given up is `ready` until its socket reports the end. */
const isWritable = (redis: Redis): boolean =>
  redis.status === 'ready' && (redis.stream as Partial<Socket> | undefined)?.writable === true;

/**
 * Resets a connection and opens another one. A socket that is only closed still sends its buffered data: an abandoned
 * change would reach Redis when the network recovers, and overwrite a newer one.
 */
function abandon(redis: Redis): void {
  const stream = redis.stream as Partial<Socket> | undefined;
  // Node cannot reset a TLS connection; a unix socket has no network that could delay data.
  const isTcp = stream?.remotePort !== undefined && !(stream instanceof TLSSocket);
  if (isTcp && stream.resetAndDestroy !== undefined) stream.resetAndDestroy();
  else disconnect(redis, true);
}

/** The interval between queries to a Sentinel, half of it random. */
const EVERY_MS = 10_000;

/**
 * Detects that Sentinel has elected another master while the old one still answers this host. In a network partition a
 * host that only reads would otherwise stay connected to the old master.
 */
class MasterWatch implements Disposable {
  readonly #target: RedisTarget;
  readonly #onMoved: () => void;
  readonly #checks = new Repeated(
    'a Sentinel was not asked for the master: it is asked again',
    () => EVERY_MS / 2 + (Math.random() * EVERY_MS) / 2,
    () => this.#check(),
  );
  /** The index of the Sentinel to query: the same one as long as it answers. */
  #index = 0;
  #master: string | undefined;
  #closed = false;

  constructor(target: RedisTarget, onMoved: () => void) {
    this.#target = target;
    this.#onMoved = onMoved;
    if (target.sentinel) this.#checks.begin(EVERY_MS / 2);
  }

  [Symbol.dispose](): void {
    this.#closed = true;
    void this.#checks[Symbol.asyncDispose]();
  }

  async #check(): Promise<void> {
    const master = await this.#querySentinel();
    if (master === undefined) this.#index++;
    else if (this.#master !== undefined && master !== this.#master && !this.#closed) this.#onMoved();
    this.#master = master ?? this.#master;
  }

  /** Returns the address of the master, or undefined when the Sentinel does not answer. */
  async #querySentinel(): Promise<string | undefined> {
    const redis = new Redis({
      ...optionsOf(sentinelOf(this.#target.options, this.#index)),
      retryStrategy: null,
    });
    // The error ends `connect` too, and the next check uses another Sentinel.
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
      disconnect(redis);
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
