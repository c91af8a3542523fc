import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { text as readAll } from 'node:stream/consumers';
import type { Command } from 'commander';
import { stringify } from 'yaml';
import { ApiError } from '../api/client.js';
import type { ListBody } from '../api/schemas.js';
import { checkFiles } from '../config/check-files.js';
import { isListFile, listNameOf, nameClashes } from '../config/list-files.js';
import { codeOrText, type Problem } from '../lib/problem.js';
import { counted } from '../lib/units.js';
import { parseYaml } from '../lib/yaml.js';
import { listFromObject } from '../policy/list-parse.js';
import { suggestionText } from '../suggest/suggestion-text.js';
import { entriesOf } from './access-commands.js';
import { answerTo, consents, mustBeAskable, type Registry, type Session } from './command.js';
import { CommandFailure, fail, failureOf, problemText, wrongUsage } from './failure.js';
import { suggestionsOf } from './flow-commands.js';

import { printPlan } from './store-commands.js';

interface CreateOptions {
  readonly file?: string;
  readonly from?: string;
  readonly project?: string;
  readonly replace?: boolean;
  readonly yes?: true;
}

export function listsCommand(program: Command, registry: Registry): void {
  const lists = registry.add(program, {
    usage: 'lists',
    summary: 'all lists; show, create, edit or delete one, add or remove entries',
    examples: ['lists', 'lists show npm', 'lists add ci api.github.com'],
    run: async (session) => {
      const all = await (await session.client()).lists();
      const head = ['NAME', 'SOURCE', 'ENTRIES', 'USED BY'];
      const none =
        'there are no lists: drawbridge lists create NAME ENTRY, or a file in the allowlists folder';
      session.out.show(all, () => session.out.table(head, all.map(row), none));
      return 0;
    },
  });
  readingCommands(lists, registry);
  wholeCommands(lists, registry);
  entryCommands(lists, registry);
}

const row = (list: ListBody): readonly string[] => [
  list.name,
  list.file ?? list.source,
  String(list.allow.length),
  list.usedBy.join(',') || '-',
];

function readingCommands(lists: Command, registry: Registry): void {
  registry.add<[string]>(lists, {
    usage: 'show <list>',
    summary: 'print a list as a list file',
    examples: ['lists show npm', 'lists show npm > npm.yaml'],
    run: async (session, [name]) => {
      const list = await (await session.client()).list(name);
      session.out.show(list, () => session.out.line(listYaml(list).trimEnd()));
      return 0;
    },
  });
  registry.add<[string]>(lists, {
    usage: 'edit <list>',
    summary: 'edit a list of the store in $EDITOR; it is checked before it is in force',
    examples: ['lists edit ci'],
    run: async (session, [name]) => {
      const list = await editList(session, name);
      session.out.show(list, () =>
        session.out.line(`${name} is in force with ${counted(list.allow.length, 'entry', 'entries')}`),
      );
      return 0;
    },
  });
}

function wholeCommands(lists: Command, registry: Registry): void {
  registry.add<[string, string[]], CreateOptions>(lists, {
    usage: 'create <name> [entry...]',
    summary: 'create a list in the store: of entries, of a file, or of what a container was seen to use',
    options: [
      ['--file <file>', 'a list file; - for standard input'],
      ['--from <container>', 'what is suggested for this container (drawbridge suggest)'],
      ['--project <name>', 'what is suggested for the containers of this compose project'],
      ['--yes', 'with --from and --project: do not ask'],
      ['--replace', 'replace a list of that name'],
    ],
    examples: [
      'lists create ci api.github.com .npmjs.org',
      'lists create ci --file ci.yaml',
      'lists create ci --replace --file -',
      'lists create ci --from runner-1',
    ],
    run: async (session, [name, texts], options) => {
      const body = await newBody(session, name, texts, options);
      if (body === undefined) return 1;
      const list = await (await session.client()).putList(name, body, options.replace ? undefined : 0);
      session.out.show(list, () =>
        session.out.line(`${name} is in force with ${counted(list.allow.length, 'entry', 'entries')}`),
      );
      return 0;
    },
  });
  registry.add<[string]>(lists, {
    usage: 'delete <list>',
    summary: 'delete a list of the store',
    examples: ['lists delete ci'],
    run: async (session, [name]) => {
      await (await session.client()).deleteList(name);
      session.out.show({ deleted: name }, () => session.out.line(`${name} is deleted`));
      return 0;
    },
  });
}

