import type { Command } from 'commander';
import type { Registry } from './command.js';

export function lockdownCommand(program: Command, registry: Registry): void {
  registry.add<[], { readonly off?: true }>(program, {
    usage: 'lockdown',
    summary: 'deny everything to every container and close its connections, at once; --off ends it',
    examples: ['lockdown', 'lockdown --off'],
    options: [['--off', 'end it: every container has its own policy again']],
    run: async (session, _args, options) => {
      const now = await (await session.client()).setLockdown(options.off !== true);
      session.out.show(now, () => {
        session.out.line(
          now.on
            ? `lockdown since ${now.since === null ? 'now' : session.out.time(now.since)} by ${now.by}: no container reaches anything`
            : 'no lockdown: every container has its own policy',
        );
        if (now.note !== null) session.out.line(`NOT STORED: ${now.note}`);
      });
      return 0;
    },
  });
}
