import { randomBytes } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import { type Static, Type } from '@sinclair/typebox';
import { escapePointer, isRecord, shown } from '../lib/json.js';
import { type Parsed, type Problem, refuse, refuseInvalid } from '../lib/problem.js';
import { schemaProblems } from '../lib/schema-check.js';
import { parseEntry } from '../policy/entry-parse.js';
import type { ListParser } from '../policy/list-parse.js';
import { containerOfKey, isOwnerKey } from '../policy/own-labels.js';
import { cyclicLists, type Grant, type List, type Mode, type ModeSetting } from '../policy/policy.js';
import { isTokenName, ROLES, type Token } from '../policy/token.js';
import type { KeyChange } from './change-record.js';
import type { Committer } from './commit.js';
import { deniedGrant } from './container-changes.js';
import { type ChangesState, grantKey, listKey, modeKey, syncKey, tokenKey } from './stored-state.js';

/** All that the API has changed, as one document: what `export` writes and `import` reads. Pure. */

export interface TransferOptions {
  readonly state: ChangesState;
  readonly committer: Committer;
  readonly parse: ListParser;
  /** The lists of the folder in force. */
  folderLists(): readonly List[];
  /** ms since the epoch. */
  now(): number;
}
export interface ImportOptions {
  /** What the document does not have goes. */
  readonly replace: boolean;
  /** Return the plan without changing anything. */
  readonly dryRun: boolean;
}
export interface SyncOptions {
  /** Take over lists of the store that another owner made, instead of refusing them. */
  readonly adopt: boolean;
  readonly dryRun: boolean;
}
type Change = Omit<KeyChange, 'who' | 'action' | 'target'> & {
  readonly kind: PlannedChange['kind'];
  readonly name: string;
};

/** Many things at once: all in force, or none. */
export class TransferChanges {
  readonly #o: TransferOptions;

  constructor(options: TransferOptions) {
    this.#o = options;
  }

  /** The document that `import` reads: everything but what belongs to single containers. */
  export(): Readonly<Record<string, unknown>> {
    const { lists, modes, grants, tokens } = this.#o.state;
    const open = [...grants.values()].map((g) => g.value).filter(isOpenEnded);
    return {
      lists: sorted([...lists].map(([name, stored]) => [name, stored.body])),
      modes: sorted([...modes].flatMap(([owner, { value }]) => lasting(value).map((mode) => [owner, mode]))),
      grants: open.map(({ owner, entry }) => ({ owner, entry })).sort(byText),
      tokens: [...tokens.values()].map((t) => t.value).sort(byText),
    };
  }

  async import(document: unknown, options: ImportOptions, who: string): Promise<readonly PlannedChange[]> {
    const parsed = await everythingFromObject(document, this.#o.parse);
    if (!parsed.ok) return refuseInvalid(parsed.problems);
    const plan = [
      ...this.#lists(parsed.value, options.replace ? [...this.#o.state.lists.keys()] : [], '/lists'),
      ...this.#modes(parsed.value, options.replace),
      ...this.#grants(parsed.value, options.replace),
      ...this.#tokens(parsed.value, options.replace),
    ];
    return this.#make(plan, options.dryRun, 'import', who);
  }

  /** The store's lists of this owner become these: others' are left alone. */
  async sync(
    owner: string,
    bodies: Readonly<Record<string, unknown>>,
    options: SyncOptions,
    who: string,
  ): Promise<readonly PlannedChange[]> {
    const parsed = await listsFromObject(bodies, '/lists', this.#o.parse);
    if (!parsed.ok) return refuseInvalid(parsed.problems);
    return this.#o.committer.serial(`transfer/${owner}`, async () => {
      const { synced } = this.#o.state;
      const owned = synced.get(owner)?.value ?? [];
      const names = [...parsed.value.lists.keys()].sort();
      if (!options.adopt) this.#refuseOthers(names.filter((name) => !owned.includes(name)));
      const plan = this.#lists(parsed.value, owned, '/lists');
      const after = names.length > 0 ? { lists: names } : undefined;
      const before = synced.has(owner) ? { lists: owned } : undefined;
      const ledger: Change = { kind: 'sync', name: owner, key: syncKey(owner), before, after };
      return this.#make([...plan, ...changed([ledger])], options.dryRun, 'sync', who);
    });
  }

