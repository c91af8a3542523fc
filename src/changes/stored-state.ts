import { setImmediate as turn } from 'node:timers/promises';
import { Signal } from '../lib/current.js';
import { isRecord, isWithin } from '../lib/json.js';
import type { Logger } from '../lib/log.js';
import type { Parsed } from '../lib/problem.js';
import { type ListParser, listFromObject } from '../policy/list-parse.js';
import type { Emergency, Grant, List, Lockdown, ModeSetting, Pause } from '../policy/policy.js';
import { isModeSetting, isTime, settingOf } from '../policy/policy.js';
import { isToken, type Token } from '../policy/token.js';
import type { Store } from '../store/store-interface.js';

/** How far a clock may be set back without anything being suspended by it (ms). */
const TOLERANCE_MS = 5_000;
/** The wall clock counts whole milliseconds, the monotonic one fractions: a timer's end is no moment too early. */
const FRACTION_MS = 1;

interface Span {
  /** RFC 3339 */
  readonly created: string;
  readonly expires?: string | undefined;
}

/**
 * Ends of things that last a time, by two clocks: the wall clock, which outlives a restart and can be set, and the
 * monotonic one, which counts what this process has seen pass. The earlier end counts: setting the clock back gives
 * no grant more time, and nothing is in force before its own start.
 */
export class Deadlines {
  readonly #monotonic: () => number;
  /** By key: the span it was seen with, and the monotonic moment of its end. */
  readonly #seen = new Map<string, { readonly span: string; readonly until: number }>();

  /** `monotonic`: ms, as of performance.now. */
  constructor(monotonic: () => number) {
    this.#monotonic = monotonic;
  }

  /** Either clock has ended it. `now`: ms since the epoch. */
  #isOver(key: string, span: Span, now: number): boolean {
    if (span.expires === undefined) return false;
    return Date.parse(span.expires) <= now || this.#until(key, span, now) <= this.#monotonic() + FRACTION_MS;
  }

  /** In force: neither over, nor begun in what the wall clock calls the future. */
  isInForce(key: string, span: Span, now: number): boolean {
    if (span.expires === undefined) return true;
    return !this.#isOver(key, span, now) && Date.parse(span.created) - TOLERANCE_MS <= now;
  }

  /**
   * What remains (ms) of a thing that the wall clock must not end early: the wall clock counts for the time before it was first seen
   * here, and from then on the monotonic clock alone.
   */
  remaining(key: string, span: Span, now: number): number {
    return Math.max(0, this.#until(key, span, now) - this.#monotonic() - FRACTION_MS);
  }

  /** Its time has passed, so that it can be deleted. One that only the wall clock has ended may come back: the clock may be set right. */
  hasPassed(key: string, span: Span, now: number): boolean {
    return span.expires !== undefined && this.remaining(key, span, now) === 0;
  }

  forget(key: string): void {
    this.#seen.delete(key);
  }

  /** What remains by the wall clock when it is first seen, but never more than it was made for. */
  #until(key: string, { created, expires = '' }: Span, now: number): number {
    const span = `${created} ${expires}`;
    const seen = this.#seen.get(key);
    if (seen?.span === span) return seen.until;
    const end = Date.parse(expires);
    const until = this.#monotonic() + Math.min(end - now, end - Date.parse(created));
    this.#seen.set(key, { span, until });
    return until;
  }
}

/**
 * The changes of the API in the store (keys: list/NAME, grant/ID, mode/OWNER, pause/OWNER, lockdown/all,
 * token/NAME, sync/OWNER).
 */
export interface CurrentChanges extends Emergency {
  readonly lists: ReadonlyMap<string, List & { readonly revision: number }>;
  /** Expired grants are left out. */
  readonly grants: readonly Grant[];
  /** What counts now: after a trial, what was set before it. */
  readonly modes: ReadonlyMap<string, ModeSetting>;
}

/** A list's body: the fields of the YAML file, as they were given. */
export interface ListBody {
  readonly allow: readonly unknown[];
  readonly [field: string]: unknown;
}
export interface StoredList {
  readonly list: List & { readonly revision: number };
  readonly body: ListBody;
}

