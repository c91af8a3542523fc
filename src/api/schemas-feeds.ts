/** The shapes of feeds and threats in the API. */
import { Type } from '@sinclair/typebox';
import { Count, closedObject as closed, Nullable, Text, Time, Words } from '../lib/schema-parts.js';
import type { View } from './schemas.js';

const Lines = Type.Object(
  {
    count: Count,
    samples: Type.Array(Type.Object({ line: Count, text: Type.String(), reason: Type.String() }, closed), {
      description: 'the first of them',
    }),
  },
  closed,
);
const Action = Words(['block', 'observe']);
const Direction = Words(['outbound', 'inbound', 'both']);

export const FeedSchema = Type.Object(
  {
    name: Type.String(),
    url: Text('without credentials and query'),
    format: Type.String(),
    action: Action,
    direction: Direction,
    everySeconds: Count,
    status: Words(['never', 'current', 'refused', 'failed', 'later', 'left-out']),
    reason: Nullable(Text('why the last attempt brought nothing')),
    remedy: Nullable(Text('what to do')),
    entries: Type.Integer({ minimum: 0, description: 'of the version in force here' }),
    names: Type.Integer({ minimum: 0, description: 'how many of them are names' }),
    loaded: Nullable(Time),
    confirmed: Nullable(Time),
    attempted: Nullable(Time),
    next: Nullable(Time),
    failures: Type.Integer({ minimum: 0, description: 'attempts in a row that brought nothing' }),
    lines: Type.Object({ bad: Lines, unsupported: Lines, skipped: Lines, suffixes: Lines }, closed),
    spared: Type.Array(
      Type.Object({ label: Type.String(), lines: Count, line: Count, listed: Type.String() }, closed),
      { description: 'what it lists and no feed may block' },
    ),
    known: Type.Array(Type.Object({ label: Type.String(), withheld: Count, inside: Count }, closed), {
      description: 'ranges that many share: withheld as a whole, told where a small part is listed',
    }),
  },
  closed,
);
export type FeedBody = View<typeof FeedSchema>;

export const FeedSyncRequestSchema = Type.Object(
  {
    accept: Type.Optional(
      Type.Boolean({ description: 'the next version counts whatever its size and bad lines (role admin)' }),
    ),
    onlyDue: Type.Optional(Type.Boolean({ description: 'only where the schedule would, too' })),
  },
  closed,
);
export const FeedSyncSchema = Type.Object(
  { outcome: Words(['attempted', 'not-due', 'too-soon', 'busy']), feed: FeedSchema },
  closed,
);
export type FeedSyncBody = View<typeof FeedSyncSchema>;

export const ThreatSchema = Type.Object(
  {
    query: Type.String(),
    target: Text('canonical'),
    verdict: Words(['block', 'observe', 'none']),
    hits: Type.Array(
      Type.Object(
        {
          feed: Type.String(),
          action: Action,
          direction: Direction,
          listed: Text('the range or name as it is listed'),
          line: Count,
          positions: Words(['line', 'item']),
          since: Time,
          spared: Nullable(Text('why it does not count all the same')),
        },
        closed,
      ),
    ),
  },
  closed,
);
export type ThreatBody = View<typeof ThreatSchema>;
