import type { Command } from 'commander';
import type { ScanBody } from '../api/schemas.js';
import type { Registry } from './command.js';

export function scanCommand(program: Command, registry: Registry): void {
  registry.add<[string | undefined], { readonly exitCode?: true }>(program, {
    usage: 'scan [container]',
    summary: 'practices that matter to egress, and what cannot be held, of containers and this host',
    examples: ['scan', 'scan web', 'scan --exit-code'],
    options: [['--exit-code', 'exit 1 when anything was found']],
    run: async (session, [container], options) => {
      const items = await (await session.client()).scan(container);
      const rows = items.flatMap(rowsOf);
      session.out.show(items, () => {
        session.out.table(['CONTAINER', 'KIND', 'COVERAGE', 'FOUND', 'DETAIL', 'REMEDY'], rows);
        if (rows.length === 0) session.out.note('nothing was found');
      });
      return options.exitCode && rows.length > 0 ? 1 : 0;
    },
  });
}

const rowsOf = ({ container, findings }: ScanBody): string[][] =>
  findings.map((f) => [
    container ?? '(host)',
    f.kind,
    f.kind === 'practice' ? '-' : f.state,
    f.code,
    f.detail,
    f.remedy,
  ]);
