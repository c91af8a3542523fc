import { randomBytes } from 'node:crypto';
import type { ContainerFacts } from '../policy/container.js';
import { parseEntry } from '../policy/entry-parse.js';
import { ownerIsCertain, ownerKey, ownerKeys } from '../policy/owner.js';
import type { Grant, Mode } from '../policy/policy.js';
import { byStrictness } from '../policy/policy-claims.js';
import type { KeyChange } from './change-record.js';
import type { Committer } from './commit.js';
import { refuse, refuseInvalid } from './refuse.js';
import { type ChangesState, grantKey, isOurs, modeKey } from './stored-state.js';

export interface ContainerChangeOptions {
  readonly state: ChangesState;
  readonly committer: Committer;
  /** Id, name or id prefix → the container; throws RefusedError when there is none. */
  find(idOrName: string): ContainerFacts;
  /** ms since the epoch. */
  now(): number;
  /** This host's name in a fleet. */
  readonly node: string | undefined;
}

const LONGEST_GRANT_MS = 366 * 86_400_000;
/** One owner's grants: beyond this somebody wants a list. */
const MOST_GRANTS = 1000;

/** Grants and modes of containers. Open-ended ones belong to the owner, timed ones to the one container. */
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
    checkDuration(forMs);
    const owner = forMs === undefined ? certainOwner(facts) : `id:${facts.id}`;
    return this.#o.committer.serial(`owner/${owner}`, async () => {
      const same = this.#grantsOf(owner).find((g) => g.entry === parsed.value.canonical && !g.expires);
      if (same) return same;
      if (this.#grantsOf(owner).length >= MOST_GRANTS) {
        refuse('conflict', `${facts.name} has ${MOST_GRANTS} grants`, 'put its entries in a list');
      }
      const grant = this.#newGrant(owner, parsed.value.canonical, forMs);
      const change = { key: grantKey(grant.id), before: undefined, after: grant, who };
      await this.#o.committer.commit({ ...change, action: 'grant.add', target: `${owner} (${facts.name})` });
      return grant;
    });
  }

  async revokeGrant(idOrName: string, grantId: string, who: string): Promise<void> {
    const facts = this.#o.find(idOrName);
    const owners = [`id:${facts.id}`, ...ownerKeys(facts)];
    await this.#o.committer.serial(grantKey(grantId), async () => {
      const grant = this.#o.state.grants.get(grantId)?.value;
      if (!grant || !owners.includes(grant.owner)) {
        return refuse(
          'not-found',
          `${facts.name} has no grant ${grantId}`,
          'see its grants in drawbridge ps --json',
        );
      }
      const change = { key: grantKey(grantId), before: grant, after: undefined, who };
      await this.#o.committer.commitUrgent(
        { ...change, action: 'grant.remove', target: `${grant.owner} (${facts.name})` },
        this.#o.now(),
      );
    });
  }

  /** `auto`: labels, claims and the default decide again. */
  async setMode(idOrName: string, mode: Mode | 'auto', who: string): Promise<void> {
    const facts = this.holder(idOrName);
    // While it is unknown to whom a mode belongs, it may only tighten (as the policy reads it).
    const owner = mode === 'enforce' ? ownerKey(facts) : certainOwner(facts);
    const stricter = this.#stricterElsewhere(facts, owner, mode);
    const change = (key: string, after: Mode | undefined): KeyChange | undefined => {
      const before = this.#o.state.modes.get(key)?.value;
      if (before === after) return undefined;
      return {
        key: modeKey(key),
        before: before && { mode: before },
        after: after && { mode: after },
        who,
        action: 'mode.set',
        target: `${key} (${facts.name})`,
      };
    };
    const own = (): KeyChange | undefined => change(owner, mode === 'auto' ? undefined : mode);
    if (stricter.length === 0)
      return this.#o.committer.serial(modeKey(owner), async () => {
        const one = own();
        if (one) await this.#o.committer.commit(one);
      });
    const all = [own(), ...stricter.map((key) => change(key, undefined))];
    await this.#o.committer.commitAll(all.filter((one) => one !== undefined));
  }

  /**
   * Other owner keys with a stricter mode, which would still apply. The mode of the container's name is removed with the
   * change. The mode of a service that only the image's labels name belongs to that service, and refuses the change.
   */
  #stricterElsewhere(facts: ContainerFacts, owner: string, mode: Mode | 'auto'): readonly string[] {
    const stricter = ownerKeys(facts).filter((key) => {
      const theirs = key === owner ? undefined : this.#o.state.modes.get(key)?.value;
      return theirs !== undefined && (mode === 'auto' || byStrictness(theirs, mode) < 0);
    });
    const foreign = stricter.find((key) => !key.startsWith('name:'));
    if (foreign === undefined || mode === 'auto') return stricter.filter((key) => key !== foreign);
    return refuse(
      'conflict',
      `mode ${this.#o.state.modes.get(foreign)?.value} is set for ${foreign}, which the labels of ${facts.name}'s image name: it holds for ${facts.name}, too`,
      'set that service to auto, or create the container with other values of com.docker.compose.project and com.docker.compose.service',
    );
  }

  /** Grants whose time is over, or whose container is gone (`isGone` by id), leave the store. */
  async drop(isGone: (containerId: string) => boolean): Promise<void> {
    const grants = [...this.#o.state.grants.values()].map((g) => g.value);
    for (const grant of grants) {
      if (!isOurs(grant, this.#o.node, this.#o.now())) continue;
      const over = this.#o.state.deadlines.isOver(grantKey(grant.id), grant, this.#o.now());
      if (!over && !(grant.owner.startsWith('id:') && isGone(grant.owner.slice(3)))) continue;
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

  /** Refuses members of another container's namespace: that one's policy holds for both. */
  holder(idOrName: string): ContainerFacts {
    const facts = this.#o.find(idOrName);
    if (facts.sharesWith === undefined) return facts;
    const detail = `${facts.name} shares the network of the container ${facts.sharesWith.slice(0, 12)}, whose policy holds for both`;
    return refuse('conflict', detail, 'name that container instead');
  }
}

function certainOwner(facts: ContainerFacts): string {
  if (ownerIsCertain(facts)) return ownerKey(facts);
  return refuse(
    'not-in-force',
    `it is not known yet which labels of ${facts.name} come from its image, and so to which service it belongs`,
    'try again; if it stays so, check that Docker can still inspect its image',
  );
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
    refuse('not-found', `there is no container ${idOrName}`, 'see drawbridge ps for those that are known')
  );
}
