import { readFile } from 'node:fs/promises';
import { text as readAll } from 'node:stream/consumers';
import type { Command } from 'commander';
import { stringify } from 'yaml';
import { ApiError } from '../api/client.js';
import type { PlanBody } from '../api/schemas-fleet.js';
import type { Config } from '../config/config.js';
import { codeOrText } from '../lib/problem.js';
import { counted } from '../lib/units.js';
import { parseYaml } from '../lib/yaml.js';
import type { StoreInspection } from '../store/store-recovery.js';
import { type Registry, recordAlone, type Session } from './command.js';
import { CommandFailure, fail } from './failure.js';
import type { AloneRecord } from './host.js';
import type { Output } from './output.js';

const YES: readonly [string, string] = [
  '--yes',
  'do it; without it the command only prints what it would do',
];

/** What a person does about a store that cannot be opened, or that is not the one that the kernel remembers. */
export function storeCommand(program: Command, registry: Registry): void {
  const store = registry.add(program, {
    usage: 'store',
    summary: 'what can be read of the store; or check, restore, start-empty, accept it',
    examples: ['store', 'store check', 'store accept --yes'],
    run: check,
  });
  registry.add(store, {
    usage: 'check',
    summary: 'what can be read of the store in the state folder; changes nothing, and needs no service',
    exits: '1 also when the store cannot be opened',
    examples: ['store check', 'store check --json'],
    run: check,
  });
  restoreCommand(store, registry);
  emptyCommand(store, registry);
  acceptCommand(store, registry);
}

async function check(session: Session): Promise<number> {
  const found = await session.host.inspectStore((await embedded(session)).state);
  session.out.show(found, () => {
    if (found.isGood) session.out.line('the store can be read');
    for (const problem of found.problems) session.out.line(problem);
    for (const r of found.recoverable)
      session.out.line(
        `can be restored: ${r.source}, revision ${r.revision}, ${r.items} items` +
          (r.isComplete ? ', complete' : `; what is lost: ${r.missing.join('; ')}`),
      );
    if (!found.isGood) for (const remedy of remedies(found)) session.out.line(`→ ${remedy}`);
  });
  return found.isGood ? 0 : 1;
}

function remedies({ isNewer, recoverable }: StoreInspection): string[] {
  if (isNewer) return ['install the version of drawbridge that wrote it, or put back a backup from before'];
  const [best] = recoverable;
  return [
    'put back a backup of the state folder, if there is a newer one',
    ...(best ? [`drawbridge store restore${best.source === 'previous' ? ' --previous' : ''} --yes`] : []),
    'drawbridge store start-empty --yes',
  ];
}

function restoreCommand(store: Command, registry: Registry): void {
  registry.add<[], { previous?: boolean; yes?: boolean }>(store, {
    usage: 'restore',
    summary: 'create a store from what can be read; existing files are set aside, none is deleted',
    options: [['--previous', 'from the snapshot before the last one, and its log'], YES],
    examples: ['store restore --yes', 'store restore --previous --yes'],
    run: async (session, _args, { previous = false, yes = false }) => {
      const config = await embedded(session);
      const { state } = config;
      const source = previous ? 'previous' : 'current';
      if (!yes)
        return unsure(
          `the store in ${state} would be made of its ${source} files, as far as they can be read`,
        );
      const change = { action: 'store.restore', after: { source } } as const;
      const restore = () => session.host.restoreStore(state, source);
      const { restored, setAside } = await recorded(session, config, change, restore);
      session.out.show({ restored, setAside }, () => {
        session.out.line(`restored revision ${restored.revision}, ${restored.items} items`);
        for (const what of restored.missing) session.out.line(`lost: ${what}`);
        sayAside(session, setAside);
      });
      return 0;
    },
  });
}

function emptyCommand(store: Command, registry: Registry): void {
  registry.add<[], { yes?: boolean }>(store, {
    usage: 'start-empty',
    summary:
      'set the store aside and begin with an empty one; lists, modes, grants and tokens of the API are gone',
    options: [YES],
    examples: ['store start-empty --yes'],
    run: async (session, _args, { yes = false }) => {
      const config = await embedded(session);
      const { state } = config;
      if (!yes) return unsure(`the store in ${state} would be set aside, and an empty one begun`);
      const change = { action: 'store.start-empty', after: null } as const;
      const setAside = await recorded(session, config, change, () => session.host.beginEmptyStore(state));
      session.out.show({ setAside }, () => {
        session.out.line('the next start begins with an empty store');
        sayAside(session, setAside);
      });
      return 0;
    },
  });
}

function acceptCommand(store: Command, registry: Registry): void {
  registry.add<[], { yes?: boolean }>(store, {
    usage: 'accept',
    summary: 'take the store as it is, although this host has enforced by another one or a later state of it',
    options: [YES],
    examples: ['store accept --yes'],
    run: async (session, _args, { yes = false }) => {
      const client = await session.client();
      if (!yes) {
        const { warnings } = await client.status();
        return unsure(
          'modes, pauses and the lockdown would be those of the store, and containers may become less strict' +
            (warnings.length > 0 ? ` (${warnings.join('; ')})` : ''),
        );
      }
      const status = await client.acceptStore();
      session.out.show(status, () => session.out.line(`accepted: ${status.store.detail}`));
      return 0;
    },
  });
}

const unsure = (what: string): never => fail(`nothing was done: ${what}`, 'add --yes to do it');

/** Records the change before it is made, and once more if it is refused. */
async function recorded<T>(
  session: Session,
  config: Config,
  change: Pick<AloneRecord, 'action' | 'after'>,
  make: () => Promise<T>,
): Promise<T> {
  await recordAlone(session, config, { ...change, outcome: 'done' });
  try {
    return await make();
  } catch (e) {
    await recordAlone(session, config, { ...change, outcome: 'refused' });
    throw e;
  }
}

function sayAside(session: Session, setAside: readonly string[]): void {
  for (const file of setAside) session.out.line(`set aside: ${file}`);
  session.out.line('a service that runs closed notices it by itself; else start it');
}

async function embedded(session: Session) {
  const config = await session.config();
  if (config.store.redis !== '')
    fail(
      'the store is on Redis: its files at this host are only a copy',
      'see drawbridge doctor for Redis; put a backup back there',
    );
  return config;
}

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
    exits: '0 whatever changes; with --exit-code 1 if something does',
    options: [
      ['--replace', 'delete what the document does not contain'],
      ['--dry-run', 'print what would change, and change nothing'],
      ['--exit-code', 'exit 1 if something changes'],
    ],
    examples: [
      'import drawbridge.yaml',
      'import --dry-run drawbridge.yaml',
      'import --replace - < drawbridge.yaml',
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
  return readFile(file, 'utf8').catch((e: unknown) =>
    fail(`cannot read ${file}: ${codeOrText(e)}`, 'name a file that export wrote, or - for standard input'),
  );
}
