/** The shapes of feeds and threats in the API. */
import { Type } from '@sinclair/typebox';
import { FLOW_VERDICTS } from '../events/service-events.js';
import { Count, closedObject as closed, Mode, Nullable, Text, Time, Words } from '../lib/schema-parts.js';
import { DURATION_PATTERN } from '../lib/units.js';
import { ContainerSchema, ModeSourceSchema, type View } from './schemas.js';

/** The shapes of denied flows, of modes that are set, and of the preview of a mode in the API. */

const Lines = Type.Object(
  {
    count: Count,
    samples: Type.Array(
      Type.Object(
        {
          line: Count,
          text: Type.String({ examples: ['10.0.0.300'] }),
          reason: Type.String({ examples: ['not an address'] }),
        },
        closed,
      ),
      {
        description: 'the first lines',
      },
    ),
  },
  closed,
);
const Action = Words(['block', 'observe']);
const Direction = Words(['outbound', 'inbound', 'both']);

export const FeedSchema = Type.Object(
  {
    name: Type.String({ examples: ['firehol-level1'] }),
    url: Text('URL without credentials and query', 'https://feeds.example/level1.netset'),
    format: Type.String({ examples: ['auto'] }),
    action: Action,
    direction: Direction,
    everySeconds: Count,
    status: Words(['never', 'current', 'refused', 'failed', 'later', 'left-out']),
    reason: Nullable(Text('why the last attempt brought no version')),
    remedy: Nullable(Text('what to do')),
    entries: Type.Integer({ minimum: 0, description: 'entries of the version in force' }),
    names: Type.Integer({ minimum: 0, description: 'names among the entries' }),
    loaded: Nullable(Time),
    confirmed: Nullable(Time),
    attempted: Nullable(Time),
    next: Nullable(Time),
    failures: Type.Integer({ minimum: 0, description: 'consecutive attempts that brought no version' }),
    lines: Type.Object({ bad: Lines, unsupported: Lines, skipped: Lines, suffixes: Lines }, closed),
    spared: Type.Array(
      Type.Object(
        {
          label: Type.String({ examples: ["the host's own network"] }),
          lines: Count,
          line: Count,
          listed: Type.String({ examples: ['192.0.2.0/24'] }),
        },
        closed,
      ),
      { description: 'listed destinations that no feed may block' },
    ),
    known: Type.Array(
      Type.Object(
        { label: Type.String({ examples: ["the host's own network"] }), withheld: Count, inside: Count },
        closed,
      ),
      {
        description: 'shared ranges: withheld if listed as a whole, reported if a small part is listed',
      },
    ),
  },
  { ...closed, $id: 'Feed' },
);
export type FeedBody = View<typeof FeedSchema>;

export const FeedSyncRequestSchema = Type.Object(
  {
    accept: Type.Optional(
      Type.Boolean({ description: 'accept the next version whatever its size and bad lines (role admin)' }),
    ),
    onlyDue: Type.Optional(Type.Boolean({ description: 'try the feed only if its schedule is due' })),
  },
  { ...closed, $id: 'FeedSyncRequest' },
);
export const FeedSyncSchema = Type.Object(
  { outcome: Words(['attempted', 'not-due', 'too-soon', 'busy']), feed: FeedSchema },
  { ...closed, $id: 'FeedSync' },
);
export type FeedSyncBody = View<typeof FeedSyncSchema>;

export const ThreatSchema = Type.Object(
  {
    query: Type.String({ examples: ['192.0.2.7'] }),
    target: Text('the target in canonical form', 'npm'),
    verdict: Words(['block', 'observe', 'none']),
    hits: Type.Array(
      Type.Object(
        {
          feed: Type.String({ examples: ['firehol-level1'] }),
          action: Action,
          direction: Direction,
          listed: Text('the range or name as it is listed', '192.0.2.0/24'),
          line: Count,
          positions: Words(['line', 'item']),
          since: Time,
          spared: Nullable(Text('why it is not blocked in spite of the listing')),
        },
        closed,
      ),
    ),
  },
  { ...closed, $id: 'Threat' },
);
export type ThreatBody = View<typeof ThreatSchema>;

