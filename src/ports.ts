/** What the rooms need of one another, as types only: no room imports another's code through here. */

import type { NodeView } from './changes/fleet-types.js';
import type { PreviewView } from './enforce/preview-types.js';
import type { Range } from './lib/ip.js';
import type { Problem } from './lib/problem.js';
import type { Lockdown, Pause } from './policy/emergency.js';
import type { Finding } from './policy/finding.js';
import type { Grant, List, Mode, PolicyEntry } from './policy/policy.js';
import type { ThreatLook } from './policy/threat.js';
import type { Role, Token } from './policy/token.js';
import type { Coverage, Verdict } from './policy/verdict.js';
import type { FeedSync, FeedView, SyncHow, ThreatsStatus, ThreatView } from './threats/view-types.js';

/** The two sets (one a family) that hold the learned addresses of one port class of one container. */
export interface LearnSets {
  readonly v4: string;
  readonly v6: string;
}

export interface NameDecision {
  readonly allow: boolean;
  /** Why not, when it is not for want of an entry. */
  readonly reason?: string;
  /** The entries that allow it, most specific first. */
  readonly entries: readonly PolicyEntry[];
  /** Where answers go; empty when not allowed. */
  readonly sets: readonly LearnSets[];
  /** Of an observed container: sets for addresses from other resolvers than ours. They permit nothing once it is enforced. */
  readonly shown?: readonly LearnSets[];
  /** Answers in private space are good (entry flag; zones and address entries are judged by `privateAllowed`). */
  readonly allowPrivate: boolean;
}

/** What DNS asks of the rest: who asks, what they may ask. Container keys are full ids of the namespace's owner. */
export interface DnsPolicy {
  /** The container that holds this source address now; undefined: nobody known. */
  whoIs(address: string): string | undefined;
  /** The same, waiting until it is known; undefined after `ms`. */
  awaitAsker(address: string, ms: number): Promise<string | undefined>;
  /** Waits until the container's policy stands in the kernel; false after `ms`. */
  awaitContainer(container: string, ms: number): Promise<boolean>;
  /** Waits until all networks of the container are known, and so the names of its neighbours; false after `ms`. */
  awaitNetworks(container: string, ms: number): Promise<boolean>;
  mode(container: string): Mode;
  decide(container: string, name: string): NameDecision;
  /** An address entry of this container covers the address (then a private answer is no rebinding). */
  coversAddress(container: string, address: string): boolean;
  /** Tells resolvers that the container may ask itself (dns=direct); undefined: it may none. */
  directResolvers(
    container: string,
  ):
    | ((at: { readonly address: string; readonly port: number; readonly proto: 'udp' | 'tcp' }) => boolean)
    | undefined;
  /** Names of the neighbours on the container's networks: addresses, or undefined when it is no such name. */
  localName(container: string, name: string): readonly string[] | undefined;
  /** The reverse: name of a neighbour's address. */
  localAddress(container: string, address: string): string | undefined;
  /** Addresses of the host itself, any interface. */
  hostAddresses(): ReadonlySet<string>;
  /** Public address space that Docker networks use: answers with such an address are rebinding, too. */
  inside(): readonly Range[];
  /** Prefixes of NAT64 translators; the well-known one alone when left out. */
  readonly nat64?: readonly Range[] | undefined;
  /** Search domains in force for the container (its resolv.conf), lower case. */
  searchDomains(container: string): readonly string[];
  /** What no container may reach, and what is only watched. */
  readonly threats: ThreatLook;
}

/** Members of kernel sets; resolves when the kernel has acknowledged. Time-outs in seconds (0: none). */
export interface SetWriter {
  add(set: string, address: string, timeoutSeconds: number): Promise<void>;
  remove(set: string, address: string): Promise<void>;
}

/** A network interface of the host (RTM_GETLINK). */
export interface HostLink {
  readonly index: number;
  readonly name: string;
  /** IFLA_INFO_KIND: "veth", "bridge", ""… */
  readonly kind: string;
  readonly master?: number;
  /** Since when it is known with this master (ms, monotonic): only what is asked later can tell whose it is. */
  readonly since: number;
  readonly mac: string;
  /** MAC of a veth's other end, wherever that is now. */
  readonly peerMac?: string;
  /** Our id for the namespace of the other end; undefined: this one. */
  readonly netnsId?: number;
}

