import type { Command } from 'commander';
import type { FeedBody } from '../api/schemas-traffic.js';
import type { Registry, Session } from './command.js';
import { isNotRunning, wrongUsage } from './failure.js';
import { catalogueCommand } from './feeds-catalogue.js';
import type { FeedAttempt, SyncedFeed } from './host.js';
import { counted } from './text.js';

const NONE =
  'no feeds are configured: drawbridge feeds catalogue lists public ones, threats.feeds of the configuration takes them';
const HEAD = ['NAME', 'STATE', 'ENTRIES', 'AGE', 'NEXT', 'ACTION', 'REASON'];

export function feedsCommand(program: Command, registry: Registry): void {
  const feeds = registry.add(program, {
    usage: 'feeds',
    summary: 'threat feeds: entries in force, age, and faults',
    examples: ['feeds', 'feeds --json', 'feeds catalogue', 'feeds sync'],
    run: async (session) => {
      const all = await (await session.client()).feeds();
      session.out.show(all, () => session.out.table(HEAD, all.map(row), NONE));
      return 0;
    },
  });
  syncCommand(feeds, registry);
  catalogueCommand(feeds, registry);
}

interface Options {
  readonly accept?: boolean;
  readonly due?: boolean;
  readonly quiet?: boolean;
}

function syncCommand(feeds: Command, registry: Registry): void {
  registry.add<[string | undefined], Options>(feeds, {
    usage: 'sync [name]',
    summary: 'fetch feeds now, with or without the service (for cron); exits 1 if one failed',
    options: [
      ['--accept', 'accept the next version whatever its size and bad lines, after a look at the feed'],
      ['--due', 'only feeds that are due'],
      ['--quiet', 'print only what went wrong'],
    ],
    examples: ['feeds sync', 'feeds sync --due --quiet', 'feeds sync threatfox-ips --accept'],
    run: async (session, [name], { accept = false, due = false, quiet = false }) => {
      if (accept && name === undefined)
        wrongUsage(
          '--accept is for one feed that you have looked at',
          'name it: drawbridge feeds sync NAME --accept',
        );
      const done = await synced(session, { name, accept, onlyDue: due });
      session.out.show(done, () => {
        const shown = done.filter((one) => !quiet || isBad(one));
        for (const one of shown) for (const line of told(one)) session.out.line(line);
        if (done.length === 0 && !quiet) session.out.note(NONE);
      });
      return done.some(isBad) ? 1 : 0;
    },
  });
}

/** By the service where it runs, else by ourselves, with the same store and lease. */
async function synced(session: Session, attempt: FeedAttempt): Promise<readonly SyncedFeed[]> {
  const client = await session.client();
  try {
    const names =
      attempt.name === undefined ? (await client.feeds()).map(({ name }) => name) : [attempt.name];
    const done: SyncedFeed[] = [];
    for (const name of names) done.push(await client.syncFeed(name, attempt));
    return done;
  } catch (e) {
    if (!isNotRunning(e)) throw e;
    return session.host.syncFeeds(await session.config(), attempt);
  }
}

const isBad = ({ outcome, feed }: SyncedFeed): boolean =>
  outcome === 'attempted' && (feed.status === 'refused' || feed.status === 'failed');

const NOT_TRIED = {
  'not-due': 'not due yet',
  'too-soon': 'tried a moment ago, or its server asks to wait: not before its minimum interval',
  busy: 'another host is at it',
} as const;

function told({ outcome, feed }: SyncedFeed): readonly string[] {
  if (outcome !== 'attempted') return [`${feed.name}: ${NOT_TRIED[outcome]}`];
  if (feed.reason === null)
    return [`${feed.name}: ${feed.status}, ${counted(feed.entries, 'entry', 'entries')}`];
  const kept = `${feed.name}: ${feed.status}: ${feed.reason}`;
  const inForce =
    feed.entries > 0
      ? `  in force: the last good version, ${counted(feed.entries, 'entry', 'entries')}`
      : '  nothing of it is in force';
  return [kept, inForce, ...(feed.remedy === null ? [] : [`  → ${feed.remedy}`])];
}

const row = (f: FeedBody): readonly string[] => [
  f.name,
  f.status === 'refused' || f.status === 'failed' || f.status === 'left-out'
    ? f.status.toUpperCase()
    : f.status,
  String(f.entries),
  span(f.confirmed ?? f.loaded, -1),
  span(f.next, 1),
  f.action,
  f.reason ?? '-',
];

const UNITS = [
  [86_400_000, 'd'],
  [3_600_000, 'h'],
  [60_000, 'm'],
] as const;

/** From now on (1) or until now (-1), in one unit. */
function span(time: string | null, direction: 1 | -1): string {
  if (time === null) return '-';
  const ms = Math.max(0, (Date.parse(time) - Date.now()) * direction);
  const [size, unit] = UNITS.find(([size]) => ms >= size) ?? [1_000, 's'];
  return `${Math.floor(ms / size)}${unit}`;
}
