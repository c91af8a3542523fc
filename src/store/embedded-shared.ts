import { join } from 'node:path';
import { RefusedError } from '../lib/refusal.js';
import { FileBlobs } from './blobs.js';
import { type EmbeddedOptions, openEmbeddedStore } from './embedded.js';
import type { Beats, Fence, Leases, SharedStore, Store } from './store.js';

/** The embedded store with what hosts share elsewhere: here one process is the whole fleet. Throws as it does. */
export async function openStoreAlone(options: EmbeddedOptions): Promise<SharedStore> {
  const store = await openEmbeddedStore(options);
  const leases = new LeasesAlone();
  return {
    kind: 'embedded',
    store: fenced(store, leases),
    blobs: new FileBlobs(join(options.dir, 'blobs')),
    leases,
    beats: new BeatsAlone(),
    servers: () => [],
  };
}

function fenced(store: Store, leases: LeasesAlone): Store {
  return {
    get: (key) => store.get(key),
    list: (prefix) => store.list(prefix),
    keys: (prefix) => store.keys(prefix),
    put: async (key, value, options) => {
      if (options?.fence) leases.check(key, options.fence);
      return store.put(key, value, options);
    },
    delete: (key, options) => store.delete(key, options),
    watch: (onChange) => store.watch(onChange),
    health: () => store.health(),
    revision: () => store.revision(),
    identity: () => store.identity(),
    close: () => store.close(),
  };
}

/** The folder's lock keeps other processes out; leases last as long as this one. */
class LeasesAlone implements Leases {
  readonly #held = new Map<string, { readonly token: number; readonly until: number }>();
  #token = 0;

  async acquire(lease: string, ttlMs: number): Promise<Fence | undefined> {
    if (this.#live(lease)) return undefined;
    const token = ++this.#token;
    this.#held.set(lease, { token, until: performance.now() + ttlMs });
    return { lease, token };
  }

  async renew(fence: Fence, ttlMs: number): Promise<boolean> {
    if (!this.#holds(fence)) return false;
    this.#held.set(fence.lease, { token: fence.token, until: performance.now() + ttlMs });
    return true;
  }

  async release(fence: Fence): Promise<void> {
    if (this.#holds(fence)) this.#held.delete(fence.lease);
  }

  check(key: string, fence: Fence): void {
    if (this.#holds(fence)) return;
    const detail = `${key}: the lease ${fence.lease} is no longer held with token ${fence.token}`;
    throw new RefusedError({ kind: 'conflict', detail, remedy: 'somebody else does it now: let it' });
  }

  #holds({ lease, token }: Fence): boolean {
    return this.#live(lease)?.token === token;
  }

  #live(lease: string) {
    const held = this.#held.get(lease);
    return held && held.until > performance.now() ? held : undefined;
  }
}

class BeatsAlone implements Beats {
  readonly #seen = new Map<string, { readonly record: unknown; readonly at: number }>();

  async beat(node: string, record: unknown): Promise<void> {
    this.#seen.set(node, { record, at: performance.now() });
  }

  async beats() {
    return [...this.#seen].map(([node, { record, at }]) => ({
      node,
      record,
      ageMs: Math.round(performance.now() - at),
    }));
  }

  async forget(node: string): Promise<boolean> {
    return this.#seen.delete(node);
  }
}
