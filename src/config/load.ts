/** The only reader of the configuration's file and of the environment. */

import { readFile } from 'node:fs/promises';
import { isRecord } from '../lib/json.js';
import { codeOrText, type Parsed, type Problem } from '../lib/problem.js';
import { parseYaml } from '../lib/yaml.js';
import { type Config, isOfReporting, readConfig, readForService } from './config.js';
import type { Texts } from './overlay.js';
import { CONFIG_VARIABLE, DEFAULT_FILE, PREFIX } from './service-socket.js';

/**
 * What can be read of a configuration that is refused: the closed base needs the keys of `kernel`, and must be laid
 * whatever else is wrong.
 */

export interface LoadOptions {
  /** `--config FILE`. */
  readonly file?: string | undefined;
  /** Flags by the path of their key: { "dns.grace": "1h" }. */
  readonly flags?: Texts;
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** What is in force, where the service reads its configuration again. */
  readonly former?: Config | undefined;
}

export interface Loaded {
  readonly config: Config;
  /** The file that was read; absent when there is none. */
  readonly file?: string;
}

type Read = { readonly text: string } | { readonly problem: Problem } | { readonly absent: true };

async function readText(file: string): Promise<Read> {
  try {
    return { text: await readFile(file, 'utf8') };
  } catch (error) {
    const code = codeOrText(error);
    if (code === 'ENOENT') return { absent: true };
    return {
      problem: {
        detail: `the file cannot be read: ${code}`,
        remedy: 'check that it is a file that Drawbridge may read',
        file,
      },
    };
  }
}

const isFileVariable = (name: string): boolean =>
  name.startsWith(PREFIX) && name.endsWith('_FILE') && name !== CONFIG_VARIABLE;

/** DRAWBRIDGE_X_FILE=path becomes DRAWBRIDGE_X with the file's text, its last newline cut. */
async function readSecrets(
  env: Texts,
): Promise<{ env: Texts; problems: readonly Problem[]; secrets: ReadonlyMap<string, string> }> {
  const plain = Object.entries(env).filter(([name]) => !isFileVariable(name));
  const problems: Problem[] = [];
  const secrets: [string, string][] = [];
  for (const [name, file] of Object.entries(env).filter(([key]) => isFileVariable(key))) {
    const bare = name.slice(0, -'_FILE'.length);
    const read = await readText(file);
    const about = { kind: 'name', name: bare } as const;
    if (bare in env)
      problems.push({ detail: `${bare} and ${name} are both set`, remedy: 'unset one of the two', about });
    else if ('text' in read) secrets.push([bare, read.text.replace(/\r?\n$/, '')]);
    else
      problems.push({
        detail: `${name}: the file that it names cannot be read`,
        remedy: 'name a file that exists and that Drawbridge may read',
        about,
      });
  }
  return { env: Object.fromEntries([...plain, ...secrets]), problems, secrets: new Map(secrets) };
}

/** A secret, or a file that was taken for one, is not quoted: not by its problem either. */
function withoutText(problem: Problem, secrets: ReadonlyMap<string, string>): Problem {
  const name = problem.about?.kind === 'setting' ? problem.about.name : '';
  if (!secrets.has(name)) return problem;
  const isQuoted = problem.remedy.includes(secrets.get(name) ?? '');
  return {
    detail: `${name}_FILE: the text of the file is not a valid value of ${name}`,
    remedy: isQuoted ? 'correct the text of the file' : problem.remedy,
  };
}

function defined(env: Readonly<Record<string, string | undefined>>): Texts {
  return Object.fromEntries(
    Object.entries(env).flatMap(([name, text]) => (text === undefined ? [] : [[name, text]])),
  );
}

async function readFileOrNone(
  named: string | undefined,
): Promise<{ source?: { name: string; text: string }; problem?: Problem }> {
  const name = named ?? DEFAULT_FILE;
  const read = await readText(name);
  if ('text' in read) return { source: { name, text: read.text } };
  if ('problem' in read) return { problem: read.problem };
  // The file at the default place is optional; a file that was named must exist.
  if (named === undefined) return {};
  return {
    problem: {
      detail: 'there is no such file',
      remedy: 'create it, or name another with --config',
      file: name,
    },
  };
}

/**
 * Reads and merges all sources: --config, else DRAWBRIDGE_CONFIG, else the default file where there is one. Errors in what only reports are in
 * `faults` of the configuration.
 */
