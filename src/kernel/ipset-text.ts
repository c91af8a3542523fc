import type { Family } from '../lib/ip.js';
import { memo } from '../lib/memo.js';
import type { SetDesired } from '../ruleset/desired-state.js';
import { recordSet, threatSetKind } from '../ruleset/naming.js';
import type { Exec } from './exec.js';
import { SET_TYPES } from './netlink/ipset.js';
import type { SetStore } from './set-store.js';

export interface SavedSet {
  readonly type: string;
  readonly family: Family;
  readonly timed: boolean;
  readonly members: ReadonlySet<string>;
}

const MAX_MEMBERS = 65_536;

/** Names of Drawbridge's sets. Sets of threats are listed with their headers only: they can have a million members. */
export interface SetNames {
  readonly plain: readonly string[];
  readonly threats: ReadonlyMap<string, SavedSet>;
  /** Sets of threats that were being filled, and have not replaced another one. */
  readonly fresh: readonly string[];
  /** The set that keeps the store's identity: passes leave it alone. */
  readonly record: readonly string[];
  /** How many members all sets have that are not in `plain`, those of other programs included. NaN where ipset does not say so. */
  readonly others: number;
}
/** Reads `ipset list -terse`, our sets only. */
export function parseSetNames(text: string, prefix: string): SetNames {
  const plain: string[] = [];
  const fresh: string[] = [];
  const record: string[] = [];
  const threats = new Map<string, SavedSet>();
  let others = 0;
  const [own, recorded] = [`${prefix}-`, recordSet(prefix)];
  for (const part of text.split('\n\n')) {
    const [, name = '', type = ''] = /^Name: (\S+)\nType: (\S+)$/m.exec(part) ?? [];
    if (name === '') continue;
    const isOurs = name.startsWith(own);
    const kind = isOurs ? threatSetKind(prefix, name) : undefined;
    if (isOurs && kind === undefined && name !== recorded) {
      plain.push(name);
      continue;
    }
    others += Number(/^Number of entries: (\d+)$/m.exec(part)?.[1]);
    if (!isOurs) continue;
    if (kind === undefined) record.push(name);
    else if (kind === 'fresh') fresh.push(name);
    else {
      const family = /^Header: family inet6 /m.test(part) ? 6 : 4;
      threats.set(name, { type, family, timed: / timeout /.test(part), members: new Set() });
    }
  }
  return { plain, threats, fresh, record, others };
}

/** Reads `ipset save`, our sets only. */
export function parseSetSave(text: string, prefix: string): Map<string, SavedSet> {
  const sets = new Map<string, SavedSet & { members: Set<string> }>();
  const [created, added] = [`create ${prefix}-`, `add ${prefix}-`];
  // Members follow their set, and there are thousands of lines.
  let [head, members]: [string, Set<string> | undefined] = ['', undefined];
  for (let at = 0, end = 0; at < text.length; at = end + 1) {
    end = text.indexOf('\n', at);
    if (end < 0) end = text.length;
    if (members && text.startsWith(head, at)) members.add(memberAt(text, at + head.length, end));
    else if (text.startsWith(created, at)) {
      const [, name = '', type, ...rest] = text.slice(at, end).split(' ');
      if (type === undefined) continue;
      [head, members] = [`add ${name} `, new Set()];
      sets.set(name, {
        type,
        family: rest[rest.indexOf('family') + 1] === 'inet6' ? 6 : 4,
        timed: rest.includes('timeout'),
        members,
      });
    } else if (text.startsWith(added, at)) {
      const [, name = '', member] = text.slice(at, end).split(' ');
      if (member !== undefined) sets.get(name)?.members.add(hexGroups(member));
    }
  }
  return sets;
}

/** The member that begins here; its timeout and the like follow it in the line. */
function memberAt(text: string, from: number, end: number): string {
  const space = text.indexOf(' ', from);
  return hexGroups(text.slice(from, space < 0 || space > end ? end : space));
}

const isFit = (want: SavedSet, have: SavedSet | undefined): boolean =>
  have !== undefined && have.type === want.type && have.family === want.family && have.timed === want.timed;

/** inet_ntop writes mapped and compatible v6 addresses with a dotted quad: back to RFC 5952's hexadecimal. */
const hexGroups = (m: string): string =>
  m.includes(':') && m.includes('.')
    ? m.replace(/(?<=:)(\d+)\.(\d+)\.(\d+)\.(\d+)/, (_, a, b, c, d) => `${pair(a, b)}:${pair(c, d)}`)
    : m;
const pair = (hi: string, lo: string): string => (Number(hi) * 256 + Number(lo)).toString(16);

