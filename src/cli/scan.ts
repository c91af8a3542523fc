import type { Command } from 'commander';
import type { ScanBody } from '../api/schemas.js';
import type { Registry } from './command.js';
import { withContainer } from './containers.js';

const HEAD = ['CONTAINER', 'KIND', 'COVERAGE', 'FOUND', 'DETAIL', 'REMEDY'];

export function scanCommand(program: Command, registry: Registry): void {
  registry.add<[string | undefined], { readonly exitCode?: true }>(program, {
    usage: 'scan [container]',
    summary: 'security findings: gaps in enforcement and risky settings of containers and this host',
    examples: ['scan', 'scan web', 'scan --exit-code'],
    options: [['--exit-code', 'exit 1 if anything was found']],
    run: async (session, [container], options) => {
      const client = await session.client();
      const items =
        container === undefined
          ? await client.scan(undefined)
          : await withContainer(client, container, (name) => client.scan(name));
      const rows = items.flatMap(rowsOf);
      session.out.show(items, () => {
        session.out.table(HEAD, rows, 'nothing was found');
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
