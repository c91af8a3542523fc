import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { AuditView } from '../changes/audit-types.js';
import type { NodeView } from '../changes/fleet-types.js';
import type { ListView } from '../changes/list-changes.js';
import type { PlannedChange } from '../changes/transfer-changes.js';
import type { UnwrittenChange } from '../changes/unwritten-changes.js';
import type { ExplainView } from '../coverage/explain-types.js';
import type { ScanView } from '../coverage/scan.js';
import type { DenialEvent } from '../enforce/denials.js';
import type { PreviewView } from '../enforce/preview-types.js';
import type { Lockdown, Pause } from '../policy/emergency.js';
import type { Grant, Mode } from '../policy/policy.js';
import type { Role, Token } from '../policy/token.js';
import type { FeedSync, FeedView, SyncHow, ThreatView } from '../threats/feed-view.js';
import type { ContainerView, StatusView } from './container-views.js';

/** What every file of routes gets. */
export interface Context {
  readonly server: FastifyInstance;
  readonly controller: Controller;
}

/** For the audit: "token:NAME", or "local:USER" over the unix socket (see auth.ts). */
export const whoIs = (request: FastifyRequest): string => request.identity.who;

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
