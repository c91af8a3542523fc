import type { Overrides } from '../enforce/policies.js';
import type { Exec } from '../kernel/exec.js';
import {
  formatRecord,
  type RecordSets,
  readStoreRecord,
  type StoreRecord,
  writeStoreRecord,
} from '../kernel/store-record.js';
import { contained } from '../lib/faults.js';
import type { Logger } from '../lib/log.js';
import { errorText, type Problem, RefusedError } from '../lib/problem.js';
import type { ContainerFacts } from '../policy/container.js';
import { ownerIsCertain, ownerKey } from '../policy/own-labels.js';
import type { Grant, List, Lockdown, Mode, Pause, Policy } from '../policy/policy.js';
import { byStrictness } from '../policy/policy-compile.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { Store } from '../store/store-interface.js';
import { grantKey, listKey, modeKey, pauseKey } from './stored-state.js';

/** Why the store is not believed: the kernel remembers another one, or a later state of it. */
export interface Doubt {
  readonly reason: string;
  /** RFC 3339 UTC */
  readonly since: string;
  /** The revision of the store when the doubt arose, undefined until it is known. People who knew of it made newer changes. */
  readonly revision: number | undefined;
  /** The mode of each container in the kernel when the doubt arose. Containers that the kernel did not know are missing. */
  readonly modes: ReadonlyMap<string, Mode>;
  /** The lockdown that was in force in the kernel and that no person has ended since. */
  readonly lockdown: Lockdown | undefined;
}

export const DOUBT_REMEDY =
  'put back a backup of the state folder and restart the service, or accept the store as it is now: drawbridge store accept';

/** The store's revision of a key; 0: it does not hold it. */
type RevisionOf = (key: string) => number;

/** Whether a person has decided this since the doubt arose. */
const isNewer = ({ revision }: Doubt, key: string, of: RevisionOf): boolean =>
  revision !== undefined && of(key) > revision;

/** No mode is looser than it was in the kernel, and unknown containers are enforced, unless a person has decided since. */
export function underDoubt(policy: Policy, doubt: Doubt, facts: ContainerFacts, of: RevisionOf): Policy {
  const isDecided =
    policy.modeSource.kind === 'pause' ||
    (policy.modeSource.kind === 'api' &&
      ownerIsCertain(facts) &&
      isNewer(doubt, modeKey(ownerKey(facts)), of));
  const floor = doubt.modes.get(facts.id) ?? 'enforce';
  if (isDecided || byStrictness(policy.mode, floor) <= 0) return policy;
  const detail = `${doubt.reason}: the mode ${policy.mode} of the container has no effect, and it stays ${floor === 'enforce' ? 'enforced' : 'observed'}`;
  return {
    ...policy,
    mode: floor,
    modeSource: { kind: 'store in doubt' },
    notes: [...policy.notes, { detail, remedy: DOUBT_REMEDY }],
  };
}

/** Pauses from before the doubt are not honoured. */
export const pausesUnderDoubt = (pauses: readonly Pause[], doubt: Doubt, of: RevisionOf): readonly Pause[] =>
  pauses.filter((p) => isNewer(doubt, pauseKey(p.owner), of));

/** Lists of the folder, and lists of the store that are newer than the doubt. An old backup contains entries that were revoked. */
const listsUnderDoubt = (
  lists: ReadonlyMap<string, List>,
  doubt: Doubt,
  of: RevisionOf,
): ReadonlyMap<string, List> =>
  new Map([...lists].filter(([name, l]) => l.source !== 'store' || isNewer(doubt, listKey(name), of)));

/** Why each list that is left out adds nothing. */
const absentUnderDoubt = (
  lists: ReadonlyMap<string, List>,
  believed: ReadonlyMap<string, List>,
  doubt: Doubt,
): readonly (readonly [string, Problem])[] =>
  [...lists.keys()]
    .filter((name) => !believed.has(name))
    .map((name) => [
      name,
      { detail: `list ${name} of the store is not in force: ${doubt.reason}`, remedy: DOUBT_REMEDY },
    ]);

