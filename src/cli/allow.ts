import type { Command } from 'commander';
import type { GrantBody } from '../api/schemas.js';
import { parseDuration } from '../model/units.js';
import type { Registry } from './command.js';
import { entriesOf } from './entries.js';
import { wrongUsage } from './failure.js';

export function allowCommand(program: Command, registry: Registry): void {
  registry.add<[string, string[]], { for?: string }>(program, {
    usage: 'allow <container> <entry...>',
    summary: 'allow a container more destinations, for a time or without end',
    options: [['--for <duration>', 'how long, as in 10m; it ends with the container']],
    examples: [
      'allow web api.github.com',
      'allow web pypi.org files.pythonhosted.org --for 10m',
      "allow db '10.1.0.0/16:5432'",
    ],
    run: async (session, [container, texts], options) => {
      const entries = entriesOf(texts);
      checkDuration(options.for);
      const client = await session.client();
      const grants: GrantBody[] = [];
      for (const entry of entries) grants.push(await client.grant(container, entry.canonical, options.for));
      session.out.show(grants, () => {
        for (const grant of grants) session.out.line(line(container, grant));
      });
      return 0;
    },
  });
}

function checkDuration(text: string | undefined): void {
  const parsed = text === undefined ? undefined : parseDuration(text);
  const problem = parsed && !parsed.ok ? parsed.problems[0] : undefined;
  if (problem) wrongUsage(`--for: ${problem.detail}`, problem.remedy);
}

function line(container: string, grant: GrantBody): string {
  const until = grant.expires === null ? 'until it is revoked' : `until ${grant.expires}`;
  return `${container} may reach ${grant.entry} ${until} (grant ${grant.id})`;
}