function entryCommands(lists: Command, registry: Registry): void {
  registry.add<[string, string[]]>(lists, {
    usage: 'add <list> <entry...>',
    summary: 'add entries to a list of the store',
    examples: ['lists add ci api.github.com', "lists add ci '10.0.0.0/8:5432'"],
    run: (session, [name, texts]) =>
      eachEntry(
        session,
        texts,
        async (entry) => (await session.client()).addEntry(name, entry),
        `added to ${name}`,
      ),
  });
  registry.add<[string, string[]]>(lists, {
    usage: 'remove <list> <entry...>',
    summary: 'remove entries from a list of the store',
    examples: ['lists remove ci api.github.com'],
    run: (session, [name, texts]) =>
      eachEntry(
        session,
        texts,
        async (entry) => (await session.client()).removeEntry(name, entry),
        `removed from ${name}`,
      ),
  });
}

async function eachEntry(
  { out }: Session,
  texts: readonly string[],
  change: (canonical: string) => Promise<ListBody>,
  done: string,
): Promise<number> {
  let list: ListBody | undefined;
  for (const { canonical } of entriesOf(texts)) {
    list = await change(canonical);
    if (out.isJson) continue;
    out.line(`${canonical} ${done}`);
    if (list.note !== undefined) out.line(`NOT STORED: ${list.note}`);
  }
  if (out.isJson) out.show(list, () => undefined);
  return 0;
}

/** Undefined: the list was shown, and is not wanted. */
async function newBody(
  session: Session,
  name: string,
  texts: readonly string[],
  options: CreateOptions,
): Promise<unknown> {
  const { file, from, project } = options;
  const sources = [file, from, project].filter((source) => source !== undefined);
  if (sources.length > 1 || (sources.length > 0 && texts.length > 0))
    wrongUsage('the list is to have several sources', 'give entries, --file, --from or --project');
  if (file !== undefined) return bodyFromYaml(name, file, await textOf(session, file));
  if (from !== undefined || project !== undefined) return suggestedBody(session, name, options);
  return { allow: entriesOf(texts).map((entry) => entry.canonical) };
}

/** Shows what is suggested, and asks. */
async function suggestedBody(
  session: Session,
  name: string,
  { from, project, yes }: CreateOptions,
): Promise<unknown> {
  const { out } = session;
  const command = `lists create ${name}`;
  mustBeAskable(session, { yes: yes === true, command });
  const { of, suggestions } = await suggestionsOf(session, { container: from, project });
  const text = suggestionText(of, suggestions, 'list');
  if (!out.isJson) for (const line of text.trimEnd().split('\n')) out.line(line);
  const isWanted = await consents(session, {
    yes: yes === true,
    command,
    question: `Create the list ${name}?`,
  });
  return isWanted ? bodyFromYaml(name, 'the suggestion', text) : undefined;
}

async function textOf({ host }: Session, file: string): Promise<string> {
  if (file === '-') return readAll(host.stdin);
  return readFile(file, 'utf8').catch((e: unknown) =>
    fail(`cannot read ${file}: ${codeOrText(e)}`, 'name a list file, or - for standard input'),
  );
}

const HEAD = '# Save and leave to put this in force; leave it unchanged to change nothing.\n';

/** Opens a list of the store in the editor and puts what was saved. An edit that is refused is never lost. */
async function editList(session: Session, name: string): Promise<ListBody> {
  const { env, isTerminal } = session.host;
  if (!isTerminal && !env.VISUAL && !env.EDITOR)
    fail(
      'there is no terminal for an editor',
      `write a file: drawbridge lists create ${name} --replace --file FILE`,
    );
  const client = await session.client();
  const list = await client.list(name);
  if (list.source === 'folder')
    fail(`the list ${name} is a file`, `edit ${list.file ?? 'it'}; it is in force within a second`);
  const file = join(await mkdtemp(join(tmpdir(), 'drawbridge-')), `${name}.yaml`);
  const before = `${HEAD}${listYaml(list)}`;
  await writeFile(file, before, { mode: 0o600 });
  for (;;) {
    await runEditor(session, file);
    const text = await readFile(file, 'utf8');
    const answer = text === before ? list : await put(session, list, file, text);
    if (!answer) continue;
    await rm(dirname(file), { recursive: true });
    return answer;
  }
}

