import { readFile } from 'node:fs/promises';
import { text as readAll } from 'node:stream/consumers';
import type { Command } from 'commander';
import type { ListBody } from '../api/schemas.js';
import type { Registry, Session } from './command.js';
import { entriesOf } from './entries.js';
import { fail, wrongUsage } from './failure.js';
import { editList } from './lists-edit.js';
import { bodyFromYaml, listYaml } from './lists-yaml.js';
import { counted } from './text.js';

interface CreateOptions {
  readonly file?: string;
  readonly replace?: boolean;
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
    usage: 'show <name>',
    summary: 'print a list as a list file',
    examples: ['lists show npm', 'lists show npm > npm.yaml'],
    run: async (session, [name]) => {
      const list = await (await session.client()).list(name);
      session.out.show(list, () => session.out.line(listYaml(list).trimEnd()));
      return 0;
    },
  });
  registry.add<[string]>(lists, {
    usage: 'edit <name>',
    summary: 'edit a list of the store in $EDITOR; it is checked before it is in force',
    examples: ['lists edit ci', 'EDITOR=nano drawbridge lists edit ci'],
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
    summary: 'create a list in the store, from entries or from a file',
    options: [
      ['--file <file>', 'a list file; - for standard input'],
      ['--replace', 'replace a list of that name'],
    ],
    examples: [
      'lists create ci api.github.com .npmjs.org',
      'lists create ci --file ci.yaml',
      'lists create ci --replace --file -',
    ],
    run: async (session, [name, texts], options) => {
      const body = await newBody(session, name, texts, options.file);
      const list = await (await session.client()).putList(name, body, options.replace ? undefined : 0);
      session.out.show(list, () =>
        session.out.line(`${name} is in force with ${counted(list.allow.length, 'entry', 'entries')}`),
      );
      return 0;
    },
  });
  registry.add<[string]>(lists, {
    usage: 'delete <name>',
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
    usage: 'add <name> <entry...>',
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
    usage: 'remove <name> <entry...>',
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

async function newBody(
  session: Session,
  name: string,
  texts: readonly string[],
  file: string | undefined,
): Promise<unknown> {
  if (file === undefined) return { allow: entriesOf(texts).map((entry) => entry.canonical) };
  if (texts.length > 0) wrongUsage('entries and --file are both given', 'give one of the two');
  return bodyFromYaml(name, file, await textOf(session, file));
}

async function textOf({ host }: Session, file: string): Promise<string> {
  if (file === '-') return readAll(host.stdin);
  return readFile(file, 'utf8').catch((e: NodeJS.ErrnoException) =>
    fail(`cannot read ${file}: ${e.code ?? e.message}`, 'name a list file, or - for standard input'),
  );
}
