export interface StoreItem<T = unknown> {
  readonly key: string;
  readonly value: T;
  /** The revision of the store after this item was written; 0 means "does not exist" in `ifRevision`. */
  readonly revision: number;
}

/** A durable key/value store with revisions and compare-and-set; `put` and `delete` resolve when the change is durable. */
export interface Store {
  get<T>(key: string): Promise<StoreItem<T> | undefined>;
  list<T>(prefix: string): Promise<readonly StoreItem<T>[]>;
  /** Sorted; the values are not read. */
  keys(prefix: string): Promise<readonly string[]>;
  put<T>(key: string, value: T, options?: PutOptions): Promise<number>;
  delete(key: string, options?: { readonly ifRevision?: number }): Promise<boolean>;
  /** Called for every change, also the ones of this process, with its revision; `value` is undefined after a deletion. */
  watch(
    onChange: (item: { readonly key: string; readonly revision: number; readonly value: unknown }) => void,
  ): Disposable;
  health(): { readonly ok: boolean; readonly detail: string };
  /** The newest revision that is visible to reads. */
  revision(): number;
  /**
   * The permanent random id of the store, generated when it was created: a different id means a different store. '' while
   * no durable id is known (the disk was full when the store was first opened, or Redis has not answered yet).
   */
  identity(): string;
  /**
   * The store that the server of a shared store holds instead of the one that this host works from. It is neither read nor written
   * until a person accepts it.
   */
  replacement?(): { readonly id: string; readonly revision: number } | undefined;
  /** Takes the replacement over; the copy that it replaces is kept. Throws StoreError `away`. */
  takeOver?(): Promise<void>;
  close(): Promise<void>;
}

export interface PutOptions {
  readonly ifRevision?: number;
  /** The write is refused (conflict) unless this lease is still valid with this token. */
  readonly fence?: Fence;
  /** The write is visible, reported and acknowledged only when this record is durable too, and fails when the record fails. */
  readonly record?: WriteRecord;
}

/** Identifies a line in the audit files of this host. */
export interface RecordLine {
  /** Number of the record. */
  readonly n: number;
  /** Hash of its line (64 hex digits). */
  readonly hash: string;
}
/** The audit record of a write. Its line may be written at the same time as the write. */
export interface WriteRecord extends RecordLine {
  /** Resolves when the record is durable. */
  readonly durable: Promise<unknown>;
}

/** An acquired lease. The token grows with every acquisition, so that writes of an expired lease are refused. */
export interface Fence {
  readonly lease: string;
  readonly token: number;
}

/** Leases that one host of a store can own at a time, by the clock of the store. */
export interface Leases {
  /** Returns undefined while another owner has the lease. */
  acquire(lease: string, ttlMs: number): Promise<Fence | undefined>;
  /** Returns false when the lease has expired or was acquired by another owner. */
  renew(fence: Fence, ttlMs: number): Promise<boolean>;
  release(fence: Fence): Promise<void>;
}

/** Immutable contents by the SHA-256 of their bytes (64 hex digits), stored compressed. */
export interface BlobStore {
  /** Resolves when durable. Throws StoreError `value` when the hash is not that of the bytes. */
  putBlob(hash: string, bytes: Uint8Array): Promise<void>;
  /** Returns undefined when there is no such blob, or when its content no longer matches the hash. */
  getBlob(hash: string): Promise<Uint8Array | undefined>;
  deleteBlob(hash: string): Promise<void>;
  blobs(): Promise<readonly string[]>;
}

/** Heartbeats of the hosts of a store. They do not change its revision. */
export interface Beats {
  /** Whether other hosts can read them: then a host gives its own regularly. */
  readonly isShared: boolean;
  beat(node: string, record: unknown): Promise<void>;
  /** `ageMs` is the time since the last heartbeat of the host, by the clock of the store. */
  beats(): Promise<readonly { readonly node: string; readonly record: unknown; readonly ageMs: number }[]>;
  /** Returns false when the host has no heartbeat. */
  forget(node: string): Promise<boolean>;
}

/** The address of a TCP service. */
export interface Endpoint {
  readonly address: string;
  readonly port: number;
}

/** The store and everything else that hosts share through it. */
export interface SharedStore {
  readonly kind: 'embedded' | 'redis';
  readonly store: Store;
  readonly blobs: BlobStore;
  readonly leases: Leases;
  readonly beats: Beats;
  /** The servers of the store that are known now; empty for the embedded store. */
  servers(): readonly Endpoint[];
}
