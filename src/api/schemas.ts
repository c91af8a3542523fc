/** The schemas of the API: one definition for validation, OpenAPI, the views and the types of the client. */
import { type Static, type TSchema, Type } from '@sinclair/typebox';
import { KeptSchema } from '../changes/current-overrides.js';
import { Count, closedObject as closed, Mode, Nullable, Text, Time, Words } from '../lib/schema-parts.js';
import { DURATION_PATTERN } from '../lib/units.js';
import { EntryObjectSchema, ListSchema } from '../policy/list-parse.js';
import { MODE_SOURCES, SOURCES } from '../policy/policy.js';

const Verdict = Words(['allow', 'deny', 'threat']);

type DeepReadonly<T> = T extends object ? { readonly [K in keyof T]: DeepReadonly<T[K]> } : T;
/** The type of values that fit a schema. */
export type View<S extends TSchema> = DeepReadonly<Static<S>>;

/** A page of a collection; `next` is null on the last. */
export const Collection = <T extends TSchema>(item: T) =>
  Type.Object({ items: Type.Array(item), next: Nullable(Type.String()) }, closed);

export const ProblemSchema = Type.Object(
  {
    type: Text('the kind of problem, a reference into /docs', '/docs#not-found'),
    title: Type.String({ examples: ['Not found'] }),
    status: Type.Integer(),
    detail: Type.String({ examples: ['there is no container wbe'] }),
    errors: Type.Array(
      Type.Object(
        {
          detail: Type.String({ examples: ['there is no container wbe'] }),
          remedy: Text('what to do', 'see drawbridge ps for those that are known'),
          pointer: Type.Optional(Text('JSON pointer into the body (RFC 6901)')),
          file: Type.Optional(Type.String()),
          line: Type.Optional(Type.Integer()),
          column: Type.Optional(Type.Integer()),
        },
        closed,
      ),
    ),
  },
  { ...closed, $id: 'Problem', description: 'problem details (RFC 9457)' },
);
export type ProblemDocument = View<typeof ProblemSchema>;

/** Whether a change outlives a restart of the service. */
const DURABILITY = {
  durable: Type.Boolean({
    description: 'false: in force from memory, because the store could not be written',
  }),
  note: Nullable(Text('why it is not stored, and the consequence')),
};
export const DurabilitySchema = Type.Object(DURABILITY, { ...closed, $id: 'Durability' });
export type Durability = View<typeof DurabilitySchema>;

export const PauseSchema = Type.Object(
  {
    ...DURABILITY,
    node: Type.Optional(Text('the host of the container')),
    owner: Text('id:CONTAINER, or all', 'id:3f4e8a2b91c0'),
    created: Time,
    expires: Time,
    by: Text('the author of the pause', 'token:ci'),
  },
  { ...closed, $id: 'Pause' },
);
export type PauseBody = View<typeof PauseSchema>;

const Counted = (description: string) => Type.Integer({ minimum: 0, description });
/** What the check of names has done since the start. Null: no names are checked (tls.verify: false). */
const ConnectionCounts = Type.Object(
  {
    refused: Counted('connections that asked for a name that no entry permits, or for none'),
    queued: Counted('packets that were checked'),
    released: Counted('of these, packets that went on'),
    dropped: Counted('of these, repetitions, those of refused connections, and what could not be read'),
    beyondBounds: Counted('dropped because a container, or all together, had too much that was not decided'),
    faults: Counted('dropped because of an error of Drawbridge, which is in its log'),
    waiting: Counted('packets that wait now'),
    queueFull: Counted('dropped by the kernel because the queue was full'),
  },
  closed,
);
const LockdownFacts = Type.Object({ since: Time, by: Type.String({ examples: ['token:ci'] }) }, closed);

