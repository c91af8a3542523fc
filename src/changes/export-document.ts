/** All that the API has changed, as one document: what `export` writes and `import` reads. Pure. */
import { type Static, Type } from '@sinclair/typebox';
import { escapePointer, isRecord, shown } from '../lib/json.js';
import type { Parsed, Problem } from '../lib/problem.js';
import { schemaProblems } from '../lib/schema-check.js';
import { parseEntry } from '../policy/entry-parse.js';
import type { ListParser } from '../policy/list-parse.js';
import { isOwnerKey } from '../policy/owner.js';
import type { List, Mode } from '../policy/policy.js';
import { isTokenName, ROLES, type Token } from '../policy/token.js';

const closed = { additionalProperties: false } as const;
const words = <const T extends readonly string[]>(all: T) =>
  Type.Union(all.map((w) => Type.Literal(w as T[number])));

const EverythingSchema = Type.Object(
  {
    lists: Type.Optional(
      Type.Record(Type.String(), Type.Unknown(), { description: 'lists of the store, by name' }),
    ),
    modes: Type.Optional(
      Type.Record(Type.String(), words(['enforce', 'observe', 'off']), { description: 'modes, by owner' }),
    ),
    grants: Type.Optional(
      Type.Array(
        Type.Object(
          {
            owner: Type.String({ pattern: '^(compose|name):.+', examples: ['compose:shop/db'] }),
            entry: Type.String({ examples: ['api.example.com:443'] }),
          },
          closed,
        ),
        { description: 'open-ended grants' },
      ),
    ),
    tokens: Type.Optional(
      Type.Array(
        Type.Object(
          {
            name: Type.String({ minLength: 1 }),
            role: words(ROLES),
            hash: Type.String({ pattern: '^[0-9a-f]{64}$', description: 'SHA-256 of the token, in hex' }),
            created: Type.String(),
            expires: Type.Optional(Type.String()),
            by: Type.String(),
          },
          closed,
        ),
        { description: 'tokens, by their hashes' },
      ),
    ),
  },
  { ...closed, description: 'all settings that were made through the API' },
);

/** A list's body: the fields of its file. */
type Body = Readonly<Record<string, unknown>> & { readonly allow: readonly unknown[] };
export interface Everything {
  readonly lists: ReadonlyMap<string, Body>;
  /** The same, read. */
  readonly read: ReadonlyMap<string, List>;
  readonly modes: ReadonlyMap<string, Mode>;
  readonly grants: readonly { readonly owner: string; readonly entry: string }[];
  readonly tokens: readonly Token[];
}

/** Every list of a map of bodies, or every problem of all of them, with pointers that begin with `pointer`. */
export async function listsFromObject(
  bodies: Readonly<Record<string, unknown>>,
  pointer: string,
  parse: ListParser,
): Promise<Parsed<Pick<Everything, 'lists' | 'read'>>> {
  const [lists, read] = [new Map<string, Body>(), new Map<string, List>()];
  const problems: Problem[] = [];
  for (const [name, body] of Object.entries(bodies)) {
    const parsed = await parse(name, 'store', body ?? {});
    if (parsed.ok) {
      lists.set(name, { allow: [], ...(body as object) });
      read.set(name, parsed.value);
    } else {
      const at = `${pointer}/${escapePointer(name)}`;
      problems.push(...parsed.problems.map((p) => ({ ...p, pointer: `${at}${p.pointer ?? ''}` })));
    }
  }
  return problems.length > 0 ? { ok: false, problems } : { ok: true, value: { lists, read } };
}

/** The document from the object that YAML or JSON gave. */
export async function everythingFromObject(value: unknown, parse: ListParser): Promise<Parsed<Everything>> {
  if (!isRecord(value))
    return {
      ok: false,
      problems: [
        {
          detail: `${shown(value)} is not an export of Drawbridge`,
          remedy: 'write lists:, modes:, grants: and tokens:',
          pointer: '',
        },
      ],
    };
  const frame = schemaProblems(EverythingSchema, value);
  const lists = await listsFromObject(isRecord(value.lists) ? value.lists : {}, '/lists', parse);
  if (frame.length > 0 || !lists.ok)
    return { ok: false, problems: [...frame, ...(lists.ok ? [] : lists.problems)] };
  const { modes = {}, grants = [], tokens = [] } = value as Static<typeof EverythingSchema>;
  const canonical = grants.map(({ owner, entry }, i) => grantOf(owner, entry, `/grants/${i}/entry`));
  const problems = [
    ...Object.keys(modes).flatMap((owner) => ownerProblems(owner, `/modes/${escapePointer(owner)}`)),
    ...grants.flatMap(({ owner }, i) => ownerProblems(owner, `/grants/${i}/owner`)),
    ...canonical.flatMap((g) => (g.ok ? [] : g.problems)),
    ...tokens.flatMap(tokenProblems),
  ];
  if (problems.length > 0) return { ok: false, problems };
  return {
    ok: true,
    value: {
      ...lists.value,
      modes: new Map(Object.entries(modes)),
      grants: canonical.flatMap((g) => (g.ok ? [g.value] : [])),
      tokens: tokens as readonly Token[],
    },
  };
}

function grantOf(owner: string, entry: string, pointer: string): Parsed<Everything['grants'][number]> {
  const parsed = parseEntry(entry);
  if (parsed.ok) return { ok: true, value: { owner, entry: parsed.value.canonical } };
  return { ok: false, problems: parsed.problems.map((p) => ({ ...p, pointer })) };
}

function ownerProblems(owner: string, pointer: string): readonly Problem[] {
  if (isOwnerKey(owner)) return [];
  const remedy = 'write compose:PROJECT/SERVICE, or name:NAME for a container outside of compose';
  return [{ detail: `${shown(owner)} is not the owner of a container`, remedy, pointer }];
}

function tokenProblems({ name }: { readonly name: string }, i: number): readonly Problem[] {
  if (isTokenName(name)) return [];
  return [
    {
      detail: `"${name}" is not a name of a token`,
      remedy: 'use letters, digits and "-_.@"',
      pointer: `/tokens/${i}/name`,
    },
  ];
}
