import { type TSchema, Type } from '@sinclair/typebox';
import { Count, Nullable, Text, Time, Words } from '../lib/schema-parts.js';

/** What the service reports as it happens. All payloads are plain data; names of containers are those that Docker shows. */

/** `ask`: the connection waits, or has waited, for the decision of a person. */
export const FLOW_VERDICTS = ['allow', 'deny', 'would-deny', 'threat', 'ask'] as const;
export type FlowVerdict = (typeof FLOW_VERDICTS)[number];

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

const CONTACT = {
  container: Text('the name of the container'),
  owner: Text('survives recreation: compose:PROJECT/SERVICE or name:NAME'),
  verdict: Words(['allow', 'deny', 'would-deny', 'threat', 'ask']),
  proto: Text('tcp, udp, icmp, a number of IANA, or dns: a name that was only resolved'),
  address: Text('empty where a name was only resolved'),
  port: Type.Integer({ minimum: 0, maximum: 65535, description: '0: the protocol has none' }),
  name: Nullable(Text('as the container resolved it, or named it itself; of a neighbour container:NAME')),
  reason: Text('why, for a person'),
  entry: Nullable(Text('the canonical entry that decides')),
  list: Nullable(Text('the list of that entry')),
  feed: Nullable(Text('the threat feed that lists the destination')),
};

/** The schemas of the payloads (schemas/event.schema.json). A later version may add fields. */
export const EVENT_DATA_SCHEMAS = {
  flow: Type.Object({ ...CONTACT, packets: Count, bytes: Count }),
  'first-contact': Type.Object({ ...CONTACT, known: Type.Boolean() }),
  ask: Type.Object({
    id: Type.String(),
    container: Type.String(),
    owner: Type.String(),
    name: Nullable(Type.String()),
    address: Type.String(),
    port: Type.Integer(),
    proto: Type.String(),
    state: Words(['pending', 'allowed', 'denied', 'unanswered']),
    until: Time,
    by: Nullable(Type.String()),
  }),
  container: Type.Object({
    container: Type.String(),
    id: Type.String(),
    image: Type.String(),
    action: Words(['create', 'start', 'die', 'destroy', 'pause', 'unpause', 'rename']),
  }),
  list: Type.Object({
    list: Type.String(),
    action: Words(['created', 'changed', 'deleted', 'refused']),
    source: Words(['folder', 'store']),
    detail: Nullable(Type.String()),
  }),
  feed: Type.Object({
    feed: Type.String(),
    status: Text('loaded, recovered, refused, failed, later'),
    reason: Nullable(Type.String()),
    entries: Count,
  }),
  coverage: Type.Object({
    container: Type.String(),
    id: Type.String(),
    from: Nullable(Type.String()),
    to: Text('enforced, partial, unenforced'),
    fell: Type.Boolean({ description: 'the policy is enforced less than before' }),
    reasons: Type.Array(Type.String()),
  }),
  repair: Type.Object({ detail: Type.String() }),
  canary: Type.Object({ ok: Type.Boolean(), detail: Type.String() }),
} satisfies Record<EventKind, TSchema>;

const recordSchemas = Object.entries(EVENT_DATA_SCHEMAS).map(([kind, data]) =>
  Type.Object({
    _schema: Type.Literal('drawbridge.event/v1'),
    node: Text('the name of the host'),
    id: Text('unique on this host: the start of the service in ms, a dot, a number'),
    time: Time,
    kind: Type.Literal(kind),
    data,
  }),
);
/** A line of `flows.file`, and the text of a message of `flows.syslog`. */
export const EventRecordSchema = Type.Union(recordSchemas);
