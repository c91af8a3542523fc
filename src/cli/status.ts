import type { Command } from 'commander';
import type { ClosedStatus, Status } from '../api/schemas.js';
import type { Registry } from './command.js';
import type { Output } from './output.js';
import { counted } from './text.js';

export function statusCommand(program: Command, registry: Registry): void {
  registry.add(program, {
    usage: 'status',
    summary: 'how many containers are enforced and with which coverage; kernel, store, feeds',
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
  out.line(opening(s));
  if (s.enforced > 0) out.line(coverage(s));
  if (s.lockdown)
    out.line(`LOCKDOWN since ${out.time(s.lockdown.since)} by ${s.lockdown.by}: nothing passes`);
  for (const warning of s.warnings) out.line(`WARNING: ${warning}`);
  if (s.paused > 0)
    out.line(
      `PAUSED: ${counted(s.paused, 'container')} ${s.paused === 1 ? 'is' : 'are'} observed for a time, not enforced`,
    );
  if (s.labelErrors > 0)
    out.line(
      `LABELS: ${counted(s.labelErrors, 'container')} with a label that does not parse (drawbridge scan)`,
    );
  if (s.missingLists > 0)
    out.line(
      `LISTS: ${counted(s.missingLists, 'container')} with a list that does not exist (drawbridge scan)`,
    );
  if (!s.kernel.ready) out.line(`NOT READY: ${s.kernel.reason}`);
  const repaired =
    s.kernel.lastRepair === null ? 'never repaired' : `last repaired ${out.time(s.kernel.lastRepair)}`;
  out.line(`kernel: ${s.kernel.inSync ? 'in sync' : 'NOT in sync'}, ${repaired}`);
  out.line(`store: ${s.store.kind}, ${s.store.ok ? 'ok' : 'FAILING'}: ${s.store.detail}`);
  for (const held of s.store.unwritten)
    out.line(`NOT STORED: ${held.action} (${held.target}), since ${held.since}: ${held.note}`);
  if (s.fleet.stale.length > 0) out.line(`SILENT HOSTS: ${s.fleet.stale.join(', ')} (drawbridge nodes)`);
  out.line(
    `threats: ${counted(s.threats.entries, 'entry', 'entries')} of ${counted(s.threats.feeds, 'feed')}`,
  );
  for (const alert of s.threats.alerts) out.line(`  ALERT ${alert}`);
  const others = s.fleet.nodes > 1 ? `, one of ${s.fleet.nodes}` : '';
  out.line(`node: ${s.node}${others}, drawbridge ${s.version}`);
}

/** Counts containers by mode. A container in mode enforce counts as enforced whatever its coverage, which has a line of its own. */
const opening = ({ enforced, containers, observed, off }: Status): string =>
  `${enforced} of ${containers} enforced, ${observed} observed${off > 0 ? `, ${off} off` : ''}`;

function coverage({ coverage: { enforced, partial, unenforced } }: Status): string {
  const counts = `coverage of the enforced: ${enforced} full, ${partial} partial, ${unenforced} none`;
  return partial + unenforced > 0 ? `${counts} (drawbridge ps, drawbridge inspect NAME)` : counts;
}
