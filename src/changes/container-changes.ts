import { randomBytes } from 'node:crypto';
import { orNearest, type Problem, refuse, refuseInvalid } from '../lib/problem.js';
import type { ContainerFacts } from '../policy/container.js';
import { coversEntry, denialRemedy, denialText } from '../policy/deny-entries.js';
import type { Entry } from '../policy/entry.js';
import { isDest, parseEntry } from '../policy/entry-parse.js';
import {
  containerOfKey,
  idKey,
  isOwnerKey,
  ownerIsCertain,
  ownerKey,
  ownerKeys,
} from '../policy/own-labels.js';
import type { Grant, PolicyEntry } from '../policy/policy.js';
import { type Lockdown, PAUSE_ALL, type Pause } from '../policy/policy.js';
import type { KeyChange } from './change-record.js';
import type { Committer } from './commit.js';
import { type ChangesState, grantKey, isOurs, LOCKDOWN_KEY, pauseKey } from './stored-state.js';

export interface ContainerChangeOptions {
  readonly state: ChangesState;
  readonly committer: Committer;
  /** Id, name or id prefix → the container; throws RefusedError when there is none. */
  find(idOrName: string): ContainerFacts;
  /** ms since the epoch. */
  now(): number;
  /** This host's name in a fleet. */
  readonly node: string | undefined;
  /** The deny entries of the policy that the container has now. */
  denied?(facts: ContainerFacts): readonly PolicyEntry[];
}

const LONGEST_GRANT_MS = 366 * 86_400_000;
/** Grants of one owner. More entries belong in a list. */
const MOST_GRANTS = 1000;

/** Grants of containers. Open-ended ones belong to the owner, timed ones to the one container. */
export class ContainerChanges {
  readonly #o: ContainerChangeOptions;

  constructor(options: ContainerChangeOptions) {
    this.#o = options;
  }

  /** `forMs` undefined: open-ended. An entry that the owner has open-ended already is answered with that grant. */
  async grant(idOrName: string, entry: string, forMs: number | undefined, who: string): Promise<Grant> {
    const facts = this.holder(idOrName);
    const parsed = parseEntry(entry);
    if (!parsed.ok) return refuseInvalid(parsed.problems.map((p) => ({ ...p, pointer: '/entry' })));
    checkPermits(parsed.value);
    checkDuration(forMs);
    this.#checkDenied(facts, parsed.value);
    const owner = forMs === undefined ? certainOwner(facts) : idKey(facts.id);
    return this.#o.committer.serial(`owner/${owner}`, async () => {
      const same = this.#grantsOf(owner).find((g) => g.entry === parsed.value.canonical && !g.expires);
      if (same) return same;
      if (this.#grantsOf(owner).length >= MOST_GRANTS) {
        refuse('conflict', `${facts.name} has ${MOST_GRANTS} grants`, 'put its entries in a list');
      }
      const grant = this.#newGrant(owner, parsed.value.canonical, forMs);
      const change = { key: grantKey(grant.id), before: undefined, after: grant, who };
      await this.#o.committer.commit({
        ...change,
        action: 'grant.add',
        target: `${owner} (${facts.name})`,
      });
      return grant;
    });
  }

  /** Such a grant would be stored and would have no effect. */
  #checkDenied(facts: ContainerFacts, entry: Entry): void {
    if (!isDest(entry)) return;
    const denial = this.#o.denied?.(facts).find((pe) => coversEntry(pe.entry, entry));
    if (!denial) return;
    const detail = `${entry.canonical} would have no effect: ${denialText(denial)}`;
    refuse('conflict', detail, denialRemedy(denial));
  }

  /** `idOrName`: or an owner key, of which there may be no container. */
  async revokeGrant(idOrName: string, grantId: string, who: string): Promise<void> {
    const facts = isOwnerKey(idOrName) ? undefined : this.#o.find(idOrName);
    const owners = facts ? [idKey(facts.id), ...ownerKeys(facts)] : [idOrName];
    const name = facts?.name ?? idOrName;
    await this.#o.committer.serial(grantKey(grantId), async () => {
      const grant = this.#o.state.grants.get(grantId)?.value;
      if (!grant || !owners.includes(grant.owner)) {
        return refuse(
          'not-found',
          `${name} has no grant ${grantId}`,
          'see its grants in drawbridge ps --json',
        );
      }
      const change = { key: grantKey(grantId), before: grant, after: undefined, who };
      await this.#o.committer.commitUrgent(
        { ...change, action: 'grant.remove', target: `${grant.owner} (${name})` },
        this.#o.now(),
      );
    });
  }

  /** Remove grants from the store that have expired or belong to a removed container (`isGone`, by id). */
  async drop(isGone: (containerId: string) => boolean): Promise<void> {
    const grants = [...this.#o.state.grants.values()].map((g) => g.value);
    for (const grant of grants) {
      if (!isOurs(grant, this.#o.node, this.#o.now())) continue;
      const over = this.#o.state.deadlines.hasPassed(grantKey(grant.id), grant, this.#o.now());
      const of = containerOfKey(grant.owner);
      if (!over && (of === undefined || !isGone(of))) continue;
      const change = { key: grantKey(grant.id), before: grant, after: undefined };
      const who = over ? 'expiry' : 'container removed';
      await this.#o.committer.serial(change.key, async () => {
        if (!this.#o.state.grants.has(grant.id)) return;
        await this.#o.committer.tidy({ ...change, who, action: 'grant.remove', target: grant.owner });
      });
    }
  }

  #newGrant(owner: string, entry: string, forMs: number | undefined): Grant {
    const now = this.#o.now();
    const expires = forMs === undefined ? {} : { expires: new Date(now + forMs).toISOString() };
    return {
      id: randomBytes(6).toString('hex'),
      entry,
      owner,
      ...(forMs !== undefined && this.#o.node !== undefined && { node: this.#o.node }),
      created: new Date(now).toISOString(),
      ...expires,
    };
  }

  #grantsOf(owner: string): readonly Grant[] {
    return this.#o.state.current(this.#o.now()).grants.filter((grant) => grant.owner === owner);
  }

  /** Refuse a container that shares the network namespace of another one: the policy of the owner applies to both. */
  holder(idOrName: string): ContainerFacts {
    const facts = this.#o.find(idOrName);
    if (facts.sharesWith === undefined) return facts;
    const detail = `${facts.name} shares the network of the container ${facts.sharesWith.slice(0, 12)}, whose policy holds for both`;
    return refuse('conflict', detail, 'name that container instead');
  }
}

