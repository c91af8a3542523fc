import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Command } from 'commander';
import { isListFile, listNameOf, nameClashes } from '../config/lists.js';
import type { Problem } from '../lib/problem.js';
import type { Registry } from './command.js';
import { CommandFailure, fail, failureOf } from './failure.js';
import { bodyFromYaml } from './lists-yaml.js';
import { printPlan } from './transfer.js';

interface Options {
  readonly owner?: string;
  readonly adopt?: boolean;
  readonly dryRun?: boolean;
  readonly exitCode?: boolean;
}

export function syncCommand(program: Command, registry: Registry): void {
  registry.add<[string], Options>(program, {
    usage: 'sync <dir>',
    summary: 'copy the list files of a folder into the store; deletes only what it created itself',
    options: [
      ['--owner <name>', 'whose lists these are, where several folders are synced (default: sync)'],
      ['--adopt', 'take over lists of the store that were made by other means'],
      ['--dry-run', 'print what would change, and change nothing'],
      ['--exit-code', 'exit 1 if something changes'],
    ],
    examples: [
      'sync lists/',
      'sync --dry-run --exit-code lists/',
      'sync --owner platform platform/allowlists',
    ],
    run: async (session, [dir], options) => {
      const lists = await bodiesOf(dir);
      const how = { dryRun: options.dryRun ?? false, adopt: options.adopt ?? false };
      const plan = await (await session.client()).syncLists(options.owner ?? 'sync', lists, how);
      printPlan(session.out, plan);
      return options.exitCode && plan.changes.length > 0 ? 1 : 0;
    },
  });
}

/** Every list file of the folder, by name. Throws CommandFailure with every problem of all of them. */
async function bodiesOf(dir: string): Promise<Readonly<Record<string, unknown>>> {
  const names = await readdir(dir).catch((e: NodeJS.ErrnoException) =>
    fail(`cannot read ${dir}: ${e.code ?? e.message}`, 'name a folder of list files'),
  );
  const files = names.filter(isListFile).map((name) => join(dir, name));
  const problems: Problem[] = [...nameClashes(files).values()];
  const bodies: Record<string, unknown> = {};
  for (const file of files) {
    try {
      bodies[listNameOf(file)] = bodyFromYaml(listNameOf(file), file, await readFile(file, 'utf8'));
    } catch (e) {
      problems.push(...failureOf(e).problems);
    }
  }
  if (problems.length > 0) throw new CommandFailure(problems);
  return bodies;
}