export const StatusSchema = Type.Object(
  {
    version: Type.String({ examples: ['0.1.0'] }),
    node: Type.String({ examples: ['host1'] }),
    enforced: Type.Integer({
      minimum: 0,
      description:
        'containers in mode enforce, whatever their coverage; a paused container is not in mode enforce',
    }),
    observed: Type.Integer({ minimum: 0, description: 'containers in mode observe' }),
    off: Type.Integer({ minimum: 0, description: 'containers in mode off' }),
    containers: Count,
    coverage: Type.Object(
      { enforced: Count, partial: Count, unenforced: Count },
      {
        ...closed,
        description: 'coverage of the containers in mode enforce; the counts add up to "enforced"',
      },
    ),
    labelErrors: Type.Integer({
      minimum: 0,
      description: 'containers with a drawbridge label that does not parse',
    }),
    missingLists: Type.Integer({ minimum: 0, description: 'containers with a list that does not exist' }),
    paused: Count,
    trials: Type.Integer({ minimum: 0, description: 'containers that are enforced on trial' }),
    trialUntil: Nullable({ ...Time, description: 'end of the trial that ends first' }),
    evaluated: Type.Integer({
      minimum: 0,
      description: 'observed containers that a list is evaluated for in place of their policy',
    }),
    lockdown: Nullable(LockdownFacts),
    threats: Type.Object(
      {
        entries: Type.Integer({ minimum: 0, description: 'addresses, networks and names in force here' }),
        feeds: Type.Integer({ minimum: 0, description: 'feeds that have a version in force' }),
        alerts: Type.Array(Type.String({ description: 'a feed and its fault' })),
      },
      closed,
    ),
    kernel: Type.Object(
      {
        inSync: Type.Boolean(),
        ready: Type.Boolean({ description: 'the same as in /readyz' }),
        reason: Type.String({ examples: ['in sync'] }),
        lastRepair: Nullable(Time),
      },
      closed,
    ),
    canary: Type.Object(
      {
        ok: Nullable(
          Type.Boolean({
            description:
              'true: of two addresses behind the rules, a namespace has reached the permitted one only; null: it could not run',
          }),
        ),
        at: Nullable(Time),
        detail: Type.String(),
      },
      closed,
    ),
    connections: Nullable(ConnectionCounts),
    store: Type.Object(
      {
        kind: Type.String({ examples: ['embedded'] }),
        ok: Type.Boolean(),
        detail: Type.String({ examples: ['all changes are on the disk'] }),
        unwritten: Type.Array(
          Type.Object(
            {
              key: Type.String({ examples: ['grant/5d41402abc4b'] }),
              action: Type.String({ examples: ['grant.add'] }),
              target: Type.String({ examples: ['npm'] }),
              since: Time,
              note: Type.String({ examples: ['the disk is full'] }),
            },
            closed,
          ),
          { description: 'changes in force that could not be stored' },
        ),
      },
      closed,
    ),
    fleet: Type.Object({ nodes: Count, stale: Type.Array(Type.String()) }, closed),
    kept: KeptSchema,
    warnings: Type.Array(Type.String({ description: 'a fault and its remedy' })),
  },
  { ...closed, $id: 'Status' },
);
export type Status = View<typeof StatusSchema>;

export const GrantSchema = Type.Object(
  {
    id: Type.String({ examples: ['3f4e8a2b91c0'] }),
    entry: Text('the entry in canonical form', 'api.example.com'),
    owner: Text('compose:PROJECT/SERVICE or name:NAME (open-ended), id:CONTAINER (timed)', 'name:web'),
    node: Type.Optional(Text('the host of the container (timed)')),
    created: Time,
    expires: Nullable(Time),
  },
  { ...closed, $id: 'Grant' },
);
export type GrantBody = View<typeof GrantSchema>;

const FindingSchema = Type.Object(
  {
    code: Type.String({ examples: ['docker-socket', 'broken-label'] }),
    state: Words(['enforced', 'partial', 'unenforced']),
    detail: Type.String({ examples: ['it mounts the socket of Docker'] }),
    remedy: Type.String({ examples: ['remove the mount'] }),
  },
  closed,
);

/** What something comes from: a kind, and the name that the kind has. */
const Source = <const K extends readonly string[]>(kinds: K, description: string, name: string) =>
  Type.Object(
    { kind: Words(kinds), name: Nullable(Text(`${name}; null: the kind has none`)) },
    { ...closed, description },
  );