  #refuseOthers(names: readonly string[]): void {
    const taken = names.filter((name) => this.#o.state.lists.has(name));
    if (taken.length === 0) return;
    refuse(
      'conflict',
      `${taken.join(', ')} ${taken.length === 1 ? 'is in the store, and was' : 'are in the store, and were'} made by another owner`,
      'rename the files, delete those lists, or take them over with --adopt',
    );
  }

  /** `leaving`: names that go when they are not among the new ones. */
  #lists(wanted: Pick<Everything, 'lists' | 'read'>, leaving: readonly string[], pointer: string): Change[] {
    const { lists } = this.#o.state;
    const gone = leaving.filter((name) => !wanted.lists.has(name) && lists.has(name));
    this.#refuseFolder([...wanted.lists.keys()], pointer);
    for (const [name, body] of wanted.lists) {
      const read = wanted.read.get(name);
      if (read) this.#o.state.remember(body, read);
    }
    this.#refuseCycles(wanted.read, gone, pointer);
    const change = (name: string, after: unknown): Change => ({
      kind: 'list',
      name,
      key: listKey(name),
      before: lists.get(name)?.body,
      after,
    });
    return changed([
      ...[...wanted.lists].map(([name, body]) => change(name, body)),
      ...gone.map((name) => change(name, undefined)),
    ]);
  }

  #refuseFolder(names: readonly string[], pointer: string): void {
    const { state, folderLists } = this.#o;
    const files = folderLists().filter((list) => names.includes(list.name) && !state.lists.has(list.name));
    if (files.length > 0)
      refuseInvalid(
        files.map(({ name, file }) => ({
          detail: `the list ${name} is a file of this host (${file ?? 'in the allowlists folder'})`,
          remedy: 'move the file away, or leave the list out',
          pointer: `${pointer}/${escapePointer(name)}`,
        })),
      );
  }

  #refuseCycles(fresh: ReadonlyMap<string, List>, gone: readonly string[], pointer: string): void {
    const all = new Map(this.#o.folderLists().map((list) => [list.name, list]));
    for (const [name, stored] of this.#o.state.lists) if (!gone.includes(name)) all.set(name, stored.list);
    for (const [name, list] of fresh) all.set(name, list);
    const problems = cyclicLists(all)
      .filter((name) => fresh.has(name))
      .map((name): Problem => {
        const remedy = 'take one of its list: entries out';
        return {
          detail: `the list ${name} would include itself`,
          remedy,
          pointer: `${pointer}/${escapePointer(name)}`,
        };
      });
    if (problems.length > 0) refuseInvalid(problems);
  }

  #modes({ modes }: Everything, replace: boolean): Change[] {
    const known = this.#o.state.modes;
    const lastingOf = (owner: string): readonly Mode[] => lasting(known.get(owner)?.value);
    const fresh = [...modes].filter(([owner, mode]) => !lastingOf(owner).includes(mode));
    const gone = replace ? [...known.keys()].filter((o) => !modes.has(o) && lastingOf(o).length > 0) : [];
    return [
      ...fresh.map(([owner, mode]) => [owner, { mode }] as const),
      ...gone.map((o) => [o] as const),
    ].map(([owner, after]) => ({
      kind: 'mode',
      name: owner,
      key: modeKey(owner),
      before: known.get(owner)?.value,
      after,
    }));
  }

  #grants({ grants }: Everything, replace: boolean): Change[] {
    const known = [...this.#o.state.grants.values()].map((g) => g.value).filter(isOpenEnded);
    const have = new Set(known.map(grantText));
    const wanted = new Map(grants.map((grant) => [grantText(grant), grant]));
    const fresh = [...wanted].filter(([text]) => !have.has(text)).map(([, grant]) => this.#newGrant(grant));
    const gone = replace ? known.filter((grant) => !wanted.has(grantText(grant))) : [];
    const change = (grant: Grant, before: unknown, after: unknown): Change => ({
      kind: 'grant',
      name: `${grant.owner} ${grant.entry}`,
      key: grantKey(grant.id),
      before,
      after,
    });
    return [...fresh.map((g) => change(g, undefined, g)), ...gone.map((g) => change(g, g, undefined))];
  }

  #newGrant({ owner, entry }: Everything['grants'][number]): Grant {
    return {
      id: randomBytes(6).toString('hex'),
      entry,
      owner,
      created: new Date(this.#o.now()).toISOString(),
    };
  }

  #tokens({ tokens }: Everything, replace: boolean): Change[] {
    const known = this.#o.state.tokens;
    const wanted = new Map(tokens.map((token) => [token.name, token]));
    const gone = replace ? [...known.keys()].filter((name) => !wanted.has(name)) : [];
    return changed(
      [...wanted.keys(), ...gone].map((name) => {
        const [before, after] = [known.get(name)?.value, wanted.get(name)];
        const recorded = { before: before && { role: before.role }, after: after && { role: after.role } };
        return { kind: 'token', name, key: tokenKey(name), before, after, recorded };
      }),
    );
  }

  async #make(
    plan: readonly Change[],
    dryRun: boolean,
    action: string,
    who: string,
  ): Promise<readonly PlannedChange[]> {
    if (!dryRun && plan.length > 0) {
      await this.#o.committer.commitAll(
        plan.map(({ kind, name, ...change }) => ({
          ...change,
          who,
          action: `${kind}.${action}`,
          target: name,
        })),
      );
    }
    return plan.filter(({ kind }) => kind !== 'sync').map(planned);
  }
}

