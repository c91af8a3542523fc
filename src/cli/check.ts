import type { Command } from 'commander';
import { checkFiles } from '../config/check.js';
import type { Registry } from './command.js';
import { CommandFailure } from './failure.js';

export function checkCommand(program: Command, registry: Registry): void {
  registry.add<[string[]]>(program, {
    usage: 'check <file...>',
    summary: 'check list files, folders and configurations, without the service (for CI)',
    examples: ['check allowlists/', 'check allowlists/npm.yaml config.yaml'],
    run: async ({ out }, [files]) => {
      const problems = await checkFiles(files);
      if (problems.length === 0 || out.isJson) {
        out.show({ ok: problems.length === 0, problems }, () => out.line(`${files.join(', ')}: good`));
        return problems.length === 0 ? 0 : 1;
      }
      throw new CommandFailure(problems);
    },
  });
}
