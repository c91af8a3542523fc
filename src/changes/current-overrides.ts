import { type Static, Type } from '@sinclair/typebox';
import type { FolderState } from '../config/list-files.js';
import type { FolderWatch } from '../config/list-folder.js';
import type { Overrides } from '../enforce/policies.js';
import type { Problem } from '../lib/problem.js';
import { Count, closedObject, Mode, Nullable, Text } from '../lib/schema-parts.js';
import type { ContainerFacts } from '../policy/container.js';
import { composeOf, isOwnerKey, ownerKeys } from '../policy/own-labels.js';
import type { List } from '../policy/policy.js';
import type { ChangesState } from './stored-state.js';

interface Known {
  readonly folder: FolderState;
  readonly version: number;
  /** ms since the epoch. */
  readonly at: number;
  readonly overrides: Overrides;
}

/**
 * What people have decided, as it is now. Every pass asks for it for every container: it is put together again when the folder
 * or the store's state is another one, and while something in it lasts a time, at each other moment. A part that is equal
 * to the one before is the same object, by which policies are kept.
 */
export class CurrentOverrides {
  readonly #folder: Pick<FolderWatch, 'state'>;
  readonly #state: ChangesState;
  #known: Known | undefined;

  constructor(folder: Pick<FolderWatch, 'state'>, state: ChangesState) {
    this.#folder = folder;
    this.#state = state;
  }

  read(now: number): Overrides {
    const folder = this.#folder.state;
    const { version } = this.#state;
    const known = this.#known;
    if (known?.folder === folder && known.version === version && (known.at === now || !this.#hasEnds()))
      return known.overrides;
    const fresh = overridesOf(folder, this.#state, now);
    const overrides = known ? keepParts(known.overrides, fresh) : fresh;
    this.#known = { folder, version, at: now, overrides };
    return overrides;
  }

  #hasEnds(): boolean {
    if (this.#state.pauses.size > 0) return true;
    for (const { value } of this.#state.grants.values()) if (value.expires !== undefined) return true;
    for (const { value } of this.#state.modes.values()) if (value.trial) return true;
    return false;
  }
}

/** Lists of the store and of the folder by name. A file that takes a store list's name is refused (see `nameConflicts`). */
function overridesOf(folder: FolderState, state: ChangesState, now = Date.now()): Overrides {
  const { lists, ...others } = state.current(now);
  return { ...others, lists: new Map([...folder.lists, ...lists]), absent: folder.absent };
}

/** What is set by command for owners of which this host has no container, running or not. Nothing takes it away but a person. */
export const KeptSchema = Type.Object(
  {
    modes: Count,
    grants: Type.Integer({ minimum: 0, description: 'without end' }),
    owners: Type.Array(
      Type.Object(
        {
          owner: Text('compose:PROJECT/SERVICE or name:NAME', 'compose:shop/web'),
          hasProject: Type.Boolean({
            description:
              'its Compose project has containers of other services: it was renamed or removed, and is not just stopped',
          }),
          mode: Nullable(Mode),
          grants: Type.Array(Type.Object({ id: Type.String(), entry: Type.String() }, closedObject)),
        },
        closedObject,
      ),
      { description: 'those with other services first; 100 at most' },
    ),
  },
  {
    ...closedObject,
    description: 'what is set by command for owners of which this host has no container',
  },
);
type Kept = Static<typeof KeptSchema>;
const MOST_OWNERS = 100;

export function keptOf({ modes, grants }: Overrides, containers: Iterable<ContainerFacts>): Kept {
  const here = new Set([...containers].flatMap(ownerKeys));
  const projects = new Set([...here].flatMap((owner) => composeOf(owner)?.project ?? []));
  const open = grants.filter(({ owner }) => isOwnerKey(owner) && !here.has(owner));
  const left = [...modes].filter(([owner]) => !here.has(owner));
  const owners = [...new Set([...left.map(([owner]) => owner), ...open.map(({ owner }) => owner)])].map(
    (owner) => ({
      owner,
      hasProject: projects.has(composeOf(owner)?.project ?? ''),
      mode: modes.get(owner)?.mode ?? null,
      grants: open.filter((g) => g.owner === owner).map(({ id, entry }) => ({ id, entry })),
    }),
  );
  const rank = ({ hasProject, owner }: (typeof owners)[number]): string => `${hasProject ? 0 : 1} ${owner}`;
  owners.sort((a, b) => (rank(a) < rank(b) ? -1 : 1));
  return { modes: left.length, grants: open.length, owners: owners.slice(0, MOST_OWNERS) };
}

/** Another object, because revisions may differ where the values do not. */
const keepParts = (before: Overrides, now: Overrides): Overrides => ({
  ...now,
  lists: hasSameEntries(before.lists, now.lists) ? before.lists : now.lists,
  grants: hasSameItems(before.grants, now.grants) ? before.grants : now.grants,
  modes: hasSameEntries(before.modes, now.modes) ? before.modes : now.modes,
  pauses: hasSameItems(before.pauses, now.pauses) ? before.pauses : now.pauses,
});

const hasSameEntries = <T>(a: ReadonlyMap<string, T>, b: ReadonlyMap<string, T>): boolean =>
  a.size === b.size && [...a].every(([key, value]) => b.get(key) === value);
const hasSameItems = <T>(a: readonly T[], b: readonly T[]): boolean =>
  a.length === b.length && a.every((one, i) => one === b[i]);

/** The store's list stays in force: a file must not change what the API has promised. */
export function nameConflicts(folder: ReadonlyMap<string, List>, state: ChangesState): Problem[] {
  return [...folder.values()]
    .filter((l) => state.lists.has(l.name))
    .map((l) => ({
      detail: `list ${l.name} is in the store already, this file is not used`,
      remedy: `rename the file, or drawbridge lists delete ${l.name}`,
      ...(l.file ? { file: l.file } : {}),
    }));
}

/** The revision of the store up to which its changes are applied to the kernel. */
export class AppliedRevision {
  readonly #revision: () => number;
  /** Newest revision that needed a pass, newest that a pass has read, newest that a pass has brought into force. */
  #needed = 0;
  #read = 0;
  #applied = 0;

  /** @param revision of the store now */
  constructor(revision: () => number) {
    this.#revision = revision;
  }

  /** Something that the kernel depends on has changed in the store. */
  changed(): void {
    this.#needed = this.#revision();
  }

  /** A pass reads the store at its current revision. */
  read(): void {
    this.#read = this.#revision();
  }

  /** The pass was applied. */
  applied(): void {
    this.#applied = this.#read;
  }

  /** Revisions that are newer and need no pass are included. */
  get value(): number {
    return this.#applied >= this.#needed ? this.#revision() : this.#applied;
  }
}
