/** Reads a list from the object of its YAML or JSON (docs/lists.md). */
import { type Static, Type } from '@sinclair/typebox';
import { escapePointer, isRecord, shown, shownKey } from '../lib/json.js';
import { atMost, clipped, type Parsed, type Problem } from '../lib/problem.js';
import { schemaProblems } from '../lib/schema-check.js';
import type { DestEntry, Entry } from './entry.js';
import { sealEntry } from './entry-canonical.js';
import { entryFromObject } from './entry-object.js';
import { duplicateProblem, isDest, isListName, parseEntries, parseEntry } from './entry-parse.js';
import { effectivePorts } from './entry-ports.js';
import { parseAsk } from './limits.js';
import type { List, ListTest } from './policy.js';

/** The shape of allowlists/NAME.yaml and of a list's body in the API: one definition for checks and for editors. */

const Port = Type.Union([
  Type.Integer({ minimum: 1, maximum: 65535 }),
  Type.String({ description: 'ports, such as 80,443 or 8000-8100' }),
]);
const Off = Type.Union([Type.Literal('off'), Type.Literal(false)]);

export const EntryObjectSchema = Type.Object(
  {
    to: Type.String({
      description:
        'a destination: name, address, container:NAME, host, any or list:NAME; with ! before it, it is denied',
    }),
    ports: Type.Optional(Type.Union([Port, Type.Array(Port)])),
    proto: Type.Optional(
      Type.String({ pattern: '^(tcp|udp|tcp\\+udp|icmp|sctp|gre|esp|ip-\\d{1,3})$', examples: ['udp'] }),
    ),
    deny: Type.Optional(
      Type.Boolean({
        description: 'denies what it covers, whatever other entries permit; it takes no flags',
      }),
    ),
    private: Type.Optional(Type.Boolean({ description: 'answers with private addresses are accepted' })),
    broad: Type.Optional(Type.Boolean({ description: 'allows a public suffix or a very wide network' })),
    tls: Type.Optional(Type.Union([Off, Type.Literal('verify')])),
    quic: Type.Optional(Type.Literal('deny')),
    ech: Type.Optional(Type.Literal('allow')),
    dns: Type.Optional(Type.Literal('direct')),
    comment: Type.Optional(Type.String()),
    expires: Type.Optional(Type.String({ description: 'RFC 3339 UTC', examples: ['2030-12-31T23:59:59Z'] })),
  },
  { additionalProperties: false },
);

const ModeSchema = Type.Union([Type.Literal('enforce'), Type.Literal('observe'), Type.Literal('off')]);
const Pattern = Type.String({ minLength: 1, description: 'a glob: * matches any characters, ? matches one' });

/** One key, so that each test has one verdict. */
function testOf<K extends 'allow' | 'deny'>(key: K) {
  const destination = Type.String({
    description:
      'one name or address, container:NAME or host, with :PORT and /PROTO (without a port: 443/tcp)',
    examples: ['api.example.com', '192.0.2.7:22', 'pool.ntp.org:123/udp'],
  });
  return Type.Object({ [key]: destination } as Record<K, typeof destination>, {
    additionalProperties: false,
  });
}

export const ListSchema = Type.Object(
  {
    description: Type.Optional(Type.String()),
    hosts: Type.Optional(
      Type.Array(Pattern, {
        minItems: 1,
        description: 'globs of the hosts (node) where this list applies; missing: on all hosts',
        examples: [['web-*']],
      }),
    ),
    match: Type.Optional(
      Type.Object(
        {
          name: Type.Optional(Pattern),
          image: Type.Optional(Pattern),
          labels: Type.Optional(Type.Record(Type.String(), Pattern)),
          network: Type.Optional(Pattern),
        },
        {
          additionalProperties: false,
          minProperties: 1,
          description: 'containers that this list claims; all given fields must match',
          examples: [{ name: 'runner-*' }],
        },
      ),
    ),
    mode: Type.Optional(ModeSchema),
    ask: Type.Optional(
      Type.String({
        description:
          'of the containers that this list claims, while they are enforced: what no entry permits waits so long for the decision of a person',
        examples: ['10s'],
      }),
    ),
    allow: Type.Optional(
      Type.Array(Type.Union([Type.String(), EntryObjectSchema]), {
        description: 'entries, as text or as objects',
        examples: [['api.example.com', '!gist.github.com']],
      }),
    ),
    tests: Type.Optional(
      Type.Array(Type.Union([testOf('allow'), testOf('deny')]), {
        description: 'what the entries must permit and deny; drawbridge check runs them',
        examples: [[{ allow: 'api.example.com' }, { deny: 'pastebin.com' }]],
      }),
    ),
  },
  { additionalProperties: false, description: 'a Drawbridge allowlist' },
);

