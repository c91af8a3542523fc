import { recordSet } from '../ruleset/naming.js';
import { type Exec, must } from './exec.js';
import type { SetStore } from './set-store.js';

/**
 * What the kernel remembers of the store, in the comment of the one member of an ipset: a state folder that is emptied
 * or put back from an old backup is noticed. Whoever can write it (CAP_NET_ADMIN in the host's network namespace) can
 * remove every rule as well, so that it needs no secret; no packet can change it, because no rule names the set.
 */
export interface StoreRecord {
  readonly id: string;
  readonly revision: number;
  readonly isLockdown: boolean;
  /** Some enforced container was observed because of a pause. */
  readonly isPaused: boolean;
  /** The store that was found instead, and its revision then: what is newer was decided by people who knew. */
  readonly found?: { readonly id: string; readonly revision: number };
}

/** A member that is valid in every version of ipset; its address means nothing. */
const MEMBER = '127.0.0.1';
const FORMAT = 'drawbridge-store 1';

export type RecordSets = Pick<SetStore, 'members'>;

/**
 * Undefined: there is none, as before the first start and after a teardown. 'unreadable': of a later version, or damaged. Rejects with
 * NetlinkError: a start that cannot read it must not believe the store.
 */
export async function readStoreRecord(
  sets: RecordSets,
  prefix: string,
): Promise<StoreRecord | 'unreadable' | undefined> {
  const members = (await sets.members(recordSet(prefix))) ?? [];
  const comment = members.find((member) => member.comment !== undefined)?.comment;
  return comment === undefined ? undefined : (parseRecord(comment) ?? 'unreadable');
}

export async function writeStoreRecord(run: Exec, prefix: string, record: StoreRecord): Promise<void> {
  const set = recordSet(prefix);
  const input =
    `create ${set} hash:ip family inet hashsize 64 maxelem 2 comment -exist\n` +
    `add ${set} ${MEMBER} comment "${formatRecord(record)}" -exist\n`;
  await must(run, 'ipset', ['restore'], { input });
}

/** Below 255 characters, the bound of ipset: ids have 32 to 36. */
export function formatRecord({ id, revision, isLockdown, isPaused, found }: StoreRecord): string {
  const words = [
    `id=${encodeURIComponent(id)}`,
    `revision=${revision}`,
    ...(isLockdown ? ['lockdown'] : []),
    ...(isPaused ? ['paused'] : []),
    ...(found ? [`found=${encodeURIComponent(found.id)}:${found.revision}`] : []),
  ];
  return `${FORMAT} ${words.join(' ')}`;
}

export function parseRecord(text: string): StoreRecord | undefined {
  if (!text.startsWith(`${FORMAT} `)) return undefined;
  const words = text.slice(FORMAT.length + 1).split(' ');
  const read = (name: string): string | undefined =>
    words.find((w) => w.startsWith(`${name}=`))?.slice(name.length + 1);
  const [id, revision] = [read('id'), Number(read('revision'))];
  if (id === undefined || !Number.isSafeInteger(revision)) return undefined;
  const [, foundId, foundRevision] = /^(.+):(\d+)$/.exec(read('found') ?? '') ?? [];
  return {
    id: decodeURIComponent(id),
    revision,
    isLockdown: words.includes('lockdown'),
    isPaused: words.includes('paused'),
    ...(foundId !== undefined && {
      found: { id: decodeURIComponent(foundId), revision: Number(foundRevision) },
    }),
  };
}
