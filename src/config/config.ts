/** The configuration in force, from its sources: flag > environment > file > default. Pure; load reads the sources. */
import { hostname } from 'node:os';
import type { TSchema } from '@sinclair/typebox';
import { Value } from '@sinclair/typebox/value';
import { canonicalName } from '../lib/dns-name.js';
import { isRecord, unescapePointer } from '../lib/json.js';
import type { Parsed, Problem } from '../lib/problem.js';
import { schemaProblems } from '../lib/schema-check.js';
import { parseDuration, parseSize } from '../lib/units.js';
import { parseYaml } from '../lib/yaml.js';
import { type FeedConfig, resolveFeed } from './feed-config.js';
import { fromEnvironment, fromFlags, overlay, type Setting, settingOf, type Texts } from './overlay.js';
import { ConfigSchema, type RawConfig } from './schema.js';
import { semanticProblems } from './semantics.js';

/** Fills in the defaults of a schema. A value of another kind than its key's is left as it is, for the check to refuse. */

/** The file's keys; durations in milliseconds, sizes in bytes, zone names canonical. */
export interface Config extends Omit<RawConfig, 'dns' | 'threats' | 'flows'> {
  readonly dns: Pick<RawConfig['dns'], 'upstreams' | 'zones'> & {
    readonly minTtlMs: number;
    readonly maxTtlMs: number;
    readonly graceMs: number;
  };
  readonly threats: Omit<RawConfig['threats'], 'feeds'> & {
    readonly feeds: readonly FeedConfig[];
  };
  readonly flows: { readonly keepMs: number; readonly maxSizeBytes: number };
}

/** The name of this host in a fleet. */
export const nodeName = ({ node }: Pick<Config, 'node'>): string => node || hostname();

export interface ConfigSources {
  /** Absent: no file, which is fine. */
  readonly file?: { readonly name: string; readonly text: string };
  /** DRAWBRIDGE_* (others are passed over), with the contents of `_FILE` ones under their plain name. */
  readonly env?: Texts;
  /** By key path: { "dns.grace": "1h" }. */
  readonly flags?: Texts;
}

/** The schema has passed, so that units parse; a failure here is a fault of the patterns. */
function sure<T>(parsed: Parsed<T>): T {
  if (parsed.ok) return parsed.value;
  throw new Error(`configuration: ${parsed.problems.map((problem) => problem.detail).join('; ')}`);
}

function resolve(raw: RawConfig): Config {
  const { dns, threats, flows, ...rest } = raw;
  const zones = Object.entries(dns.zones).map(
    ([name, zone]) => [sure(canonicalName(name, 1)), zone] as const,
  );
  const units = {
    duration: (text: string) => sure(parseDuration(text)),
    size: (text: string) => sure(parseSize(text)),
  };
  const feeds = threats.feeds.map((feed) => resolveFeed(feed, units));
  return {
    ...rest,
    dns: {
      upstreams: dns.upstreams,
      zones: Object.fromEntries(zones),
      minTtlMs: sure(parseDuration(dns.minTtl)),
      maxTtlMs: sure(parseDuration(dns.maxTtl)),
      graceMs: sure(parseDuration(dns.grace)),
    },
    threats: { ...threats, feeds },
    flows: { keepMs: sure(parseDuration(flows.keep)), maxSizeBytes: sure(parseSize(flows.maxSize)) },
  };
}

/** A key with nothing behind it (`dns:` and all below it commented out) is a key left out. */
function withoutNulls(schema: TSchema, value: unknown): unknown {
  const properties = schema.properties as Readonly<Record<string, TSchema>> | undefined;
  if (!properties || !isRecord(value)) return value;
  const kept = Object.entries(value).filter(
    ([key, child]) => child !== null || !Object.hasOwn(properties, key),
  );
  const cleaned = kept.map(([key, child]) => {
    const inner = Object.hasOwn(properties, key) ? properties[key] : undefined;
    return [key, inner ? withoutNulls(inner, child) : child] as const;
  });
  return Object.fromEntries(cleaned);
}

