/** The shapes of denied flows and of the preview of mode enforce in the API. */
import { Type } from '@sinclair/typebox';
import { Count, closedObject as closed, Mode, Nullable, Text, Time, Words } from '../lib/schema-parts.js';
import type { View } from './schemas.js';

export const FlowSchema = Type.Object(
  {
    time: Time,
    container: Type.String(),
    verdict: Words(['allow', 'deny', 'threat', 'would-deny']),
    proto: Type.String(),
    address: Type.String(),
    port: Type.Integer(),
    name: Nullable(Type.String()),
    reason: Type.String(),
  },
  closed,
);
export type Flow = View<typeof FlowSchema>;

const KINDS = ['name', 'address', 'neighbour', 'host', 'published'] as const;
const Entry = Nullable(Text('the entry that permits it, ready to paste; null: no entry can'));
export const PreviewSchema = Type.Object(
  {
    container: Type.String(),
    owner: Text('to whom the record belongs: compose:PROJECT/SERVICE or name:NAME'),
    mode: Mode,
    to: { ...Mode, description: 'the mode that is previewed' },
    recordingSince: Nullable({ ...Time, description: 'without interruption; null: it is not recorded now' }),
    gaps: Type.Array(Type.Object({ from: Time, to: Time, reason: Type.String() }, closed), {
      description: 'before that: when it ran without being recorded',
    }),
    dropped: Type.Integer({ minimum: 0, description: 'connections that were not recorded' }),
    notRecorded: Type.Array(Type.String({ description: 'traffic that cannot be recorded, and why' })),
    destinations: Type.Array(
      Type.Object(
        {
          entry: Entry,
          kind: Words(KINDS),
          name: Nullable(Text('the name, the neighbour, or the container that publishes the port')),
          address: Text('empty where a name was only resolved'),
          port: Type.Integer({ description: '0: the protocol has none' }),
          proto: Text('tcp, udp, icmp or a number; dns: a name that was only resolved'),
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
          proto: Type.String(),
          address: Type.String(),
          port: Type.Integer(),
          name: Nullable(Type.String()),
          entry: Entry,
          passesAgain: Type.Boolean({ description: 'a new connection to it passes' }),
        },
        closed,
      ),
      { description: 'connections open now that mode enforce would end' },
    ),
  },
  closed,
);
export type PreviewBody = View<typeof PreviewSchema>;
