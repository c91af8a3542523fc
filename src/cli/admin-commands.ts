import type { Command } from 'commander';
import type { ApiClient } from '../api/client.js';
import type { AuditBody } from '../api/schemas.js';
import type { NodeBody, TokenBody } from '../api/schemas-fleet.js';
import type { AuditVerdict } from '../changes/audit-verify.js';
import { isRecord } from '../lib/json.js';
import { counted } from '../lib/units.js';
import { ROLES, type Role } from '../policy/token.js';
import { type Registry, type Session, timeBefore, timeFromNow } from './command.js';
import { wrongUsage } from './failure.js';
import { withContainer } from './named-containers.js';
import type { Output } from './output.js';

const DEFAULT_LIMIT = 50;
const MOST = 999;
const LONGEST = 160;

export function auditCommand(program: Command, registry: Registry): void {
  const audit = registry.add<[], { readonly limit?: string; readonly since?: string }>(program, {
    usage: 'audit',
    summary: 'changes and their authors, newest first',
    examples: ['audit', 'audit --since 2h30m', "audit --since 'yesterday 18:00'", 'audit --limit 500 --json'],
    options: [
      ['--limit <n>', `how many, at most ${MOST} (default ${DEFAULT_LIMIT}; with --since ${MOST})`],
      ['--since <time>', 'how far back, as in 2h30m, or from when, as in 2030-12-31T00:00Z or "today 14:30"'],
    ],
    run: async (session, _args, options) => {
      const since = options.since === undefined ? undefined : timeBefore('--since', options.since);
      const limit = limitOf(options.limit, since === undefined ? DEFAULT_LIMIT : MOST);
      const read = await (await session.client()).audit(limit);
      const records = since === undefined ? read : read.filter((r) => Date.parse(r.time) >= since);
      if (since !== undefined && records.length === limit)
        session.out.note(`only the newest ${limit} records are shown: there may be more since then`);
      session.out.show(records, () =>
        session.out.table(
          ['TIME', 'WHO', 'ACTION', 'TARGET', 'OUTCOME', 'BEFORE', 'AFTER'],
          records.map((r) => row(session.out, r)),
          since === undefined ? 'nothing was changed yet' : 'nothing was changed since then',
        ),
      );
      return 0;
    },
  });
  registry.add<[], { readonly contains?: string }>(audit, {
    usage: 'verify',
    summary: "check the hash chain of this host's audit files; works without the service",
    exits: '1 also when the chain is broken',
    examples: ['audit verify', 'audit verify --json', 'audit verify --contains HASH'],
    options: [['--contains <hash>', 'a hash that was noted elsewhere must be in the chain']],
    run: async (session, _args, { contains }) => {
      const verdict = await session.host.verifyAudit(await session.config(), hashOf(contains));
      session.out.show(verdict, () => {
        for (const line of words(session.out, verdict, contains)) session.out.line(line);
      });
      return verdict.ok ? 0 : 1;
    },
  });
}

function hashOf(text: string | undefined): string | undefined {
  if (text === undefined || /^[0-9a-f]{64}$/.test(text)) return text;
  return wrongUsage(
    `--contains ${text} is not a hash`,
    'write the 64 hex digits that audit verify has printed',
  );
}

function* words(out: Output, v: AuditVerdict, wanted: string | undefined): Generator<string> {
  for (const { file, line, what } of v.faults) yield `${file}:${line}: ${what}`;
  if (v.contains === false)
    yield `no line has the hash ${wanted}: records were changed or removed since it was noted`;
  if (v.dropped > 0) yield `records 1 to ${v.dropped} were deleted because of the byte budget, as recorded`;
  yield `${v.ok ? 'good' : 'BROKEN'}: ${v.records} records in ${v.files} files`;
  if (v.last) yield `last record: ${v.last.n} at ${out.time(v.last.time)}, hash ${v.last.hash}`;
}

function limitOf(text: string | undefined, otherwise: number): number {
  if (text === undefined) return otherwise;
  if (/^[1-9]\d{0,2}$/.test(text)) return Number(text);
  return wrongUsage(`invalid --limit ${text}: it is a number from 1 to ${MOST}`, 'write it like --limit 100');
}

function row(out: Output, r: AuditBody): readonly string[] {
  return [
    out.time(r.time),
    r.who,
    r.action,
    short(r.target),
    r.outcome,
    brief(out, r.before),
    brief(out, r.after),
  ];
}

/** "id:" and 64 digits name a container: twelve are enough, as in docker ps. */
const short = (text: string): string => text.replace(/\b([0-9a-f]{12})[0-9a-f]{52}\b/g, '$1');

