import { isDeepStrictEqual } from 'node:util';
import { refuse, refuseInvalid } from '../lib/problem.js';
import type { ContainerFacts } from '../policy/container.js';
import { composeOf, ownerKey, ownerKeys } from '../policy/own-labels.js';
import type { Mode, ModeSetting, Trial } from '../policy/policy.js';
import { byStrictness } from '../policy/policy-compile.js';
import type { KeyChange } from './change-record.js';
import type { Committer } from './commit.js';
import { certainOwner } from './container-changes.js';
import { type ChangesState, isOurs, modeKey } from './stored-state.js';

export interface ModeRequest {
  /** `auto`: labels, claims and the default decide again. */
  readonly mode: Mode | 'auto';
  /** Of enforce: after this time (ms) what was set before counts again. */
  readonly trialMs?: number;
  /** Of observe: the list that is evaluated in place of the policy. */
  readonly against?: string;
}

export interface ModeChangeOptions {
  readonly state: ChangesState;
  readonly committer: Committer;
  /** Id, name or id prefix → the container; throws RefusedError when there is none. */
  find(idOrName: string): ContainerFacts;
  /** The same, refused where the network namespace belongs to another container. */
  holder(idOrName: string): ContainerFacts;
  /** Whether there is a list of this name. */
  hasList(name: string): boolean;
  /** The store may be an old one: no trial begins or ends in it. */
  isDoubted(): boolean;
  /** ms since the epoch. */
  now(): number;
  /** This host's name in a fleet. */
  readonly node: string | undefined;
}

const LONGEST_TRIAL_MS = 31 * 86_400_000;

/** The changes for one container, by what is set when it is called. */
type Plan = () => readonly KeyChange[];

/** Modes of owners: set, tried for a time, and confirmed. Several owners change together, or not at all. */
export class ModeChanges {
  readonly #o: ModeChangeOptions;

  constructor(options: ModeChangeOptions) {
    this.#o = options;
  }

