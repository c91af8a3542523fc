import type { Command } from 'commander';
import type { AuditBody } from '../api/schemas.js';
import type { Registry } from './command.js';
import { wrongUsage } from './failure.js';

const DEFAULT_LIMIT = 50;
const MOST = 999;
const LONGEST = 160;

export function auditCommand(program: Command, registry: Registry): void {
  registry.add<[], { readonly limit?: string }>(program, {
    usage: 'audit',
    summary: 'who changed what, newest first',
    examples: ['audit', 'audit --limit 500 --json'],
    options: [['--limit <n>', `how many, at most ${MOST} (default ${DEFAULT_LIMIT})`]],
    run: async (session, _args, options) => {
      const records = await (await session.client()).audit(limitOf(options.limit));
      session.out.show(records, () =>
        session.out.table(
          ['TIME', 'WHO', 'ACTION', 'TARGET', 'OUTCOME', 'BEFORE', 'AFTER'],
          records.map(row),
        ),
      );
      return 0;
    },
  });
}

function limitOf(text: string | undefined): number {
  if (text === undefined) return DEFAULT_LIMIT;
  if (/^[1-9]\d{0,2}$/.test(text)) return Number(text);
  return wrongUsage(`--limit ${text} is no number from 1 to ${MOST}`, 'write it like --limit 100');
}

function row(r: AuditBody): readonly string[] {
  return [r.time, r.who, r.action, r.target, r.outcome, brief(r.before), brief(r.after)];
}

/** JSON in one line; what is longer than a line can be is in --json. */
function brief(value: unknown): string {
  if (value === null || value === undefined) return '-';
  const text = JSON.stringify(value);
  return text.length <= LONGEST ? text : `${text.slice(0, LONGEST - 1)}…`;
}
