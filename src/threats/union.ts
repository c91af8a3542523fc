/** The versions of all feeds, united for each action and direction: what the kernel should hold, and who judges what. */

import type { FamilyColumns, ThreatAction, ThreatLook, ThreatMembers } from '../policy/threat.js';
import { columnCount, DIRECTIONS, type Direction, JUDGING, noColumns } from '../policy/threat.js';
import type { FeedData } from './feed-data.js';
import type { FeedSpec } from './feed-spec.js';
import type { ThreatIndex } from './matcher.js';
import type { MergeJob, MergeResult, ProtectedRange } from './merge.js';

/** A feed's version in force here. */
export interface HeldFeed {
  readonly spec: Pick<FeedSpec, 'name' | 'action' | 'direction'>;
  readonly data: FeedData;
}
export type Subtraction = MergeResult['subtracted'][number];

export interface United {
  readonly members: ThreatMembers;
  /** Members of all sets, those behind translators apart. */
  readonly entries: number;
  /** Members that repeat what is listed of IPv4, behind translators. */
  readonly translated: number;
  /** What is listed and no feed may block. */
  readonly subtracted: readonly Subtraction[];
}

const ACTIONS: readonly ThreatAction[] = ['block', 'observe'];
const NONE: FamilyColumns = { v4: noColumns(1), v6: noColumns(4) };
const nowhere = { both: NONE, outbound: NONE, inbound: NONE };
export const NOTHING: United = {
  members: { block: nowhere, observe: nowhere },
  entries: 0,
  translated: 0,
  subtracted: [],
};

/** Jobs are made of what there is when this is called; what no feed is for costs nothing. */
export async function uniteFeeds(
  feeds: readonly HeldFeed[],
  protect: readonly ProtectedRange[],
  merge: (job: MergeJob) => Promise<MergeResult>,
): Promise<United> {
  const members = { block: { ...nowhere }, observe: { ...nowhere } };
  const subtracted: Subtraction[] = [];
  let translated = 0;
  const jobs = ACTIONS.flatMap((action) =>
    DIRECTIONS.map((direction) => ({ action, direction, mine: feeds.filter(of(action, direction)) })),
  );
  for (const { action, direction, mine } of jobs.filter((job) => job.mine.length > 0)) {
    const merged = await merge({ feeds: mine.map(({ data }) => columnsOf(data)), protect });
    members[action][direction] = { v4: merged.v4.members, v6: merged.v6.members };
    subtracted.push(...merged.subtracted);
    translated += merged.translated;
  }
  const all = ACTIONS.flatMap((action) => Object.values(members[action]));
  const entries = all.reduce((sum, { v4, v6 }) => sum + columnCount(v4) + columnCount(v6), 0);
  return { members, entries: entries - translated, translated, subtracted };
}

const of =
  (action: ThreatAction, direction: Direction) =>
  ({ spec }: HeldFeed): boolean =>
    spec.action === action && spec.direction === direction;

/** Names are where somebody goes: who comes in has none. */
export const judgesNames = ({ direction }: Pick<FeedSpec, 'direction'>): boolean =>
  JUDGING.dst.includes(direction);

/** Look-ups in what the indexes hold now; later changes do not show. */
export function lookIn(
  indexes: Readonly<Record<ThreatAction, ThreatIndex>>,
  feeds: readonly HeldFeed[],
): ThreatLook {
  const copy = (action: ThreatAction, directions: readonly Direction[]): ThreatIndex => {
    const names = new Set(
      feeds.filter(({ spec }) => directions.includes(spec.direction)).map(({ spec }) => spec.name),
    );
    return indexes[action].copy((feed) => names.has(feed));
  };
  const [block, observe] = [copy('block', JUDGING.dst), copy('observe', JUDGING.dst)];
  const [blockFrom, observeFrom] = [copy('block', JUDGING.src), copy('observe', JUDGING.src)];
  return {
    blockedName: (name) => block.blockedName(name),
    observedName: (name) => observe.blockedName(name),
    blockedAddress: (text) => block.blockedAddress(text),
    observedAddress: (text) => observe.blockedAddress(text),
    blockedSource: (text) => blockFrom.blockedAddress(text),
    observedSource: (text) => observeFrom.blockedAddress(text),
  };
}

export const columnsOf = ({ feed, v4, v6, withheld4, withheld6 }: FeedData): MergeJob['feeds'][number] => ({
  feed,
  v4,
  v6,
  withheld4,
  withheld6,
});
