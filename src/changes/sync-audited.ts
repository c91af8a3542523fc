import type { FeedSync, SyncHow } from '../threats/feed-view.js';
import type { Audit } from './audit.js';

/** A person's attempt at a feed, and the record of it: what it brought, and whether the guards were set aside. */
export async function syncAudited(
  audit: Audit,
  feed: string,
  { accept }: SyncHow,
  who: string,
  sync: () => Promise<FeedSync>,
): Promise<FeedSync> {
  const done = await sync();
  if (done.outcome !== 'attempted') return done;
  const { status, reason, entries, loaded } = done.feed;
  const after = { status, reason, entries, loaded };
  const action = accept ? 'feed.accept' : 'feed.sync';
  await audit.record({ who, action, target: feed, before: null, after, outcome: 'done' });
  return done;
}