interface Placed {
  readonly entry: Entry;
  readonly pointer: string;
}

/** Reads a body, as `listFromObject` does; a large one elsewhere than on the event loop. */
export type ListParser = (name: string, source: List['source'], body: unknown) => Promise<Parsed<List>>;

/** A text item may hold several entries, as a label may. */
function readItem(
  item: unknown,
  pointer: string,
): { placed: readonly Placed[]; problems: readonly Problem[] } {
  const parsed: Parsed<readonly Entry[]> =
    typeof item === 'string' ? parseItem(item) : one(entryFromObject(item));
  if (!parsed.ok)
    return {
      placed: [],
      problems: parsed.problems.map((p) => ({ ...p, pointer: `${pointer}${p.pointer ?? ''}` })),
    };
  return { placed: parsed.value.map((entry) => ({ entry, pointer })), problems: [] };
}

function parseItem(text: string): Parsed<readonly Entry[]> {
  const parsed = parseEntries(text);
  if (!parsed.ok || parsed.value.length > 0) return parsed;
  return {
    ok: false,
    problems: [{ detail: 'the entry is empty', remedy: 'remove it, or write a destination' }],
  };
}

const one = (parsed: Parsed<Entry>): Parsed<readonly Entry[]> =>
  parsed.ok ? { ok: true, value: [parsed.value] } : parsed;

/** Up to so many problems; the items that follow are not read. */
const MAX_PROBLEMS = 200;

/** Reads items until there are too many faults or duplicates. */
function readAllow(allow: unknown): { entries: readonly Entry[]; problems: readonly Problem[] } {
  const entries: Entry[] = [];
  const known = new Set<string>();
  const [bad, twice]: [Problem[], Problem[]] = [[], []];
  for (const [index, item] of (Array.isArray(allow) ? allow : []).entries()) {
    const { placed, problems } = readItem(item, `/allow/${index}`);
    bad.push(...problems);
    for (const { entry, pointer } of placed) {
      if (known.has(entry.canonical)) twice.push({ ...duplicateProblem(entry), pointer });
      known.add(entry.canonical);
      entries.push(entry);
    }
    if (bad.length + twice.length >= MAX_PROBLEMS) break;
  }
  return { entries, problems: atMost([...bad, ...twice], MAX_PROBLEMS) };
}

/** More tests than these would keep CI waiting. */
const MAX_TESTS = 1000;
const TEST_REMEDY = 'write { allow: api.example.com } or { deny: "pastebin.com:443" }';

/** Reads all tests until there are too many faults. */
function readTests(tests: unknown): { tests: readonly ListTest[]; problems: readonly Problem[] } {
  if (tests === undefined) return { tests: [], problems: [] };
  const fault = (detail: string, remedy: string) => ({
    tests: [],
    problems: [{ detail, remedy, pointer: '/tests' }],
  });
  if (!Array.isArray(tests)) return fault(`tests is ${shown(tests)}, not a list`, `below it, ${TEST_REMEDY}`);
  if (tests.length > MAX_TESTS)
    return fault(
      `tests has ${tests.length} tests, and ${MAX_TESTS} is the limit`,
      'move some to another list',
    );
  const read = tests.map((test: unknown, i) => readTest(test, `/tests/${i}`));
  return {
    tests: read.flatMap((one) => (one.ok ? [one.value] : [])),
    problems: atMost(
      read.flatMap((one) => (one.ok ? [] : one.problems)),
      MAX_PROBLEMS,
    ),
  };
}

function readTest(test: unknown, pointer: string): Parsed<ListTest> {
  const refused = (detail: string, remedy: string, at = pointer): Parsed<never> => ({
    ok: false,
    problems: [{ detail, remedy, pointer: at }],
  });
  if (!isRecord(test)) return refused(`${shown(test)} is not a test`, TEST_REMEDY);
  const unknown = Object.keys(test).filter((key) => key !== 'allow' && key !== 'deny');
  if (unknown.length > 0)
    return {
      ok: false,
      problems: unknown.map((key) => ({
        detail: `unknown key "${shownKey(key)}" in a test`,
        remedy: TEST_REMEDY,
        pointer: `${pointer}/${escapePointer(key)}`,
        about: { kind: 'key' },
      })),
    };
  const verdicts = (['allow', 'deny'] as const).filter((key) => key in test);
  const [verdict] = verdicts;
  if (verdict === undefined || verdicts.length > 1)
    return refused(
      verdict ? 'a test has allow and deny' : 'a test has neither allow nor deny',
      verdict ? 'write two tests' : TEST_REMEDY,
    );
  const at = `${pointer}/${verdict}`;
  const text = test[verdict];
  if (typeof text !== 'string') return refused(`${shown(text)} is not a destination`, TEST_REMEDY, at);
  const parsed = parseEntry(text);
  if (!parsed.ok) return { ok: false, problems: parsed.problems.map((p) => ({ ...p, pointer: at })) };
  const why = isDest(parsed.value) ? notOneDestination(parsed.value) : 'is a list';
  if (!isDest(parsed.value) || why !== undefined)
    return refused(`"${clipped(text)}" ${why}: a test is for one destination`, TEST_REMEDY, at);
  return { ok: true, value: { verdict, text, to: asConnection(parsed.value) } };
}