/** Returns undefined when the list was refused and is to be edited again. */
async function put(
  session: Session,
  list: ListBody,
  file: string,
  text: string,
): Promise<ListBody | undefined> {
  try {
    const body = bodyFromYaml(list.name, file, text);
    return await (await session.client()).putList(list.name, body, list.revision);
  } catch (e) {
    const { problems } = failureOf(e);
    // Editing again helps against what is wrong in the text, not against what happened elsewhere.
    const isText = e instanceof CommandFailure || (e instanceof ApiError && e.problem.status === 422);
    if (isText && (await askAgain(session, problems.map(problemText)))) return undefined;
    const again = `drawbridge lists create ${list.name} --replace --file ${file}`;
    throw new CommandFailure([
      ...problems,
      { detail: `your edit is kept in ${file}`, remedy: `mend it, then: ${again}` },
    ]);
  }
}

async function askAgain(session: Session, problems: readonly string[]): Promise<boolean> {
  if (!session.host.isTerminal) return false;
  for (const problem of problems) session.out.note(problem);
  return !/^n/i.test(await answerTo(session, 'Edit again? [Y/n]', { atEnd: 'n' }));
}

/** $VISUAL or $EDITOR may carry arguments ("code --wait"), so a shell reads it. */
async function runEditor({ host }: Session, file: string): Promise<void> {
  const editor = host.env.VISUAL || host.env.EDITOR || 'vi';
  const child = spawn('/bin/sh', ['-c', `${editor} "$1"`, 'sh', file], { stdio: 'inherit' });
  const [code, signal] = await once(child, 'exit');
  if (code !== 0)
    fail(
      `the editor (${editor}) ended with ${signal ?? code}; nothing was changed`,
      `set EDITOR; the text is in ${file}`,
    );
}

/** A list in the form of its file. */
function listYaml({ description, hosts, match, mode, ask, allow, tests }: ListBody): string {
  return stringify({ description, hosts, match, mode, ask, allow, tests }, { lineWidth: 0 });
}

/** The body of a list from YAML text. Throws CommandFailure with every problem, placed in `file`. */
export function bodyFromYaml(name: string, file: string, text: string): unknown {
  const yaml = parseYaml(text, file);
  if (yaml.value === undefined) throw new CommandFailure(yaml.problems);
  const body = yaml.value ?? {};
  const parsed = listFromObject(name, 'store', body);
  const problems = [...yaml.problems, ...(parsed.ok ? [] : yaml.place(parsed.problems))];
  if (problems.length > 0) throw new CommandFailure(problems);
  return body;
}

export function checkCommand(program: Command, registry: Registry): void {
  registry.add<[string[]], { readonly known?: string }>(program, {
    usage: 'check <file...>',
    summary: 'check list files, folders and configurations, without the service (for CI)',
    exits: '1 if there is a problem; warnings alone are none',
    options: [['--known <names>', 'lists of the store that these files may name, with commas between']],
    examples: ['check allowlists/', 'check config.yaml allowlists/', 'check allowlists/npm.yaml'],
    run: async ({ out }, [files], { known = '' }) => {
      const names = known.split(',').filter((name) => name !== '');
      const { problems, warnings } = await checkFiles(files, names);
      const ok = problems.length === 0;
      if (!out.isJson) for (const warning of warnings) out.note(`warning: ${problemText(warning)}`);
      if (!ok && !out.isJson) throw new CommandFailure(problems);
      const more = warnings.length > 0 ? `, ${counted(warnings.length, 'warning')}` : '';
      out.show({ ok, problems, warnings }, () => out.line(`${files.join(', ')}: OK${more}`));
      return ok ? 0 : 1;
    },
  });
}
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
    exits: '0 whatever changes; with --exit-code 1 if something does',
    options: [
      ['--owner <name>', 'the owner of the lists, if several folders are synced (default: sync)'],
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
  const names = await readdir(dir).catch((e: unknown) =>
    fail(`cannot read ${dir}: ${codeOrText(e)}`, 'name a folder of list files'),
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
