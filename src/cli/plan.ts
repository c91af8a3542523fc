import type { Command } from 'commander';
import type { Registry } from './command.js';

export function planCommand(program: Command, registry: Registry): void {
  registry.add<[], { exitCode?: boolean }>(program, {
    usage: 'plan',
    summary: 'differences between the kernel and the desired rules (normally none)',
    options: [['--exit-code', 'exit 1 if there is something to change']],
    examples: ['plan', 'plan --exit-code'],
    run: async (session, _args, options) => {
      const changes = await (await session.client()).plan();
      session.out.show(changes, () => {
        for (const change of changes) session.out.line(change);
        if (changes.length === 0) session.out.note('nothing to change: the kernel is in sync');
      });
      return options.exitCode && changes.length > 0 ? 1 : 0;
    },
  });
}
