import { matchesAny } from '../lib/glob.js';
import { isRecord } from '../lib/json.js';
import { memo } from '../lib/memo.js';
import type { Problem } from '../lib/problem.js';
import type { DestEntry, Entry } from './entry.js';
import { isDest } from './entry-parse.js';
import type { Limits } from './limits.js';
import { idKey } from './own-labels.js';

export type Mode = 'enforce' | 'observe' | 'off';

/** An allowlist (docs/lists.md), from the folder or the store. */
export interface List {
  readonly name: string;
  readonly source: 'folder' | 'store';
  /** The file it came from (folder) */
  readonly file?: string;
  readonly description?: string;
  /** Globs of the hosts (`node`) where it counts; absent: at all. */
  readonly hosts?: readonly string[];
  readonly match?: ListMatch;
  readonly mode?: Mode;
  /** For the containers that it claims: how long what is denied waits for a person, ms. */
  readonly askMs?: number;
  readonly allow: readonly Entry[];
  /** What `drawbridge check` expects of the entries. They have no effect on a policy. */
  readonly tests?: readonly ListTest[];
}
/** The verdict that the entries of a list must have for one destination. */
export interface ListTest {
  readonly verdict: 'allow' | 'deny';
  /** As it is written. */
  readonly text: string;
  /** With the port that a connection would have: without one, 443 of tcp. */
  readonly to: DestEntry;
}
export interface ListMatch {
  readonly name?: string;
  readonly image?: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly network?: string;
}
/** Where an entry of a policy came from, for explain and for revoke's hint. */
export const SOURCES = ['list', 'claim', 'baseline', 'grant'] as const;
export type EntrySource =
  | { readonly kind: 'label' }
  /** The name of the list, or the id of the grant. */
  | { readonly kind: (typeof SOURCES)[number]; readonly name: string };
export interface PolicyEntry {
  readonly entry: DestEntry;
  readonly source: EntrySource;
}
/** A grant by API or CLI. Open-ended ones belong to `owner`; timed ones to one container id. */
export interface Grant {
  readonly id: string;
  readonly entry: string;
  /** Owner key: "compose:PROJECT/SERVICE" or "name:NAME" (open-ended), "id:CONTAINER" (timed). */
  readonly owner: string;
  /** The host of the container (timed); absent in what older versions wrote. */
  readonly node?: string;
  readonly created: string;
  /** RFC 3339 UTC */
  readonly expires?: string;
}
/** A mode that was set by API or CLI for an owner. */
export interface ModeSetting {
  readonly mode: Mode;
  /** Of mode observe: what is recorded is what this list would deny, in place of the policy. */
  readonly against?: Evaluation;
  /** Of mode enforce: it ends by itself. */
  readonly trial?: Trial;
}
interface Evaluation {
  readonly list: string;
  /** RFC 3339 UTC */
  readonly since: string;
}
export interface Trial {
  /** The host that ends it in the store. */
  readonly node?: string;
  /** RFC 3339 UTC */
  readonly created: string;
  readonly expires: string;
  /** What counts again afterwards; absent: labels, claims and the default decide. */
  readonly before?: ModeSetting;
}
type Fields = Readonly<Record<string, unknown>>;

export const isTime = (time: unknown): boolean => typeof time === 'string' && !Number.isNaN(Date.parse(time));

/** A setting as it was stored; older versions wrote the mode alone. */
export function isModeSetting(value: unknown): value is Pick<ModeSetting, 'mode'> & Fields {
  return isRecord(value) && (value.mode === 'enforce' || value.mode === 'observe' || value.mode === 'off');
}

/** A trial that cannot be read never ends: it only tightens. */
export function settingOf({ mode, trial, against }: Pick<ModeSetting, 'mode'> & Fields): ModeSetting {
  return {
    mode,
    ...(mode === 'observe' && isEvaluation(against) ? { against } : {}),
    ...(mode === 'enforce' && isTrial(trial) ? { trial } : {}),
  };
}

const isEvaluation = (value: unknown): value is Evaluation =>
  isRecord(value) && typeof value.list === 'string' && isTime(value.since);