const grantsUnderDoubt = (grants: readonly Grant[], doubt: Doubt, of: RevisionOf): readonly Grant[] =>
  grants.filter((g) => isNewer(doubt, grantKey(g.id), of));

/** What was found, and what the kernel remembers. */
interface StoreSight {
  readonly id: string;
  readonly revision: number;
}

/** Returns undefined when the store is the one that the kernel remembers, or a later state of it. */
export function doubtOf(
  now: StoreSight,
  known: StoreSight & { readonly found?: StoreSight },
): string | undefined {
  if (now.id === '')
    return 'the store does not answer and has no copy on this host, so its content is not known';
  if (now.id !== known.id)
    return 'the store is not the one that this host enforced by (the state folder was emptied or exchanged, or another store is configured)';
  // Once an older state was found, new changes make its revision grow: only a person can end that doubt.
  const { found } = known;
  if (found?.id === known.id)
    return `the store was put back to revision ${found.revision}, and this host had enforced by revision ${known.revision} (an old backup, or lost writes)`;
  if (now.revision < known.revision)
    return `the store is at revision ${now.revision}, and this host enforced by revision ${known.revision} (an old backup was put back, or writes were lost)`;
  return undefined;
}

export interface StoreTrustOptions {
  readonly store: Pick<Store, 'identity' | 'revision' | 'health' | 'replacement' | 'takeOver'>;
  /** The embedded store is whole once it is open; Redis may answer later. */
  readonly isShared: boolean;
  readonly sets: RecordSets;
  readonly run: Exec;
  readonly prefix: string;
  /** Prefixes of earlier starts. Their record is used when the current prefix has none. */
  readonly former: readonly string[];
  readonly log: Logger;
  /** Modes in force now, by container, without those of pauses; undefined before the first pass. */
  readonly modes: () => ReadonlyMap<string, Mode> | undefined;
  readonly onChange: () => void;
  /** ms since the epoch. */
  readonly now: () => number;
}

/** The mode of each container in the kernel now. A pause is not a mode. */
export const modesInForce = ({
  subjects: members,
}: Pick<AppliedState, 'subjects'>): ReadonlyMap<string, Mode> =>
  new Map(
    [...members.values()].flatMap((m) =>
      m.policy.modeSource.kind === 'pause' ? [] : [[m.id, m.policy.mode]],
    ),
  );

/** So long (ms) changes of the store are gathered before the kernel's record follows. */
const GATHER_MS = 50;
const NOT_READ = 'the kernel’s record of the store cannot be read (it is damaged, or of a newer version)';

function saidUnderDoubt(said: Overrides, doubt: Doubt, of: RevisionOf): Overrides {
  const lists = listsUnderDoubt(said.lists, doubt, of);
  return {
    ...said,
    lists,
    absent: new Map([...said.absent, ...absentUnderDoubt(said.lists, lists, doubt)]),
    grants: grantsUnderDoubt(said.grants, doubt, of),
    pauses: pausesUnderDoubt(said.pauses, doubt, of),
    lockdown: said.lockdown ?? doubt.lockdown,
  };
}

/**
 * Compares the store with what the kernel remembers of it, and keeps that up to date. While they do not fit, policies get
 * no looser than they were in the kernel, until a person accepts the store.
 */
export class StoreTrust {
  readonly #o: StoreTrustOptions;
  #record: StoreRecord | undefined;
  #doubt: Doubt | undefined;
  /** The store has been seen whole: it is not compared by its revision again. */
  #isSettled = false;
  #taken: ReadonlyMap<string, Mode> | undefined;
  #flags = { isLockdown: false, isPaused: false };
  #written = '';
  #timer: NodeJS.Timeout | undefined;
  #running: Promise<void> = Promise.resolve();
  #isClosed = false;
  #hasFailed = false;
  /** What was last left of the overrides under the doubt. */
  #sieved: { readonly said: Overrides; readonly doubt: Doubt; readonly believed: Overrides } | undefined;

