/** The only reader of the configuration's file and of the environment. */
import { readFile } from 'node:fs/promises';
import type { Parsed, Problem } from '../lib/problem.js';
import { type Config, readConfig } from './config.js';
import { CONFIG_VARIABLE, PREFIX, type Texts } from './overlay.js';

export const DEFAULT_FILE = '/etc/drawbridge/config.yaml';

export interface LoadOptions {
  /** `--config FILE`. */
  readonly file?: string | undefined;
  /** Flags by the path of their key: { "dns.grace": "1h" }. */
  readonly flags?: Texts;
  readonly env?: Readonly<Record<string, string | undefined>>;
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
    const code = (error as NodeJS.ErrnoException).code ?? String(error);
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
    if (bare in env)
      problems.push({ detail: `${bare} and ${name} are both set`, remedy: 'unset one of the two' });
    else if ('text' in read) secrets.push([bare, read.text.replace(/\r?\n$/, '')]);
    else
      problems.push({
        detail: `${name}: cannot read ${file}`,
        remedy: 'name a file that exists and that Drawbridge may read',
      });
  }
  return { env: Object.fromEntries([...plain, ...secrets]), problems, secrets: new Map(secrets) };
}

/** A secret, or a file that was taken for one, is not quoted: not by its problem either. */
function withoutText(problem: Problem, secrets: ReadonlyMap<string, string>): Problem {
  const name = [...secrets.keys()].find((key) => problem.detail.startsWith(`${key}: `));
  if (name === undefined) return problem;
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
  // No file at the default place is fine; a file that somebody named must be there.
  if (named === undefined) return {};
  return {
    problem: {
      detail: 'there is no such file',
      remedy: 'create it, or name another with --config',
      file: name,
    },
  };
}

/** Reads and merges all sources: --config, else DRAWBRIDGE_CONFIG, else the default file where there is one. */
export async function loadConfig(options: LoadOptions = {}): Promise<Parsed<Loaded>> {
  const given = defined(options.env ?? process.env);
  const { env, problems, secrets } = await readSecrets(given);
  const { source, problem } = await readFileOrNone(options.file ?? (given[CONFIG_VARIABLE] || undefined));
  const parsed = readConfig({ ...(source && { file: source }), env, flags: options.flags ?? {} });
  const wrong = parsed.ok ? [] : parsed.problems.map((one) => withoutText(one, secrets));
  const all = [...problems, ...(problem ? [problem] : []), ...wrong];
  if (!parsed.ok || all.length > 0) return { ok: false, problems: all };
  return { ok: true, value: { config: parsed.value, ...(source && { file: source.name }) } };
}