export const ModeSourceSchema = Source(
  [...MODE_SOURCES, 'claim'],
  'the source of the mode',
  'the list that claims the container',
);

const EntryViewSchema = Type.Object(
  {
    entry: Type.String({ examples: ['api.example.com'] }),
    from: Text('where it is written, in words', 'list npm'),
    source: Source(['label', ...SOURCES], 'where it is written', 'the list, or the id of the grant'),
    addresses: Type.Array(Type.String()),
    count: Counted('connections that it permitted, or attempts that it denied'),
    packets: Counted('of these, in both directions'),
    bytes: Counted('of these, in both directions, with IP headers'),
  },
  closed,
);

export const ContainerSchema = Type.Object(
  {
    id: Type.String({ examples: ['3f4e8a2b91c0'] }),
    name: Type.String({ examples: ['web'] }),
    image: Type.String({ examples: ['ghcr.io/acme/web:2'] }),
    mode: Mode,
    modeFrom: Text('the source of the mode, in a word', 'default'),
    modeSource: ModeSourceSchema,
    coverage: Type.Object(
      { state: Words(['enforced', 'partial', 'unenforced']), reasons: Type.Array(Type.String()) },
      closed,
    ),
    findings: Type.Array(FindingSchema, {
      description: 'the reasons of coverage in the same order, with code, state and remedy',
    }),
    compose: Nullable(
      Type.Object(
        { project: Type.String({ examples: ['shop'] }), service: Type.String({ examples: ['web'] }) },
        { ...closed, description: 'of Docker Compose; null where the labels come with the image' },
      ),
    ),
    addresses: Type.Array(Type.String()),
    lists: Type.Array(Type.String()),
    entries: Type.Array(EntryViewSchema),
    grants: Type.Array(GrantSchema),
    pausedUntil: Nullable(Time),
    trialUntil: Nullable({
      ...Time,
      description: 'enforced on trial until then: what was set before counts again, unless it is confirmed',
    }),
    against: Nullable(
      Type.Object(
        { list: Type.String(), since: Time },
        { ...closed, description: 'the list that is evaluated in place of its policy while it is observed' },
      ),
    ),
    limits: Nullable(Text('the parsed value of the label drawbridge.limit')),
    quota: Nullable(Type.Object({ bytes: Count, used: Count, reached: Type.Boolean(), until: Time }, closed)),
    allowed: Counted('connections that passed; while it is observed, those that enforce would let pass'),
    denied: Counted('attempts that did not pass'),
    wouldDeny: Counted(
      'connections and lookups that passed only because it was observed, or the feed is watched',
    ),
  },
  { ...closed, $id: 'Container' },
);
export type ContainerBody = View<typeof ContainerSchema>;

export const GrantRequestSchema = Type.Object(
  {
    entry: Type.String({ minLength: 1, description: 'one entry', examples: ['api.example.com:443'] }),
    for: Type.Optional(
      Type.String({
        pattern: DURATION_PATTERN,
        description: 'duration; left out: until revoked',
        examples: ['10m'],
      }),
    ),
  },
  { ...closed, $id: 'GrantRequest' },
);
export const PauseRequestSchema = Type.Object(
  { for: Type.String({ pattern: DURATION_PATTERN, description: 'duration', examples: ['10m'] }) },
  { ...closed, $id: 'PauseRequest' },
);
export const LockdownRequestSchema = Type.Object(
  { on: Type.Boolean() },
  { ...closed, $id: 'LockdownRequest' },
);
export const LockdownSchema = Type.Object(
  { on: Type.Boolean(), since: Nullable(Time), by: Nullable(Type.String()), ...DURABILITY },
  { ...closed, $id: 'Lockdown' },
);