/** A socket of the host's network namespace that may send. */
export interface SocketEnds {
  /** IANA protocol number. */
  readonly proto: 6 | 17;
  /** Its own end; without an address: any of the host. */
  readonly address?: string;
  readonly port: number;
  /** Absent: it is connected to nobody. */
  readonly peer?: { readonly address: string; readonly port: number };
}

/** Told of each name denied or allowed, for counts and the event stream. */
export interface NameEvent {
  readonly container: string;
  readonly name: string;
  readonly type: string;
  /** would-deny: observed only, enforce would have denied it. */
  readonly verdict: Verdict | 'would-deny' | 'error';
  readonly reason: string;
}

/** The destination a redirected packet had before our redirect, from conntrack; undefined when gone. */
export interface OriginalDestination {
  lookup(q: {
    readonly proto: 'udp' | 'tcp';
    readonly client: string;
    readonly clientPort: number;
    readonly server: string;
    readonly serverPort: number;
  }): { readonly address: string; readonly port: number } | undefined;
}

export interface Logger {
  debug(o: object, msg?: string): void;
  info(o: object, msg?: string): void;
  warn(o: object, msg?: string): void;
  error(o: object, msg?: string): void;
}

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

/** Views that the API shows (spec 7). */
export interface EntryView {
  readonly entry: string;
  readonly from: string;
  readonly addresses: readonly string[];
  readonly packets: number;
  readonly bytes: number;
}
export interface QuotaView {
  readonly bytes: number;
  readonly used: number;
  readonly reached: boolean;
  /** RFC 3339 UTC: when it begins anew. */
  readonly until: string;
}
export interface ContainerView {
  readonly id: string;
  readonly name: string;
  readonly image: string;
  readonly mode: Mode;
  readonly modeFrom: string;
  readonly coverage: Coverage;
  /** The reasons of `coverage`, in the same order, with code, state and remedy. */
  readonly findings: readonly Finding[];
  /** Of Docker Compose, if the labels are the container's own. */
  readonly compose: { readonly project: string; readonly service: string } | null;
  readonly addresses: readonly string[];
  readonly lists: readonly string[];
  readonly entries: readonly EntryView[];
  readonly grants: readonly Grant[];
  /** Until when it is not enforced (RFC 3339), for a pause of its own or of all. */
  readonly pausedUntil: string | null;
  /** As its label says it; null: none. */
  readonly limits: string | null;
  readonly quota: QuotaView | null;
  readonly allowed: number;
  readonly denied: number;
}
export type CoverageCounts = Readonly<Record<Coverage['state'], number>>;
export interface StatusView {
  readonly version: string;
  readonly node: string;
  /** Containers in mode enforce, whatever their coverage. */
  readonly enforced: number;
  /** Containers in mode observe. */
  readonly observed: number;
  /** Containers in mode off. */
  readonly off: number;
  readonly containers: number;
  /** Coverage of the containers in mode enforce: the three counts add up to `enforced`. */
  readonly coverage: CoverageCounts;
  /** Containers with a drawbridge.* label that does not parse. */
  readonly labelErrors: number;
  /** Containers with a list that does not exist. */
  readonly missingLists: number;
  readonly threats: ThreatsStatus;
  /** Containers that are not enforced because of a pause. */
  readonly paused: number;
  readonly lockdown: Lockdown | null;
  readonly kernel: {
    readonly inSync: boolean;
    /** As /readyz says it, and why. */
    readonly ready: boolean;
    readonly reason: string;
    readonly lastRepair: string | null;
  };
  readonly store: {
    readonly kind: string;
    readonly ok: boolean;
    readonly detail: string;
    readonly unwritten: readonly UnwrittenChange[];
  };
  /** Hosts that share the store. */
  readonly fleet: { readonly nodes: number; readonly stale: readonly string[] };
  /** What a person should know and mend, each with its remedy; none: all is well. */
  readonly warnings: readonly string[];
}
export interface ExplainView {
  readonly container: string;
  readonly to: string;
  readonly verdict: Verdict;
  readonly reason: string;
  readonly entry: string | null;
  readonly list: string | null;
  readonly feed: string | null;
  readonly remedy: string | null;
  /** How to permit it for good: a label or a list entry. */
  readonly lasting: string | null;
  /** What permitting it would open beyond the destination. */
  readonly warning: string | null;
  /** Why a denial may not hold for this container; null: its coverage is full, or the verdict is allow. */
  readonly coverage: string | null;
  /** The rules a packet meets, in order, as rendered. */
  readonly trace: readonly string[];
}
export interface ScanFinding extends Finding {
  readonly kind: 'coverage' | 'practice' | 'host';
}
/** What `scan` found about one container; container null: about the host. */
export interface ScanView {
  readonly container: string | null;
  readonly image: string | null;
  readonly findings: readonly ScanFinding[];
}
/** One change, as it was recorded: `before` and `after` null where there was nothing. */
export interface AuditView {
  /** RFC 3339 UTC */
  readonly time: string;
  /** The host that made the change. */
  readonly node?: string;
  readonly who: string;
  readonly action: string;
  readonly target: string;
  readonly before: unknown;
  readonly after: unknown;
  /**
   * undone: not in force in time, and taken back. refused: recorded as done, but the store did not take it. unknown: the
   * store may hold it, and did not say so.
   */
  readonly outcome: 'done' | 'undone' | 'refused' | 'unknown';
  /** Number of the record in the files of its host, and the hash of its line; absent where it is a copy of the store. */
  readonly n?: number;
  readonly hash?: string;
  /** Of the whole values, where `before` and `after` show less: what differs, or the beginning. */
  readonly sha256?: { readonly before: string | null; readonly after: string | null };
  /** It was made when the disk was full, and written when there was space. */
  readonly late?: boolean;
  /** It was moved here from the store, where an older version kept it under this key. */
  readonly from?: string;
}
export interface ListView extends List {
  readonly revision: number;
  readonly usedBy: readonly string[];
}
export interface DenialEvent {
  readonly time: string;
  readonly container: string;
  readonly verdict: Verdict | 'would-deny';
  readonly proto: string;
  readonly address: string;
  readonly port: number;
  readonly name: string | null;
  readonly reason: string;
}

