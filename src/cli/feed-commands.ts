import type { Command } from 'commander';
import type { NotifyTestBody, OutputBody } from '../api/event-routes.js';
import type { FeedBody, ThreatBody } from '../api/schemas-traffic.js';
import { counted } from '../lib/units.js';
import type { Registry, Session } from './command.js';
import { isNotRunning, wrongUsage } from './failure.js';
import type { CatalogueEntry, FeedAttempt, SyncedFeed } from './host.js';
import type { Output } from './output.js';

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
      session.out.show(all, () =>
        session.out.table(
          HEAD,
          all.map((f) => row(session.out, f)),
          NONE,
        ),
      );
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
    usage: 'sync [feed]',
    summary: 'fetch feeds now, with or without the service (for cron)',
    exits: '1 if one brought nothing',
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
        for (const one of shown) for (const line of syncLines(one)) session.out.line(line);
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

function syncLines({ outcome, feed }: SyncedFeed): readonly string[] {
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

const row = (out: Output, f: FeedBody): readonly string[] => [
  f.name,
  f.status === 'refused' || f.status === 'failed' || f.status === 'left-out'
    ? f.status.toUpperCase()
    : f.status,
  String(f.entries),
  at(out, f.confirmed ?? f.loaded, -1),
  at(out, f.next, 1),
  f.action,
  f.reason ?? '-',
];

const UNITS = [
  [86_400_000, 'd'],
  [3_600_000, 'h'],
  [60_000, 'm'],
] as const;

/** In a pipe the time itself; on a terminal how far it is from now on (1) or ago (-1), in one unit. */
function at(out: Output, time: string | null, direction: 1 | -1): string {
  if (time === null) return '-';
  if (!out.isTerminal) return time;
  const ms = Math.max(0, (Date.parse(time) - Date.now()) * direction);
  const [size, unit] = UNITS.find(([size]) => ms >= size) ?? [1_000, 's'];
  return `${Math.floor(ms / size)}${unit}`;
}

const CATALOGUE_HEAD = ['NAME', 'RECOMMENDED', 'BY DEFAULT', 'DIRECTION', 'EVERY', 'LICENCE', 'WHAT'];

function catalogueCommand(feeds: Command, registry: Registry): void {
  registry.add<[string | undefined]>(feeds, {
    usage: 'catalogue [name]',
    summary: 'a choice of public feeds with their terms; with a name: the configuration that turns it on',
    examples: ['feeds catalogue', 'feeds catalogue spamhaus-drop'],
    run: async ({ out, host }, [name]) => {
      const all = await host.catalogue();
      const chosen = name === undefined ? all : all.filter((entry) => entry.name === name);
      out.show(chosen, () => {
        if (name === undefined) printAll(out, chosen);
        else for (const entry of chosen) printOne(out, entry);
      });
      if (name === undefined || chosen.length > 0) return 0;
      out.note(`the catalogue has no feed ${name}: see drawbridge feeds catalogue`);
      return 1;
    },
  });
}

function printAll(out: Output, all: readonly CatalogueEntry[]): void {
  out.table(CATALOGUE_HEAD, all.map(catalogueRow));
  out.note('to turn one on: drawbridge feeds catalogue NAME shows what to write under threats.feeds');
  out.note(
    'threats.catalogue: true turns on those that are on by default; whoever turns a feed on accepts its terms',
  );
}

const yesNo = (yes: boolean): string => (yes ? 'yes' : 'no');

const catalogueRow = (e: CatalogueEntry): readonly string[] => [
  e.name,
  yesNo(e.recommended),
  yesNo(e.enabled),
  e.direction,
  `${e.everyHours}h`,
  e.licence,
  e.what,
];

/** Ready to be put into the configuration. */
function printOne(out: Output, e: CatalogueEntry): void {
  out.line(`# ${e.what}`);
  out.line(`# ${e.licence}: ${e.terms}`);
  if (!e.recommended)
    out.line('# not recommended for what containers reach out to: try it with action: observe first');
  out.line('threats:');
  out.line('  feeds:');
  out.line(`    - name: ${e.name}`);
  out.line(`      url: "${e.url}"`);
  out.line(`      format: ${e.format}`);
  out.line(`      every: ${e.everyHours}h`);
  out.line(`      direction: ${e.direction}`);
  out.line(`      action: ${e.recommended ? 'block' : 'observe'}`);
  if (e.mayBeEmpty === true) out.line('      guards: { minEntries: 0 }');
}

interface ThreatsOptions {
  readonly exitCode?: boolean;
}

export function threatsCommand(program: Command, registry: Registry): void {
  const threats = registry.add(program, {
    usage: 'threats',
    summary: 'how many addresses and names are blocked for every container; check one',
    examples: ['threats', 'threats check 203.0.113.7'],
    run: async (session) => {
      const { threats: all } = await (await session.client()).status();
      session.out.show(all, () => {
        session.out.line(
          `${counted(all.entries, 'entry', 'entries')} of ${counted(all.feeds, 'feed')} in force, after merging and exceptions (drawbridge feeds)`,
        );
        for (const alert of all.alerts) session.out.verdict('ALERT', ` ${alert}`);
      });
      return 0;
    },
  });
  registry.add<[string], ThreatsOptions>(threats, {
    usage: 'check <target>',
    summary: 'which feeds list an address or a name, where, and whether it is blocked',
    exits: '0 whatever the verdict; with --exit-code 1 if it is blocked or observed',
    options: [['--exit-code', 'exit 1 if it is blocked or observed']],
    examples: [
      'threats check 203.0.113.7',
      'threats check 2001:db8::7',
      'threats check evil.example --exit-code',
    ],
    run: async (session, [target], { exitCode }) => {
      const threat = await (await session.client()).threat(target);
      session.out.show(threat, () => print(session.out, threat));
      return exitCode && threat.verdict !== 'none' ? 1 : 0;
    },
  });
}

const VERDICTS = {
  block: 'blocked for every container',
  observe: 'observed: counted, and not blocked',
} as const;
const ONE_WAY = {
  outbound: ', as a destination',
  inbound: ', as the source of what comes in',
  both: '',
} as const;

/** Both ways, or the one way in which what counts does. */
function way({ verdict, hits }: ThreatBody): string {
  const counting = hits.filter(({ action, spared }) => action === verdict && spared === null);
  const [first, ...others] = new Set(counting.map(({ direction }) => direction));
  return first === undefined || others.length > 0 ? '' : ONE_WAY[first];
}

function print(out: Output, threat: ThreatBody): void {
  const { target, verdict, hits } = threat;
  const listed = hits.length > 0 ? 'listed, and spared' : 'in no feed';
  out.line(`${target}: ${verdict === 'none' ? listed : `${VERDICTS[verdict]}${way(threat)}`}`);
  for (const hit of hits) {
    out.line(
      `  ${hit.feed} (${hit.action}, ${hit.direction}) lists ${hit.listed} in ${hit.positions} ${hit.line}, since ${out.time(hit.since)}`,
    );
    if (hit.spared !== null) out.line(`    spared: ${hit.spared}`);
  }
}

const OUTPUT_HEAD = ['NAME', 'KIND', 'TARGET', 'WAITING', 'DELIVERED', 'FAILED', 'DROPPED', 'LAST', 'ERROR'];
const NO_OUTPUTS =
  'events go nowhere: write receivers under notify, or a file under flows, in the configuration';
const RECEIVERS = ['json', 'slack', 'ntfy', 'gotify', 'exec'];

export function notifyCommand(program: Command, registry: Registry): void {
  const notify = registry.add(program, {
    usage: 'notify',
    summary: 'receivers of events (webhooks, chats, programs) and records of them: what they got, and errors',
    examples: ['notify', 'notify --json', 'notify test', 'notify test on-call'],
    run: async (session) => {
      const all = await (await session.client()).outputs();
      session.out.show(all, () =>
        session.out.table(
          OUTPUT_HEAD,
          all.map((o) => outputRow(session.out, o)),
          NO_OUTPUTS,
        ),
      );
      return 0;
    },
  });
  registry.add<[string | undefined]>(notify, {
    usage: 'test [name]',
    summary: 'send a test message to a receiver, or to all, past the queue; exits 1 if one failed',
    examples: ['notify test', 'notify test on-call'],
    run: async (session, [name]) => {
      const client = await session.client();
      const all = name === undefined ? await client.outputs() : [];
      const names = name === undefined ? all.filter(isReceiver).map((output) => output.name) : [name];
      const done: NotifyTestBody[] = [];
      for (const receiver of names) done.push(await client.testReceiver(receiver));
      session.out.show(done, () => {
        for (const { name, ok, detail } of done)
          session.out.line(`${name}: ${ok ? 'ok' : `FAILED: ${detail}`}`);
        if (done.length === 0) session.out.note(NO_OUTPUTS);
      });
      return done.every(({ ok }) => ok) ? 0 : 1;
    },
  });
}

const isReceiver = ({ kind }: OutputBody): boolean => RECEIVERS.includes(kind);

const outputRow = (out: Output, o: OutputBody): readonly string[] => [
  o.name,
  o.kind,
  o.target,
  ...[o.queued, o.delivered, o.failed, o.dropped].map(String),
  at(out, o.lastDelivered, -1),
  o.lastError ?? '-',
];
