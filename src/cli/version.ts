import type { Command } from 'commander';
import type { Registry } from './command.js';

export function versionCommand(program: Command, registry: Registry): void {
  registry.add(program, {
    usage: 'version',
    summary: 'the version of this command (drawbridge status shows that of the service)',
    examples: ['version', 'version --json'],
    run: async ({ host, out }) => {
      out.show({ version: host.version }, () => out.line(host.version));
      return 0;
    },
  });
}
