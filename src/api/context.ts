import type { FastifyRequest } from 'fastify';
import type { Asks } from '../ask/asks.js';
import type { Audit } from '../changes/audit.js';
import type { Changes } from '../changes/changes.js';
import type { Fleet } from '../changes/fleet.js';
import type { StoreTrust } from '../changes/store-trust.js';
import type { Reconciler } from '../enforce/reconciler.js';
import type { EventLog } from '../events/event-log.js';
import type { FlowStore } from '../flows/flow-store.js';
import type { Notifier } from '../notify/notifier.js';
import type { Records } from '../notify/records.js';
import type { Canary } from '../ops/canary.js';
import type { Engine } from '../policy/engine.js';
import type { Store } from '../store/store-interface.js';
import type { Feeds } from '../threats/feed-service.js';
import type { Durability } from './schemas.js';
import type { Views } from './views.js';

/** The parts of the service that the routes read and change. src/run-service.ts fills it. */
export interface Context {
  /** The name of this host. */
  readonly node: string;
  readonly changes: Changes;
  readonly audit: Audit;
  readonly store: Store;
  readonly trust: StoreTrust;
  readonly fleet: Fleet;
  readonly feeds: Feeds;
  readonly asks: Pick<Asks, 'list' | 'decide'>;
  readonly docker: Engine;
  readonly reconciler: Reconciler;
  readonly views: Views;
  readonly events: EventLog;
  readonly flows: FlowStore;
  readonly canary: Pick<Canary, 'result'>;
  /** What GET /metrics returns (metrics.ts), and the count of requests. */
  readonly metrics: {
    text(service: Context): Promise<{ readonly type: string; readonly body: string }>;
    answered(status: number): void;
  };
  readonly notifier: Pick<Notifier, 'status' | 'test' | 'warnings'>;
  readonly records: Pick<Records, 'status' | 'warnings'>;
  /** Stop enforcing, remove everything from the kernel, and end the service. */
  readonly teardown: () => Promise<void>;
}

/** The author of a change in the audit: "token:NAME", or "local:USER" over the unix socket (see auth.ts). */
export const whoIs = (request: FastifyRequest): string => request.identity.who;

/** Return whether the change of a key is stored. The key "pause/" means all pauses. */
export function durabilityOf({ changes }: Context, key: string): Durability {
  const unwritten = changes.unwritten
    .list()
    .find((change) => change.key === key || (key.endsWith('/') && change.key.startsWith(key)));
  return { durable: unwritten === undefined, note: unwritten?.note ?? null };
}
