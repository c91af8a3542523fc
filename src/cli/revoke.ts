import type { Command } from 'commander';
import type { ApiClient } from '../api/client.js';
import type { ContainerBody } from '../api/schemas.js';
import type { Problem } from '../lib/problem.js';
import type { Registry } from './command.js';
import { withContainer } from './containers.js';
import { entriesOf } from './entries.js';
import { CommandFailure } from './failure.js';

export function revokeCommand(program: Command, registry: Registry): void {
  registry.add<[string, string[]]>(program, {
    usage: 'revoke <container> <entry...>',
    summary: 'take grants back; names the file or label to edit when it is not a grant',
    examples: ['revoke web api.github.com'],
    run: async (session, [name, texts]) => {
      const client = await session.client();
      const container = await withContainer(client, name, (found) => client.container(found));
      const revoked: string[] = [];
      const problems: Problem[] = [];
      const notes: string[] = [];
      for (const { canonical } of entriesOf(texts)) {
        const grants = container.grants.filter((grant) => grant.entry === canonical);
        for (const grant of grants) {
          const { note } = await client.revokeGrant(container.id, grant.id);
          if (note !== null) notes.push(note);
        }
        if (grants.length > 0) revoked.push(canonical);
        problems.push(...(await remaining(client, container, canonical, grants.length > 0)));
      }
      session.out.show({ revoked, remaining: problems, notes }, () => {
        for (const entry of revoked) session.out.line(`${container.name}: grant of ${entry} revoked`);
        for (const note of new Set(notes)) session.out.line(`NOT STORED: ${note}`);
      });
      if (problems.length > 0) throw new CommandFailure(problems);
      return 0;
    },
  });
}

/** Where else the entry comes from, and what to edit to take it away. */
async function remaining(
  client: ApiClient,
  container: ContainerBody,
  canonical: string,
  wasGranted: boolean,
): Promise<readonly Problem[]> {
  const others = container.entries.filter((e) => e.entry === canonical && !e.from.startsWith('grant '));
  const problems = others.map(async ({ from }): Promise<Problem> => {
    const list = /^list ([^\s,]+)/.exec(from)?.[1];
    const remedy =
      list === undefined ? labelRemedy(container, canonical) : await listRemedy(client, list, canonical);
    return {
      detail: `${container.name} may ${wasGranted ? 'still ' : ''}reach ${canonical} by ${from}`,
      remedy,
    };
  });
  if (others.length > 0 || wasGranted) return Promise.all(problems);
  if (container.modeFrom === 'lockdown')
    return [
      {
        detail: `a lockdown is on: no entry of ${container.name} is in force, and which it has is not shown meanwhile`,
        remedy:
          'nothing needs to be revoked to stop its traffic now; see drawbridge explain, or end the lockdown with drawbridge lockdown --off and try again',
      },
    ];
  const has = container.entries.map((e) => e.entry).join(', ');
  return [
    {
      detail: `${container.name} has no entry ${canonical}`,
      remedy: has === '' ? 'it has no entries: its policy permits nothing' : `it has: ${has}`,
    },
  ];
}

async function listRemedy(client: ApiClient, name: string, canonical: string): Promise<string> {
  const list = await client.list(name);
  if (list.source === 'store')
    return `drawbridge lists remove ${name} '${canonical}' (for all that have the list)`;
  return `edit ${list.file ?? `the file of ${name}`}, or take the list from the container`;
}

function labelRemedy(container: ContainerBody, canonical: string): string {
  return `take ${canonical} out of the label drawbridge.allow of ${container.name}, where it is run or in its compose file, and recreate it`;
}
