import type { Command } from 'commander';
import type { ClosedStatus, Status } from '../api/schemas.js';
import type { Registry } from './command.js';
import type { Output } from './output.js';

export function statusCommand(program: Command, registry: Registry): void {
  registry.add(program, {
    usage: 'status',
    summary: 'how many containers are enforced, and how the service is',
    examples: ['status', 'status --json'],
    run: async (session) => {
      const status = await (await session.client()).anyStatus();
      if ('closed' in status) {
        session.out.show(status, () => printClosed(session.out, status));
        return 1;
      }
      session.out.show(status, () => print(session.out, status));
      return 0;
    },
  });
}

function printClosed(out: Output, { closed, node, version }: ClosedStatus): void {
  out.line(
    `CLOSED since ${closed.since}: nothing new passes; containers that have rules in the kernel keep them`,
  );
  out.line(`  ${closed.reason}`);
  out.line(`  → ${closed.remedy}`);
  out.line(`node: ${node}, drawbridge ${version}`);
}

function print(out: Output, s: Status): void {
  out.line(`${s.enforced} of ${s.containers} enforced, ${s.observed} observed`);
  if (s.lockdown) out.line(`LOCKDOWN since ${s.lockdown.since} by ${s.lockdown.by}: nothing passes`);
  for (const warning of s.warnings) out.line(`WARNING: ${warning}`);
  if (s.paused > 0) out.line(`PAUSED: ${s.paused} containers are not enforced for a time`);
  if (!s.kernel.ready) out.line(`NOT READY: ${s.kernel.reason}`);
  const repaired = s.kernel.lastRepair === null ? 'never repaired' : `last repaired ${s.kernel.lastRepair}`;
  out.line(`kernel: ${s.kernel.inSync ? 'holds what it should' : 'NOT in sync'}, ${repaired}`);
  out.line(`store: ${s.store.kind}, ${s.store.ok ? 'ok' : 'FAILING'}: ${s.store.detail}`);
  for (const held of s.store.unwritten)
    out.line(`NOT STORED: ${held.action} (${held.target}), since ${held.since}: ${held.note}`);
  if (s.fleet.stale.length > 0) out.line(`SILENT HOSTS: ${s.fleet.stale.join(', ')} (drawbridge nodes)`);
  out.line(`threats: ${s.threats.entries} entries of ${s.threats.feeds} feeds`);
  for (const alert of s.threats.alerts) out.line(`  ALERT ${alert}`);
  const others = s.fleet.nodes > 1 ? `, one of ${s.fleet.nodes}` : '';
  out.line(`node: ${s.node}${others}, drawbridge ${s.version}`);
}