const Contact = {
  container: Text('the name of the container', 'web'),
  owner: Text('survives recreation: compose:PROJECT/SERVICE or name:NAME', 'name:web'),
  verdict: Words(FLOW_VERDICTS),
  proto: Text('tcp, udp, icmp, a number, or dns: a name that was only resolved', 'tcp'),
  address: Text('empty where a name was only resolved', '192.0.2.7'),
  port: Type.Integer({ description: '0: the protocol has none' }),
  name: Nullable(
    Text('as the container resolved it or asked for it; of a neighbour container:NAME; null: not known'),
  ),
  reason: Text('why', 'no entry covers it'),
  entry: Nullable(Text('the entry that permits or denies it')),
  list: Nullable(Text('the list that has the entry')),
  feed: Nullable(Text('the threat feed that lists it')),
};
const FlowSchema = Type.Object(
  {
    time: { ...Time, description: 'of the first connection of this record' },
    last: { ...Time, description: 'of the last one, at most a minute later' },
    ...Contact,
    packets: Type.Integer({
      minimum: 0,
      description: 'of both directions; of a denial: those that were logged',
    }),
    bytes: Type.Integer({ minimum: 0, description: 'of both directions, with IP headers' }),
    count: Type.Integer({ minimum: 0, description: 'connections, or queries for the name' }),
  },
  { ...closed, $id: 'Flow' },
);
export type Flow = View<typeof FlowSchema>;
export const FlowsSchema = Type.Object(
  {
    items: Type.Array(FlowSchema, { description: 'the newest first, by `time`' }),
    next: Nullable(Text('the cursor of the next page; null: there is none')),
    container: Nullable(
      Type.Object(
        {
          name: Text('under which its flows are', 'web'),
          containers: Type.Integer({ description: 'that have or had this name; 1 if asked by id' }),
          since: Nullable({ ...Time, description: 'no record of them is older; null: not known' }),
        },
        closed,
      ),
    ),
    recordingSince: { ...Time, description: 'the oldest time of which records are kept' },
    recordedUntil: Nullable({
      ...Time,
      description: 'connections that passed until then are in the records; null: none are recorded now',
    }),
    gaps: Type.Array(Type.Object({ from: Time, to: Time, reason: Type.String() }, closed), {
      description: 'times since then of which nothing is recorded, or not all is kept',
    }),
    dropped: Type.Integer({ minimum: 0, description: 'flows that are in no record, of all containers' }),
  },
  { ...closed, $id: 'Flows' },
);
export type FlowsBody = View<typeof FlowsSchema>;

export const KnownSchema = Type.Object(
  {
    owner: Contact.owner,
    target: Text('a name or an address; * and ? match in it', '*.example.com'),
    port: Nullable(Type.Integer({ minimum: 0, maximum: 65_535, description: 'null: all' })),
  },
  { ...closed, $id: 'KnownDestination' },
);
export type KnownBody = View<typeof KnownSchema>;

const KINDS = ['name', 'address', 'neighbour', 'host', 'published'] as const;
const Entry = Nullable(Text('the entry that permits it, ready to paste; null: no entry can'));
export const PreviewSchema = Type.Object(
  {
    container: Type.String({ examples: ['web'] }),
    containers: Type.Array(Type.String({ examples: ['web'] }), {
      description: 'all running containers of this owner, for which the mode would count',
    }),
    owner: Text('the owner of the record: compose:PROJECT/SERVICE or name:NAME', 'name:web'),
    mode: Mode,
    to: { ...Mode, description: 'the mode that is previewed' },
    against: Nullable(Text('the list by which destinations are evaluated; null: the policy counts')),
    recordingSince: Nullable({
      ...Time,
      description: 'start of the uninterrupted recording; null: not recorded now',
    }),
    gaps: Type.Array(
      Type.Object(
        { from: Time, to: Time, reason: Type.String({ examples: ['the service did not run'] }) },
        closed,
      ),
      {
        description: 'earlier times during which it ran and was not recorded',
      },
    ),
    dropped: Type.Integer({ minimum: 0, description: 'connections that were not recorded' }),
    notRecorded: Type.Array(Type.String({ description: 'traffic that cannot be recorded, and why' })),
    destinations: Type.Array(
      Type.Object(
        {
          entry: Entry,
          kind: Words(KINDS),
          name: Nullable(Text('the name, the neighbour, or the container that publishes the port')),
          address: Text('empty where a name was only resolved', '192.0.2.7'),
          port: Type.Integer({ description: '0: the protocol has none' }),
          proto: Text('tcp, udp, icmp or a number; dns: a name that was only resolved', 'tcp'),
          first: Time,
          last: Time,
          count: Count,
          verdict: Words(['would-deny']),
        },
        closed,
      ),
      { description: 'the most recent first' },
    ),
    flows: Type.Array(
      Type.Object(
        {
          proto: Type.String({ examples: ['tcp'] }),
          address: Type.String({ examples: ['192.0.2.7'] }),
          port: Type.Integer(),
          name: Nullable(Type.String()),
          entry: Entry,
          container: Text('the container that opened it'),
          passesAgain: Type.Boolean({ description: 'a new connection to it passes' }),
        },
        closed,
      ),
      { description: 'connections open now that mode enforce would end' },
    ),
  },
  { ...closed, $id: 'Preview' },
);
export type PreviewBody = View<typeof PreviewSchema>;

