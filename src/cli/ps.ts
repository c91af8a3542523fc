import type { Command } from 'commander';
import type { ContainerBody } from '../api/schemas.js';
import type { Registry } from './command.js';

const HEAD = ['NAME', 'MODE', 'COVERAGE', 'LISTS', 'ALLOWED', 'DENIED', 'GRANTS', 'REASONS'];

export function psCommand(program: Command, registry: Registry): void {
  registry.add(program, {
    usage: 'ps',
    summary: 'containers: mode, coverage, lists, allowed, denied, grants',
    examples: ['ps', "ps --json | jq '.[] | select(.denied > 0).name'"],
    run: async (session) => {
      const containers = await (await session.client()).containers();
      session.out.show(containers, () => session.out.table(HEAD, containers.map(row)));
      return 0;
    },
  });
}

/** Its limits, and what is used of its quota. */
function limitWords({ limits, quota }: ContainerBody): readonly string[] {
  if (limits === null) return [];
  if (!quota) return [`limit ${limits}`];
  const state = quota.reached
    ? `quota reached, until ${quota.until}`
    : `${quota.used} of ${quota.bytes} bytes used`;
  return [`limit ${limits} (${state})`];
}

function row(c: ContainerBody): readonly string[] {
  const grants = c.grants.map((g) => (g.expires === null ? g.entry : `${g.entry} until ${g.expires}`));
  return [
    c.name,
    c.pausedUntil === null ? c.mode : `${c.mode} (paused until ${c.pausedUntil})`,
    c.coverage.state,
    c.lists.join(',') || '-',
    String(c.allowed),
    String(c.denied),
    grants.join(', ') || '-',
    [...limitWords(c), ...c.coverage.reasons].join('; ') || '-',
  ];
}
