/** The configuration in force: flag > environment > file > default. Pure; load.ts reads the sources. */
import { hostname } from 'node:os';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import type { TSchema } from '@sinclair/typebox';
import { Value } from '@sinclair/typebox/value';
import { canonicalName } from '../lib/dns-name.js';
import { asRecord, isRecord, listAt, unescapePointer } from '../lib/json.js';
import type { Parsed, Problem } from '../lib/problem.js';
import { dotted, schemaProblems } from '../lib/schema-check.js';
import { parseDuration, parseSize } from '../lib/units.js';
import { parseYaml } from '../lib/yaml.js';
import { semanticProblems } from './config-checks.js';
import { type ReceiverConfig, resolveNotify } from './endpoints.js';
import { type FeedConfig, resolveFeed } from './feed-config.js';
import { fromEnvironment, fromFlags, overlay, type Setting, settingOf, type Texts } from './overlay.js';
import { ConfigSchema, type RawConfig } from './schema.js';
import { UNIX } from './service-socket.js';

/** The file's keys; durations in milliseconds, sizes in bytes, zone names canonical. */
export interface Config extends Omit<RawConfig, 'dns' | 'threats' | 'flows' | 'canary' | 'notify'> {
  readonly dns: Pick<RawConfig['dns'], 'upstreams' | 'zones'> & {
    readonly minTtlMs: number;
    readonly maxTtlMs: number;
    readonly graceMs: number;
  };
  readonly threats: Omit<RawConfig['threats'], 'feeds'> & {
    readonly feeds: readonly FeedConfig[];
  };
  /** Between two runs; 0: never. */
  readonly canary: { readonly everyMs: number; readonly ready: boolean };
  readonly flows: Pick<RawConfig['flows'], 'file' | 'syslog' | 'format'> & {
    readonly keepMs: number;
    readonly maxSizeBytes: number;
  };
  readonly notify: readonly ReceiverConfig[];
  /** Errors in the sections of what reports (`isOfReporting`), which the service shows. */
  readonly faults: readonly Problem[];
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
  const { dns, threats, flows, canary, notify, ...rest } = raw;
  const { keep, maxSize, ...outputs } = flows;
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
    canary: { everyMs: sure(parseDuration(canary.every)), ready: canary.ready },
    flows: { ...outputs, keepMs: sure(parseDuration(keep)), maxSizeBytes: sure(parseSize(maxSize)) },
    notify: resolveNotify(notify),
    faults: [],
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

/** YAML 1.1 reads a bare `off` as false, where a mode is meant, and `0` is a number, where a duration is. */
function wordsBack(value: unknown): unknown {
  if (!isRecord(value)) return value;
  const { unattributed, canary } = value;
  return {
    ...value,
    ...(value.default === false && { default: 'off' }),
    ...(isRecord(unattributed) &&
      unattributed.mode === false && { unattributed: { ...unattributed, mode: 'off' } }),
    ...(isRecord(canary) &&
      (canary.every === false || canary.every === 0) && { canary: { ...canary, every: '0' } }),
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
    return [
      {
        ...rest,
        detail: `${setting.from}: ${problem.detail}`,
        about: { kind: 'setting', name: setting.from },
      },
    ];
  });
}

/**
 * Sections of what reports. An error in one of them does not stop what enforces: the service starts with what is valid of the section, and
 * shows the error.
 */
const SECTION = /^\/(api|flows|notify)(\/|$)/;
const VARIABLE = /^DRAWBRIDGE_(API|FLOWS|NOTIFY)(_|$)/;

/** Of the configuration, or of a variable that sets a key of these sections. */
export const isOfReporting = ({ pointer, about }: Problem): boolean =>
  pointer === undefined ? about?.kind === 'name' && VARIABLE.test(about.name) : SECTION.test(pointer);

/** Sections that may contain secrets, such as tokens or the URLs of webhooks, as values or, by mistake, as keys. */
const SECRETS = /^\/(api|flows|notify|store|threats)(\/|$)/;
const PLAIN_KEY = /^[A-Za-z][A-Za-z_]{0,19}$/;