const isTrial = (value: unknown): value is Trial =>
  isRecord(value) &&
  isTime(value.created) &&
  isTime(value.expires) &&
  (value.before === undefined || isModeSetting(value.before));

export const MODE_SOURCES = [
  'api',
  'label',
  'broken label',
  'has entries',
  'default',
  'pause',
  'lockdown',
  'store in doubt',
  /** The mode of what is no container, from the configuration. */
  'unattributed',
] as const;
/** What set a mode. `name` is the list that claims the container. */
export type ModeSource =
  | { readonly kind: (typeof MODE_SOURCES)[number] }
  | { readonly kind: 'claim'; readonly name: string };

export interface Policy {
  readonly mode: Mode;
  readonly modeSource: ModeSource;
  /** Those that permit. */
  readonly entries: readonly PolicyEntry[];
  /** Deny entries, each of which beats all that permit; absent: none. */
  readonly denied?: readonly PolicyEntry[];
  readonly lists: readonly string[];
  /** Mode enforce is on trial until then (RFC 3339 UTC). */
  readonly trialUntil?: string;
  /** The entries are those of this list and of the baseline: the container is observed, and its own policy is not evaluated. */
  readonly against?: Evaluation;
  /** From its own label. They hold while it is enforced. */
  readonly limits?: Limits;
  /** What no entry permits waits so long for the decision of a person (ms), while the container is enforced; absent: it is denied at once. */
  readonly askMs?: number;
  /** Reasons that belong in coverage: broken labels, missing lists, ignored image labels. */
  readonly notes: readonly PolicyNote[];
}
/** `code` marks the notes that are counted in the status; other notes have none. */
export interface PolicyNote extends Problem {
  readonly code?: typeof BROKEN_LABEL | typeof MISSING_LIST;
}
/** A drawbridge.* label does not parse, or is unknown: the container is enforced with an empty policy. */
export const BROKEN_LABEL = 'broken-label';
/** A list that a label, another list or the baseline names does not exist. */
export const MISSING_LIST = 'missing-list';

const refsOf = (list: List | undefined): readonly string[] =>
  list?.allow.flatMap((entry) => (isDest(entry) ? [] : [entry.list])) ?? [];

/** A list on the path of the walk: `next` is the reference that is followed next. */
interface Step {
  readonly name: string;
  readonly refs: readonly string[];
  next: number;
}

/**
 * Tarjan's strongly connected components, without recursion: each list and each reference is visited once. Lists that reach each
 * other are one component.
 */
class Components {
  readonly cyclic = new Set<string>();
  readonly #lists: ReadonlyMap<string, List>;
  readonly #index = new Map<string, number>();
  readonly #low = new Map<string, number>();
  readonly #open: string[] = [];
  readonly #isOpen = new Set<string>();

