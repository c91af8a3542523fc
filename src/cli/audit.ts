import type { Command } from 'commander';
import type { AuditBody } from '../api/schemas.js';
import type { AuditVerdict } from '../changes/audit-verify.js';
import { isRecord } from '../lib/json.js';
import type { Registry } from './command.js';
import { wrongUsage } from './failure.js';
import type { Output } from './output.js';
import { counted } from './text.js';

const DEFAULT_LIMIT = 50;
const MOST = 999;
const LONGEST = 160;

export function auditCommand(program: Command, registry: Registry): void {
  const audit = registry.add<[], { readonly limit?: string }>(program, {
    usage: 'audit',
    summary: 'who changed what, newest first',
    examples: ['audit', 'audit --limit 500 --json'],
    options: [['--limit <n>', `how many, at most ${MOST} (default ${DEFAULT_LIMIT})`]],
    run: async (session, _args, options) => {
      const records = await (await session.client()).audit(limitOf(options.limit));
      session.out.show(records, () =>
        session.out.table(
          ['TIME', 'WHO', 'ACTION', 'TARGET', 'OUTCOME', 'BEFORE', 'AFTER'],
          records.map((r) => row(session.out, r)),
          'nothing was changed yet',
        ),
      );
      return 0;
    },
  });
  registry.add<[], { readonly contains?: string }>(audit, {
    usage: 'verify',
    summary:
      "check the hash chain of this host's audit files; works without the service; exit code 1 when it is broken",
    examples: ['audit verify', 'audit verify --json', 'audit verify --contains HASH'],
    options: [['--contains <hash>', 'a hash that was noted elsewhere must be in the chain']],
    run: async (session, _args, { contains }) => {
      const verdict = await session.host.verifyAudit(await session.config(), hashOf(contains));
      session.out.show(verdict, () => {
        for (const line of words(verdict, contains)) session.out.line(line);
      });
      return verdict.ok ? 0 : 1;
    },
  });
}

function hashOf(text: string | undefined): string | undefined {
  if (text === undefined || /^[0-9a-f]{64}$/.test(text)) return text;
  return wrongUsage(
    `--contains ${text} is not a hash`,
    'write the 64 hex digits that audit verify has printed',
  );
}

function* words(v: AuditVerdict, wanted: string | undefined): Generator<string> {
  for (const { file, line, what } of v.faults) yield `${file}:${line}: ${what}`;
  if (v.contains === false)
    yield `no line has the hash ${wanted}: records were changed or removed since it was noted`;
  if (v.dropped > 0) yield `records 1 to ${v.dropped} were deleted because of the byte budget, as recorded`;
  yield `${v.ok ? 'good' : 'BROKEN'}: ${v.records} records in ${v.files} files`;
  if (v.last) yield `last record: ${v.last.n} at ${v.last.time}, hash ${v.last.hash}`;
}

function limitOf(text: string | undefined): number {
  if (text === undefined) return DEFAULT_LIMIT;
  if (/^[1-9]\d{0,2}$/.test(text)) return Number(text);
  return wrongUsage(`invalid --limit ${text}: it is a number from 1 to ${MOST}`, 'write it like --limit 100');
}

function row(out: Output, r: AuditBody): readonly string[] {
  return [
    out.time(r.time),
    r.who,
    r.action,
    short(r.target),
    r.outcome,
    brief(out, r.before),
    brief(out, r.after),
  ];
}

/** "id:" and 64 digits name a container: twelve are enough, as in docker ps. */
const short = (text: string): string => text.replace(/\b([0-9a-f]{12})[0-9a-f]{52}\b/g, '$1');

/** In a pipe JSON; on a terminal what a person looks for. What is longer than a line can be is in --json. */
function brief(out: Output, value: unknown): string {
  if (value === null || value === undefined) return '-';
  const text = (out.isTerminal ? summary(value) : undefined) ?? short(JSON.stringify(value));
  return text.length <= LONGEST ? text : `${text.slice(0, LONGEST - 1)}…`;
}

/** The entry of a grant, the mode, the count of a list's entries; undefined: of no known kind. */
function summary(value: unknown): string | undefined {
  if (!isRecord(value)) return undefined;
  if (typeof value.entry === 'string')
    return typeof value.expires === 'string' ? `${value.entry} until ${value.expires}` : value.entry;
  if (typeof value.mode === 'string' && value.allow === undefined) return value.mode;
  if (Array.isArray(value.allow)) return counted(value.allow.length, 'entry', 'entries');
  if (typeof value.role === 'string') return `role ${value.role}`;
  return typeof value.expires === 'string' ? `until ${value.expires}` : undefined;
}
