import type { ContainerFacts } from '../policy/container.js';
import { type Lockdown, PAUSE_ALL, type Pause } from '../policy/emergency.js';
import type { KeyChange } from './change-record.js';
import type { Committer } from './commit.js';
import { refuse, refuseInvalid } from './refuse.js';
import { type ChangesState, isOurs, LOCKDOWN_KEY, pauseKey } from './stored-state.js';

export interface EmergencyOptions {
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
    checkDuration(forMs);
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

  /** Pauses whose time is over, or whose container is gone, leave the store. */
  async drop(isGone: (containerId: string) => boolean): Promise<void> {
    const { state, committer } = this.#o;
    for (const pause of [...state.pauses.values()].map((p) => p.value)) {
      if (!isOurs(pause, this.#o.node, this.#o.now())) continue;
      const key = pauseKey(pause.owner);
      const over = state.deadlines.isOver(key, pause, this.#o.now());
      if (!over && !(pause.owner.startsWith('id:') && isGone(pause.owner.slice(3)))) continue;
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
    return { owner: `id:${facts.id}`, target: `id:${facts.id} (${facts.name})` };
  }

  #ownPause(idOrName: string): string {
    const facts = this.#o.holder(idOrName);
    const { pauses } = this.#o.state;
    if (pauses.has(`id:${facts.id}`)) return `id:${facts.id}`;
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

function checkDuration(forMs: number): void {
  if (forMs >= 1000 && forMs <= LONGEST_PAUSE_MS) return;
  const detail = 'a pause lasts between one second and 7 days';
  const remedy = 'write it like 10m; for longer set the mode: drawbridge mode CONTAINER observe';
  refuseInvalid([{ detail, remedy, pointer: '/for' }]);
}
