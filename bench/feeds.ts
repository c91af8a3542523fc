/**
 * A million lines of a feed: read and aggregated next to FireHOL's iprange, and refreshed in the kernel next to a bare
 * `ipset restore` of the same members. `npx tsx bench/feeds.ts [--rounds 5 --lines 1000000 --keep]`, as root, alone on the machine.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { parseArgs } from 'node:util';
import { IpsetStore } from '../src/kernel/netlink/ipset-bulk.js';
import type { ThreatMembers } from '../src/policy/threat.js';
import type { FeedData } from '../src/threats/feed-data.js';
import { parseBody } from '../src/threats/formats/parse-body.js';
import { loadFeed } from '../src/threats/ingest.js';
import {
  type MergeResult,
  memberCount,
  mergeFeeds,
  netTexts,
  singleTexts,
  toMembers,
} from '../src/threats/merge.js';
import { unite } from '../src/threats/range-algebra.js';
import { sharedRanges } from '../src/threats/shared-ranges.js';
import { ThreatIndex } from '../src/threats/threat-index.js';
import { NO_MEMBERS, ThreatSets } from '../src/threats/threat-sets.js';
import { DEFAULT_GUARDS } from '../src/threats/update-guards.js';
import { comparedRow, figure, type Side } from './harness.js';
import { KEEP, type Row, writeResult } from './results.js';

const { values } = parseArgs({
  options: {
    ...KEEP,
    rounds: { type: 'string', default: '5' },
    lines: { type: 'string', default: '1000000' },
  },
});
const rounds = Number(values.rounds);
const lines = Number(values.lines);
const parse = { format: 'auto', maxSize: 1 << 30, now: Date.now() };

for (const tool of ['/usr/bin/iprange', '/usr/sbin/ipset'])
  if (!existsSync(tool)) throw new Error(`${tool} is needed: apt-get install iprange ipset`);

/** The same numbers at every run (mulberry32). */
function numbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

const dotted = (value: number): string =>
  `${value >>> 24}.${(value >>> 16) & 255}.${(value >>> 8) & 255}.${value & 255}`;

/** Four addresses to one network of /24 to /31, all public unicast. */
function makeFeed(): string {
  const next = numbers(7);
  const out: string[] = [];
  for (let i = 0; i < lines; i++) {
    const address = Math.floor(next() * 200 * 2 ** 24) + 11 * 2 ** 24;
    const free = i % 5 === 0 ? 1 + Math.floor(next() * 8) : 0;
    const base = ((address >>> free) << free) >>> 0;
    out.push(free === 0 ? dotted(base) : `${dotted(base)}/${32 - free}`);
  }
  return `${out.join('\n')}\n`;
}

async function seconds(work: () => unknown): Promise<number> {
  const began = process.hrtime.bigint();
  await work();
  return Number(process.hrtime.bigint() - began) / 1e9;
}

async function aggregate(file: string): Promise<number> {
  const parsed = await parseBody(readFileSync(file), { ...parse, maxFound: 1e7 });
  if (!parsed.ok) throw new Error(parsed.reason);
  return memberCount(toMembers(unite([parsed.found.v4.take()], 1)));
}

async function accepted(file: string, before?: FeedData): Promise<FeedData> {
  const job = {
    feed: 'bench',
    body: readFileSync(file),
    parse,
    guards: DEFAULT_GUARDS,
    known: sharedRanges(),
  };
  const outcome = await loadFeed({ ...job, accept: false, ...(before && { before }) });
  if (!outcome.ok) throw new Error(outcome.refusal.reason);
  return outcome.data;
}

/** A fresh pair of sets, filled and swapped in, as one text for `ipset restore`. */
function restoreText({ v4 }: MergeResult): string {
  const size = `family inet maxelem ${2 ** 21} hashsize ${2 ** 18}`;
  const out = [`create new-ip hash:ip ${size}`, `create new-net hash:net ${size}`];
  for (const text of singleTexts(v4.members)) out.push(`add new-ip ${text}`);
  for (const text of netTexts(v4.members)) out.push(`add new-net ${text}`);
  out.push('swap new-ip live-ip', 'swap new-net live-net', 'destroy new-ip', 'destroy new-net', '');
  return out.join('\n');
}