export const listKey = (name: string): string => `list/${name}`;
export const grantKey = (id: string): string => `grant/${id}`;
export const modeKey = (owner: string): string => `mode/${owner}`;
export const pauseKey = (owner: string): string => `pause/${owner}`;
export const tokenKey = (name: string): string => `token/${name}`;
export const syncKey = (owner: string): string => `sync/${owner}`;
export const LOCKDOWN_KEY = 'lockdown/all';

const KINDS = ['list', 'grant', 'mode', 'pause', 'lockdown', 'token', 'sync'] as const;
type Kind = (typeof KINDS)[number];

interface Lasting {
  /** The key and the revision. */
  readonly id: string;
  /** RFC 3339; undefined: the wall clock does not end it. */
  readonly expires: string | undefined;
  readonly left: number;
}

interface Revised<T> {
  readonly value: T;
  readonly revision: number;
}

/** The store's content in memory, parsed. Older or equal revisions of a key are ignored: they are our own echo. */
export class ChangesState {
  readonly lists = new Map<string, StoredList>();
  readonly grants = new Map<string, Revised<Grant>>();
  /** As they are stored: a trial may be over. */
  readonly modes = new Map<string, Revised<ModeSetting>>();
  readonly pauses = new Map<string, Revised<Pause>>();
  readonly tokens = new Map<string, Revised<Token>>();
  /** By owner: the lists that `sync` made. */
  readonly synced = new Map<string, Revised<readonly string[]>>();
  lockdown: Lockdown | undefined;
  readonly deadlines: Deadlines;
  /** The store has changed a value of this state, or a large list that came from the store has been read. */
  readonly changed = new Signal();
  #watch: Disposable | undefined;
  /** The revision of each key of the store, unreadable values included. */
  readonly #revisions = new Map<string, number>();
  #version = 0;
  /** Bodies that have been read, with the list that each is. */
  readonly #parsed = new WeakMap<object, Parsed<List>>();
  /** By key: the revision that is being read. */
  readonly #reading = new Map<string, number>();
  readonly #log: Logger;
  readonly #parse: ListParser;

  /** `monotonic`: ms, as of performance.now. `parse` reads large lists elsewhere than on the event loop. */
  constructor(log: Logger, monotonic: () => number, parse: ListParser) {
    this.#log = log;
    this.#parse = parse;
    this.deadlines = new Deadlines(monotonic);
  }