export async function loadConfig(options: LoadOptions = {}): Promise<Parsed<Loaded>> {
  const given = defined(options.env ?? process.env);
  const { env, problems, secrets } = await readSecrets(given);
  const { source, problem } = await readFileOrNone(options.file ?? (given[CONFIG_VARIABLE] || undefined));
  const sources = { ...(source && { file: source }), env, flags: options.flags ?? {} };
  const parsed = readForService(sources, options.former);
  const outside = [...problems, ...(problem ? [problem] : [])];
  const wrong = (parsed.ok ? parsed.value.faults : parsed.problems).map((one) => withoutText(one, secrets));
  const all = [...outside, ...wrong];
  if (!parsed.ok || !outside.every(isOfReporting)) return { ok: false, problems: all };
  const config = { ...parsed.value, faults: all };
  return { ok: true, value: { config, ...(source && { file: source.name }) } };
}

/** Sections that the closed base and the files next to it depend on. */
const SECTIONS = ['kernel', 'docker', 'state', 'networks', 'failure', 'deny', 'api', 'log'] as const;

/** Each of these keys if it is valid by itself, else its default. Never rejects. */
export async function lenientConfig({ file, env, flags }: LoadOptions): Promise<Config> {
  const given = env ?? process.env;
  const text = await readFile(file ?? (given[CONFIG_VARIABLE] || DEFAULT_FILE), 'utf8').catch(() => '');
  return lenient({ text, env: given, flags: flags ?? {} });
}

interface LenientSources {
  readonly text: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly flags: Texts;
}

export function lenient({ text, env, flags }: LenientSources): Config {
  const sound = {
    env: soundTexts(settings(env), (one) => readConfig({ env: one }).ok),
    flags: soundTexts(flags, (one) => readConfig({ flags: one }).ok),
  };
  let kept: Readonly<Record<string, unknown>> = {};
  const take = (more: Readonly<Record<string, unknown>>): boolean => {
    const next = { ...kept, ...more };
    if (!readWith(next, sound).ok) return false;
    kept = next;
    return true;
  };
  for (const [section, value] of sectionsOf(text)) {
    if (take({ [section]: value }) || !isRecord(value)) continue;
    for (const [key, inner] of Object.entries(value)) {
      const before = kept[section];
      take({ [section]: { ...(isRecord(before) && before), [key]: inner } });
    }
  }
  const whole = readWith(kept, sound);
  const read = whole.ok ? whole : readConfig({});
  if (read.ok) return read.value;
  throw new Error('the defaults of the configuration are not valid');
}

const readWith = (value: unknown, sources: { readonly env: Texts; readonly flags: Texts }) =>
  readConfig({ file: { name: '', text: JSON.stringify(value) }, ...sources });

/** Files of secrets are left out: no key that matters here is one. */
function settings(env: LenientSources['env']): Texts {
  const ours = Object.entries(env).flatMap(([name, text]): [string, string][] =>
    text !== undefined && name.startsWith(PREFIX) && name !== CONFIG_VARIABLE && !name.endsWith('_FILE')
      ? [[name, text]]
      : [],
  );
  return Object.fromEntries(ours);
}

function soundTexts(texts: Texts, isSound: (one: Texts) => boolean): Texts {
  return Object.fromEntries(Object.entries(texts).filter(([name, text]) => isSound({ [name]: text })));
}

/** The sections of the file; where the file as a whole is no YAML, each of its top-level blocks is tried by itself. */
function sectionsOf(text: string): [string, unknown][] {
  const whole = parseYaml(text, '').value;
  return SECTIONS.flatMap((name): [string, unknown][] => {
    const block = whole === undefined ? parseYaml(blockOf(text, name), '').value : whole;
    return isRecord(block) && Object.hasOwn(block, name) ? [[name, block[name]]] : [];
  });
}

/** From the line that begins with the key to the next line that is not indented. */
function blockOf(text: string, name: string): string {
  const lines = text.split('\n');
  const first = lines.findIndex((line) => line.startsWith(`${name}:`));
  if (first < 0) return '';
  const length = lines.slice(first + 1).findIndex((line) => /^[^\s#]/.test(line));
  return lines.slice(first, length < 0 ? undefined : first + 1 + length).join('\n');
}
