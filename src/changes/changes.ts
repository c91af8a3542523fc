import type { Reconciler } from '../enforce/reconciler.js';
import type { Logger } from '../lib/log.js';
import { memo } from '../lib/memo.js';
import { type ListParser, listFromObject } from '../policy/list-parse.js';
import type { List } from '../policy/policy.js';
import type { Store } from '../store/store-interface.js';
import type { Audit } from './audit.js';
import { Committer } from './commit.js';
import { type ContainerChangeOptions, ContainerChanges, EmergencyChanges } from './container-changes.js';
import { type ListChangeOptions, ListChanges } from './list-changes.js';
import { type ModeChangeOptions, ModeChanges } from './mode-changes.js';
import { ChangesState, type CurrentChanges } from './stored-state.js';
import { type TokenChangeOptions, TokenChanges } from './token-changes.js';
import { TransferChanges } from './transfer-changes.js';
import type { UnwrittenChanges } from './unwritten-changes.js';

export interface ChangesOptions
  extends Pick<ListChangeOptions, 'folderLists' | 'usedBy'>,
    Pick<ContainerChangeOptions, 'find' | 'now' | 'denied'>,
    Partial<Pick<ModeChangeOptions, 'isDoubted'>> {
  readonly store: Store;
  readonly audit: Pick<Audit, 'record'>;
  readonly reconciler: Pick<Reconciler, 'inForce'>;
  readonly log: Logger;
  /** Tokens of the configuration. */
  readonly tokens?: TokenChangeOptions['configured'];
  /** This host's name in a fleet. */
  readonly node?: string;
  /** Monotonic ms, as of performance.now: what lasts a time ends by it too. */
  readonly monotonic?: () => number;
  /** As `Changes.load` has returned it; left out: it is loaded here. */
  readonly state?: ChangesState;
  /** Reads lists; left out: where they are, however large. */
  readonly parseList?: ListParser;
  /** What `current()` gives has changed (by the API, another instance or time): compile again. */
  onChange(): void;
}

const parseHere: ListParser = async (name, source, body) => listFromObject(name, source, body);

/** After a write that failed at an expiry (disk full) it is tried again; the grant itself counts no longer. */
const RETRY_MS = 60_000;

/**
 * Lists, grants and modes that the API changes. A change is validated, durable, audited, and in force or undone.
 * The changing methods throw RefusedError.
 */
export class Changes {
  readonly #o: ChangesOptions;
  readonly #state: ChangesState;
  readonly lists: ListChanges;
  readonly containers: ContainerChanges;
  readonly modes: ModeChanges;
  readonly emergency: EmergencyChanges;
  readonly tokens: TokenChanges;
  readonly transfer: TransferChanges;
  /** What is in force and could not be stored. */
  readonly unwritten: UnwrittenChanges;
  readonly #moment: NextMoment;
  /** What had ended when a moment was last due. What is still there, as that of a host which is gone, is not waited for again. */
  #ended: ReadonlySet<string> = new Set();
  readonly #subscription: Disposable;

