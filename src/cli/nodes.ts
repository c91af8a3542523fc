import type { Command } from 'commander';
import type { NodeBody } from '../api/schemas.js';
import type { Registry } from './command.js';

const HEAD = [
  'NODE',
  'STATE',
  'REVISION',
  'ENFORCED',
  'OBSERVED',
  'PARTIAL',
  'UNENFORCED',
  'LAST SEEN',
  'VERSION',
];

export function nodesCommand(program: Command, registry: Registry): void {
  const nodes = registry.add(program, {
    usage: 'nodes',
    summary: 'the hosts that share the store; or forget one that is gone for good',
    examples: ['nodes', 'nodes --json', 'nodes forget web-3'],
    run: async (session) => {
      const all = await (await session.client()).nodes();
      session.out.show(all, () => session.out.table(HEAD, all.map(row)));
      return 0;
    },
  });
  registry.add<[string]>(nodes, {
    usage: 'forget <name>',
    summary: 'take a host off the list; one that lives comes back by itself',
    examples: ['nodes forget web-3'],
    run: async (session, [name]) => {
      await (await session.client()).forgetNode(name);
      session.out.show({ forgotten: name }, () => session.out.line(`${name} is forgotten`));
      return 0;
    },
  });
}

const row = (n: NodeBody): readonly string[] => [
  n.node,
  n.state === 'ok' ? 'ok' : n.state.toUpperCase(),
  String(n.revision),
  `${n.enforced} of ${n.containers}`,
  String(n.observed),
  String(n.partial),
  String(n.unenforced),
  n.lastSeen,
  n.version,
];
