import type { UnwrittenChange } from '../changes/unwritten-changes.js';
import type { Lockdown } from '../policy/emergency.js';
import type { Finding } from '../policy/finding.js';
import type { Grant, Mode } from '../policy/policy.js';
import type { Coverage } from '../policy/verdict.js';
import type { ThreatsStatus } from '../threats/feed-view.js';

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
