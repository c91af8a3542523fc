import type { Command } from 'commander';
import type { ApiClient } from '../api/client.js';
import type { Registry, Session } from './command.js';
import { wrongUsage } from './failure.js';

interface Options {
  readonly all?: true;
  readonly for?: string;
  readonly end?: true;
}

export function pauseCommand(program: Command, registry: Registry): void {
  registry.add<[string | undefined], Options>(program, {
    usage: 'pause [container]',
    summary: 'do not enforce a container, or all, for a time: only threats are blocked meanwhile (audited)',
    examples: ['pause web --for 10m', 'pause web --end', 'pause --all --for 5m', 'pause --all --end'],
    options: [
      ['--all', 'every container'],
      ['--for <duration>', 'how long, as in 10m; 7 days at most'],
      ['--end', 'end the pause now; with --all every pause'],
    ],
    run: async (session, [container], options) => {
      if ((container === undefined) !== (options.all === true))
        wrongUsage('whom to pause is not said', 'name one container, or write --all');
      const client = await session.client();
      if (options.end) return end(session, client, container, options);
      if (options.for === undefined)
        return wrongUsage('how long is not said', 'write --for 10m, or --end to end a pause');
      const pause = await client.pause(container, options.for);
      session.out.show(pause, () => {
        session.out.line(`${container ?? 'all containers'}: not enforced until ${pause.expires}`);
        if (pause.note !== null) session.out.line(`NOT STORED: ${pause.note}`);
      });
      return 0;
    },
  });
}

async function end(
  session: Session,
  client: ApiClient,
  container: string | undefined,
  options: Options,
): Promise<number> {
  if (options.for !== undefined) wrongUsage('--for and --end do not go together', 'write one of them');
  const { durable, note } = await client.endPause(container);
  session.out.show({ ended: container ?? 'all', durable, note }, () => {
    session.out.line(`${container ?? 'all containers'}: enforced again`);
    if (note !== null) session.out.line(`NOT STORED: ${note}`);
  });
  return 0;
}
