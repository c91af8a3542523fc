/** The configuration in force, from its sources: flag > environment > file > default. Pure; load reads the sources. */
import { hostname } from 'node:os';
import type { TSchema } from '@sinclair/typebox';
import { Value } from '@sinclair/typebox/value';
import { canonicalName } from '../lib/dns-name.js';
import { parseServer } from '../lib/dns-server-address.js';
import { parseCidr } from '../lib/ip.js';
import { escapePointer, isRecord, unescapePointer } from '../lib/json.js';
import type { Parsed, Problem } from '../lib/problem.js';
import { schemaProblems } from '../lib/schema-check.js';
import { NAT64_BITS } from '../lib/special-use.js';
import { parseDuration, parseSize } from '../lib/units.js';
import { parseYaml } from '../lib/yaml.js';
import { parseEntry } from '../policy/entry-parse.js';
import { CHECK_NEEDS, MASK_NEEDS, splitMask } from '../policy/mark-mask.js';
import { isTokenName, tokenFault } from '../policy/token.js';
import { notifyFaults, type ReceiverConfig, resolveNotify } from './endpoints.js';
import { type FeedConfig, feedFaults, resolveFeed } from './feed-config.js';
import { fromEnvironment, fromFlags, overlay, type Setting, settingOf, type Texts } from './overlay.js';
import { readRedisUrl } from './redis-url.js';
import { ConfigSchema, type RawConfig } from './schema.js';
import { isOfTheKernel, UNIX } from './service-socket.js';

/** Checks of a configuration that a schema cannot express: names, addresses, and keys that depend on one another. */

/** A zone names an interface of this host, which a configuration for a fleet cannot. */
const isUpstream = (text: string): boolean => parseServer(text)?.address.includes('%') === false;

function upstreams(list: readonly string[], pointer: string): readonly Problem[] {
  return list.flatMap((text, index) =>
    isUpstream(text)
      ? []
      : [
          {
            detail: `"${text}" is not the address of a resolver`,
            remedy: 'write 10.0.0.53 or [2001:db8::53]:53',
            pointer: `${pointer}/${index}`,
          },
        ],
  );
}

function zones({ dns }: RawConfig): readonly Problem[] {
  const seen = new Set<string>();
  return Object.entries(dns.zones).flatMap(([name, zone]) => {
    const pointer = `/dns/zones/${escapePointer(name)}`;
    const parsed = canonicalName(name, 1);
    const twice = parsed.ok && seen.has(parsed.value);
    if (parsed.ok) seen.add(parsed.value);
    return [
      ...(parsed.ok ? [] : parsed.problems.map((problem) => ({ ...problem, pointer }))),
      ...(twice
        ? [{ detail: `the zone ${name} is written twice`, remedy: 'keep one of the two', pointer }]
        : []),
      ...upstreams(zone.upstreams, `${pointer}/upstreams`),
    ];
  });
}

function ttls({ dns }: RawConfig): readonly Problem[] {
  const [min, max] = [parseDuration(dns.minTtl), parseDuration(dns.maxTtl)];
  if (!min.ok || !max.ok || min.value <= max.value) return [];
  return [
    {
      detail: `dns.minTtl ${dns.minTtl} is above dns.maxTtl ${dns.maxTtl}`,
      remedy: 'lower dns.minTtl, or raise dns.maxTtl',
      pointer: '/dns/minTtl',
    },
  ];
}

function exceptions({ threats }: RawConfig): readonly Problem[] {
  return threats.exceptions.flatMap(({ to }, index) => {
    const pointer = `/threats/exceptions/${index}/to`;
    const parsed = parseEntry(to);
    if (!parsed.ok) return parsed.problems.map((problem) => ({ ...problem, pointer }));
    const entry = parsed.value;
    const fits =
      entry.kind === 'dest' &&
      !entry.deny &&
      ['address', 'name'].includes(entry.target.kind) &&
      entry.ports.length === 0;
    if (fits) return [];
    return [
      {
        detail: `"${to}" is not an address or name`,
        remedy: 'write an address, a network or a name, without ports',
        pointer,
      },
    ];
  });
}

function translators({ networks }: RawConfig): readonly Problem[] {
  return networks.nat64.flatMap((text, index) => {
    const range = parseCidr(text);
    if (range?.family === 6 && text.endsWith(`/${NAT64_BITS}`)) return [];
    return [
      {
        detail: `"${text}" is not a prefix of a NAT64 translator that can be compared`,
        remedy: 'write an IPv6 network of 96 bits, such as 2001:db8:64::/96',
        pointer: `/networks/nat64/${index}`,
      },
    ];
  });
}

