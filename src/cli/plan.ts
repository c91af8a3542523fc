import type { Command } from 'commander';
import type { Registry } from './command.js';

export function planCommand(program: Command, registry: Registry): void {
  registry.add<[], { exitCode?: boolean }>(program, {
    usage: 'plan',
    summary: 'what would be changed in the kernel now',
    options: [['--exit-code', 'exit 1 when there is something to change']],
    examples: ['plan', 'plan --exit-code'],
    run: async (session, _args, options) => {
      const changes = await (await session.client()).plan();
      session.out.show(changes, () => {
        for (const change of changes) session.out.line(change);
        if (changes.length === 0) session.out.note('nothing to change: the kernel holds what it should');
      });
      return options.exitCode && changes.length > 0 ? 1 : 0;
    },
  });
}