/** The problem as logs and the API show it: without what may be a secret. Only `check` quotes it. */
function reported(problem: Problem): Problem {
  const { pointer = '' } = problem;
  const at = pointer.lastIndexOf('/');
  const isKey = problem.about?.kind === 'key';
  if (!SECRETS.test(pointer) || (isKey && PLAIN_KEY.test(pointer.slice(at + 1)))) return problem;
  const place = isKey ? pointer.slice(0, at) : pointer;
  const what = isKey ? 'unknown key' : 'not valid (drawbridge check shows more)';
  return { ...problem, pointer: place, detail: `${dotted(place)}: ${what}` };
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

/** The value without what has these problems; of receivers, those that have one: the others still report. */
function soundPart(value: unknown, problems: readonly Problem[]): unknown {
  const steps = problems.map(({ pointer = '' }) => pointer.split('/').slice(1));
  const receivers = new Set(steps.flatMap(([section, at]) => (section === 'notify' ? [Number(at)] : [])));
  const keys = steps.filter(([section, at]) => section !== 'notify' || at === undefined);
  const left = keys.reduce<unknown>(without, value);
  if (!isRecord(left) || !Array.isArray(left.notify)) return left;
  return { ...left, notify: left.notify.filter((_, at) => !receivers.has(at)) };
}

interface WithFaults {
  readonly config: Config;
  readonly faults: readonly Problem[];
  /** What is in force, where the file is read again. */
  readonly former: Config | undefined;
  /** All of the file, also what is not valid. */
  readonly raw: unknown;
}

/**
 * The sections as they are used. With an error in `api` the service listens on a unix socket of this host only, which commands find by the
 * same rule. Of what is in force (`former`) stays only what lets nothing in and sends nothing that the file does not say: a listener on TCP with
 * those of its tokens that the file has as they were, and how long flows are kept.
 */
function withFaults({ config, faults, former, raw }: WithFaults): Config {
  const has = (section: string): boolean =>
    faults.some(({ pointer = '' }) => pointer === `/${section}` || pointer.startsWith(`/${section}/`));
  const api = has('api') ? apiOf({ config, faults, former, raw }) : config.api;
  const kept = has('flows') ? former?.flows : undefined;
  const stays = [
    ...(has('api') && !api.listen.startsWith(UNIX) ? [STAYS_API] : []),
    ...(kept ? [STAYS_FLOWS] : []),
  ];
  return {
    ...config,
    api,
    flows: kept ? { ...config.flows, keepMs: kept.keepMs, maxSizeBytes: kept.maxSizeBytes } : config.flows,
    faults: stays,
  };
}

const STAYS_API: Problem = {
  detail:
    'api: the listener of before stays in force, with those of its tokens that the file has unchanged: nothing else of the section counts',
  remedy: 'correct the errors in api, and reload',
};
const STAYS_FLOWS: Problem = {
  detail: 'flows: keep and maxSize of before stay in force: their change does not count',
  remedy: 'correct the errors in flows, and reload',
};

function apiOf({ config: { api, state }, faults, former, raw }: WithFaults): Config['api'] {
  const isListenerSound = !faults.some(({ pointer }) => pointer === '/api' || pointer === '/api/listen');
  if (isListenerSound && api.listen.startsWith(UNIX)) return { ...api, tokens: [] };
  const isOnTcp = former?.state === state && !former.api.listen.startsWith(UNIX);
  if (!isOnTcp) return { listen: `${UNIX}${join(state, 'api.sock')}`, tokens: [] };
  const written = asRecord(raw)?.api;
  const all = listAt(asRecord(written), 'tokens');
  const isUnchanged = (token: Config['api']['tokens'][number]): boolean => {
    const named = all.filter((other) => asRecord(other)?.name === token.name);
    return named.length > 0 && named.every((other) => isDeepStrictEqual(other, token));
  };
  return { ...former.api, tokens: former.api.tokens.filter(isUnchanged) };
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

function merged(sources: ConfigSources) {
  const yaml = parseYaml(sources.file?.text ?? '', sources.file?.name ?? '');
  const env = fromEnvironment(sources.env ?? {});
  const flags = fromFlags(sources.flags ?? {});
  const settings = [...env.settings, ...flags.settings];
  const base = wordsBack(withoutNulls(ConfigSchema, yaml.value ?? {}));
  const value = isRecord(base) ? withDefaults(ConfigSchema, overlay(base, settings)) : base;
  const unread = yaml.value === undefined;
  const place = (problems: readonly Problem[]): readonly Problem[] => placed(problems, settings, yaml.place);
  return { value, unread, place, own: [...yaml.problems, ...env.problems, ...flags.problems] };
}

/** Merges, fills in defaults and checks. Each problem has its file, line, column or source, and a remedy. */
export function readConfig(sources: ConfigSources): Parsed<Config> {
  const { value, unread, place, own } = merged(sources);
  const problems = unread ? own : [...own, ...place(problemsOf(value))];
  return problems.length > 0 ? { ok: false, problems } : { ok: true, value: resolve(value as RawConfig) };
}

/**
 * The same for the service and its commands, which an error in a section of what reports does not stop: `faults` has it. `former`: what is in
 * force, where the file is read again.
 */
export function readForService(sources: ConfigSources, former?: Config): Parsed<Config> {
  const { value, unread, place, own } = merged(sources);
  const found = unread ? [] : problemsOf(value);
  const filled = (left: unknown): unknown => withDefaults(ConfigSchema, left);
  const part = filled(soundPart(value, found));
  // What the rest of such a section means is checked now: where that is wrong, too, the section goes whole.
  const more = unread ? [] : problemsOf(part);
  const sound = filled(
    more.reduce<unknown>((left, { pointer = '' }) => without(left, pointer.split('/').slice(1, 2)), part),
  );
  const stops = [...own, ...found, ...more].some((problem) => !isOfReporting(problem));
  if (unread || stops || problemsOf(sound).length > 0)
    return { ok: false, problems: [...own, ...place(found.map(reported))] };
  const faults = [...found, ...more];
  const config = withFaults({ config: resolve(sound as RawConfig), faults, former, raw: value });
  const others = more.map(reported).map(({ detail, remedy }) => ({ detail, remedy }));
  const all = [...own, ...place(found.map(reported)), ...others, ...config.faults];
  return { ok: true, value: { ...config, faults: all } };
}

/** Fills in the defaults of a schema. A value of another kind than that of its key stays, and the check refuses it. */
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