  /** Load what the store holds, and follow its changes from then on. */
  static async open(
    store: Store,
    log: Logger,
    monotonic: () => number,
    parse: ListParser,
  ): Promise<ChangesState> {
    const state = new ChangesState(log, monotonic, parse);
    await state.load(store);
    state.#watch = store.watch((item) => {
      if (state.apply(item.key, item.value, item.revision)) state.changed.emit();
    });
    return state;
  }

  close(): void {
    this.#watch?.[Symbol.dispose]();
  }

  async load(store: Store): Promise<void> {
    for (const kind of KINDS) {
      for (const item of await store.list(`${kind}/`)) {
        if (kind === 'list') await this.#prepare(partsOf(item.key).name, item.value);
        this.apply(item.key, item.value, item.revision);
      }
    }
  }

  /** Counts the changes of this state. */
  get version(): number {
    return this.#version;
  }

  /** The list of a body, read before the body is stored: it is not read again when it is applied. */
  remember(body: object, list: List): void {
    this.#parsed.set(body, { ok: true, value: list });
  }

  /**
   * True: something changed. `value` undefined: the key is gone. A large list that was not read here (another host made it)
   * is read first: until then the previous version stays, and `changed` is emitted when it has changed.
   */
  apply(key: string, value: unknown, revision: number): boolean {
    if (revision <= this.revisionOf(key)) return false;
    const { kind, name } = partsOf(key);
    if (!kind) return false;
    if (kind === 'list' && isUnread(value, this.#parsed)) {
      void this.#applyLate(key, name, value, revision);
      return false;
    }
    this.#reading.delete(key);
    this.#version += 1;
    const known = this.#revisions.delete(key);
    this.#forget(kind, name);
    if (value === undefined) {
      this.deadlines.forget(key);
      return known;
    }
    this.#revisions.set(key, revision);
    this.#set(kind, name, value, revision);
    return true;
  }

  /** Applies what the store does not hold; the revision stays that of the stored value, which a later write must name. */
  override(key: string, value: unknown): void {
    const { kind, name } = partsOf(key);
    if (!kind) return;
    const revision = this.revisionOf(key);
    this.#version += 1;
    this.#forget(kind, name);
    if (value !== undefined) this.#set(kind, name, value, revision);
    else if (revision === 0) this.deadlines.forget(key);
  }

  async #applyLate(key: string, name: string, value: object, revision: number): Promise<void> {
    if (revision <= (this.#reading.get(key) ?? 0)) return;
    this.#reading.set(key, revision);
    // A change of our own is reported here a moment before it is applied by what made it.
    await turn();
    if (this.#reading.get(key) !== revision) return;
    await this.#prepare(name, value);
    // What came meanwhile is newer, or the key is gone.
    if (this.#reading.get(key) !== revision) return;
    if (this.apply(key, value, revision)) this.changed.emit();
  }

  async #prepare(name: string, body: unknown): Promise<void> {
    if (isRecord(body)) this.#parsed.set(body, await this.#parse(name, 'store', body));
  }

  /** `now`: ms since the epoch. */
  current(now: number): CurrentChanges {
    const inForce = (key: string, span: Grant | Pause): boolean => this.deadlines.isInForce(key, span, now);
    return {
      lists: new Map([...this.lists].map(([name, stored]) => [name, stored.list])),
      grants: [...this.grants.values()].map((g) => g.value).filter((g) => inForce(grantKey(g.id), g)),
      modes: new Map(
        [...this.modes.keys()].flatMap((owner) => {
          const setting = this.modeOf(owner, now);
          return setting ? [[owner, setting] as const] : [];
        }),
      ),
      pauses: [...this.pauses.values()].map((p) => p.value).filter((p) => inForce(pauseKey(p.owner), p)),
      lockdown: this.lockdown,
    };
  }

  /** The mode that is set for an owner now: after a trial, what was set before it. */
  modeOf(owner: string, now: number): ModeSetting | undefined {
    const setting = this.modes.get(owner)?.value;
    const left = this.trialLeft(owner, now);
    return left !== undefined && left <= 0 ? setting?.trial?.before : setting;
  }

  /** What remains (ms) of the trial of an owner; undefined: it is not on trial. */
  trialLeft(owner: string, now: number): number | undefined {
    const trial = this.modes.get(owner)?.value.trial;
    return trial && this.deadlines.remaining(modeKey(owner), trial, now);
  }

  /** Grants, pauses and trials that last a time, and what remains of it (ms); 0: it has ended, and is not taken out yet. */
  lasting(now: number): readonly Lasting[] {
    const { grants, pauses, modes, deadlines } = this;
    const spans = [
      ...[...grants.values()].map(({ value, revision }) => ({ key: grantKey(value.id), value, revision })),
      ...[...pauses.values()].map(({ value, revision }) => ({ key: pauseKey(value.owner), value, revision })),
    ].filter(({ value }) => value.expires !== undefined);
    return [
      ...spans.map(({ key, value, revision }) => ({
        id: `${key} ${revision}`,
        expires: value.expires,
        left: deadlines.remaining(key, value, now),
      })),
      ...[...modes].flatMap(([owner, { revision }]) => {
        const left = this.trialLeft(owner, now);
        return left === undefined ? [] : [{ id: `${modeKey(owner)} ${revision}`, expires: undefined, left }];
      }),
    ];
  }

  /** 0: the store does not hold the key. */
  revisionOf(key: string): number {
    return this.#revisions.get(key) ?? 0;
  }

  /** Its end by the monotonic clock stays: a later revision of the same span, as after a lost history of Redis, lasts no longer. */
  #forget(kind: Kind, name: string): void {
    if (kind === 'lockdown') this.lockdown = undefined;
    else this.#mapOf(kind).delete(name);
  }

  #mapOf(kind: Exclude<Kind, 'lockdown'>): Map<string, unknown> {
    const { lists, grants, modes, pauses, tokens, synced } = this;
    return { list: lists, grant: grants, mode: modes, pause: pauses, token: tokens, sync: synced }[kind];
  }

  /** Leave out values that this version cannot read (they allow nothing), and log them. */
  #set(kind: Kind, name: string, value: unknown, revision: number): void {
    if (kind === 'list') this.#setList(name, value, revision);
    else if (kind === 'grant' && isGrant(value)) this.grants.set(name, { value, revision });
    else if (kind === 'mode' && isModeSetting(value))
      this.modes.set(name, { value: settingOf(value), revision });
    else if (kind === 'pause' && isPause(value)) this.pauses.set(name, { value, revision });
    else if (kind === 'lockdown') this.lockdown = lockdownOf(value);
    else if (kind === 'token' && isToken(value)) this.tokens.set(name, { value, revision });
    else if (kind === 'sync' && isSynced(value)) this.synced.set(name, { value: value.lists, revision });
    else
      this.#log.error(
        { key: `${kind}/${name}` },
        'the store holds a value that this version cannot read; left out',
      );
  }

  #setList(name: string, value: unknown, revision: number): void {
    const parsed = (isRecord(value) && this.#parsed.get(value)) || listFromObject(name, 'store', value);
    if (parsed.ok && isListBody(value)) {
      this.lists.set(name, { list: { ...parsed.value, revision }, body: value });
    } else {
      const problems = parsed.ok ? [] : parsed.problems;
      this.#log.error(
        { list: name, problems },
        'a stored list does not parse; it allows nothing until it is written again',
      );
    }
  }
}