/** Why an entry is more than one connection; undefined: it is one. */
function notOneDestination({ target, ports, flags, deny }: DestEntry): string | undefined {
  if (deny) return 'begins with !';
  if (target.kind === 'any') return 'is every public address';
  if (target.kind === 'name' && target.match !== 'exact') return 'is several names';
  if (target.kind === 'address' && target.range.lo !== target.range.hi) return 'is several addresses';
  if (ports.length > 1 || ports.some(({ lo, hi }) => lo !== hi)) return 'has several ports';
  return flags[0] === undefined ? undefined : `has the flag ${flags[0]}`;
}

const HTTPS = { lo: 443, hi: 443 } as const;

/** A destination without port and protocol, and tcp or udp without a port, mean port 443, as explain does. */
function asConnection(to: DestEntry): DestEntry {
  const isOpen =
    effectivePorts(to).some((c) => c.proto === 'tcp' || c.proto === 'udp') && to.ports.length === 0;
  return isOpen ? sealEntry({ ...to, ports: [HTTPS] }) : to;
}

/** YAML 1.1 reads a bare `off` as false, and all YAML a key with nothing but comments below it as null. */
const wordsBack = (body: unknown): unknown =>
  isRecord(body)
    ? { ...body, ...(body.mode === false && { mode: 'off' }), ...(body.allow === null && { allow: [] }) }
    : body;

function nameProblems(name: string): readonly Problem[] {
  if (isListName(name)) return [];
  return [
    {
      detail: `"${name}" is not a list name`,
      remedy: 'use letters, digits, "-", "_" and ".", at most 63 characters',
    },
  ];
}

/** A list that claims no container asks about none. */
function askProblems(
  ask: Parsed<number> | undefined,
  { match }: Record<string, unknown>,
): readonly Problem[] {
  if (ask === undefined) return [];
  if (!ask.ok) return ask.problems.map((p) => ({ ...p, pointer: '/ask' }));
  if (match !== undefined) return [];
  const remedy = 'add "match:" with the containers that the list claims, or set the label drawbridge.ask';
  return [{ detail: 'ask has no effect without match', remedy, pointer: '/ask' }];
}

/**
 * A list from its body: the YAML's fields, `{ description, match, mode, allow, tests }`.
 * @returns every problem (200 at most) at once, with JSON pointers into the body; columns count within a text at its pointer.
 */
export function listFromObject(name: string, source: List['source'], body: unknown): Parsed<List> {
  const value = wordsBack(body);
  if (!isRecord(value))
    return {
      ok: false,
      problems: [
        {
          detail: `a list is a map, not ${typeof value === 'string' ? 'a text' : shown(value)}`,
          remedy: 'write "allow:" and the entries below it',
          pointer: '',
        },
      ],
    };
  // Entries and tests are checked by the grammar, which has better remedies than a schema.
  const { tests: given, ...others } = value;
  const shape = schemaProblems(ListSchema, Array.isArray(value.allow) ? { ...others, allow: [] } : others);
  const { entries, problems: bad } = readAllow(value.allow);
  const { tests, problems: badTests } = readTests(given);
  const ask = typeof value.ask === 'string' ? parseAsk(value.ask) : undefined;
  const problems = [...nameProblems(name), ...shape, ...askProblems(ask, value), ...bad, ...badTests];
  if (problems.length > 0) return { ok: false, problems };
  const { description, hosts, match, mode } = value as Static<typeof ListSchema>;
  const fields = {
    ...(description !== undefined && { description }),
    ...(hosts && { hosts }),
    ...(match && { match }),
    ...(mode && { mode }),
    ...(tests.length > 0 && { tests }),
    ...(ask?.ok && { askMs: ask.value }),
  };
  return { ok: true, value: { name, source, ...fields, allow: entries } };
}
