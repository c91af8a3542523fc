import type { Command } from 'commander';
import type { NodeBody } from '../api/schemas-fleet.js';
import type { Registry } from './command.js';
import type { Output } from './output.js';

const HEAD = [
  'NODE',
  'STATE',
  'REVISION',
  'ENFORCED',
  'FULLY',
  'OBSERVED',
  'PARTIAL',
  'UNENFORCED',
  'LAST SEEN',
  'VERSION',
];

export function nodesCommand(program: Command, registry: Registry): void {
  const nodes = registry.add(program, {
    usage: 'nodes',
    summary: 'the hosts that share the store; forget one that is gone for good',
    examples: ['nodes', 'nodes --json', 'nodes forget web-3'],
    run: async (session) => {
      const all = await (await session.client()).nodes();
      session.out.show(all, () =>
        session.out.table(
          HEAD,
          all.map((n) => row(session.out, n)),
          'no host has given a sign of life yet',
        ),
      );
      return 0;
    },
  });
  registry.add<[string]>(nodes, {
    usage: 'forget <name>',
    summary: 'remove a host from the list; one that still runs comes back by itself',
    examples: ['nodes forget web-3'],
    run: async (session, [name]) => {
      await (await session.client()).forgetNode(name);
      session.out.show({ forgotten: name }, () => session.out.line(`${name} is forgotten`));
      return 0;
    },
  });
}

const row = (out: Output, n: NodeBody): readonly string[] => [
  n.node,
  n.state === 'ok' ? 'ok' : n.state.toUpperCase(),
  String(n.revision),
  `${n.enforced} of ${n.containers}`,
  // An older version counts only those with full coverage as enforced.
  n.fullyEnforced === null ? '-' : String(n.fullyEnforced),
  String(n.observed),
  String(n.partial),
  String(n.unenforced),
  out.time(n.lastSeen),
  n.version,
];
