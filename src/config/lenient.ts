/**
 * What can be read of a configuration that is refused: the closed base needs the keys of `kernel`, and must be laid
 * whatever else is wrong.
 */
import { readFile } from 'node:fs/promises';
import { isRecord } from '../lib/json.js';
import { parseYaml } from '../lib/yaml.js';
import { type Config, readConfig } from './config.js';
import { DEFAULT_FILE, type LoadOptions } from './load.js';
import { CONFIG_VARIABLE, PREFIX, type Texts } from './overlay.js';

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
