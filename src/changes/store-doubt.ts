import type { Problem } from '../lib/problem.js';
import type { ContainerFacts } from '../policy/container.js';
import type { Lockdown, Pause } from '../policy/emergency.js';
import { ownerIsCertain, ownerKey } from '../policy/owner.js';
import type { Grant, List, Mode, Policy } from '../policy/policy.js';
import { byStrictness } from '../policy/policy-claims.js';
import { grantKey, listKey, modeKey, pauseKey } from './stored-state.js';

/** Why the store is not believed: the kernel remembers another one, or a later state of it. */
export interface Doubt {
  readonly reason: string;
  /** RFC 3339 UTC */
  readonly since: string;
  /** The store's revision then: what is newer was decided by people who knew. Undefined: not known yet. */
  readonly revision: number | undefined;
  /** As the kernel held each container when the doubt arose; those that it did not know are missing. */
  readonly modes: ReadonlyMap<string, Mode>;
  /** The kernel held a lockdown, and no person has ended it since. */
  readonly lockdown: Lockdown | undefined;
}

export const DOUBT_REMEDY =
  'put back a backup of the state folder and restart the service, or accept the store as it is now: drawbridge store accept';
const FROM_DOUBT = 'store in doubt';

/** The store's revision of a key; 0: it does not hold it. */
export type RevisionOf = (key: string) => number;

/** Whether a person has decided this since the doubt arose. */
export const isNewer = ({ revision }: Doubt, key: string, of: RevisionOf): boolean =>
  revision !== undefined && of(key) > revision;

/** Nothing gets looser than the kernel held it, and what it did not know is enforced, but where a person has decided since. */
export function underDoubt(policy: Policy, doubt: Doubt, facts: ContainerFacts, of: RevisionOf): Policy {
  const isDecided =
    policy.modeFrom === 'pause' ||
    (policy.modeFrom === 'api' && ownerIsCertain(facts) && isNewer(doubt, modeKey(ownerKey(facts)), of));
  const floor = doubt.modes.get(facts.id) ?? 'enforce';
  if (isDecided || byStrictness(policy.mode, floor) <= 0) return policy;
  const detail = `${doubt.reason}: the mode ${policy.mode} of the container has no effect, and it stays ${floor === 'enforce' ? 'enforced' : 'observed'}`;
  return {
    ...policy,
    mode: floor,
    modeFrom: FROM_DOUBT,
    notes: [...policy.notes, { detail, remedy: DOUBT_REMEDY }],
  };
}

/** Pauses from before the doubt are not honoured. */
export const pausesUnderDoubt = (pauses: readonly Pause[], doubt: Doubt, of: RevisionOf): readonly Pause[] =>
  pauses.filter((p) => isNewer(doubt, pauseKey(p.owner), of));

/** Lists of the folder, and those of the store that are newer than the doubt: an old backup holds entries that were revoked since. */
export const listsUnderDoubt = (
  lists: ReadonlyMap<string, List>,
  doubt: Doubt,
  of: RevisionOf,
): ReadonlyMap<string, List> =>
  new Map([...lists].filter(([name, l]) => l.source !== 'store' || isNewer(doubt, listKey(name), of)));

/** Why each list that is left out adds nothing. */
export const absentUnderDoubt = (
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

export const grantsUnderDoubt = (grants: readonly Grant[], doubt: Doubt, of: RevisionOf): readonly Grant[] =>
  grants.filter((g) => isNewer(doubt, grantKey(g.id), of));

/** What was found, and what the kernel remembers. */
interface StoreSight {
  readonly id: string;
  readonly revision: number;
}

/** Undefined: it is the store that the kernel knows, or a later state of it. */
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