/** YAML 1.1 reads a bare `off` as false, where a mode is meant. */
function wordsBack(value: unknown): unknown {
  if (!isRecord(value)) return value;
  const { unattributed } = value;
  return {
    ...value,
    ...(value.default === false && { default: 'off' }),
    ...(isRecord(unattributed) &&
      unattributed.mode === false && { unattributed: { ...unattributed, mode: 'off' } }),
  };
}

/** Problems of the values, placed: in the variable or flag that brought them, else in the file. */
function placed(
  problems: readonly Problem[],
  settings: readonly Setting[],
  place: (problems: readonly Problem[]) => readonly Problem[],
): readonly Problem[] {
  return problems.flatMap((problem) => {
    const setting = settingOf(problem, settings);
    if (!setting) return place([problem]);
    // What came from outside the file has no place in it.
    const { line: _line, column: _column, pointer: _pointer, ...rest } = problem;
    return [{ ...rest, detail: `${setting.from}: ${problem.detail}` }];
  });
}

/** The value without the key at each pointer (a broken list goes whole, so that indexes stay true). */
function without(value: unknown, steps: readonly string[]): unknown {
  const [step, ...rest] = steps;
  const key = unescapePointer(step ?? '');
  if (step === undefined || !isRecord(value) || !Object.hasOwn(value, key)) return value;
  const inner = value[key];
  const { [key]: _, ...others } = value;
  return rest.length > 0 && isRecord(inner) ? { ...others, [key]: without(inner, rest) } : others;
}

/** Problems with the schema, and problems of meaning in all parts that fit it. */
function problemsOf(value: unknown): readonly Problem[] {
  if (!isRecord(value))
    return [
      {
        detail: 'the configuration is not a map',
        remedy: 'write keys, such as "default: observe"',
        pointer: '',
      },
    ];
  const problems = schemaProblems(ConfigSchema, value);
  const sound = problems.reduce<unknown>(
    (left, { pointer = '' }) => without(left, pointer.split('/').slice(1)),
    value,
  );
  const whole = withDefaults(ConfigSchema, sound);
  return Value.Check(ConfigSchema, whole) ? [...problems, ...semanticProblems(whole)] : problems;
}

/** Merges, fills in defaults and checks. All problems at once, each with file, line, column or source, and remedy. */
export function readConfig(sources: ConfigSources): Parsed<Config> {
  const yaml = parseYaml(sources.file?.text ?? '', sources.file?.name ?? '');
  const env = fromEnvironment(sources.env ?? {});
  const flags = fromFlags(sources.flags ?? {});
  const settings = [...env.settings, ...flags.settings];
  const base = wordsBack(withoutNulls(ConfigSchema, yaml.value ?? {}));
  const value = isRecord(base) ? withDefaults(ConfigSchema, overlay(base, settings)) : base;
  const own = [...yaml.problems, ...env.problems, ...flags.problems];
  const unreadable = yaml.value === undefined;
  const problems = unreadable ? own : [...own, ...placed(problemsOf(value), settings, yaml.place)];
  return problems.length > 0 ? { ok: false, problems } : { ok: true, value: resolve(value as RawConfig) };
}

function withDefaults(schema: TSchema, value: unknown): unknown {
  const given = value === undefined ? structuredClone(schema.default) : value;
  if (schema.type === 'array' && Array.isArray(given))
    return given.map((item) => withDefaults(schema.items as TSchema, item));
  return schema.type === 'object' && isRecord(given) ? filled(schema, given) : given;
}

function filled(schema: TSchema, value: Readonly<Record<string, unknown>>): unknown {
  const properties = Object.entries((schema.properties ?? {}) as Readonly<Record<string, TSchema>>);
  const known = new Map(properties);
  const [others] = Object.values((schema.patternProperties ?? {}) as Readonly<Record<string, TSchema>>);
  const given = Object.entries(value).map(([key, child]) => {
    const inner = known.get(key) ?? others;
    return [key, inner ? withDefaults(inner, child) : child] as const;
  });
  const absent = properties.flatMap(([key, inner]) => {
    const filler = Object.hasOwn(value, key) ? undefined : withDefaults(inner, undefined);
    return filler === undefined ? [] : [[key, filler] as const];
  });
  return Object.fromEntries([...given, ...absent]);
}