  private constructor(options: StoreTrustOptions, record: StoreRecord | 'unreadable' | undefined) {
    this.#o = options;
    this.#record = record === 'unreadable' ? undefined : record;
    if (this.#record) this.#flags = { isLockdown: this.#record.isLockdown, isPaused: this.#record.isPaused };
    if (record === 'unreadable') this.#raise(NOT_READ);
    this.#compare();
  }

  static async open(options: StoreTrustOptions): Promise<StoreTrust> {
    for (const prefix of [options.prefix, ...options.former]) {
      const record = await readStoreRecord(options.sets, prefix);
      if (record !== undefined) return new StoreTrust(options, record);
    }
    return new StoreTrust(options, undefined);
  }

  get doubt(): Doubt | undefined {
    return this.#doubt;
  }

  /** Take over the modes from the rules of an earlier run, before the first pass. */
  takeOver(modes: ReadonlyMap<string, Mode>): void {
    this.#taken = modes;
    if (this.#doubt) this.#doubt = { ...this.#doubt, modes: this.#believed(modes) };
  }

  /** The overrides of people, without those that are in doubt. Called by every pass. */
  said(said: Overrides, of: RevisionOf): Overrides {
    this.#compare();
    const doubt = this.#doubt;
    const believed = doubt ? this.#underDoubt(said, doubt, of) : said;
    this.#note({ isLockdown: believed.lockdown !== undefined, isPaused: believed.pauses.length > 0 });
    return believed;
  }

  /** Overrides are another object when the revision of a key is another one. */
  #underDoubt(said: Overrides, doubt: Doubt, of: RevisionOf): Overrides {
    const known = this.#sieved;
    if (known?.said === said && known.doubt === doubt) return known.believed;
    const believed = saidUnderDoubt(said, doubt, of);
    this.#sieved = { said, doubt, believed };
    return believed;
  }

  /** Whether the value of this key is trusted. A revoked token is in an old backup again. */
  believes(key: string, of: RevisionOf): boolean {
    return this.#doubt === undefined || isNewer(this.#doubt, key, of);
  }

  policy(policy: Policy, facts: ContainerFacts, of: RevisionOf): Policy {
    return this.#doubt ? underDoubt(policy, this.#doubt, facts, of) : policy;
  }

  /** True: a lockdown that only the kernel knew has been on. */
  endLockdown(): boolean {
    if (!this.#doubt?.lockdown) return false;
    this.#doubt = { ...this.#doubt, lockdown: undefined };
    this.#o.onChange();
    return true;
  }

  /** Throws RefusedError when nothing is in doubt, or when the store does not answer. */
  checkAcceptable(): void {
    const { store } = this.#o;
    if (!this.#doubt && !store.replacement?.())
      throw new RefusedError({
        kind: 'conflict',
        detail: 'the store is the one that this host enforces by: there is nothing to accept',
        remedy: 'nothing to do; see drawbridge status',
      });
    if (store.identity() === '')
      throw new RefusedError({
        kind: 'conflict',
        detail: 'the store does not answer: what would be accepted is not known',
        remedy: 'wait until drawbridge status shows the store as ok',
      });
  }

  /** What the kernel remembers. */
  get known(): { readonly id: string; readonly revision: number } | undefined {
    return this.#record && { id: this.#record.id, revision: this.#record.revision };
  }

  /** A person takes the store as it is. Passes compare as before until it is taken over: a failure has changed nothing. */
  async accept(): Promise<void> {
    const { store, onChange, log } = this.#o;
    this.checkAcceptable();
    try {
      if (store.replacement?.()) await store.takeOver?.();
    } catch (e) {
      throw new RefusedError({
        kind: 'not-in-force',
        detail: `the store was not taken over: ${errorText(e)}`,
        remedy: 'try again when drawbridge status shows which store it is',
      });
    }
    this.#doubt = undefined;
    this.#isSettled = true;
    this.#record = undefined;
    log.warn({ revision: store.revision() }, 'the store was accepted as it is');
    onChange();
    await this.#write();
  }

  /** The store has changed: the record follows. */
  changed(): void {
    if (this.#isClosed) return;
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      void this.#write();
    }, GATHER_MS);
  }

  /** What the kernel remembered was removed: it is written again. */
  rewrite(): void {
    this.#written = '';
    this.changed();
  }

  /** Write no further record, for example before a teardown. */
  async close(): Promise<void> {
    this.#isClosed = true;
    clearTimeout(this.#timer);
    await this.#running;
  }

  #compare(): void {
    const { store, isShared } = this.#o;
    const record = this.#record;
    const now = { id: store.identity(), revision: store.revision() };
    if (!record || this.#hasSettled(now.id, record.id)) return;
    const reason = doubtOf(now, record);
    const isWhole = now.id !== '' && (!isShared || store.health().ok);
    this.#isSettled ||= isWhole;
    if (reason === undefined) this.#clear();
    else if (this.#doubt?.reason !== reason) this.#raise(reason);
    if (this.#doubt && isWhole && this.#doubt.revision === undefined) this.#settle(now);
  }

  /** Once it was seen whole only another identity counts: its own new writes make any revision grow. */
  #hasSettled(id: string, known: string): boolean {
    return this.#isSettled && (id === known || this.#doubt !== undefined);
  }

  #settle(now: { readonly id: string; readonly revision: number }): void {
    const { found } = this.#record ?? {};
    const isSame = found?.id === now.id && found.revision <= now.revision;
    const at = isSame ? found : now;
    if (this.#doubt) this.#doubt = { ...this.#doubt, revision: at.revision };
    if (this.#record) this.#record = { ...this.#record, found: at };
    this.changed();
  }

  #raise(reason: string): void {
    const { log, now, modes } = this.#o;
    const since = new Date(now()).toISOString();
    const wasLockedDown = this.#record?.isLockdown === true;
    const lockdown = wasLockedDown
      ? { since, by: 'the kernel, where it was in force when the store was lost' }
      : undefined;
    this.#doubt = {
      reason,
      since,
      revision: undefined,
      modes: this.#believed(this.#taken ?? modes() ?? new Map()),
      lockdown,
    };
    log.error(
      { lockdown: wasLockedDown },
      `${reason}: nothing gets looser until a person decides: ${DOUBT_REMEDY}`,
    );
  }

  /** With a pause in force an observed container may have been an enforced one. */
  #believed(modes: ReadonlyMap<string, Mode>): ReadonlyMap<string, Mode> {
    return this.#record?.isPaused === true ? new Map() : modes;
  }

  #clear(): void {
    if (!this.#doubt) return;
    this.#doubt = undefined;
    this.#o.log.info({}, 'the store is the one that this host enforced by: it is believed again');
  }

  #note(flags: { readonly isLockdown: boolean; readonly isPaused: boolean }): void {
    if (flags.isLockdown === this.#flags.isLockdown && flags.isPaused === this.#flags.isPaused) return;
    this.#flags = flags;
    this.changed();
  }

  #write(): Promise<void> {
    this.#running = this.#running
      .then(() => this.#writeOnce())
      .catch((e: unknown) => contained(e, 'the revision of the store is not noted in the kernel'));
    return this.#running;
  }

  async #writeOnce(): Promise<void> {
    const { store, run, prefix, log } = this.#o;
    // A store that was exchanged since the last pass must not become the one that the kernel remembers.
    this.#compare();
    const id = store.identity();
    const isUnknown = id === '' || (this.#doubt && !this.#record);
    if (this.#isClosed || isUnknown) return;
    const known = this.#record;
    const base = this.#doubt && known ? known : { id, revision: store.revision() };
    // A pause that is not applied hides the mode that was in the kernel, as before.
    const isPaused = this.#flags.isPaused || (this.#doubt !== undefined && known?.isPaused === true);
    const record: StoreRecord = { ...base, isLockdown: this.#flags.isLockdown, isPaused };
    const text = formatRecord(record);
    if (text === this.#written) return;
    try {
      await writeStoreRecord(run, prefix, record);
      this.#written = text;
      // Not over what a person has accepted meanwhile, nor over a store that was found.
      if (this.#record === known) this.#record = record;
      this.#hasFailed = false;
    } catch (e) {
      if (!this.#hasFailed)
        log.warn(
          { err: String(e) },
          'cannot note the store’s revision in the kernel: a store that vanishes is not noticed',
        );
      this.#hasFailed = true;
    }
  }
}