function partsOf(key: string): { readonly kind: Kind | undefined; readonly name: string } {
  const slash = key.indexOf('/');
  const word = key.slice(0, slash);
  return { kind: KINDS.find((kind) => kind === word), name: key.slice(slash + 1) };
}

/** Some hundred entries are read where they are. */
const SMALL_CHARACTERS = 12_000;

function isUnread(value: unknown, parsed: WeakMap<object, unknown>): value is object {
  return isRecord(value) && !parsed.has(value) && !isWithin(value, SMALL_CHARACTERS);
}

function isListBody(value: unknown): value is ListBody {
  return isRecord(value) && Array.isArray(value.allow);
}

function isGrant(value: unknown): value is Grant {
  return (
    isRecord(value) && ['id', 'entry', 'owner', 'created'].every((field) => typeof value[field] === 'string')
  );
}

function isSynced(value: unknown): value is { readonly lists: readonly string[] } {
  return isRecord(value) && Array.isArray(value.lists) && value.lists.every((l) => typeof l === 'string');
}

function isPause(value: unknown): value is Pause {
  return (
    isRecord(value) &&
    ['owner', 'created', 'expires', 'by'].every((field) => typeof value[field] === 'string') &&
    [value.created, value.expires].every(isTime)
  );
}

/** A lockdown that cannot be read is one all the same: it only tightens. */
function lockdownOf(value: unknown): Lockdown {
  const { since, by } = isRecord(value) ? value : {};
  return { since: typeof since === 'string' ? since : '', by: typeof by === 'string' ? by : 'unknown' };
}

/** A host that was removed leaves grants and pauses in the store. After this time every host may remove them. */
const ABANDONED_MS = 86_400_000;

/** What belongs to a container is its own host's to tidy up: only that knows whether the container is still there. */
export function isOurs(
  thing: { readonly node?: string; readonly expires?: string },
  node: string | undefined,
  now: number,
): boolean {
  if (thing.node === undefined || thing.node === node) return true;
  return thing.expires !== undefined && Date.parse(thing.expires) + ABANDONED_MS < now;
}
