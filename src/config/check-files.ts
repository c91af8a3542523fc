/** `drawbridge check FILE…`: list files, folders of them, and configurations, without a running service. */

import { readdir, readFile, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { isRecord } from '../lib/json.js';
import { codeOrText, type Problem } from '../lib/problem.js';
import { parseYaml } from '../lib/yaml.js';
import { coversEntry, decidedBy, sourceText } from '../policy/deny-entries.js';
import type { DestEntry, Entry } from '../policy/entry.js';
import { entryFromObject } from '../policy/entry-object.js';
import { isDest, parseEntries } from '../policy/entry-parse.js';
import { Gathering } from '../policy/gathering.js';
import { type List, MISSING_LIST, type PolicyEntry } from '../policy/policy.js';
import { type Risk, riskOfEntry } from '../policy/risk.js';
import { type Config, readConfig } from './config.js';
import {
  EMPTY_FOLDER,
  type FileRead,
  isListFile,
  listNameOf,
  nextFolder,
  parseListFile,
} from './list-files.js';
import { MAX_BYTES, MAX_FILES } from './list-folder.js';
import { readInside } from './open-file.js';
import { ConfigSchema } from './schema.js';

/** Names of lists that something refers to, with the place of each. Pure. */

export interface Checked {
  /** What is refused, or would leave a policy without what it names. */
  readonly problems: readonly Problem[];
  /** What may be right, seen from elsewhere. */
  readonly warnings: readonly Problem[];
}
interface Text {
  readonly file: string;
  readonly text: string;
}
/** The files of one folder, or those that were named one by one. */
interface Group {
  readonly lists: readonly Text[];
  readonly configs: readonly Text[];
  readonly problems: readonly Problem[];
}

const LIST_KEYS: readonly string[] = ['allow', 'match', 'mode', 'ask', 'description', 'hosts', 'tests'];
const CONFIG_KEYS: readonly string[] = Object.keys(ConfigSchema.properties);

/** Recognises a configuration by its keys, and by its file name where the keys decide nothing. */
function isConfig({ file, text }: Text): boolean {
  const { value } = parseYaml(text, file);
  const keys = isRecord(value) ? Object.keys(value) : [];
  if (keys.some((key) => LIST_KEYS.includes(key))) return false;
  return keys.some((key) => CONFIG_KEYS.includes(key)) || /^config\b/.test(basename(file));
}

/**
 * Every problem of all these files and folders. Each folder is checked on its own: its lists may name one another, and the files
 * that are given by name. A list that is named and missing is an error of a folder or a configuration; of a list file that is
 * given by itself it is a warning.
 * @param known names of lists that exist elsewhere, in the store
 */
export async function checkFiles(paths: readonly string[], known: readonly string[] = []): Promise<Checked> {
  const named: Text[] = [];
  const folders: Group[] = [];
  const problems: Problem[] = [];
  for (const path of paths) {
    const read = await readPath(path);
    if ('problem' in read) problems.push(read.problem);
    else if ('folder' in read) folders.push(await folderOf(path));
    else named.push({ file: path, text: read.text });
  }
  const single = grouped(named);
  const loose = new Set([...known, ...namesOf(single)]);
  const everything = new Set([...loose, ...folders.flatMap(namesOf)]);
  const configs = await Promise.all(
    [single, ...folders].flatMap((g) => g.configs.map((c) => checkConfig(c, everything))),
  );
  const tests = [testsOf(single, ...folders), ...folders.map((f) => testsOf(f, single))];
  return {
    problems: [
      ...problems,
      ...configs.flatMap((c) => c.problems),
      ...folders.flatMap((f) => [
        ...f.problems,
        ...listProblems(f),
        ...dangling(f, new Set([...loose, ...namesOf(f)])),
      ]),
      ...listProblems(single),
      ...tests.flatMap((t) => t.problems),
    ],
    warnings: [
      ...configs.flatMap((c) => c.warnings),
      ...dangling(single, everything),
      ...tests.flatMap((t) => t.warnings),
      ...[single, ...folders].flatMap(({ lists }) =>
        lists.flatMap((t) => [...withoutEffect(t), ...risky(t)]),
      ),
    ],
  };
}

async function readPath(path: string): Promise<{ text: string } | { folder: true } | { problem: Problem }> {
  try {
    if ((await stat(path)).isDirectory()) return { folder: true };
    return { text: await readFile(path, 'utf8') };
  } catch (error) {
    const code = codeOrText(error);
    return {
      problem: {
        detail: `it cannot be read: ${code}`,
        remedy: 'name a file or a folder that exists',
        file: path,
      },
    };
  }
}

async function folderOf(folder: string): Promise<Group> {
  const texts: Text[] = [];
  const problems: Problem[] = [];
  const names = (await readdir(folder)).filter(isListFile).sort();
  if (names.length > MAX_FILES)
    problems.push({
      detail: `the folder has more than ${MAX_FILES} lists`,
      remedy: 'remove some: the service does not read the rest',
      file: folder,
    });
  for (const name of names.slice(0, MAX_FILES)) {
    const file = join(folder, name);
    const read = await readInside(folder, file, MAX_BYTES);
    if (read && 'problem' in read) problems.push(read.problem);
    else if (read) texts.push({ file, text: read.bytes.toString('utf8') });
  }
  return { ...grouped(texts), problems };
}

function grouped(texts: readonly Text[]): Group {
  const configs = texts.filter(isConfig);
  return { configs, lists: texts.filter((t) => !configs.includes(t)), problems: [] };
}

const namesOf = ({ lists }: Group): readonly string[] => lists.map(({ file }) => listNameOf(file));

function listProblems({ lists }: Group): readonly Problem[] {
  const reads = new Map<string, FileRead>(lists.map((t) => [t.file, t]));
  return nextFolder(reads, EMPTY_FOLDER).problems;
}

/**
 * The tests of list files that fail, and as warnings those that lists decide which are not among the files. Lists that a list names are
 * looked up among its own files first, then among the others. `hosts` is left out of account: the tests are run as on a host where
 * every list counts.
 */
function testsOf(group: Group, ...others: readonly Group[]): Checked {
  const tested = group.lists.filter(({ text }) => text.includes('tests'));
  if (tested.length === 0) return NOTHING_FOUND;
  const lists = new Map<string, List>();
  for (const { file, text } of [group, ...others].flatMap((g) => g.lists)) {
    const parsed = parseListFile(file, text);
    if (!parsed.ok || lists.has(parsed.value.name)) continue;
    const { hosts: _, ...list } = parsed.value;
    lists.set(list.name, list);
  }
  const now = Date.now();
  const results = tested.map(({ file, text }) => {
    const list = lists.get(listNameOf(file));
    const { problems, warnings } = list?.file === file ? runTests(list, lists, now) : NOTHING_FOUND;
    const yaml = problems.length + warnings.length > 0 ? parseYaml(text, file) : undefined;
    return { problems: yaml?.place(problems) ?? [], warnings: yaml?.place(warnings) ?? [] };
  });
  return {
    problems: results.flatMap((r) => r.problems),
    warnings: results.flatMap((r) => r.warnings),
  };
}

const NOTHING_FOUND: Checked = { problems: [], warnings: [] };

function runTests(list: List, lists: ReadonlyMap<string, List>, now: number): Checked {
  const gathering = new Gathering(lists, now);
  gathering.addList(list.name, (name) => ({ kind: 'list', name }));
  const isWhole = gathering.notes.every((note) => note.code !== MISSING_LIST);
  const problems: Problem[] = [];
  const warnings: Problem[] = [];
  for (const [i, { verdict, text, to }] of (list.tests ?? []).entries()) {
    const decided = decidedBy(gathering, to);
    const pointer = `/tests/${i}/${verdict}`;
    if (!decided.by && !isWhole) {
      const detail = `test not run: a list that is not among the checked files may decide about ${text}`;
      warnings.push({ detail, remedy: 'check the files of its lists together with this one', pointer });
    } else if (decided.verdict !== verdict) {
      const detail = `test failed: ${text} is to be ${PAST[verdict]}, and ${reasonOf(decided)}`;
      problems.push({ detail, remedy: remedyOf(verdict, text, decided.by), pointer });
    }
  }
  return { problems, warnings };
}

const PAST = { allow: 'allowed', deny: 'denied' } as const;

function reasonOf({ verdict, by }: ReturnType<typeof decidedBy>): string {
  if (!by) return 'no entry covers it';
  return `${by.entry.canonical} of ${sourceText(by.source)} ${verdict === 'allow' ? 'permits' : 'denies'} it`;
}

function remedyOf(wanted: 'allow' | 'deny', text: string, by: PolicyEntry | undefined): string {
  if (wanted === 'allow')
    return by
      ? `remove ${by.entry.canonical}, or correct the test`
      : `add ${text} to allow, or correct the test`;
  return `narrow ${by?.entry.canonical}, add "!${text}" to allow, or correct the test`;
}

const dangling = ({ lists }: Group, known: ReadonlySet<string>): readonly Problem[] =>
  lists.flatMap(({ file, text }) =>
    danglingProblems(file, text, referencesOfList(parseYaml(text, file).value), known),
  );

async function checkConfig({ file, text }: Text, known: ReadonlySet<string>): Promise<Checked> {
  const parsed = readConfig({ file: { name: file, text } });
  if (!parsed.ok) return { problems: parsed.problems, warnings: [] };
  const config = parsed.value;
  const all = new Set([...known, ...(await listsIn(config.allowlists))]);
  return {
    problems: danglingProblems(file, text, referencesOfConfig(config), all),
    warnings: withoutTokens(config, file, text),
  };
}

/** Lists of the configured folder, where this machine has it: in CI it is mostly elsewhere. */
async function listsIn(folder: string): Promise<readonly string[]> {
  const names = await readdir(folder).catch(() => []);
  return names.filter(isListFile).map(listNameOf);
}

/** Tokens may be in the store, which is not read here. */
function withoutTokens({ api }: Config, file: string, text: string): readonly Problem[] {
  if (api.listen.startsWith('unix:') || api.tokens.length > 0) return [];
  return parseYaml(text, file).place([
    {
      detail: `api.listen: ${api.listen} is TCP and api.tokens is empty: the service does not start unless its store has a token`,
      remedy:
        'add one to api.tokens, or run drawbridge tokens create NAME --role admin before you set api.listen',
      pointer: '/api/listen',
    },
  ]);
}

interface Reference {
  readonly list: string;
  /** JSON pointer into the file. */
  readonly pointer: string;
}

/** Comparisons of entries with deny entries of the same file: more of them would keep CI waiting. */
const MAX_COMPARED = 1_000_000;

interface Placed {
  readonly entry: DestEntry;
  readonly pointer: string;
}

function placedEntries(value: unknown): readonly Placed[] {
  const items = isRecord(value) && Array.isArray(value.allow) ? value.allow : [];
  return items.flatMap((item: unknown, i) => {
    const parsed = typeof item === 'string' ? parseEntries(item) : entryFromObject(item);
    const entries: readonly Entry[] = parsed.ok ? [parsed.value].flat() : [];
    return entries.filter(isDest).map((entry) => ({ entry, pointer: `/allow/${i}` }));
  });
}

const deniedOf = (placed: readonly Placed[]): readonly DestEntry[] =>
  placed.flatMap(({ entry }) => (entry.deny ? [entry] : []));

/** Entries that a deny entry of the same file covers as a whole. */
function withoutEffect({ file, text }: Text): readonly Problem[] {
  if (!text.includes('!') && !text.includes('deny')) return [];
  const yaml = parseYaml(text, file);
  const placed = placedEntries(yaml.value);
  const denied = deniedOf(placed);
  if (placed.length * denied.length > MAX_COMPARED) return [];
  return yaml.place(
    placed.flatMap(({ entry, pointer }) => {
      const by = entry.deny ? undefined : denied.find((one) => coversEntry(one, entry));
      if (!by) return [];
      const detail = `${entry.canonical} has no effect: ${by.canonical} denies all of it`;
      return [{ detail, remedy: 'remove one of the two', pointer }];
    }),
  );
}

/** Entries for places where anyone can receive data: the first of the file for each name of the table. */
function risky({ file, text }: Text): readonly Problem[] {
  const yaml = parseYaml(text, file);
  const placed = placedEntries(yaml.value);
  const denied = deniedOf(placed);
  const found = new Map<string, Placed & { readonly risk: Risk; count: number }>();
  for (const one of placed) {
    const risk = riskOfEntry(one.entry, denied);
    const known = risk && found.get(risk.pattern);
    if (known) known.count++;
    else if (risk) found.set(risk.pattern, { ...one, risk, count: 1 });
  }
  return yaml.place(
    [...found.values()].map(({ entry, pointer, risk, count }) => ({
      detail: `${entry.canonical} permits ${entry.target.kind === 'address' ? 'addresses of ' : ''}${risk.pattern}, where anyone can receive data: ${risk.reason}${count > 1 ? ` (and ${count - 1} more of the file)` : ''}`,
      remedy: riskRemedy(entry, risk),
      pointer,
    })),
  );
}

const riskRemedy = ({ target }: DestEntry, { pattern }: Risk): string =>
  target.kind === 'address'
    ? 'write the name that is meant: an entry for a name lets a connection ask for no other one'
    : pattern.startsWith('*.')
      ? 'write the names of your own there, unless all of them are meant'
      : 'keep it only where it is needed: an entry cannot be limited to one account of a site';

/** The `list:` entries of a list file. What does not parse refers to nothing, and is reported elsewhere. */
function referencesOfList(value: unknown): readonly Reference[] {
  const items = isRecord(value) && Array.isArray(value.allow) ? value.allow : [];
  return items.flatMap((item: unknown, i) => {
    const parsed = typeof item === 'string' ? parseEntries(item) : undefined;
    if (!parsed?.ok) return [];
    return parsed.value.flatMap((e) => (isDest(e) ? [] : [{ list: e.list, pointer: `/allow/${i}` }]));
  });
}

const referencesOfConfig = ({
  baseline,
  unattributed,
}: Pick<Config, 'baseline' | 'unattributed'>): readonly Reference[] => [
  ...baseline.map((list, i) => ({ list, pointer: `/baseline/${i}` })),
  ...unattributed.lists.map((list, i) => ({ list, pointer: `/unattributed/lists/${i}` })),
];

/** Each reference to a list that is not known, at its place. */
function danglingProblems(
  file: string,
  text: string,
  references: readonly Reference[],
  known: ReadonlySet<string>,
): readonly Problem[] {
  const missing = references.filter(({ list }) => !known.has(list));
  if (missing.length === 0) return [];
  return parseYaml(text, file).place(
    missing.map(({ list, pointer }) => ({
      detail: `list "${list}" does not exist among the checked files, and would add nothing`,
      remedy: `correct the name, check its file together with this one, or add --known ${list} if it is a list of the store`,
      pointer,
    })),
  );
}