/** One of many changes that are made together. */
export interface PlannedChange {
  readonly action: 'create' | 'update' | 'delete';
  readonly kind: 'list' | 'mode' | 'grant' | 'token' | 'sync';
  /** The list, the owner (and entry of a grant), or the token. */
  readonly name: string;
}

/** A change that is in force and could not be stored. */
export interface UnwrittenChange {
  /** The store's key: lockdown/all, pause/OWNER, grant/ID, list/NAME. */
  readonly key: string;
  readonly action: string;
  readonly target: string;
  /** RFC 3339 UTC */
  readonly since: string;
  /** Why, and what that means, as a person reads it. */
  readonly note: string;
}

/** Refusals that the API turns into problem details. */
export type Refusal =
  | { readonly kind: 'not-found'; readonly detail: string; readonly remedy: string }
  | { readonly kind: 'conflict'; readonly detail: string; readonly remedy: string }
  | { readonly kind: 'precondition'; readonly detail: string; readonly remedy: string }
  | { readonly kind: 'invalid'; readonly problems: readonly Problem[] }
  | { readonly kind: 'too-large'; readonly detail: string; readonly remedy: string }
  | { readonly kind: 'read-only'; readonly detail: string; readonly remedy: string }
  | { readonly kind: 'not-in-force'; readonly detail: string; readonly remedy: string }
  | { readonly kind: 'closed'; readonly detail: string; readonly remedy: string };
export class RefusedError extends Error {
  readonly refusal: Refusal;
  constructor(refusal: Refusal) {
    super('detail' in refusal ? refusal.detail : refusal.problems.map((p) => p.detail).join('; '));
    this.refusal = refusal;
  }
}