/** In a pipe JSON; on a terminal what a person looks for. What is longer than a line can be is in --json. */
function brief(out: Output, value: unknown): string {
  if (value === null || value === undefined) return '-';
  const text = (out.isTerminal ? summary(out, value) : undefined) ?? short(JSON.stringify(value));
  return text.length <= LONGEST ? text : `${text.slice(0, LONGEST - 1)}…`;
}

/** The entry of a grant, the mode, the count of a list's entries; undefined: of no known kind. */
function summary(out: Output, value: unknown): string | undefined {
  if (!isRecord(value)) return undefined;
  if (typeof value.entry === 'string')
    return typeof value.expires === 'string' ? `${value.entry} ${out.until(value.expires)}` : value.entry;
  if (typeof value.mode === 'string' && value.allow === undefined) return value.mode;
  if (Array.isArray(value.allow)) return counted(value.allow.length, 'entry', 'entries');
  if (typeof value.role === 'string') return `role ${value.role}`;
  return typeof value.expires === 'string' ? out.until(value.expires) : undefined;
}

interface CreateOptions {
  readonly role?: string;
  readonly expires?: string;
}
const HEAD = ['NAME', 'ROLE', 'EXPIRES', 'MADE BY'];

export function tokensCommand(program: Command, registry: Registry): void {
  const tokens = registry.add(program, {
    usage: 'tokens',
    summary: 'bearer tokens of the API over TCP: create, list, revoke',
    examples: ['tokens', 'tokens create ci --role write', 'tokens revoke ci'],
    run: async (session) => {
      const all = await (await session.client()).tokens();
      show(session.out, all);
      return 0;
    },
  });
  registry.add(tokens, {
    usage: 'list',
    summary: 'all tokens; secrets are never shown again',
    examples: ['tokens list', 'tokens list --json'],
    run: async (session) => {
      const all = await (await session.client()).tokens();
      show(session.out, all);
      return 0;
    },
  });
  registry.add<[string], CreateOptions>(tokens, {
    usage: 'create <name>',
    summary: 'create a token and print its secret, this once',
    options: [
      ['--role <role>', `its rights: ${ROLES.join(', ')}`],
      [
        '--expires <duration>',
        'how long it is in force, as in 90d, or until when, as in 2030-12-31T00:00Z; left out: until it is revoked',
      ],
    ],
    examples: ['tokens create ci --role write', 'tokens create grafana --role read --expires 365d'],
    run: async (session, [name], options) => {
      const expires = options.expires === undefined ? undefined : timeFromNow('--expires', options.expires);
      const made = await (await session.client()).createToken(name, roleOf(options.role), expires);
      session.out.show(made, () => session.out.line(made.token));
      if (!session.out.isJson)
        session.out.note(
          `${name} has the role ${made.role}; keep the token: it is not shown again. It is for the API over TCP (api.listen of the configuration)`,
        );
      return 0;
    },
  });
  registry.add<[string]>(tokens, {
    usage: 'revoke <token>',
    summary: 'revoke a token: on every host of the store within a second',
    examples: ['tokens revoke ci'],
    run: async (session, [name]) => {
      await (await session.client()).revokeToken(name);
      session.out.show({ revoked: name }, () => session.out.line(`${name} is revoked`));
      return 0;
    },
  });
}

const show = (out: Output, all: readonly TokenBody[]): void =>
  out.show(all, () =>
    out.table(
      HEAD,
      all.map((t) => [t.name, t.role, expiry(out, t), t.by ?? 'the configuration']),
      'there are no tokens: drawbridge tokens create NAME --role read',
    ),
  );

function expiry(out: Output, { expires }: TokenBody): string {
  if (expires === null) return 'never';
  const isOver = Date.parse(expires) <= Date.now();
  return isOver ? `expired ${out.isTerminal ? out.time(expires) : `at ${expires}`}` : out.time(expires);
}

function roleOf(text: string | undefined): Role {
  const role = ROLES.find((r) => r === text);
  return (
    role ??
    wrongUsage(
      text === undefined ? '--role is missing' : `invalid role "${text}"`,
      `write --role ${ROLES.join(' | ')}`,
    )
  );
}

const NODES_HEAD = [
  'NODE',
  'STATE',
  'REVISION',
  'ENFORCED',
  'FULLY',
  'OBSERVED',
  'PARTIAL',
  'UNENFORCED',
  'LAST SEEN',
  'VERSION',
];