/** The owner of the container. Refuse while it is not known which labels come from the image. */
export function certainOwner(facts: ContainerFacts): string {
  if (ownerIsCertain(facts)) return ownerKey(facts);
  return refuse(
    'not-in-force',
    `it is not known yet which labels of ${facts.name} come from its image, and so to which service it belongs`,
    'try again; if it stays so, check that Docker can still inspect its image',
  );
}

/** A grant permits: a deny entry in it would end with the grant, or with its revocation. */
export function deniedGrant(entry: Entry): Problem | undefined {
  if (!isDest(entry) || !entry.deny) return undefined;
  return {
    detail: `${entry.canonical} is a deny entry: a grant only permits`,
    remedy: 'write it into a list of the container, or into its label drawbridge.allow',
  };
}

function checkPermits(entry: Entry): void {
  const problem = deniedGrant(entry);
  if (problem) refuseInvalid([{ ...problem, pointer: '/entry' }]);
}

function checkDuration(forMs: number | undefined): void {
  if (forMs === undefined || (forMs >= 1000 && forMs <= LONGEST_GRANT_MS)) return;
  const problem = {
    detail: 'a grant lasts between one second and 366 days',
    remedy: 'write it like 10m; leave it out for no end',
  };
  refuseInvalid([{ ...problem, pointer: '/for' }]);
}

/** Docker's short id has 12 digits; fewer than this many are too likely to be a name. */
const SHORTEST_PREFIX = 4;

/**
 * The container of this id, name, or id prefix, in Docker's own order. Throws RefusedError: not-found, or conflict when
 * a prefix fits several.
 */
