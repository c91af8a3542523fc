/** Environment and flags laid over the file: DRAWBRIDGE_DNS_GRACE and --dns.grace are dns.grace. */
import type { TSchema } from '@sinclair/typebox';
import { escapePointer, isRecord } from '../lib/json.js';
import type { Problem } from '../lib/problem.js';
import { parseYaml } from '../lib/yaml.js';
import { ConfigSchema } from './schema.js';
import { CONFIG_VARIABLE, PREFIX } from './service-socket.js';

export type Texts = Readonly<Record<string, string>>;

/** A key that can be set from outside the file. */
interface Leaf {
  readonly path: readonly string[];
  readonly schema: TSchema;
}

/** One value from outside, and what it is called there, for messages. */
export interface Setting {
  readonly path: readonly string[];
  readonly value: unknown;
  readonly from: string;
}

function leavesOf(schema: TSchema, path: readonly string[]): readonly Leaf[] {
  const properties = schema.properties as Readonly<Record<string, TSchema>> | undefined;
  if (!properties) return [{ path, schema }];
  return Object.entries(properties).flatMap(([key, child]) => leavesOf(child, [...path, key]));
}

const LEAVES = leavesOf(ConfigSchema, []);

/** dns.minTtl is DRAWBRIDGE_DNS_MIN_TTL, and DRAWBRIDGE_DNS_MINTTL too. */
function variablesOf(leaf: Leaf): readonly string[] {
  const joined = leaf.path.join('_');
  const worded = joined.replace(/([a-z])([A-Z])/g, '$1_$2');
  return [...new Set([worded, joined])].map((name) => PREFIX + name.toUpperCase());
}

const BY_VARIABLE = new Map(LEAVES.flatMap((leaf) => variablesOf(leaf).map((name) => [name, leaf] as const)));
const BY_PATH = new Map(LEAVES.map((leaf) => [leaf.path.join('.'), leaf] as const));

const integer = (text: string): unknown => (/^(\d+|0x[0-9a-f]+)$/i.test(text) ? Number(text) : text);

function structured(text: string): unknown {
  const { value, problems } = parseYaml(text, '');
  return problems.length === 0 ? value : text;
}

function listOf(schema: TSchema, text: string): unknown {
  if (text.startsWith('[') || text.startsWith('-')) return structured(text);
  const items = text.split(',').map((item) => item.trim());
  const isNumber = (schema.items as TSchema | undefined)?.type === 'integer';
  return items.filter((item) => item !== '').map((item) => (isNumber ? integer(item) : item));
}

/** Converts a text to the type of its key; a text that does not fit stays text, and the schema check reports it. */
function typed(schema: TSchema, text: string): unknown {
  if (schema.type === 'integer') return integer(text.trim());
  if (schema.type === 'array') return listOf(schema, text.trim());
  if (schema.type === 'object') return structured(text);
  return text;
}

function read(
  names: Texts,
  known: ReadonlyMap<string, Leaf>,
  label: (name: string) => string,
  remedy: string,
) {
  const settings: Setting[] = [];
  const problems: Problem[] = [];
  for (const [name, text] of Object.entries(names)) {
    const leaf = known.get(name);
    if (leaf) settings.push({ path: leaf.path, value: typed(leaf.schema, text), from: label(name) });
    else
      problems.push({
        detail: `unknown key ${label(name)}`,
        remedy,
        about: { kind: 'name', name: label(name) },
      });
  }
  return { settings, problems };
}

export interface Overlay {
  readonly settings: readonly Setting[];
  readonly problems: readonly Problem[];
}

/** DRAWBRIDGE_* variables, `_FILE` already read (see load). An unknown one is a problem, like an unknown key. */
export function fromEnvironment(env: Texts): Overlay {
  const ours = Object.entries(env).filter(([name]) => name.startsWith(PREFIX) && name !== CONFIG_VARIABLE);
  const remedy =
    'the variable names no key of the configuration (DRAWBRIDGE_DNS_GRACE sets dns.grace): unset it or correct it';
  return read(Object.fromEntries(ours), BY_VARIABLE, (name) => name, remedy);
}

/** Flags by the path of their key: { "dns.grace": "1h" }. */
export function fromFlags(flags: Texts): Overlay {
  return read(flags, BY_PATH, (name) => `--${name}`, 'name a key of the configuration, such as dns.grace');
}

function set(target: unknown, path: readonly string[], value: unknown): unknown {
  const [key, ...rest] = path;
  if (key === undefined) return value;
  const fields = isRecord(target) ? target : {};
  return { ...fields, [key]: set(Object.hasOwn(fields, key) ? fields[key] : undefined, rest, value) };
}

/** The file's value with the settings over it; later ones win. */
export const overlay = (value: unknown, settings: readonly Setting[]): unknown =>
  settings.reduce((below, setting) => set(below, setting.path, setting.value), value);

/** The setting that a problem is about: its pointer is the setting's key, or within it. */
export function settingOf(problem: Problem, settings: readonly Setting[]): Setting | undefined {
  return settings.findLast(({ path }) => {
    const pointer = path.map((step) => `/${escapePointer(step)}`).join('');
    return problem.pointer === pointer || problem.pointer?.startsWith(`${pointer}/`);
  });
}