/** Of the event loop, in ms. */
async function longestWait(work: () => Promise<void>): Promise<number> {
  const delay = monitorEventLoopDelay({ resolution: 1 });
  delay.enable();
  await work();
  delay.disable();
  return delay.max / 1e6;
}

const mib = (octets: number): number => octets / 2 ** 20;
const rows: Row[] = [];
const single = (id: string, label: string, unit: string, value: number): void =>
  void rows.push({ id, label, unit, ours: figure([value]) });

const dir = mkdtempSync(join(tmpdir(), 'bench-feeds-'));
const netns = `dbb-${process.pid}`;
execFileSync('ip', ['netns', 'add', netns]);
try {
  const file = join(dir, 'feed.txt');
  writeFileSync(file, makeFeed());

  const iprange: Side = {
    name: 'iprange --optimize',
    measure: () => seconds(() => execFileSync('iprange', ['--optimize', file], { maxBuffer: 1 << 28 })),
  };
  const ours: Side = { name: 'read, parse, aggregate', measure: () => seconds(() => aggregate(file)) };
  const theirs = execFileSync('iprange', ['--optimize', file], { maxBuffer: 1 << 28 });
  const networks = theirs.reduce((sum, octet) => sum + (octet === 10 ? 1 : 0), 0);
  if ((await aggregate(file)) !== networks)
    throw new Error('iprange and Drawbridge disagree on the networks');
  const about = {
    id: 'feeds-read',
    label: `read, parse, aggregate: ${lines} lines to ${networks} networks`,
    unit: 's',
  };
  rows.push(await comparedRow(about, { baseline: iprange, ours, rounds }));

  const data = await accepted(file);
  const bare = join(dir, 'bare.restore');
  writeFileSync(bare, restoreText(mergeFeeds({ feeds: [data], protect: [] })));
  const restore = (input: Buffer | string): void =>
    void execFileSync('ip', ['netns', 'exec', netns, 'ipset', 'restore'], { input });
  restore('create live-ip hash:ip family inet\ncreate live-net hash:net family inet\n');
  const alone: Side = { name: 'ipset restore', measure: () => seconds(() => restore(readFileSync(bare))) };
  using bulk = new IpsetStore({ namespace: `/run/netns/${netns}` });
  const merge = (): ThreatMembers => {
    const { v4, v6 } = mergeFeeds({ feeds: [data], protect: [] });
    return { ...NO_MEMBERS, block: { ...NO_MEMBERS.block, both: { v4: v4.members, v6: v6.members } } };
  };
  const load = (members: ThreatMembers): Promise<void> =>
    new ThreatSets({ prefix: 'DB', kernel: { sets: bulk }, maxEntries: 2 ** 21 }).load(members);
  const refresh: Side = {
    name: 'merge, fill, count, exchange',
    measure: () => seconds(() => load(merge())),
  };
  const filling = {
    id: 'feeds-refresh',
    label: 'refresh of the sets: merge, fill, count, exchange',
    unit: 's',
  };
  rows.push(await comparedRow(filling, { baseline: alone, ours: refresh, rounds }));
  const members = merge(); // a worker's part in the service
  single(
    'feeds-wait',
    'longest delay of the event loop while sets are filled',
    'ms',
    await longestWait(() => load(members)),
  );

  const whole: Side = {
    name: 'checked, compared, merged',
    measure: () => seconds(() => accepted(file, data)),
  };
  const update = { id: 'feeds-update', label: 'a whole update: checked, compared, merged', unit: 's' };
  rows.push(await comparedRow(update, { baseline: iprange, ours: whole, rounds }));
  const index = new ThreatIndex();
  index.put(data);
  single('feeds-lookups', 'memory for lookups', 'MiB', mib(index.bytes));
  single(
    'feeds-memory',
    'memory of the whole process at its largest',
    'MiB',
    mib(process.resourceUsage().maxRSS * 1024),
  );
  await writeResult('feeds', `sudo npx tsx bench/feeds.ts --lines ${lines}`, rows);
} finally {
  execFileSync('ip', ['netns', 'del', netns]);
  rmSync(dir, { recursive: true });
}