export function findContainer(containers: Iterable<ContainerFacts>, idOrName: string): ContainerFacts {
  const all = [...containers];
  const exact = all.find((c) => c.id === idOrName) ?? all.find((c) => c.name === idOrName.replace(/^\//, ''));
  if (exact) return exact;
  const isPrefix = idOrName.length >= SHORTEST_PREFIX && /^[0-9a-f]+$/.test(idOrName);
  const hits = isPrefix ? all.filter((c) => c.id.startsWith(idOrName)) : [];
  if (hits.length > 1) {
    refuse(
      'conflict',
      `${idOrName} fits ${hits.map((c) => c.name).join(', ')}`,
      'give more digits, or the name',
    );
  }
  return (
    hits[0] ??
    refuse(
      'not-found',
      `there is no container ${idOrName}`,
      orNearest(
        idOrName,
        all.map((c) => c.name),
        'see drawbridge ps for those that are known',
      ),
    )
  );
}

interface EmergencyOptions {
  readonly state: ChangesState;
  readonly committer: Committer;
  /** Id, name or id prefix → the container that owns the namespace; throws RefusedError when there is none. */
  holder(idOrName: string): ContainerFacts;
  /** ms since the epoch. */
  now(): number;
  /** This host's name in a fleet. */
  readonly node: string | undefined;
}

const LONGEST_PAUSE_MS = 7 * 86_400_000;

/** Pauses and the lockdown: audited, in force or undone like every other change; where the store cannot write, from memory. */
export class EmergencyChanges {
  readonly #o: EmergencyOptions;

  constructor(options: EmergencyOptions) {
    this.#o = options;
  }

  /** `idOrName` undefined: all containers. A second pause takes the place of the first. */
  async pause(idOrName: string | undefined, forMs: number, who: string): Promise<Pause> {
    checkPauseDuration(forMs);
    const { owner, target } = this.#target(idOrName);
    return this.#o.committer.serial(pauseKey(owner), async () => {
      const now = this.#o.now();
      const [created, expires] = [now, now + forMs].map((t) => new Date(t).toISOString()) as [string, string];
      const host = owner === PAUSE_ALL || this.#o.node === undefined ? {} : { node: this.#o.node };
      const after: Pause = { owner, ...host, created, expires, by: who };
      await this.#commit(owner, after, target, who);
      return after;
    });
  }

  /** Of all: every pause there is, those of single containers too. */
  async endPause(idOrName: string | undefined, who: string): Promise<void> {
    const owners = idOrName === undefined ? [...this.#o.state.pauses.keys()] : [this.#ownPause(idOrName)];
    for (const owner of owners)
      await this.#o.committer.serial(pauseKey(owner), async () => {
        if (this.#o.state.pauses.has(owner)) await this.#commit(owner, undefined, owner, who);
      });
  }

  async setLockdown(on: boolean, who: string): Promise<Lockdown | undefined> {
    return this.#o.committer.serial(LOCKDOWN_KEY, async () => {
      const before = this.#o.state.lockdown;
      if (on === (before !== undefined)) return before;
      const after = on ? { since: new Date(this.#o.now()).toISOString(), by: who } : undefined;
      const action = on ? 'lockdown.on' : 'lockdown.off';
      const change = { key: LOCKDOWN_KEY, before, after, who, action, target: 'all' };
      await this.#o.committer.commitUrgent(change, this.#o.now());
      return after;
    });
  }

  /** Remove pauses from the store that have expired or belong to a removed container. */
  async drop(isGone: (containerId: string) => boolean): Promise<void> {
    const { state, committer } = this.#o;
    for (const pause of [...state.pauses.values()].map((p) => p.value)) {
      if (!isOurs(pause, this.#o.node, this.#o.now())) continue;
      const key = pauseKey(pause.owner);
      const over = state.deadlines.hasPassed(key, pause, this.#o.now());
      const of = containerOfKey(pause.owner);
      if (!over && (of === undefined || !isGone(of))) continue;
      const who = over ? 'expiry' : 'container removed';
      await committer.serial(key, async () => {
        // A new pause may have taken its place meanwhile.
        if (state.pauses.get(pause.owner)?.value !== pause) return;
        await committer.tidy({ ...changeOf(pause, undefined, pause.owner), who });
      });
    }
  }

  #target(idOrName: string | undefined): { owner: string; target: string } {
    if (idOrName === undefined) return { owner: PAUSE_ALL, target: PAUSE_ALL };
    const facts = this.#o.holder(idOrName);
    return { owner: idKey(facts.id), target: `id:${facts.id} (${facts.name})` };
  }

  #ownPause(idOrName: string): string {
    const facts = this.#o.holder(idOrName);
    const { pauses } = this.#o.state;
    if (pauses.has(idKey(facts.id))) return idKey(facts.id);
    if (pauses.has(PAUSE_ALL))
      return refuse(
        'conflict',
        `${facts.name} is paused with all others, not by itself`,
        'end that with drawbridge pause --all --end',
      );
    return refuse('not-found', `${facts.name} is not paused`, 'see drawbridge ps for those that are');
  }

  async #commit(owner: string, after: Pause | undefined, target: string, who: string): Promise<void> {
    const before = this.#o.state.pauses.get(owner)?.value;
    const change = { ...changeOf(before, after, target), key: pauseKey(owner), who };
    await this.#o.committer.commitUrgent(change, this.#o.now());
  }
}

function changeOf(
  before: Pause | undefined,
  after: Pause | undefined,
  target: string,
): Omit<KeyChange, 'who'> {
  const key = pauseKey((after ?? before)?.owner ?? '');
  return { key, before, after, target, action: after ? 'pause.set' : 'pause.end' };
}

function checkPauseDuration(forMs: number): void {
  if (forMs >= 1000 && forMs <= LONGEST_PAUSE_MS) return;
  const detail = 'a pause lasts between one second and 7 days';
  const remedy = 'write it like 10m; for longer set the mode: drawbridge mode CONTAINER observe';
  refuseInvalid([{ detail, remedy, pointer: '/for' }]);
}
