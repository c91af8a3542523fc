/** `drawbridge check FILE…`: list files, folders of them, and configurations, without a running service. */
import { readdir, readFile, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { isRecord } from '../lib/json.js';
import type { Problem } from '../lib/problem.js';
import { parseYaml } from '../lib/yaml.js';
import { coversEntry } from '../policy/deny-entries.js';
import type { Entry } from '../policy/entry.js';
import { entryFromObject } from '../policy/entry-object.js';
import { isDest, parseEntries } from '../policy/entry-parse.js';
import { type Config, readConfig } from './config.js';
import { EMPTY_FOLDER, type FileRead, isListFile, listNameOf, nextFolder } from './list-files.js';
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

const LIST_KEYS: readonly string[] = ['allow', 'match', 'mode', 'ask', 'description', 'hosts'];
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
    ],
    warnings: [
      ...configs.flatMap((c) => c.warnings),
      ...dangling(single, everything),
      ...[single, ...folders].flatMap(({ lists }) => lists.flatMap(withoutEffect)),
    ],
  };
}

async function readPath(path: string): Promise<{ text: string } | { folder: true } | { problem: Problem }> {
  try {
    if ((await stat(path)).isDirectory()) return { folder: true };
    return { text: await readFile(path, 'utf8') };
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? String(error);
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

/** Entries that a deny entry of the same file covers as a whole. */
function withoutEffect({ file, text }: Text): readonly Problem[] {
  if (!text.includes('!') && !text.includes('deny')) return [];
  const yaml = parseYaml(text, file);
  const items = isRecord(yaml.value) && Array.isArray(yaml.value.allow) ? yaml.value.allow : [];
  const placed = items.flatMap((item: unknown, i) => {
    const parsed = typeof item === 'string' ? parseEntries(item) : entryFromObject(item);
    const entries: readonly Entry[] = parsed.ok ? [parsed.value].flat() : [];
    return entries.filter(isDest).map((entry) => ({ entry, pointer: `/allow/${i}` }));
  });
  const denied = placed.flatMap(({ entry }) => (entry.deny ? [entry] : []));
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