  /** The mode that counts for the owner of this container, as it is set; undefined: none, and revision 0. */
  modeSet(idOrName: string): {
    readonly owner: string;
    readonly mode: Mode | undefined;
    readonly revision: number;
  } {
    const owner = ownerKey(this.#o.holder(idOrName));
    const revision = this.#o.state.revisionOf(modeKey(owner));
    return { owner, mode: this.#now(owner)?.mode, revision };
  }

  /** `ifMatch`: the revision of the owner's mode that the change is made for; 0: none is set yet. */
  async set(
    containers: readonly string[],
    request: ModeRequest,
    who: string,
    ifMatch?: number,
  ): Promise<void> {
    this.#check(request);
    const subjects = this.#subjects(containers);
    for (const facts of subjects) this.#checkRevision(facts, ifMatch);
    if (request.trialMs !== undefined) this.#checkTrial(subjects);
    await this.#commit(
      subjects,
      subjects.map((facts) => () => {
        this.#checkRevision(facts, ifMatch);
        return this.#planOf(facts, request, who);
      }),
    );
  }

  /** A trial becomes a mode without end. Of several containers, those that are not on trial are left alone. */
  async confirm(containers: readonly string[], who: string, ifMatch?: number): Promise<void> {
    const subjects = this.#subjects(containers);
    for (const facts of subjects) this.#checkRevision(facts, ifMatch);
    const onTrial = subjects.filter((facts) => this.#now(ownerKey(facts))?.trial);
    if (onTrial.length === 0) {
      const names = subjects.map((facts) => facts.name).join(', ');
      refuse(
        'conflict',
        `${names} ${subjects.length === 1 ? 'is' : 'are'} not on trial: no trial was begun, or it has ended and what was set before counts again`,
        'see drawbridge ps; drawbridge mode CONTAINER enforce enforces without a trial',
      );
    }
    await this.#commit(
      onTrial,
      onTrial.map((facts) => () => {
        const owner = ownerKey(facts);
        this.#checkRevision(facts, ifMatch);
        // It has ended since: what was confirmed is not in force any more.
        if (!this.#now(owner)?.trial)
          return refuse('conflict', `the trial of ${facts.name} has just ended`, 'see drawbridge ps');
        return this.#change(facts, owner, { mode: 'enforce' }, { who, action: 'mode.confirm' });
      }),
    );
  }

  /** Take away what is set for an owner that has no container to be named by. */
  async forget(owner: string, who: string): Promise<void> {
    const { committer, state } = this.#o;
    await committer.serial(modeKey(owner), async () => {
      const before = state.modes.get(owner)?.value;
      if (!before) return refuse('not-found', `no mode is set for ${owner}`, 'see drawbridge status');
      const change = { key: modeKey(owner), before, after: undefined, who };
      await committer.commit({ ...change, action: 'mode.set', target: owner });
    });
  }

  /** Write what counts after a trial that is over, unless the store is in doubt: then the mode of the kernel stays. */
  async drop(): Promise<void> {
    const { state, committer, node } = this.#o;
    if (this.#o.isDoubted()) return;
    for (const [owner, { value }] of [...state.modes]) {
      const { trial } = value;
      if (!trial || state.trialLeft(owner, this.#o.now()) !== 0 || !isOurs(trial, node, this.#o.now()))
        continue;
      const key = modeKey(owner);
      await committer.serial(key, async () => {
        // Another mode may have been set meanwhile.
        if (state.modes.get(owner)?.value !== value) return;
        const change = { key, before: value, after: trial.before, who: 'expiry' };
        await committer.tidy({ ...change, action: 'mode.fallback', target: owner });
      });
    }
  }

  /** Whether a trial has ended that this host cannot take out of the store yet. */
  get isWaiting(): boolean {
    const { state, now } = this.#o;
    return (
      this.#o.isDoubted() && [...state.modes.keys()].some((owner) => state.trialLeft(owner, now()) === 0)
    );
  }

  #check({ mode, trialMs, against }: ModeRequest): void {
    if (trialMs !== undefined && mode !== 'enforce')
      invalid(
        '/trial',
        'only mode enforce can be tried for a time',
        'leave the trial out, or set mode enforce',
      );
    if (trialMs !== undefined && (trialMs < 1000 || trialMs > LONGEST_TRIAL_MS))
      invalid('/trial', 'a trial lasts between one second and 31 days', 'write it like 15m');
    if (against === undefined) return;
    if (mode !== 'observe')
      invalid(
        '/against',
        'a list is evaluated in mode observe only',
        'set mode observe, or leave the list out',
      );
    if (!this.#o.hasList(against))
      refuse('not-found', `there is no list ${against} to evaluate`, 'see drawbridge lists');
  }

  #checkRevision(facts: ContainerFacts, ifMatch: number | undefined): void {
    const owner = ownerKey(facts);
    const revision = this.#o.state.revisionOf(modeKey(owner));
    if (ifMatch === undefined || ifMatch === revision) return;
    refuse(
      'precondition',
      `the mode of ${owner} is at revision ${revision}, not ${ifMatch}`,
      'read the mode again, and repeat the change with its ETag',
    );
  }

  /** Its end would change nothing where the mode is set to enforce already; under doubt it would loosen what the kernel has. */
  #checkTrial(subjects: readonly ContainerFacts[]): void {
    if (this.#o.isDoubted())
      refuse(
        'conflict',
        'the store is in doubt: what a trial would fall back to is not certain',
        'see drawbridge status; accept the store first, or enforce without a trial',
      );
    if (!subjects.every((facts) => this.#isEnforcedForGood(ownerKey(facts)))) return;
    const names = subjects.map((facts) => facts.name).join(', ');
    refuse(
      'conflict',
      `mode enforce is set for ${names} already, without an end`,
      'set it to observe or auto first, if it is to fall back to that',
    );
  }

  #isEnforcedForGood(owner: string): boolean {
    const setting = this.#now(owner);
    return setting?.mode === 'enforce' && !setting.trial;
  }

  /** One container of each owner. Those that share the network of another one of them have its policy. */
  #subjects(containers: readonly string[]): readonly ContainerFacts[] {
    const all = containers.map((idOrName) => this.#o.find(idOrName));
    const ids = new Set(all.map((facts) => facts.id));
    const own = all.filter((facts) => facts.sharesWith === undefined || !ids.has(facts.sharesWith));
    for (const facts of own) this.#o.holder(facts.id);
    return [...new Map(own.map((facts) => [ownerKey(facts), facts])).values()];
  }

  #planOf(facts: ContainerFacts, request: ModeRequest, who: string): readonly KeyChange[] {
    // While the owner of a mode is uncertain, the mode may only be tightened, as in the policy.
    const owner = request.mode === 'enforce' ? ownerKey(facts) : certainOwner(facts);
    if (request.trialMs !== undefined && this.#isEnforcedForGood(owner)) return [];
    const stricter = this.#stricterElsewhere(facts, owner, request.mode);
    const action = request.trialMs === undefined ? 'mode.set' : 'mode.trial';
    return [
      ...this.#change(facts, owner, this.#settingOf(owner, request), { who, action }),
      ...stricter.flatMap((key) => this.#change(facts, key, undefined, { who, action })),
    ];
  }

  #settingOf(owner: string, { mode, trialMs, against }: ModeRequest): ModeSetting | undefined {
    if (mode === 'auto') return undefined;
    const now = this.#o.now();
    const current = this.#now(owner);
    const since = new Date(now).toISOString();
    // An evaluation that goes on keeps its beginning.
    if (against !== undefined)
      return current?.against?.list === against ? current : { mode, against: { list: against, since } };
    if (trialMs === undefined) return { mode };
    const before = current?.trial ? current.trial.before : current;
    const trial: Trial = {
      ...(this.#o.node !== undefined && { node: this.#o.node }),
      created: since,
      expires: new Date(now + trialMs).toISOString(),
      ...(before && { before }),
    };
    return { mode, trial };
  }

  #change(
    facts: ContainerFacts,
    owner: string,
    after: ModeSetting | undefined,
    by: Pick<KeyChange, 'who' | 'action'>,
  ): readonly KeyChange[] {
    const before = this.#o.state.modes.get(owner)?.value;
    if (isDeepStrictEqual(before, after)) return [];
    return [{ key: modeKey(owner), before, after, target: `${owner} (${facts.name})`, ...by }];
  }

  #now(owner: string): ModeSetting | undefined {
    return this.#o.state.modeOf(owner, this.#o.now());
  }

  /** One key waits for its turn and is planned then; of several keys, none may be changed by another meanwhile. */
  async #commit(subjects: readonly ContainerFacts[], plans: readonly Plan[]): Promise<void> {
    const { committer } = this.#o;
    const planned = (): readonly KeyChange[] => unique(plans.flatMap((plan) => plan()));
    const changes = planned();
    const owners = subjects.map((facts) => modeKey(ownerKey(facts)));
    const [key = '', ...others] = new Set([...owners, ...changes.map((change) => change.key)]);
    if (others.length > 0 && changes.length > 0) return committer.commitAll(changes);
    // What is as it was asked for may be on its way into force.
    for (const other of others) await committer.serial(other, async () => undefined);
    await committer.serial(key, async () => {
      const [one, ...more] = planned();
      if (more.length > 0 || (one && one.key !== key))
        refuse('precondition', 'modes of these containers were changed meanwhile', 'do it again');
      if (one) await committer.commit(one);
    });
  }

  /**
   * Other owner keys with a stricter mode, which would still apply. The mode of the container's name is removed with the
   * change. The mode of a service that only the image's labels name belongs to that service, and refuses the change.
   */
  #stricterElsewhere(facts: ContainerFacts, owner: string, mode: Mode | 'auto'): readonly string[] {
    const stricter = ownerKeys(facts).filter((key) => {
      const theirs = key === owner ? undefined : this.#now(key)?.mode;
      return theirs !== undefined && (mode === 'auto' || byStrictness(theirs, mode) < 0);
    });
    const foreign = stricter.find((key) => composeOf(key) !== undefined);
    if (foreign === undefined || mode === 'auto') return stricter.filter((key) => key !== foreign);
    return refuse(
      'conflict',
      `mode ${this.#now(foreign)?.mode} is set for ${foreign}, which the labels of ${facts.name}'s image name: it holds for ${facts.name}, too`,
      'set that service to auto, or create the container with other values of com.docker.compose.project and com.docker.compose.service',
    );
  }
}

const unique = (changes: readonly KeyChange[]): readonly KeyChange[] => [
  ...new Map(changes.map((change) => [change.key, change])).values(),
];

function invalid(pointer: string, detail: string, remedy: string): never {
  return refuseInvalid([{ detail, remedy, pointer }]);
}
