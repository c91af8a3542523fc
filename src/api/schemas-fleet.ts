/** The shapes of export, import and sync, of hosts that share a store, and of tokens in the API. */
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
    grants: Type.Optional(Type.Array(Type.Object({ owner: Type.String(), entry: Type.String() }, closed))),
    tokens: Type.Optional(Type.Array(Type.Record(Type.String(), Type.String()))),
  },
  closed,
);
export type ExportBody = View<typeof ExportSchema>;
export const SyncRequestSchema = Type.Object(
  { lists: Type.Record(Type.String(), Type.Unknown(), { description: 'bodies of lists, by name' }) },
  closed,
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
          name: Type.String(),
        },
        closed,
      ),
    ),
  },
  closed,
);
export type PlanBody = View<typeof PlanSchema>;

export const NodeSchema = Type.Object(
  {
    node: Type.String(),
    state: Words(['ok', 'out of sync', 'stale']),
    version: Text('version of Drawbridge on the host'),
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
  closed,
);
export type NodeBody = View<typeof NodeSchema>;

const RoleSchema = Words(ROLES);
export const TokenSchema = Type.Object(
  {
    name: Type.String(),
    role: RoleSchema,
    source: Words(['store', 'config']),
    created: Nullable(Time),
    expires: Nullable(Time),
    by: Nullable(Text('the author of the token')),
  },
  closed,
);
export type TokenBody = View<typeof TokenSchema>;
export const NewTokenSchema = Type.Object(
  { ...TokenSchema.properties, token: Text('the secret, which is not shown again') },
  closed,
);
export type NewToken = View<typeof NewTokenSchema>;
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
  closed,
);