/** Everything that the API may do. Changes resolve when in force (spec 7), else throw RefusedError and are undone. */
export interface Controller {
  status(): StatusView;
  ready(): { readonly ready: boolean; readonly reason: string };
  /**
   * Reads the counters that the views show, unless that was done within the last second; returns when they were read.
   * `mayBeOld`: while many wait for the next reading, the last one will do.
   */
  refreshCounts(mayBeOld?: boolean): Promise<number>;
  /** The same array while nothing has changed that it shows, for a second at most. */
  containers(): readonly ContainerView[];
  container(idOrName: string): ContainerView;
  grant(idOrName: string, entry: string, forMs: number | undefined, who: string): Promise<Grant>;
  revokeGrant(idOrName: string, grantId: string, who: string): Promise<void>;
  setMode(idOrName: string, mode: Mode | 'auto', who: string): Promise<ContainerView>;
  /** `idOrName` undefined: all containers. */
  pause(idOrName: string | undefined, forMs: number, who: string): Promise<Pause>;
  endPause(idOrName: string | undefined, who: string): Promise<void>;
  lockdown(): Lockdown | undefined;
  /** What is in force and could not be stored. */
  unwritten(): readonly UnwrittenChange[];
  setLockdown(on: boolean, who: string): Promise<Lockdown | undefined>;
  /** Takes the store as it is, when it is not the one that the kernel remembers. */
  acceptStore(who: string): Promise<StatusView>;
  /** Newest first; `next` is the cursor of the page after, undefined on the last. */
  audit(
    limit: number,
    cursor: string | undefined,
  ): Promise<{ readonly items: readonly AuditView[]; readonly next: string | undefined }>;
  /** Undefined: all that run, and the host. */
  scan(idOrName: string | undefined): readonly ScanView[];
  exportAll(): Readonly<Record<string, unknown>>;
  /** What was changed, or with `dryRun` would be; all in force, or nothing. */
  importAll(
    document: unknown,
    how: { readonly replace: boolean; readonly dryRun: boolean },
    who: string,
  ): Promise<readonly PlannedChange[]>;
  /** The lists of one owner, by name. */
  syncLists(
    owner: string,
    bodies: Readonly<Record<string, unknown>>,
    how: { readonly adopt: boolean; readonly dryRun: boolean },
    who: string,
  ): Promise<readonly PlannedChange[]>;
  feeds(): readonly FeedView[];
  /** Tries the feed now; what it brought is in force here, or its reason is in the view. */
  syncFeed(name: string, how: SyncHow, who: string): Promise<FeedSync>;
  threat(addressOrName: string): ThreatView;
  nodes(): Promise<readonly NodeView[]>;
  forgetNode(name: string, who: string): Promise<void>;
  tokens(): readonly Token[];
  /** `forMs` undefined: without end. The secret is nowhere else. */
  createToken(
    name: string,
    role: Role,
    forMs: number | undefined,
    who: string,
  ): Promise<{ readonly token: Token; readonly secret: string }>;
  revokeToken(name: string, who: string): Promise<void>;
  lists(): readonly ListView[];
  list(name: string): ListView;
  putList(name: string, body: unknown, ifMatch: number | undefined, who: string): Promise<ListView>;
  deleteList(name: string, ifMatch: number | undefined, who: string): Promise<void>;
  addEntry(list: string, entry: unknown, ifMatch: number | undefined, who: string): Promise<ListView>;
  removeEntry(list: string, canonical: string, ifMatch: number | undefined, who: string): Promise<ListView>;
  explain(idOrName: string, to: string): ExplainView;
  /** What this mode would deny the container; changes nothing. */
  preview(idOrName: string, to: Mode | 'auto'): Promise<PreviewView>;
  plan(): Promise<readonly string[]>;
  /** Newest first. */
  denials(
    idOrName: string | undefined,
    limit: number,
    isWanted?: (e: DenialEvent) => boolean,
  ): readonly DenialEvent[];
  /** Stops enforcing and takes every trace out of the kernel; the service ends after. */
  teardown(who: string): Promise<void>;
  /** Denials and name events as they come. */
  onEvent(listener: (e: DenialEvent) => void): Disposable;
}