export const AuditSchema = Type.Object(
  {
    time: Time,
    node: Type.Optional(Text('the host that made the change')),
    who: Type.String({ examples: ['token:ci'] }),
    action: Type.String({ examples: ['grant.add', 'lockdown.on'] }),
    target: Type.String({ examples: ['npm'] }),
    before: Type.Unknown({ description: 'null: no previous value' }),
    after: Type.Unknown({ description: 'null: no value now' }),
    outcome: Words(['done', 'undone', 'refused', 'unknown']),
    n: Type.Optional(Type.Integer({ description: "the record's number in the files of its host" })),
    hash: Type.Optional(
      Type.String({ description: 'of its line in the audit file: the chain of docs/audit.md' }),
    ),
    sha256: Type.Optional(
      Type.Object(
        { before: Nullable(Type.String()), after: Nullable(Type.String()) },
        { ...closed, description: 'of the whole values, if before and after are shortened' },
      ),
    ),
    late: Type.Optional(
      Type.Boolean({ description: 'true: the disk was full, and the record was written later' }),
    ),
    from: Type.Optional(Type.String({ description: 'its key in the store of an older version' })),
  },
  { ...closed, $id: 'AuditRecord' },
);
export type AuditBody = View<typeof AuditSchema>;

/** PUT of a list: the YAML's fields. */
export const ListRequestSchema = { ...ListSchema, $id: 'ListRequest' };
export const EntryRequestSchema = Type.Union([
  Type.Object(
    { entry: Type.String({ description: 'one entry as text', examples: ['api.example.com:443'] }) },
    closed,
  ),
  EntryObjectSchema,
]);

export const ListBodySchema = Type.Object(
  {
    ...ListSchema.properties,
    allow: Type.Array(Type.Union([Type.String(), EntryObjectSchema])),
    name: Type.String({ examples: ['npm'] }),
    source: Words(['folder', 'store']),
    file: Type.Optional(Text('the file of a folder list')),
    revision: Type.Integer({ description: 'revision in the store; 0 for a folder list' }),
    usedBy: Type.Array(Type.String()),
    durable: Type.Optional(
      Type.Boolean({
        description: 'false: an entry was removed in memory only, because the store could not be written',
      }),
    ),
    note: Type.Optional(Text('why it is not stored, and the consequence')),
  },
  { ...closed, $id: 'List' },
);
export type ListBody = View<typeof ListBodySchema>;

export const ExplainSchema = Type.Object(
  {
    container: Type.String({ examples: ['web'] }),
    to: Type.String({ examples: ['api.example.com:443'] }),
    verdict: Verdict,
    reason: Type.String({ examples: ['no entry covers it'] }),
    entry: Nullable(Type.String()),
    list: Nullable(Type.String()),
    feed: Nullable(Type.String()),
    remedy: Nullable(Type.String()),
    lasting: Nullable(Text('how to permit it permanently: a label or a list entry')),
    warning: Nullable(Text('what else the permission would open')),
    coverage: Nullable(Text('why a denial may not hold for this container')),
    trace: Type.Array(
      Type.String({ description: 'a rule that the packet passes, in the syntax of its tool' }),
    ),
  },
  { ...closed, $id: 'Explanation' },
);
export type Explain = View<typeof ExplainSchema>;

export const ScanSchema = Type.Object(
  {
    container: Nullable(Text('null: the host')),
    image: Nullable(Type.String()),
    findings: Type.Array(
      Type.Object(
        {
          kind: Words(['coverage', 'practice', 'host']),
          code: Type.String({ examples: ['docker-socket', 'root-user'] }),
          state: Words(['enforced', 'partial', 'unenforced']),
          detail: Type.String({ examples: ['it mounts the socket of Docker'] }),
          remedy: Type.String({ examples: ['remove the mount'] }),
        },
        closed,
      ),
    ),
  },
  { ...closed, $id: 'Scan' },
);
export type ScanBody = View<typeof ScanSchema>;

export const ReadySchema = Type.Object(
  { ready: Type.Boolean(), reason: Type.String({ examples: ['in sync'] }) },
  { ...closed, $id: 'Readiness' },
);
export const HealthSchema = Type.Object({ ok: Type.Boolean() }, { ...closed, $id: 'Health' });