/** The mode without what ends: of a trial, what was set before it. */
function lasting(setting: ModeSetting | undefined): readonly Mode[] {
  const left = setting?.trial ? setting.trial.before : setting;
  return left ? [left.mode] : [];
}

const grantText = ({ owner, entry }: Everything['grants'][number]): string => JSON.stringify([owner, entry]);
const isOpenEnded = (grant: Grant): boolean =>
  grant.expires === undefined && containerOfKey(grant.owner) === undefined;
const changed = (plan: readonly Change[]): Change[] =>
  plan.filter(({ before, after }) => !isDeepStrictEqual(before, after));
const sorted = (rows: readonly (readonly [string, unknown])[]): Readonly<Record<string, unknown>> =>
  Object.fromEntries([...rows].sort(([a], [b]) => (a < b ? -1 : 1)));
const byText = (a: object, b: object): number => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1);

function planned({ kind, name, before, after }: Change): PlannedChange {
  const action = after === undefined ? 'delete' : before === undefined ? 'create' : 'update';
  return { action, kind, name };
}

/** One of many changes that are made together. */
export interface PlannedChange {
  readonly action: 'create' | 'update' | 'delete';
  readonly kind: 'list' | 'mode' | 'grant' | 'token' | 'sync';
  /** The list, the owner (and entry of a grant), or the token. */
  readonly name: string;
}

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
interface Everything {
  readonly lists: ReadonlyMap<string, Body>;
  /** The same, read. */
  readonly read: ReadonlyMap<string, List>;
  readonly modes: ReadonlyMap<string, Mode>;
  readonly grants: readonly { readonly owner: string; readonly entry: string }[];
  readonly tokens: readonly Token[];
}

/** Every list of a map of bodies, or every problem of all of them, with pointers that begin with `pointer`. */
async function listsFromObject(
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
  const denied = parsed.ok ? deniedGrant(parsed.value) : undefined;
  if (denied) return { ok: false, problems: [{ ...denied, pointer }] };
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
