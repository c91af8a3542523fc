import type { Current } from '../lib/current.js';
import type { Engine } from '../policy/engine.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { Maintenance } from './maintenance.js';
import type { Reconciler } from './reconciler.js';

export interface HealthParts {
  readonly applied: Pick<Current<AppliedState>, 'value'>;
  readonly docker: Pick<Engine, 'answers'>;
  readonly reconciler: Pick<Reconciler, 'inSync' | 'lastError' | 'waiting' | 'heldAt'>;
  readonly maintenance: Pick<Maintenance, 'checkedAt'>;
  readonly folders: { readonly isPolling: boolean };
  /** When rules, sets or the record of the store were last repaired, as ISO 8601. */
  readonly lastRepair: Pick<Current<string>, 'value'>;
}

/** Folders of sandboxes cannot be watched: the remedy, for the log and the status. */
export const POLLING =
  'no inotify instance is left for this user: folders are polled instead of watched, which costs some CPU; ' +
  'raise the sysctl fs.inotify.max_user_instances (and fs.inotify.max_user_watches), as in ' +
  'sysctl -w fs.inotify.max_user_instances=1024';

/** What status and /readyz report of the enforcement. */
export class Health {
  readonly #o: HealthParts;

  constructor(parts: HealthParts) {
    this.#o = parts;
  }

  get readiness(): Readiness {
    const { applied, docker, reconciler, maintenance } = this.#o;
    const why = reconciler.lastError?.message ?? 'the kernel does not hold the desired state';
    return readiness({
      now: performance.now(),
      hasState: applied.value !== undefined,
      isDockerThere: docker.answers,
      failure: reconciler.inSync ? undefined : why,
      waiting: reconciler.waiting,
      checkedAt: maintenance.checkedAt ?? reconciler.heldAt,
    });
  }

  /** What works less well than it should on this host; undefined when nothing does. */
  get degraded(): string | undefined {
    return this.#o.folders.isPolling ? POLLING : undefined;
  }

  get lastRepair(): string | null {
    return this.#o.lastRepair.value ?? null;
  }
}

/** What /readyz decides by; times in ms of a monotonic clock. */
export interface ReadyFacts {
  readonly now: number;
  /** A pass has succeeded since the start. */
  readonly hasState: boolean;
  /** Docker answers. */
  readonly isDockerThere: boolean;
  /** Why the last pass failed. Undefined if it succeeded. */
  readonly failure: string | undefined;
  /** The oldest change that no pass has brought into force yet. */
  readonly waiting: { readonly since: number; readonly reason: string } | undefined;
  /** When the kernel was last compared with what it should hold; undefined: not since the start. */
  readonly checkedAt: number | undefined;
}
export interface Readiness {
  readonly ready: boolean;
  readonly reason: string;
}

/** Starts of containers are pending for a fraction of a second each, for some seconds while many start together. */
export const WAITING_MS = 10_000;
/** The kernel is compared every 20 s. */
export const CHECKED_MS = 120_000;
const NO_DOCKER = 'Docker does not answer: the last known state is held, and what is new gets nothing';
const NO_PASS = 'the first pass has not been applied yet';

/** Whether the kernel has the desired state, as far as that is known. */
export function readiness(f: ReadyFacts): Readiness {
  const reason = trouble(f);
  return reason === undefined
    ? { ready: true, reason: 'the kernel holds what it should' }
    : { ready: false, reason };
}

function trouble(f: ReadyFacts): string | undefined {
  if (!f.hasState) return f.isDockerThere ? NO_PASS : NO_DOCKER;
  if (f.failure !== undefined) return f.failure;
  if (!f.isDockerThere) return NO_DOCKER;
  if (f.waiting !== undefined && f.now - f.waiting.since >= WAITING_MS)
    return `a change has been waiting for ${seconds(f.now - f.waiting.since)} to be in force: ${f.waiting.reason}`;
  if (f.checkedAt !== undefined && f.now - f.checkedAt >= CHECKED_MS)
    return `the kernel has not been compared with what it should hold for ${seconds(f.now - f.checkedAt)}: see the log`;
  return undefined;
}

const seconds = (ms: number): string => `${Math.round(ms / 1000)} s`;