  constructor(lists: ReadonlyMap<string, List>) {
    this.#lists = lists;
    for (const name of lists.keys()) if (!this.#index.has(name)) this.#walk(name);
  }

  #walk(from: string): void {
    const path = [this.#enter(from)];
    for (let step = path.at(-1); step !== undefined; step = path.at(-1)) {
      const ref = step.refs[step.next++];
      if (ref === undefined) {
        path.pop();
        this.#leave(step, path.at(-1));
      } else if (!this.#index.has(ref) && this.#lists.has(ref)) path.push(this.#enter(ref));
      else if (this.#isOpen.has(ref)) this.#lower(step.name, this.#index.get(ref) ?? 0);
    }
  }

  #enter(name: string): Step {
    const index = this.#index.size;
    this.#index.set(name, index);
    this.#low.set(name, index);
    this.#open.push(name);
    this.#isOpen.add(name);
    return { name, refs: refsOf(this.#lists.get(name)), next: 0 };
  }

  #lower(name: string, to: number): void {
    this.#low.set(name, Math.min(this.#low.get(name) ?? to, to));
  }

  #leave({ name, refs }: Step, parent: Step | undefined): void {
    const low = this.#low.get(name) ?? 0;
    if (parent) this.#lower(parent.name, low);
    if (low !== this.#index.get(name)) return;
    const component = this.#open.splice(this.#open.lastIndexOf(name));
    for (const one of component) this.#isOpen.delete(one);
    if (component.length > 1 || refs.includes(name)) for (const one of component) this.cyclic.add(one);
  }
}

/** Names of the lists that include themselves, directly or through others. */
export function cyclicLists(lists: ReadonlyMap<string, List>): readonly string[] {
  const { cyclic } = new Components(lists);
  return [...lists.keys()].filter((name) => cyclic.has(name));
}

/** Whether a list counts at this host: its `hosts` has a glob that fits, or it has none. */
export const isForHost = ({ hosts }: Pick<List, 'hosts'>, node: string | undefined): boolean =>
  hosts === undefined || (node !== undefined && matchesAny(hosts, node));

/**
 * A moment, and the span around it within which every comparison that was made with it has the same result. Both ends count,
 * because a clock can be set back.
 */
export class Moment {
  readonly #now: number;
  #from = Number.NEGATIVE_INFINITY;
  #until = Number.POSITIVE_INFINITY;

  /** `now`: ms since the epoch. */
  constructor(now: number) {
    this.#now = now;
  }

  static at(now: number | Moment): Moment {
    return typeof now === 'number' ? new Moment(now) : now;
  }

  /** Whether the time has come. False for a time that is no number. */
  hasReached(time: number): boolean {
    const isReached = time <= this.#now;
    if (isReached) this.#from = Math.max(this.#from, time);
    else if (!Number.isNaN(time)) this.#until = Math.min(this.#until, time);
    return isReached;
  }

  /** The span within which the comparisons of both have the same results. */
  and(other: Moment): Moment {
    const both = new Moment(this.#now);
    both.#from = Math.max(this.#from, other.#from);
    both.#until = Math.min(this.#until, other.#until);
    return both;
  }

  /** Whether each comparison would have the same result at this time. */
  covers(time: number): boolean {
    return this.#from <= time && time < this.#until;
  }
}

type GrantIndex = ReadonlyMap<string, readonly Grant[]>;
/** The same index for the same array. */
export const grantsByOwner = memo((grants: readonly Grant[]): GrantIndex => {
  const index = new Map<string, Grant[]>();
  for (const grant of grants) {
    const found = index.get(grant.owner);
    if (found) found.push(grant);
    else index.set(grant.owner, [grant]);
  }
  return index;
});

// What people do in an emergency, laid over every policy.

/** No enforcement for a time. */
export interface Pause {
  /** "all", or "id:CONTAINER": a pause dies with its container. */
  readonly owner: string;
  /** The host of the container. */
  readonly node?: string;
  /** RFC 3339 UTC */
  readonly created: string;
  readonly expires: string;
  readonly by: string;
}
/** Every container has an empty policy until it is ended. */
export interface Lockdown {
  /** RFC 3339 UTC */
  readonly since: string;
  readonly by: string;
}
export const PAUSE_ALL = 'all';

export interface Emergency {
  readonly lockdown: Lockdown | undefined;
  /** Those in force now. */
  readonly pauses: readonly Pause[];
}

/** The pause that ends last for a container, its own or that of all. */
export function pauseOf({ pauses }: Emergency, containerId: string): Pause | undefined {
  const holding = pauses.filter((p) => p.owner === PAUSE_ALL || p.owner === idKey(containerId));
  return holding.reduce<Pause | undefined>(
    (longest, p) => (longest && Date.parse(longest.expires) >= Date.parse(p.expires) ? longest : p),
    undefined,
  );
}

/** Lockdown beats everything; a pause makes an enforced container an observed one (threats hold in both). */
export function underEmergency(policy: Policy, emergency: Emergency, containerId: string): Policy {
  if (emergency.lockdown) return lockedDown(policy);
  if (policy.mode !== 'enforce' || !pauseOf(emergency, containerId)) return policy;
  return { ...policy, mode: 'observe', modeSource: { kind: 'pause' } };
}

export const lockedDown = (policy: Policy): Policy => ({
  mode: 'enforce',
  modeSource: { kind: 'lockdown' },
  entries: [],
  lists: [],
  ...(policy.trialUntil === undefined ? {} : { trialUntil: policy.trialUntil }),
  ...(policy.against ? { against: policy.against } : {}),
  ...(policy.limits ? { limits: policy.limits } : {}),
  notes: policy.notes,
});
