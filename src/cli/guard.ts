import type { Command } from 'commander';
import type { Registry } from './command.js';

export function guardCommand(program: Command, registry: Registry): void {
  registry.add(program, {
    usage: 'guard',
    summary: 'boot-time default-deny: lay the closed base before Docker starts, until the service takes over',
    examples: ['guard', 'guard --json'],
    run: async (session) => {
      const done = await session.host.layGuard(await session.config());
      session.out.show(done, () => {
        session.out.line(
          done.outcome === 'laid'
            ? 'the closed base stands: no container reaches anything until the service runs'
            : 'rules of ours stand already: nothing was changed',
        );
        if (done.exempt.length > 0) session.out.line(`left alone: ${done.exempt.join(', ')}`);
      });
      return 0;
    },
  });
}
