/** What each command prints with --json, for docs/cli.md and the tests: of the API's schemas where it is one of its answers. */

import { type TSchema, Type } from '@sinclair/typebox';
import { AskDecidedSchema, AskSchema } from '../src/api/ask-routes.js';
import { NotifyTestSchema, OutputSchema } from '../src/api/event-routes.js';
import {
  AuditSchema,
  ContainerSchema,
  DurabilitySchema,
  ExplainSchema,
  GrantSchema,
  ListBodySchema,
  LockdownSchema,
  PauseSchema,
  ProblemSchema,
  ScanSchema,
  StatusSchema,
} from '../src/api/schemas.js';
import {
  ClosedStatusSchema,
  ExportSchema,
  NewTokenSchema,
  NodeSchema,
  PlanSchema,
  TokenSchema,
} from '../src/api/schemas-fleet.js';
import {
  FeedSchema,
  FlowsSchema,
  KnownSchema,
  PreviewSchema,
  SuggestionSchema,
  ThreatSchema,
} from '../src/api/schemas-traffic.js';
import { Count, closedObject as closed, Mode, Nullable, Time, Words } from '../src/lib/schema-parts.js';

const Texts = Type.Array(Type.String());
const object = (properties: Record<string, TSchema>): TSchema => Type.Object(properties, closed);
const Problem = ProblemSchema.properties.errors.items;
const Problems = Type.Array(Problem);
const FlowSchema = FlowsSchema.properties.items.items;
const Destination = PreviewSchema.properties.destinations.items;

const ModeResult = object({
  container: Type.String(),
  mode: Mode,
  modeFrom: Type.String(),
  modeSource: ContainerSchema.properties.modeSource,
  trialUntil: ContainerSchema.properties.trialUntil,
  against: ContainerSchema.properties.against,
  wouldCut: Type.Array(Destination),
  preview: Type.Optional(PreviewSchema),
  wanted: Type.Optional(Words(['enforce', 'observe', 'off', 'auto', 'confirm'])),
  dryRun: Type.Optional(Type.Literal(true)),
});
/** Of a service or a name that has no container. */
const ForgottenMode = object({ owner: Type.String(), mode: Words(['auto']), dryRun: Type.Boolean() });
const Recoverable = object({
  source: Words(['current', 'previous']),
  identity: Type.String(),
  revision: Count,
  items: Count,
  isComplete: Type.Boolean(),
  missing: Texts,
});
const StoreInspection = object({
  isGood: Type.Boolean(),
  isNewer: Type.Boolean(),
  recoverable: Type.Array(Recoverable),
  problems: Texts,
});
const AuditVerdict = object({
  ok: Type.Boolean(),
  files: Count,
  records: Count,
  first: Nullable(object({ n: Count, time: Time })),
  last: Nullable(object({ n: Count, time: Time, hash: Type.String() })),
  dropped: Count,
  contains: Nullable(Type.Boolean()),
  faults: Type.Array(object({ file: Type.String(), line: Count, what: Type.String() })),
});
const DoctorCheck = object({
  name: Type.String(),
  ok: Type.Boolean(),
  level: Words(['error', 'warn']),
  detail: Type.String(),
  remedy: Type.Optional(Type.String()),
});
const CatalogueEntry = object({
  name: Type.String(),
  what: Type.String(),
  url: Type.String(),
  format: Type.String(),
  direction: Type.String(),
  everyHours: Count,
  licence: Type.String(),
  terms: Type.String(),
  recommended: Type.Boolean(),
  enabled: Type.Boolean(),
  mayBeEmpty: Type.Optional(Type.Boolean()),
});
const FeedSync = object({ outcome: Words(['attempted', 'not-due', 'too-soon', 'busy']), feed: FeedSchema });

/** Shapes that have a name in the page, since several commands print them or they are long. */
export const NAMED: ReadonlyMap<string, TSchema> = new Map<string, TSchema>([
  ['Container', ContainerSchema],
  ['Grant', GrantSchema],
  ['List', ListBodySchema],
  ['Feed', FeedSchema],
  ['Preview', PreviewSchema],
  ['Flow', FlowSchema],
  ['Status', StatusSchema],
  ['Plan', PlanSchema],
  ['ModeResult', ModeResult],
  ['StoreInspection', StoreInspection],
  ['Problem', Problem],
]);

/** By the words of the command. */
export const SHAPES: Readonly<Record<string, TSchema>> = {
  status: Type.Union([StatusSchema, ClosedStatusSchema]),
  ps: Type.Array(ContainerSchema),
  inspect: Type.Composite([ContainerSchema, Type.Object({ denials: Type.Array(FlowSchema) })], closed),
  explain: ExplainSchema,
  flows: Type.Union([FlowsSchema, KnownSchema]),
  suggest: Type.Union([SuggestionSchema, Type.Array(SuggestionSchema)]),
  notify: Type.Array(OutputSchema),
  'notify test': Type.Array(NotifyTestSchema),
  allow: Type.Array(GrantSchema),
  revoke: object({ revoked: Texts, remaining: Problems, notes: Texts }),
  mode: Type.Union([ModeResult, Type.Array(ModeResult), ForgottenMode]),
  pause: Type.Union([
    PauseSchema,
    Type.Composite([Type.Object({ ended: Type.String() }), DurabilitySchema], closed),
  ]),
  lockdown: LockdownSchema,
  ask: Type.Array(AskSchema),
  'ask allow': AskDecidedSchema,
  'ask deny': AskDecidedSchema,
  lists: Type.Array(ListBodySchema),
  'lists show': ListBodySchema,
  'lists edit': ListBodySchema,
  'lists create': ListBodySchema,
  'lists delete': object({ deleted: Type.String() }),
  'lists add': ListBodySchema,
  'lists remove': ListBodySchema,
  check: object({ ok: Type.Boolean(), problems: Problems, warnings: Problems }),
  sync: PlanSchema,
  export: ExportSchema,
  import: PlanSchema,
  feeds: Type.Array(FeedSchema),
  'feeds sync': Type.Array(FeedSync),
  'feeds catalogue': Type.Array(CatalogueEntry),
  threats: StatusSchema.properties.threats,
  'threats check': ThreatSchema,
  scan: Type.Array(ScanSchema),
  audit: Type.Array(AuditSchema),
  'audit verify': AuditVerdict,
  plan: Texts,
  nodes: Type.Array(NodeSchema),
  'nodes forget': object({ forgotten: Type.String() }),
  doctor: object({ canEnforce: Type.Boolean(), checks: Type.Array(DoctorCheck) }),
  bugreport: object({ folder: Type.String(), files: Texts, withNames: Type.Boolean() }),
  guard: object({ outcome: Words(['laid', 'stands']), exempt: Texts, notes: Type.Optional(Texts) }),
  tokens: Type.Array(TokenSchema),
  'tokens list': Type.Array(TokenSchema),
  'tokens create': NewTokenSchema,
  'tokens revoke': object({ revoked: Type.String() }),
  store: StoreInspection,
  'store check': StoreInspection,
  'store restore': object({ restored: Recoverable, setAside: Texts }),
  'store start-empty': object({ setAside: Texts }),
  'store accept': StatusSchema,
  teardown: object({ removed: Texts, purged: Nullable(Type.String()) }),
  completion: object({ shell: Type.String(), script: Type.String() }),
  version: object({ version: Type.String() }),
};
/** Commands that have no result: they end when the service does. */
export const WITHOUT_RESULT: readonly string[] = ['run'];
