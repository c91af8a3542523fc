import { Argument, type Command } from 'commander';
import type { ApiClient } from '../api/client.js';
import type { Flow } from '../api/schemas.js';
import type { Registry } from './command.js';

const DAY_MS = 86_400_000;

interface Cut {
  readonly to: string;
  readonly count: number;
  readonly last: string;
}

export function modeCommand(program: Command, registry: Registry): void {
  const command = registry.add<[string, string]>(program, {
    usage: 'mode <container>',
    summary:
      'set the mode; enforce first prints what it would cut of the last day; auto: labels and lists decide',
    examples: ['mode web enforce', 'mode web auto'],
    run: async (session, [container, mode]) => {
      const client = await session.client();
      const wouldCut = mode === 'enforce' ? await cuts(client, container) : [];
      if (mode === 'enforce' && !session.out.isJson) {
        session.out.line(
          wouldCut.length === 0
            ? 'nothing was seen in the last day that this cuts'
            : 'this cuts, as seen in the last day:',
        );
        if (wouldCut.length > 0)
          session.out.table(
            ['DESTINATION', 'TIMES', 'LAST'],
            wouldCut.map((c) => [c.to, String(c.count), c.last]),
          );
      }
      const now = await client.setMode(container, mode);
      session.out.show({ container: now.name, mode: now.mode, modeFrom: now.modeFrom, wouldCut }, () =>
        session.out.line(`${now.name}: ${now.mode} (set by ${now.modeFrom})`),
      );
      return 0;
    },
  });
  command.addArgument(new Argument('<mode>').choices(['enforce', 'observe', 'off', 'auto']));
}

/** Destinations that were let through only because the container is observed. */
async function cuts(client: ApiClient, container: string): Promise<readonly Cut[]> {
  const since = new Date(Date.now() - DAY_MS).toISOString();
  const seen = new Map<string, Cut>();
  for (const flow of await client.denials(container, since)) {
    if (flow.verdict !== 'would-deny') continue;
    const to = destination(flow);
    const before = seen.get(to);
    const last = before && before.last > flow.time ? before.last : flow.time;
    seen.set(to, { to, count: (before?.count ?? 0) + 1, last });
  }
  return [...seen.values()].sort((a, b) => b.count - a.count);
}

function destination({ name, address, port, proto }: Flow): string {
  const host = name ?? (address.includes(':') ? `[${address}]` : address);
  return port > 0 ? `${host}:${port}/${proto}` : `${host}/${proto}`;
}