function listen({ api }: RawConfig): readonly Problem[] {
  if (api.listen.startsWith(UNIX)) return [];
  const pointer = '/api/listen';
  const problems: Problem[] = [];
  if (!parseServer(api.listen.replace(/^localhost:/, '127.0.0.1:')))
    problems.push({
      detail: `"${api.listen}" is not an address and port`,
      remedy: 'write 127.0.0.1:7070 or unix:/path',
      pointer,
    });
  return problems;
}

/** Prefixes under which others name their own chains, of which some would be the same. */
const OTHERS = ['DOCKER', 'KUBE', 'CALI', 'CNI', 'LIBVIRT'];

function kernel({ kernel: { markMask, prefix }, tls }: RawConfig): readonly Problem[] {
  const mask = {
    detail: `kernel.markMask 0x${markMask.toString(16)} is too small: ${MASK_NEEDS}`,
    remedy: 'write it like 0x7f003fff',
    pointer: '/kernel/markMask',
  };
  const short = {
    detail: `kernel.markMask 0x${markMask.toString(16)} is too small: ${CHECK_NEEDS}`,
    remedy: 'write it like 0x7f003fff, or set tls.verify: false',
    pointer: '/kernel/markMask',
  };
  const bits = splitMask(markMask);
  const hasCheck = !tls.verify || bits?.check !== undefined;
  const taken = {
    detail: `kernel.prefix ${prefix} is the beginning of the names of chains of another program`,
    remedy: 'use another prefix, such as DB',
    pointer: '/kernel/prefix',
  };
  return [...(bits ? (hasCheck ? [] : [short]) : [mask]), ...(OTHERS.includes(prefix) ? [taken] : [])];
}

function store({ store: { redis } }: RawConfig): readonly Problem[] {
  const parsed = redis === '' ? undefined : readRedisUrl(redis);
  if (!parsed || parsed.ok) return [];
  return parsed.problems.map(({ detail, remedy }) => ({
    detail: `store.redis: ${detail}`,
    remedy,
    pointer: '/store/redis',
  }));
}

const folder = ({ state }: RawConfig): readonly Problem[] =>
  isOfTheKernel(state)
    ? [
        {
          detail: `state: ${state} is in a file system of the kernel, which keeps no files`,
          remedy: 'name a folder on a disk, such as /var/lib/drawbridge',
          pointer: '/state',
        },
      ]
    : [];

function tokens({ api }: RawConfig): readonly Problem[] {
  return api.tokens.flatMap(({ name, token }, index) => {
    const pointer = `/api/tokens/${index}`;
    const fault = tokenFault(token);
    return [
      ...(isTokenName(name)
        ? []
        : [
            {
              detail: `"${name}" is not a name of a token`,
              remedy: 'write up to 63 characters: letters, digits, and _ . @ -',
              pointer: `${pointer}/name`,
            },
          ]),
      ...(fault ? [{ ...fault, pointer: `${pointer}/token` }] : []),
    ];
  });
}

function twice(items: readonly { readonly name: string }[], pointer: string): readonly Problem[] {
  return items.flatMap(({ name }, index) =>
    items.findIndex((item) => item.name === name) === index
      ? []
      : [
          {
            detail: `"${name}" is written twice`,
            remedy: 'give it another name',
            pointer: `${pointer}/${index}/name`,
          },
        ],
  );
}

/** Every problem of a configuration that fits the schema, each with its pointer. */
function semanticProblems(raw: RawConfig): readonly Problem[] {
  return [
    ...upstreams(raw.dns.upstreams, '/dns/upstreams'),
    ...zones(raw),
    ...ttls(raw),
    ...exceptions(raw),
    ...translators(raw),
    ...listen(raw),
    ...kernel(raw),
    ...store(raw),
    ...folder(raw),
    ...tokens(raw),
    ...twice(raw.api.tokens, '/api/tokens'),
    ...twice(raw.threats.feeds, '/threats/feeds'),
    ...feedFaults(raw.threats.feeds),
    ...notifyFaults(raw.notify),
  ];
}

/** Fills in the defaults of a schema. A value of another kind than its key's is left as it is, for the check to refuse. */

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
