/** What the service reports as it happens. All payloads are plain data; names of containers are those that Docker shows. */

/** `ask`: the connection waits, or has waited, for the decision of a person. */
type FlowVerdict = 'allow' | 'deny' | 'would-deny' | 'threat' | 'ask';

/** A destination as one container uses it. */
export interface Contact {
  readonly container: string;
  /** Survives recreation: `compose:PROJECT/SERVICE` or `name:NAME` (policy/own-labels.ts). */
  readonly owner: string;
  readonly verdict: FlowVerdict;
  /** tcp, udp, icmp, a number of IANA, or dns: a name that was only resolved. */
  readonly proto: string;
  /** Empty where a name was only resolved. */
  readonly address: string;
  /** 0: the protocol has none. */
  readonly port: number;
  /** As the container resolved it, or as it named it itself; null: not known. */
  readonly name: string | null;
  /** Why, for a person. */
  readonly reason: string;
  /** The canonical entry that permits it or denies it; null: none does. */
  readonly entry: string | null;
  /** The list that has the entry; null: it is not from a list. */
  readonly list: string | null;
  /** The threat feed that lists the destination; null: none does. */
  readonly feed: string | null;
}

/** The payload of each kind of event. */
export interface EventData {
  /**
   * One connection, or one query for a name; of what has passed, the connections of a second. `count`: those that are new; 0: more of
   * connections that were reported before. Absent: one.
   */
  readonly flow: Contact & { readonly packets: number; readonly bytes: number; readonly count?: number };
  /** The first contact of an owner with this destination and verdict; `known`: a person has marked it, so that it raises no alert. */
  readonly 'first-contact': Contact & { readonly known: boolean };
  /** `state`: a request that waits, or how it ended. */
  readonly ask: {
    readonly id: string;
    readonly container: string;
    readonly owner: string;
    readonly name: string | null;
    readonly address: string;
    readonly port: number;
    readonly proto: string;
    readonly state: 'pending' | 'allowed' | 'denied' | 'unanswered';
    /** The end of the wait, RFC 3339. */
    readonly until: string;
    /** The author of the decision; null: there is none. */
    readonly by: string | null;
  };
  readonly container: {
    readonly container: string;
    readonly id: string;
    readonly image: string;
    readonly action: 'create' | 'start' | 'die' | 'destroy' | 'pause' | 'unpause' | 'rename';
  };
  readonly list: {
    readonly list: string;
    readonly action: 'created' | 'changed' | 'deleted' | 'refused';
    readonly source: 'folder' | 'store';
    readonly detail: string | null;
  };
  readonly feed: {
    readonly feed: string;
    readonly status: string;
    readonly reason: string | null;
    readonly entries: number;
  };
  /** `fell`: the container is held less than before. */
  readonly coverage: {
    readonly container: string;
    readonly id: string;
    readonly from: string | null;
    readonly to: string;
    readonly fell: boolean;
    readonly reasons: readonly string[];
  };
  /** Rules, sets or records of Drawbridge were missing or changed, and were written again. */
  readonly repair: { readonly detail: string };
  /** A change of what the canary finds. */
  readonly canary: { readonly ok: boolean; readonly detail: string };
}
export type EventKind = keyof EventData;
export const EVENT_KINDS: readonly EventKind[] = [
  'flow',
  'first-contact',
  'ask',
  'container',
  'list',
  'feed',
  'coverage',
  'repair',
  'canary',
];

/** An event as it is kept and sent. */
export type ServiceEvent = {
  [K in EventKind]: {
    /** Of this run of the service: the time of its start in ms, a dot, and the number of the event. */
    readonly id: string;
    /** RFC 3339, UTC. */
    readonly time: string;
    readonly kind: K;
    readonly data: EventData[K];
  };
}[EventKind];
