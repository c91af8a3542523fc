import type { Command } from 'commander';
import type { TokenBody } from '../api/schemas-fleet.js';
import { ROLES, type Role } from '../policy/token.js';
import type { Registry } from './command.js';
import { wrongUsage } from './failure.js';
import type { Output } from './output.js';

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
      ['--expires <duration>', 'how long it is in force, as in 90d; left out: until it is revoked'],
    ],
    examples: ['tokens create ci --role write', 'tokens create grafana --role read --expires 365d'],
    run: async (session, [name], options) => {
      const made = await (await session.client()).createToken(name, roleOf(options.role), options.expires);
      session.out.show(made, () => session.out.line(made.token));
      if (!session.out.isJson)
        session.out.note(
          `${name} has the role ${made.role}; keep the token: it is not shown again. It is for the API over TCP (api.listen of the configuration)`,
        );
      return 0;
    },
  });
  registry.add<[string]>(tokens, {
    usage: 'revoke <name>',
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