const MODE_REQUEST = {
  mode: {
    ...Words(['enforce', 'observe', 'off', 'auto', 'confirm']),
    description:
      'auto: labels, claims and the default decide; confirm: a trial becomes mode enforce for good',
  },
  trial: Type.Optional(
    Type.String({
      pattern: DURATION_PATTERN,
      description: 'of enforce: after this duration, what was set before counts again',
      examples: ['15m'],
    }),
  ),
  against: Type.Optional(
    Type.String({
      minLength: 1,
      description: 'of observe: the list that is evaluated in place of the policy, without being enforced',
    }),
  ),
};
export const ModeRequestSchema = Type.Object(MODE_REQUEST, { ...closed, $id: 'ModeRequest' });
export type ModeBody = View<typeof ModeRequestSchema>;
export const ModeSchema = Type.Object(
  {
    mode: { ...Mode, description: 'the mode in force' },
    modeFrom: Text('the source of the mode, in a word', 'default'),
    modeSource: ModeSourceSchema,
    owner: Text('the owner of a mode that is set: compose:PROJECT/SERVICE or name:NAME', 'name:web'),
    set: Nullable({ ...Mode, description: 'the mode that is set through the API; null: none' }),
  },
  { ...closed, $id: 'ModeSetting' },
);
export const ModesRequestSchema = Type.Object(
  {
    containers: Type.Array(
      Type.String({ minLength: 1, description: 'id, name or id prefix', examples: ['web'] }),
      {
        minItems: 1,
        maxItems: 1000,
      },
    ),
    ...MODE_REQUEST,
  },
  { ...closed, $id: 'ModesRequest' },
);
export const ModesSchema = Type.Object(
  { containers: Type.Array(ContainerSchema, { description: 'those of the request, in its order' }) },
  { ...closed, $id: 'Modes' },
);

const used = {
  count: Count,
  first: Nullable(Time),
  last: Nullable(Time),
  starts: Type.Integer({ minimum: 0, description: 'starts of the container in which it was seen, at least' }),
};
export const SuggestionSchema = Type.Object(
  {
    container: Type.String(),
    owner: Text('the owner of the record: compose:PROJECT/SERVICE or name:NAME'),
    since: Nullable({ ...Time, description: 'recorded since then; null: never' }),
    starts: Count,
    stable: Type.Object(
      {
        since: Nullable({ ...Time, description: 'when the newest destination was found' }),
        for: Nullable(Text('from then until now')),
        starts: Type.Integer({ minimum: 0, description: 'starts since then, at least' }),
        enough: Type.Boolean({ description: 'recorded for a day, or over ten starts' }),
        text: Type.String(),
      },
      closed,
    ),
    mode: {
      ...Mode,
      description: 'in force now; enforce while it is paused, and of a container that is gone',
    },
    reachesNothing: Type.Boolean({ description: 'all that it used is left out: decide about that first' }),
    entries: Type.Array(
      Type.Object(
        {
          entry: Type.String(),
          comment: Type.String(),
          ...used,
          risk: Nullable(Text('why anyone can receive data there')),
        },
        closed,
      ),
    ),
    lists: Type.Array(
      Type.Object({ list: Type.String(), comment: Type.String(), covers: Type.Array(Type.String()) }, closed),
      { description: 'lists that permit several of the destinations, or that its labels name' },
    ),
    offered: Type.Array(
      Type.Object({ list: Type.String(), size: Count, covers: Type.Array(Type.String()) }, closed),
      { description: 'lists that permit several of the destinations, and more than what was used warrants' },
    ),
    left: Type.Array(
      Type.Object(
        {
          entry: Text('the entry that would permit it, or the destination where no entry can'),
          why: Type.String(),
          action: {
            ...Words(['decide', 'add', 'none']),
            description:
              'decide: it was used; add: nothing shows that it is needed; none: no entry is offered',
          },
          ...used,
        },
        closed,
      ),
      { description: 'what was seen and is not suggested' },
    ),
    remove: Type.Array(
      Type.Object({ entry: Type.String(), from: Type.String(), unusedSince: Time }, closed),
      { description: 'entries of its labels and grants that were not used' },
    ),
    notes: Type.Array(Type.String()),
  },
  closed,
);
export type SuggestionBody = View<typeof SuggestionSchema>;
