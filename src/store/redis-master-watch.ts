import { Redis } from 'ioredis';
import { optionsOf } from './redis-options.js';
import type { Options, RedisTarget } from './redis-url.js';

/** So often (ms) a Sentinel is asked, half of it by chance. */
const EVERY_MS = 10_000;

/**
 * Notices that Sentinel has named another master while the old one still answers here: a host that only reads would stay
 * with it for as long as they are cut off from one another.
 */
export class MasterWatch implements Disposable {
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
