/** The shapes of export, import and sync, of hosts that share a store, of a closed one, and of tokens in the API. */
import { Type } from '@sinclair/typebox';
import { Count, closedObject as closed, Mode, Nullable, Text, Time, Words } from '../lib/schema-parts.js';
import { DURATION_PATTERN } from '../lib/units.js';
import { ListSchema } from '../policy/list-parse.js';
import { ROLES } from '../policy/token.js';
import type { View } from './schemas.js';

export const ExportSchema = Type.Object(
  {
    lists: Type.Optional(Type.Record(Type.String(), ListSchema)),
    modes: Type.Optional(Type.Record(Type.String(), Mode)),
    grants: Type.Optional(
      Type.Array(
        Type.Object(
          {
            owner: Type.String({ examples: ['name:web'] }),
            entry: Type.String({ examples: ['api.example.com'] }),
          },
          closed,
        ),
      ),
    ),
    tokens: Type.Optional(Type.Array(Type.Record(Type.String(), Type.String()))),
  },
  { ...closed, $id: 'Export' },
);
export type ExportBody = View<typeof ExportSchema>;
export const SyncRequestSchema = Type.Object(
  { lists: Type.Record(Type.String(), Type.Unknown(), { description: 'bodies of lists, by name' }) },
  { ...closed, $id: 'SyncRequest' },
);
export const PlanSchema = Type.Object(
  {
    dryRun: Type.Boolean(),
    replace: Type.Optional(Type.Boolean()),
    changes: Type.Array(
      Type.Object(
        {
          action: Words(['create', 'update', 'delete']),
          kind: Words(['list', 'mode', 'grant', 'token', 'sync']),
          name: Type.String({ examples: ['ci'] }),
        },
        closed,
      ),
    ),
  },
  { ...closed, $id: 'PlannedChanges' },
);
export type PlanBody = View<typeof PlanSchema>;

export const NodeSchema = Type.Object(
  {
    node: Type.String({ examples: ['host1'] }),
    state: Words(['ok', 'out of sync', 'stale']),
    version: Text('version of Drawbridge on the host', '0.1.0'),
    revision: Type.Number({
      description: 'revision of the store up to which its changes are applied to the kernel of the host',
    }),
    inSync: Type.Boolean(),
    containers: Count,
    enforced: Type.Integer({ minimum: 0, description: 'containers in mode enforce' }),
    fullyEnforced: Nullable(
      Type.Integer({
        minimum: 0,
        description:
          'containers in mode enforce with coverage "enforced"; null: the host runs an older version',
      }),
    ),
    observed: Count,
    partial: Type.Integer({ minimum: 0, description: 'containers with partial coverage, in every mode' }),
    unenforced: Count,
    lastSeen: Time,
  },
  { ...closed, $id: 'Node' },
);
export type NodeBody = View<typeof NodeSchema>;

const RoleSchema = Words(ROLES);
export const TokenSchema = Type.Object(
  {
    name: Type.String({ examples: ['ci'] }),
    role: RoleSchema,
    source: Words(['store', 'config']),
    created: Nullable(Time),
    expires: Nullable(Time),
    by: Nullable(Text('the author of the token')),
  },
  { ...closed, $id: 'Token' },
);
export type TokenBody = View<typeof TokenSchema>;
export const NewTokenSchema = Type.Object(
  { ...TokenSchema.properties, token: Text('the secret, which is not shown again', 'drawbridge_SECRET') },
  { ...closed, $id: 'NewToken' },
);
export const TokenRequestSchema = Type.Object(
  {
    name: Type.String({ minLength: 1, description: 'the name of the token', examples: ['ci'] }),
    role: RoleSchema,
    for: Type.Optional(
      Type.String({
        pattern: DURATION_PATTERN,
        description: 'duration; left out: until revoked',
        examples: ['90d'],
      }),
    ),
  },
  { ...closed, $id: 'TokenRequest' },
);

/** Status of a service that runs closed: what it would count is not known. */
export const ClosedStatusSchema = Type.Object(
  {
    version: Type.String({ examples: ['0.1.0'] }),
    node: Type.String({ examples: ['host1'] }),
    closed: Type.Object(
      {
        since: Time,
        reason: Type.String({ examples: ['in sync'] }),
        remedy: Type.String({ examples: ['remove the mount'] }),
      },
      closed,
    ),
  },
  closed,
);
export type ClosedStatus = View<typeof ClosedStatusSchema>;