/** ipset prints single addresses without their length. */
const bareMember = (m: string): string =>
  m.endsWith('/32') || m.endsWith('/128') ? m.replace(/(?<=\.\d+)\/32$|(?<=:[0-9a-f:]*)\/128$/, '') : m;

/** A set as it is known to exist after an apply: the same object for the same set. */
export const savedSet = memo(
  ({ of, family, timed, members }: SetDesired): SavedSet => ({
    type: SET_TYPES[of],
    family,
    timed,
    members: new Set(members.map(bareMember)),
  }),
);

export interface SetScripts {
  /** Members that go: run before anything is permitted. */
  readonly tighten: string;
  readonly loosen: string;
  /** Sets that no rule uses any more. */
  readonly destroy: string;
  /** Names of sets that are new and empty: the ledger fills timed ones, the feeds those of threats. */
  readonly refill: readonly string[];
}

/** The commands that the sets need. Members of timed sets and of threats are not compared. */
export function diffSets(
  desired: ReadonlyMap<string, SetDesired>,
  observed: ReadonlyMap<string, SavedSet>,
): SetScripts {
  const tighten: string[] = [];
  const loosen: string[] = [];
  const refill: string[] = [];
  for (const want of desired.values()) {
    const have = observed.get(want.name);
    const wanted = savedSet(want);
    if (have === wanted) continue;
    if (!isFit(wanted, have)) {
      // A set of another kind under this name makes the command fail with a message: no foreign set is overwritten.
      loosen.push(createSet(want), ...want.members.map((m) => `add ${want.name} ${bareMember(m)} -exist`));
      if (want.timed || want.isThreats) refill.push(want.name);
    } else if (have && !want.timed && !want.isThreats) {
      const { members } = wanted;
      for (const m of have.members) if (!members.has(m)) tighten.push(`del ${want.name} ${m} -exist`);
      for (const m of members) if (!have.members.has(m)) loosen.push(`add ${want.name} ${m} -exist`);
    }
  }
  const destroy = [...observed.keys()].filter((n) => !desired.has(n)).map((n) => `destroy ${n}`);
  return { tighten: script(tighten), loosen: script(loosen), destroy: script(destroy), refill };
}

const createSet = (want: SetDesired): string =>
  `create ${want.name} ${SET_TYPES[want.of]} family ${want.family === 6 ? 'inet6' : 'inet'} hashsize 64 maxelem ${MAX_MEMBERS}${want.timed ? ' timeout 0' : ''}${want.evicts ? ' forceadd' : ''}`;

const script = (lines: readonly string[]): string => (lines.length === 0 ? '' : `${lines.join('\n')}\n`);

type SetWriter = Pick<SetStore, 'add' | 'remove'>;
/** More members than this are written faster by one run of ipset. */
const MOST_MEMBERS = 64;
/** A line of `ipset restore` that changes one single address or network of a set. */
const MEMBER_CHANGE = /^(add|del) (\S+) ([0-9a-f.:]+(?:\/\d+)?) -exist$/;

/**
 * An Exec that runs `ipset restore` over netlink if the input only adds or removes a few addresses: 6 µs each, where a
 * process takes milliseconds, and the first packet of a new container waits for it. If netlink refuses a change, ipset
 * runs with the same input: adding and removing with `-exist` can be repeated, and the message of ipset names the line.
 */
export function withFastSets(run: Exec, sets: SetWriter): Exec {
  return async (file, args, options) => {
    const changes =
      file === 'ipset' && args[0] === 'restore' ? memberChanges(options?.input ?? '') : undefined;
    if (changes === undefined || !(await addedOrRemoved(changes, sets))) return run(file, args, options);
    return { code: 0, stdout: '', stderr: '' };
  };
}

interface MemberChange {
  readonly verb: string;
  readonly set: string;
  readonly member: string;
}
/** Returns undefined when the input has other lines, or too many. */
function memberChanges(input: string): readonly MemberChange[] | undefined {
  const lines = input.split('\n').filter((line) => line !== '');
  if (lines.length === 0 || lines.length > MOST_MEMBERS) return undefined;
  const changes = lines.flatMap((line) => {
    const [, verb = '', set = '', member = ''] = MEMBER_CHANGE.exec(line) ?? [];
    return verb === '' ? [] : [{ verb, set, member }];
  });
  return changes.length === lines.length ? changes : undefined;
}

async function addedOrRemoved(changes: readonly MemberChange[], sets: SetWriter): Promise<boolean> {
  try {
    for (const { verb, set, member } of changes)
      await (verb === 'add' ? sets.add(set, member, undefined) : sets.remove(set, member));
    return true;
  } catch {
    return false; // the caller runs ipset, which succeeds or reports the reason
  }
}
