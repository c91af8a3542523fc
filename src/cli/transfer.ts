import { readFile } from 'node:fs/promises';
import { text as readAll } from 'node:stream/consumers';
import type { Command } from 'commander';
import { stringify } from 'yaml';
import { ApiError } from '../api/client.js';
import type { PlanBody } from '../api/schemas-fleet.js';
import { parseYaml } from '../lib/yaml.js';
import type { Registry, Session } from './command.js';
import { CommandFailure, fail } from './failure.js';
import type { Output } from './output.js';
import { counted } from './text.js';

interface ImportOptions {
  readonly replace?: boolean;
  readonly dryRun?: boolean;
  readonly exitCode?: boolean;
}

export function exportCommand(program: Command, registry: Registry): void {
  registry.add(program, {
    usage: 'export',
    summary: 'lists, modes, open-ended grants and tokens (as hashes) of the store, as one YAML document',
    examples: ['export > drawbridge.yaml', 'export --json'],
    run: async (session) => {
      const all = await (await session.client()).exportAll();
      session.out.show(all, () => session.out.line(stringify(all, { lineWidth: 0 }).trimEnd()));
      return 0;
    },
  });
}

export function importCommand(program: Command, registry: Registry): void {
  registry.add<[string], ImportOptions>(program, {
    usage: 'import <file>',
    summary: 'put an exported document in force: all of it, or nothing',
    options: [
      ['--replace', 'delete what the document does not contain'],
      ['--dry-run', 'print what would change, and change nothing'],
      ['--exit-code', 'exit 1 if something changes'],
    ],
    examples: [
      'import drawbridge.yaml',
      'import --dry-run drawbridge.yaml',
      'export | ssh other drawbridge import -',
    ],
    run: async (session, [file], options) => {
      const yaml = parseYaml(await textOf(session, file), file);
      if (yaml.value === undefined || yaml.problems.length > 0) throw new CommandFailure(yaml.problems);
      const how = { replace: options.replace ?? false, dryRun: options.dryRun ?? false };
      const plan = await placed((await session.client()).importAll(yaml.value, how), yaml.place);
      printPlan(session.out, plan);
      return options.exitCode && plan.changes.length > 0 ? 1 : 0;
    },
  });
}

export function printPlan(out: Output, plan: PlanBody): void {
  out.show(plan, () => {
    for (const { action, kind, name } of plan.changes) out.line(`${action} ${kind} ${name}`);
    if (plan.changes.length === 0) out.note('nothing to change');
    else
      out.note(
        plan.dryRun
          ? `${counted(plan.changes.length, 'change')} would be made`
          : `${counted(plan.changes.length, 'change')} ${plan.changes.length === 1 ? 'is' : 'are'} in force`,
      );
  });
}

/** Problems of the service's with the place in the file. */
async function placed<T>(answer: Promise<T>, place: ReturnType<typeof parseYaml>['place']): Promise<T> {
  try {
    return await answer;
  } catch (e) {
    if (e instanceof ApiError && e.problem.status === 422) throw new CommandFailure(place(e.problem.errors));
    throw e;
  }
}

async function textOf({ host }: Session, file: string): Promise<string> {
  if (file === '-') return readAll(host.stdin);
  return readFile(file, 'utf8').catch((e: NodeJS.ErrnoException) =>
    fail(
      `cannot read ${file}: ${e.code ?? e.message}`,
      'name a file that export wrote, or - for standard input',
    ),
  );
}
