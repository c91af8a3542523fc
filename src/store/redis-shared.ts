import type { RedisLink } from './redis-link.js';
import { BEAT, LEASE } from './redis-scripts.js';
import type { Beats, Fence, Leases } from './store.js';

/** Leases by Redis's own clock. Throws StoreError `away`, or Redis's error. */
export class RedisLeases implements Leases {
  readonly #link: RedisLink;
  constructor(link: RedisLink) {
    this.#link = link;
  }

  async acquire(lease: string, ttlMs: number): Promise<Fence | undefined> {
    const session = await this.#link.mayWrite();
    const token = Number(await this.#link.write(LEASE, ['acquire', lease, ttlMs]));
    // A token that a crash could take back would be given twice.
    await this.#link.confirm(session);
    return token > 0 ? { lease, token } : undefined;
  }

  async renew({ lease, token }: Fence, ttlMs: number): Promise<boolean> {
    await this.#link.mayWrite();
    return (await this.#link.write(LEASE, ['renew', lease, ttlMs, token])) === 1;
  }

  async release({ lease, token }: Fence): Promise<void> {
    await this.#link.mayWrite();
    await this.#link.write(LEASE, ['release', lease, 0, token]);
  }
}

type Seen = Awaited<ReturnType<Beats['beats']>>[number];

/** While Redis is away, what was seen last grows old. */
export class RedisBeats implements Beats {
  readonly #link: RedisLink;
  #last: readonly Seen[] = [];
  #at = performance.now();

  constructor(link: RedisLink) {
    this.#link = link;
  }

  async beat(node: string, record: unknown): Promise<void> {
    await this.#link.read(BEAT, [node, JSON.stringify(record)]);
  }

  async beats(): Promise<readonly Seen[]> {
    if (this.#link.canRead) {
      this.#last = seen((await this.#link.read(BEAT, [])) as string[]);
      this.#at = performance.now();
    }
    const older = Math.round(performance.now() - this.#at);
    return this.#last.map((beat) => ({ ...beat, ageMs: beat.ageMs + older }));
  }

  async forget(node: string): Promise<boolean> {
    await this.#link.mayWrite();
    return (await this.#link.removeField('nodes', node)) > 0;
  }
}

function seen(flat: readonly string[]): Seen[] {
  return Array.from({ length: flat.length / 2 }, (_, i) => {
    const [node = '', text = ''] = flat.slice(2 * i, 2 * i + 2);
    const space = text.indexOf(' ');
    const record: unknown = JSON.parse(text.slice(space + 1));
    return { node, record, ageMs: Math.max(0, Number(text.slice(0, space))) };
  }).sort((a, b) => (a.node < b.node ? -1 : 1));
}
