/** A list from the object that YAML or JSON gave (spec: lists). */
import type { Static } from '@sinclair/typebox';
import { isRecord, shown } from '../lib/json.js';
import { atMost, type Parsed, type Problem } from '../lib/problem.js';
import { schemaProblems } from '../lib/schema-check.js';
import type { Entry } from './entry.js';
import { entryFromObject } from './entry-object.js';
import { duplicateProblem, isListName, parseEntries } from './entry-parse.js';
import { ListSchema } from './list-schema.js';
import type { List } from './policy.js';

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

/** YAML 1.1 reads a bare `off` as false. */
const wordsBack = (body: unknown): unknown =>
  isRecord(body) && body.mode === false ? { ...body, mode: 'off' } : body;

function nameProblems(name: string): readonly Problem[] {
  if (isListName(name)) return [];
  return [
    {
      detail: `"${name}" is not a list name`,
      remedy: 'use letters, digits, "-", "_" and ".", at most 63 characters',
    },
  ];
}

/**
 * A list from its body: the YAML's fields, `{ description, match, mode, allow }`.
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
  // Entries are judged by the grammar, whose remedies are better than a schema's.
  const frame = Array.isArray(value.allow) ? { ...value, allow: [] } : value;
  const shape = schemaProblems(ListSchema, frame);
  const { entries, problems: bad } = readAllow(value.allow);
  const problems = [...nameProblems(name), ...shape, ...bad];
  if (problems.length > 0) return { ok: false, problems };
  const { description, hosts, match, mode } = value as Static<typeof ListSchema>;
  const fields = {
    ...(description !== undefined && { description }),
    ...(hosts && { hosts }),
    ...(match && { match }),
    ...(mode && { mode }),
  };
  return { ok: true, value: { name, source, ...fields, allow: entries } };
}
