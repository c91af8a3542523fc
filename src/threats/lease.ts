/** One of many does the work: a lease with a fencing number, over any store that can compare and set. */
import { RefusedError, type Store } from '../ports.js';

interface Lease {
  /** Grows with every holder; who publishes under a lower one is late. */
  readonly fence: number;
  /** Gives it back at once, if it is still ours. */
  release(): Promise<void>;
}

export interface LeasePort {
  /** Undefined: another holds it. `ttlMs` is longer than the work takes. */
  acquire(name: string, ttlMs: number): Promise<Lease | undefined>;
}

interface Held {
  readonly owner: string;
  /** Milliseconds since the epoch. */
  readonly until: number;
}

const isStale = (error: unknown): boolean =>
  error instanceof RefusedError &&
  (error.refusal.kind === 'precondition' || error.refusal.kind === 'conflict');

/** Undefined: somebody was faster. */
async function ifNotStale<T>(write: Promise<T>): Promise<T | undefined> {
  try {
    return await write;
  } catch (error) {
    if (isStale(error)) return undefined;
    throw error;
  }
}

/**
 * Leases in `store` under `threats/lease/`. Clocks of hosts that share it may differ by less than the leases last.
 * @param owner names this process among all that share the store.
 */
export function storeLeases(store: Store, owner: string, now: () => number = Date.now): LeasePort {
  return {
    async acquire(name, ttlMs) {
      const key = `threats/lease/${name}`;
      const item = await store.get<Held>(key);
      if (item && item.value.until > now() && item.value.owner !== owner) return undefined;
      const held: Held = { owner, until: now() + ttlMs };
      const fence = await ifNotStale(store.put(key, held, { ifRevision: item?.revision ?? 0 }));
      if (fence === undefined) return undefined;
      return {
        fence,
        async release() {
          await ifNotStale(store.put(key, { owner, until: 0 }, { ifRevision: fence }));
        },
      };
    },
  };
}
