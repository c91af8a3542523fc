import type { Command } from 'commander';
import type { ApiClient } from '../api/client.js';
import type { Registry, Session } from './command.js';
import { withContainer } from './containers.js';
import { wrongUsage } from './failure.js';

interface Options {
  readonly all?: true;
  readonly for?: string;
  readonly end?: true;
}

export function pauseCommand(program: Command, registry: Registry): void {
  registry.add<[string | undefined], Options>(program, {
    usage: 'pause [container]',
    summary: 'observe a container, or all, for a time: nothing but threats is blocked meanwhile',
    examples: ['pause web --for 10m', 'pause web --end', 'pause --all --for 5m', 'pause --all --end'],
    options: [
      ['--all', 'every container'],
      ['--for <duration>', 'how long, as in 10m; 7 days at most'],
      ['--end', 'end the pause now; with --all every pause'],
    ],
    run: async (session, [container], options) => {
      if ((container === undefined) !== (options.all === true))
        wrongUsage(
          container === undefined ? 'missing container (or --all)' : 'a container and --all are both given',
          'name one container, or write --all',
        );
      const client = await session.client();
      if (options.end) return end(session, client, container, options);
      if (options.for === undefined)
        return wrongUsage('missing --for DURATION', 'write --for 10m, or --end to end a pause');
      const { for: duration } = options;
      const [name, pause] = await onOneOrAll(
        client,
        container,
        async (found) => [found ?? 'all containers', await client.pause(found, duration)] as const,
      );
      session.out.show(pause, () => {
        session.out.line(`${name}: not enforced ${session.out.until(pause.expires)}`);
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
  const [name, { durable, note }] = await onOneOrAll(
    client,
    container,
    async (found) => [found, await client.endPause(found)] as const,
  );
  session.out.show({ ended: name ?? 'all', durable, note }, () => {
    session.out.line(`${name ?? 'all containers'}: the pause is ended`);
    if (note !== null) session.out.line(`NOT STORED: ${note}`);
  });
  return 0;
}

const onOneOrAll = <T>(
  client: ApiClient,
  container: string | undefined,
  use: (name: string | undefined) => Promise<T>,
): Promise<T> => (container === undefined ? use(undefined) : withContainer(client, container, use));
