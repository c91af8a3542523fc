export interface StoreItem<T = unknown> {
  readonly key: string;
  readonly value: T;
  /** Grows with every write of the whole store; 0 means "does not exist" in `ifRevision`. */
  readonly revision: number;
}

/** Durable key/value with revisions and compare-and-set; `put` and `delete` resolve when durable. */
export interface Store {
  get<T>(key: string): Promise<StoreItem<T> | undefined>;
  list<T>(prefix: string): Promise<readonly StoreItem<T>[]>;
  /** In order; values are not read. */
  keys(prefix: string): Promise<readonly string[]>;
  put<T>(key: string, value: T, options?: PutOptions): Promise<number>;
  delete(key: string, options?: { readonly ifRevision?: number }): Promise<boolean>;
  /** Called for every change, our own included, with its revision; value undefined: deleted. */
  watch(
    onChange: (item: { readonly key: string; readonly revision: number; readonly value: unknown }) => void,
  ): Disposable;
  health(): { readonly ok: boolean; readonly detail: string };
  /** The newest revision that reads show. */
  revision(): number;
  /**
   * The random id that the store was given when it was made, and keeps for ever: another id is another store. '' while
   * none is known to be durable (the disk was full when the store was first opened, or Redis has not answered yet).
   */
  identity(): string;
  close(): Promise<void>;
}

export interface PutOptions {
  readonly ifRevision?: number;
  /** Refused (conflict) unless this lease is still held with this token. */
  readonly fence?: Fence;
}

/** A lease that was won: the token grows with every winner, so that a late one can be told and refused. */
export interface Fence {
  readonly lease: string;
  readonly token: number;
}

/** One holder at a time among all hosts of a store, by the store's own clock. */
export interface Leases {
  /** Undefined: somebody holds it. */
  acquire(lease: string, ttlMs: number): Promise<Fence | undefined>;
  /** False: it was lost. */
  renew(fence: Fence, ttlMs: number): Promise<boolean>;
  release(fence: Fence): Promise<void>;
}

/** Immutable contents by the SHA-256 of their bytes (64 hex digits), kept compressed. */
export interface BlobStore {
  /** Resolves when durable. Throws StoreError `value` when the hash is not that of the bytes. */
  putBlob(hash: string, bytes: Uint8Array): Promise<void>;
  /** Undefined: there is none. What does not fit its hash any more is never given. */
  getBlob(hash: string): Promise<Uint8Array | undefined>;
  deleteBlob(hash: string): Promise<void>;
  blobs(): Promise<readonly string[]>;
}

/** Signs of life of the hosts of a store; they are no part of its revisions. */
export interface Beats {
  beat(node: string, record: unknown): Promise<void>;
  /** `ageMs`: since its last beat, by the store's clock. */
  beats(): Promise<readonly { readonly node: string; readonly record: unknown; readonly ageMs: number }[]>;
  /** False: there was none. */
  forget(node: string): Promise<boolean>;
}

/** Where a TCP service is. */
export interface Endpoint {
  readonly address: string;
  readonly port: number;
}

/** The store with all that hosts share through it. */
export interface SharedStore {
  readonly kind: 'embedded' | 'redis';
  readonly store: Store;
  readonly blobs: BlobStore;
  readonly leases: Leases;
  readonly beats: Beats;
  /** Where the store's servers are, as far as it is known now; none for the embedded store. */
  servers(): readonly Endpoint[];
}
