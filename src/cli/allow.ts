import type { Command } from 'commander';
import type { GrantBody } from '../api/schemas.js';
import { parseDuration } from '../lib/units.js';
import type { Registry } from './command.js';
import { withContainer } from './containers.js';
import { entriesOf } from './entries.js';
import { wrongUsage } from './failure.js';
import type { Output } from './output.js';

export function allowCommand(program: Command, registry: Registry): void {
  registry.add<[string, string[]], { for?: string }>(program, {
    usage: 'allow <container> <entry...>',
    summary: 'allow a container more destinations, for a time or until revoked',
    options: [['--for <duration>', 'how long, as in 10m; such a grant also ends with the container']],
    examples: [
      'allow web api.github.com',
      'allow web pypi.org files.pythonhosted.org --for 10m',
      "allow db '10.1.0.0/16:5432'",
    ],
    run: async (session, [container, texts], options) => {
      const entries = entriesOf(texts);
      checkDuration(options.for);
      const client = await session.client();
      const granted = await withContainer(client, container, async (name) => {
        const grants: GrantBody[] = [];
        for (const entry of entries) grants.push(await client.grant(name, entry.canonical, options.for));
        return { name, grants };
      });
      session.out.show(granted.grants, () => {
        for (const grant of granted.grants) session.out.line(line(session.out, granted.name, grant));
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

function line(out: Output, container: string, grant: GrantBody): string {
  const until = grant.expires === null ? 'until it is revoked' : out.until(grant.expires);
  return `${container} may reach ${grant.entry} ${until} (grant ${grant.id})`;
}
