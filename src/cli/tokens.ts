import type { Command } from 'commander';
import type { TokenBody } from '../api/schemas.js';
import { ROLES, type Role } from '../model/token.js';
import type { Registry } from './command.js';
import { wrongUsage } from './failure.js';

interface CreateOptions {
  readonly role?: string;
  readonly expires?: string;
}
const HEAD = ['NAME', 'ROLE', 'EXPIRES', 'MADE BY'];

export function tokensCommand(program: Command, registry: Registry): void {
  const tokens = registry.add(program, {
    usage: 'tokens',
    summary: 'bearer tokens of the API over TCP; or create, list, revoke them',
    examples: ['tokens', 'tokens create ci --role write', 'tokens revoke ci'],
    run: async (session) => {
      const all = await (await session.client()).tokens();
      session.out.show(all, () => session.out.table(HEAD, all.map(row)));
      return 0;
    },
  });
  registry.add(tokens, {
    usage: 'list',
    summary: 'all tokens; their secrets are shown to nobody',
    examples: ['tokens list', 'tokens list --json'],
    run: async (session) => {
      const all = await (await session.client()).tokens();
      session.out.show(all, () => session.out.table(HEAD, all.map(row)));
      return 0;
    },
  });
  registry.add<[string], CreateOptions>(tokens, {
    usage: 'create <name>',
    summary: 'make a token, and print its secret: it is shown this once',
    options: [
      ['--role <role>', `what it may: ${ROLES.join(', ')}`],
      ['--expires <duration>', 'how long it is in force, as in 90d; left out: until it is revoked'],
    ],
    examples: ['tokens create ci --role write', 'tokens create grafana --role read --expires 365d'],
    run: async (session, [name], options) => {
      const made = await (await session.client()).createToken(name, roleOf(options.role), options.expires);
      session.out.show(made, () => session.out.line(made.token));
      if (!session.out.isJson)
        session.out.note(`${name} may ${made.role}; keep the token: it is not shown again`);
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

const row = (t: TokenBody): readonly string[] => [t.name, t.role, expiry(t), t.by ?? 'the configuration'];

function expiry({ expires }: TokenBody): string {
  if (expires === null) return 'never';
  return Date.parse(expires) <= Date.now() ? `over since ${expires}` : expires;
}

function roleOf(text: string | undefined): Role {
  const role = ROLES.find((r) => r === text);
  return (
    role ??
    wrongUsage(
      text === undefined ? '--role is missing' : `"${text}" is no role`,
      `write --role ${ROLES.join(' | ')}`,
    )
  );
}
