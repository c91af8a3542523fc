import type { Command } from 'commander';
import type { Config } from '../config/config.js';
import type { Registry, Session } from './command.js';
import { CommandFailure, problemText } from './failure.js';

export function guardCommand(program: Command, registry: Registry): void {
  registry.add(program, {
    usage: 'guard',
    summary: 'install the default-deny rules at boot, before Docker starts',
    examples: ['guard', 'guard --json'],
    run: async (session) => {
      const done = await session.host.layGuard(await configOrWhatIsSound(session));
      for (const note of done.notes ?? []) session.out.note(note);
      session.out.show(done, () => {
        session.out.line(
          done.outcome === 'laid'
            ? 'the default-deny rules are installed: no container reaches anything until the service runs'
            : 'Drawbridge rules are already installed: nothing was changed',
        );
        if (done.exempt.length > 0) session.out.line(`left alone: ${done.exempt.join(', ')}`);
      });
      return 0;
    },
  });
}

/** A fault in the configuration must not leave the host open at boot: it is said, and the base uses the keys that are sound. */
async function configOrWhatIsSound(session: Session): Promise<Config> {
  try {
    return await session.config();
  } catch (e) {
    if (!(e instanceof CommandFailure)) throw e;
    for (const problem of e.problems) session.out.note(problemText(problem));
    session.out.note('the configuration is refused: the closed base uses the keys of it that are valid');
    return session.lenientConfig();
  }
}