export function nodesCommand(program: Command, registry: Registry): void {
  const nodes = registry.add(program, {
    usage: 'nodes',
    summary: 'the hosts that share the store; forget one that is gone for good',
    examples: ['nodes', 'nodes --json', 'nodes forget web-3'],
    run: async (session) => {
      const all = await (await session.client()).nodes();
      session.out.show(all, () =>
        session.out.table(
          NODES_HEAD,
          all.map((n) => nodesRow(session.out, n)),
          'no host has given a sign of life yet',
        ),
      );
      return 0;
    },
  });
  registry.add<[string]>(nodes, {
    usage: 'forget <node>',
    summary: 'remove a host from the list; one that still runs comes back by itself',
    examples: ['nodes forget web-3'],
    run: async (session, [name]) => {
      await (await session.client()).forgetNode(name);
      session.out.show({ forgotten: name }, () => session.out.line(`${name} is forgotten`));
      return 0;
    },
  });
}

const nodesRow = (out: Output, n: NodeBody): readonly string[] => [
  n.node,
  n.state === 'ok' ? 'ok' : n.state.toUpperCase(),
  String(n.revision),
  `${n.enforced} of ${n.containers}`,
  // An older version counts only those with full coverage as enforced.
  n.fullyEnforced === null ? '-' : String(n.fullyEnforced),
  String(n.observed),
  String(n.partial),
  String(n.unenforced),
  out.time(n.lastSeen),
  n.version,
];

interface PauseOptions {
  readonly all?: true;
  readonly for?: string;
  readonly end?: true;
}

export function pauseCommand(program: Command, registry: Registry): void {
  registry.add<[string | undefined], PauseOptions>(program, {
    usage: 'pause [container]',
    summary: 'observe a container, or all, for a time: nothing but threats is blocked meanwhile',
    examples: ['pause web --for 10m', 'pause web --end', 'pause --all --for 5m', 'pause --all --end'],
    options: [
      ['--all', 'every container'],
      ['--for <duration>', 'how long, as in 10m, or until when, as in "today 18:00"; 7 days at most'],
      ['--end', 'end the pause now; with --all every pause'],
    ],
    run: async (session, [container], options) => {
      if ((container === undefined) !== (options.all === true))
        wrongUsage(
          container === undefined ? 'missing container (or --all)' : 'a container and --all are both given',
          'name one container, or write --all',
        );
      const client = await session.client();
      if (options.end) return end(session, client, container, options);
      if (options.for === undefined)
        return wrongUsage('missing --for DURATION', 'write --for 10m, or --end to end a pause');
      const duration = timeFromNow('--for', options.for);
      const [name, pause] = await onOneOrAll(
        client,
        container,
        async (found) => [found ?? 'all containers', await client.pause(found, duration)] as const,
      );
      session.out.show(pause, () => {
        session.out.line(`${name}: not enforced ${session.out.until(pause.expires)}`);
        if (pause.note !== null) session.out.line(`NOT STORED: ${pause.note}`);
      });
      return 0;
    },
  });
}

async function end(
  session: Session,
  client: ApiClient,
  container: string | undefined,
  options: PauseOptions,
): Promise<number> {
  if (options.for !== undefined) wrongUsage('--for and --end do not go together', 'write one of them');
  const [name, { durable, note }] = await onOneOrAll(
    client,
    container,
    async (found) => [found, await client.endPause(found)] as const,
  );
  session.out.show({ ended: name ?? 'all', durable, note }, () => {
    session.out.line(`${name ?? 'all containers'}: the pause is ended`);
    if (note !== null) session.out.line(`NOT STORED: ${note}`);
  });
  return 0;
}

const onOneOrAll = <T>(
  client: ApiClient,
  container: string | undefined,
  use: (name: string | undefined) => Promise<T>,
): Promise<T> => (container === undefined ? use(undefined) : withContainer(client, container, use));

export function lockdownCommand(program: Command, registry: Registry): void {
  registry.add<[], { readonly off?: true }>(program, {
    usage: 'lockdown',
    summary: 'deny everything to every container and close its connections, at once; --off ends it',
    examples: ['lockdown', 'lockdown --off'],
    options: [['--off', 'end it: every container has its own policy again']],
    run: async (session, _args, options) => {
      const now = await (await session.client()).setLockdown(options.off !== true);
      session.out.show(now, () => {
        session.out.line(
          now.on
            ? `lockdown since ${now.since === null ? 'now' : session.out.time(now.since)} by ${now.by}: no container reaches anything`
            : 'no lockdown: every container has its own policy',
        );
        if (now.note !== null) session.out.line(`NOT STORED: ${now.note}`);
      });
      return 0;
    },
  });
}