  private constructor(options: ChangesOptions, state: ChangesState) {
    this.#o = options;
    this.#state = state;
    const parse = options.parseList ?? parseHere;
    this.#subscription = state.changed.subscribe(() => this.#changed());
    const committer = new Committer({ ...options, state, onChange: () => this.#changed() });
    this.unwritten = committer.unwritten;
    const shared = { ...options, node: options.node, state, committer, parse };
    const holder = (idOrName: string) => this.containers.holder(idOrName);
    this.lists = new ListChanges(shared);
    this.containers = new ContainerChanges({ ...shared, denied: (facts) => options.denied?.(facts) ?? [] });
    this.modes = new ModeChanges({
      ...shared,
      holder,
      hasList: (name) => state.lists.has(name) || options.folderLists().some((list) => list.name === name),
      isDoubted: () => options.isDoubted?.() ?? false,
    });
    this.emergency = new EmergencyChanges({ ...shared, holder });
    this.tokens = new TokenChanges({ ...shared, configured: options.tokens ?? [] });
    this.transfer = new TransferChanges(shared);
    this.#moment = new NextMoment(
      () => options.now(),
      () => void this.#due(),
      () => state.lasting(options.now()).some((one) => one.left === 0 && !this.#ended.has(one.id)),
    );
  }

  /** What the store holds: policies can be compiled from it before changes are possible. */
  static load(
    options: Pick<ChangesOptions, 'store' | 'log' | 'monotonic' | 'parseList'>,
  ): Promise<ChangesState> {
    const { store, log, monotonic = () => performance.now(), parseList = parseHere } = options;
    return ChangesState.open(store, log, monotonic, parseList);
  }

  /** Load the changes of the store and remove expired ones. `onChange` may be called from here on. */
  static async open(options: ChangesOptions): Promise<Changes> {
    const state = options.state ?? (await Changes.load(options));
    const changes = new Changes(options, state);
    await changes.#due();
    return changes;
  }

  /** The changes of the store without expired grants, pauses and trials. Entries with `expires` are evaluated by the compiler. */
  current(): CurrentChanges {
    return this.#state.current(this.#o.now());
  }

  /** To be called whenever the folder's lists have changed: their entries may expire, too. */
  rearm(): void {
    const lists: readonly List[] = [
      ...[...this.#state.lists.values()].map((s) => s.list),
      ...this.#o.folderLists(),
    ];
    const entries = lists.flatMap(expiriesOf);
    const now = this.#o.now();
    const lasting = this.#state.lasting(now);
    const byMonotonic = lasting
      .filter(({ id, left }) => left > 0 || !this.#ended.has(id))
      // A part of a millisecond is a wait, too. One that is over and still there is looked at again.
      .map(({ left }) => new Date(now + (Math.ceil(left) || STEP_MS)).toISOString());
    this.#moment.arm([...lasting.map(({ expires }) => expires), ...byMonotonic, ...entries]);
  }

  /** Timed grants and pauses die with their container: call it when containers are destroyed, and after the first full list. */
  async forget(isGone: (containerId: string) => boolean): Promise<void> {
    try {
      await this.containers.drop(isGone);
      await this.emergency.drop(isGone);
      await this.modes.drop();
      if (this.modes.isWaiting) this.#moment.again(RETRY_MS);
    } catch (e) {
      this.#o.log.warn(
        { err: e },
        'grants, pauses and trials that are over stay in the store for now (they do not count)',
      );
      this.#moment.again(RETRY_MS);
    }
  }

  /** The store's revision of a key; 0: it does not hold it. */
  revisionOf(key: string): number {
    return this.#state.revisionOf(key);
  }

  close(): void {
    this.unwritten.close();
    this.#moment.stop();
    this.#subscription[Symbol.dispose]();
    this.#state.close();
  }

  #changed(): void {
    this.rearm();
    this.#o.onChange();
  }

  /** A moment has come: what it ends counts no longer, whether or not the store can be written. */
  async #due(): Promise<void> {
    const lasting = this.#state.lasting(this.#o.now());
    this.#ended = new Set(lasting.filter(({ left }) => left === 0).map(({ id }) => id));
    this.#changed();
    await this.forget(() => false);
  }
}

/** Lists are values: what was read off one is read once. */
const expiriesOf = memo((list: List): readonly string[] =>
  list.allow.flatMap((entry) => (entry.kind === 'dest' ? (entry.expires ?? []) : [])),
);

/** A clock may be set, and a timer counts by another: no wait is longer than this. */
const STEP_MS = 10_000;

/**
 * Calls back when the nearest of many moments has come, by the wall clock, however it was set meanwhile; or when
 * `isOver` returns true because another clock shows an end. The timers do not keep the process alive.
 */
export class NextMoment {
  readonly #now: () => number;
  readonly #onDue: () => void;
  readonly #isOver: () => boolean;
  #moments: readonly number[] = [];
  #lookedAt = 0;
  #timer: NodeJS.Timeout | undefined;
  #retry: NodeJS.Timeout | undefined;

  constructor(now: () => number, onDue: () => void, isOver: () => boolean) {
    this.#now = now;
    this.#onDue = onDue;
    this.#isOver = isOver;
  }

  /** `moments`: RFC 3339; those that are over are the caller's to have seen to. */
  arm(moments: Iterable<string | undefined>): void {
    const now = this.#now();
    this.#moments = [...moments]
      .map((m) => (m === undefined ? Number.NaN : Date.parse(m)))
      .filter((t) => t > now);
    this.#wait();
  }

  /** Due in so many ms, whatever is armed. */
  again(ms: number): void {
    clearTimeout(this.#retry);
    this.#retry = setTimeout(() => this.#onDue(), ms).unref();
  }

  stop(): void {
    clearTimeout(this.#timer);
    clearTimeout(this.#retry);
  }

  #wait(): void {
    clearTimeout(this.#timer);
    if (this.#moments.length === 0) return;
    const now = this.#now();
    const ms = this.#moments.reduce((least, t) => Math.min(least, t - now), STEP_MS);
    this.#lookedAt = now;
    this.#timer = setTimeout(() => this.#look(), ms).unref();
  }

  #look(): void {
    const now = this.#now();
    // Set back, or ahead by more than a wait: what a wrong clock had ended or begun may be the other way round now.
    const wasSet = now < this.#lookedAt || now - this.#lookedAt > 2 * STEP_MS;
    if (wasSet || this.#moments.some((t) => t <= now) || this.#isOver()) this.#onDue();
    else this.#wait();
  }
}
