/**
 * The wall clock of the service jumps by 30 days and back, twice; the second time the service starts within the jump and after it. libfaketime
 * moves the clock of its process and of all that it starts; the monotonic clock, the kernel and Docker keep theirs.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Container } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';

const DAY_MS = 86_400_000;
/** The service reads the wall clock every ten seconds (STEP_MS of changes.ts); a pass follows. */
const READ_MS = 12_000;
const PORT = 9098;
const LISTED = '93.184.66.6';
const GRANTED = '93.184.5.1';
/** Destinations of one connection each. */
const SEEN = '93.184.7.1';
const SEEN_AHEAD = '93.184.7.2';
const DENIED = '93.184.9.9';
const WORK = `${join(import.meta.dirname, 'open-work.mjs')}:/work.mjs:ro`;
const OF_APP = ['stream=93.184.2.1:19', 'new=93.184.2.1:80', 'dns=app.test'];
const OF_OBSERVED = ['stream=93.184.1.1:19', 'new=93.184.1.1:80', 'dns=seen.test'];

/** As open-work.mjs prints it. */
interface Work {
  readonly done?: number;
  readonly bytes?: number;
  readonly opened?: number;
  readonly end?: string | null;
  readonly failures?: readonly unknown[];
}
interface Flow {
  readonly time: string;
  readonly last: string;
  readonly address: string;
  readonly packets: number;
  readonly bytes: number;
  readonly count: number;
}
interface Flows {
  readonly items: readonly Flow[];
  readonly recordingSince: string;
  readonly gaps: readonly { readonly to: string; readonly reason: string }[];
}
interface Feed {
  readonly attempted: string;
}

let lab: Lab;
let drawbridge: Drawbridge;
let feeds: ChildProcess;
let app: Container;
let trial: Container;
let observed: Container;
let clock: string;

const setClock = (days: number): void => writeFileSync(clock, `+${days}d`);
async function cli(...args: readonly string[]): Promise<string> {
  const { stdout } = await drawbridge.cli(args).then((got) => {
    expect(got, args.join(' ')).toMatchObject({ code: 0 });
    return got;
  });
  return stdout;
}
const json = async <T>(path: string): Promise<T> => JSON.parse((await drawbridge.get(path)).body) as T;
const flows = (): Promise<Flows> => json('/v1/flows?limit=9999');
const feed = async (): Promise<Feed | undefined> =>
  (await json<{ items: readonly Feed[] }>('/v1/feeds')).items[0];
/** How far the clock of the service is ahead of a time. */
const daysAhead = (time: string): number => Math.round((Date.parse(time) - Date.now()) / DAY_MS);
const reaches = async (from: Container, to: string): Promise<boolean> =>
  (await from.probe('tcp', to, 80, '--timeout', 2_000)).ok;

/** The records of destinations of which no further one is made. */
async function records(): Promise<readonly Flow[]> {
  return (await flows()).items.filter(({ address }) => [SEEN, DENIED].includes(address));
}
/** The entries that `suggest` has made of what was observed. */
async function suggested(): Promise<readonly string[]> {
  const { entries } = JSON.parse(await cli('suggest', 'observed', '--json')) as {
    entries: readonly { readonly entry: string }[];
  };
  return entries.map(({ entry }) => entry).sort();
}
async function work(of: Container): Promise<Readonly<Record<string, Work>>> {
  const line = (await of.logs()).split('\n').findLast((l) => l.startsWith('{"at"') && l.endsWith('}'));
  return line === undefined ? {} : (JSON.parse(line) as { work: Record<string, Work> }).work;
}
const progress = ({ done, bytes = 0 }: Work = {}): number => done ?? bytes;
/** All of it moves from now on, nothing of it has failed, and each stream is the one that was opened first. */
async function goesOn(): Promise<void> {
  for (const c of [app, observed]) {
    const before = await work(c);
    const isMoving = async (): Promise<boolean> => {
      const now = Object.entries(await work(c));
      return now.length === 3 && now.every(([what, one]) => progress(one) > progress(before[what]) + 1);
    };
    await waitFor('everything to go on', isMoving, 60_000);
    for (const [what, { end = null, opened = 1, failures = [] }] of Object.entries(await work(c)))
      expect({ what, end, opened, failures }).toEqual({ what, end: null, opened: 1, failures: [] });
  }
}
/** What is permitted and what is not, but for the grant. */
async function isEnforced(ofTrial: 'enforce' | 'observe' = 'enforce'): Promise<void> {
  const reached = [
    await reaches(trial, GRANTED),
    await reaches(app, LISTED),
    await reaches(app, '93.184.9.8'),
  ];
  expect(reached).toEqual([ofTrial === 'observe', false, false]);
  const { items } = await json<{ items: readonly { name: string; mode: string }[] }>('/v1/containers');
  const modes = items.map(({ name, mode }) => `${name} ${mode}`).sort();
  expect(modes).toEqual(['app enforce', 'observed observe', `trial ${ofTrial}`]);
}
/** Nothing was deleted, and recording began neither later than before nor in the future. */
async function isKept(before: { flows: Flows; records: readonly Flow[]; suggested: readonly string[] }) {
  // what belongs to a flow may be counted later than the flow was told
  const now = await records();
  for (const one of before.records) {
    const { last, packets, bytes, count, ...same } = one;
    const kept = now.filter((r) => r.time === one.time && r.address === one.address);
    expect(kept).toMatchObject([same]);
    for (const key of ['packets', 'bytes', 'count'] as const)
      expect(kept[0]?.[key], key).toBeGreaterThanOrEqual(one[key]);
    expect(Date.parse(kept[0]?.last ?? '')).toBeGreaterThanOrEqual(Date.parse(last));
  }
  expect(await suggested()).toEqual(expect.arrayContaining([...before.suggested]));
  const { recordingSince } = await flows();
  expect(recordingSince).toBe(before.flows.recordingSince);
}

beforeAll(async () => {
  lab = await Lab.up();
  clock = join(lab.dir, 'clock');
  setClock(0);
  await lab.dns.set({ 'app.test': { A: ['93.184.2.1'] }, 'seen.test': { A: ['93.184.1.1'] } });
  const files = [join(lab.dir, 'feed.txt'), join(lab.dir, 'feed.mode')] as const;
  writeFileSync(files[0], `${LISTED}\n`);
  writeFileSync(files[1], 'good');
  const script = join(import.meta.dirname, 'feed-server.mjs');
  const server = [process.execPath, script, String(PORT), ...files];
  feeds = spawn('nsenter', [`--net=${lab.hostNetns}`, '--', ...server], { stdio: 'ignore' });
  drawbridge = lab.drawbridge({
    env: {
      LD_PRELOAD: '/usr/$LIB/faketime/libfaketimeMT.so.1',
      FAKETIME_TIMESTAMP_FILE: clock,
      FAKETIME_NO_CACHE: '1',
      FAKETIME_DONT_FAKE_MONOTONIC: '1',
      NO_FAKE_STAT: '1',
    },
    config: {
      default: 'observe',
      threats: {
        feeds: [
          {
            name: 'feed',
            url: `http://127.0.0.1:${PORT}/feed`,
            format: 'plain',
            allowPrivate: true,
            every: '1d',
            minInterval: '0s',
          },
        ],
      },
    },
  });
  await drawbridge.ready(60_000);
  const allow = { 'drawbridge.allow': `93.184.2.1, app.test, ${LISTED}` };
  const cmd = (words: readonly string[]) => ({ mounts: [WORK], cmd: ['node', '/work.mjs', ...words] });
  app = await lab.start({ name: 'app', labels: allow, ...cmd(OF_APP) });
  observed = await lab.start({ name: 'observed', ...cmd(OF_OBSERVED) });
  trial = await lab.start({ name: 'trial' });
  await cli('feeds', 'sync', 'feed');
  await cli('mode', 'trial', 'enforce', '--trial', '15m', '--yes');
  await cli('allow', 'app', `${GRANTED}:80`, '--for', '10m');
}, 120_000);
afterAll(async () => {
  if (feeds?.kill('SIGKILL')) await once(feeds, 'exit');
  await lab?.down();
});

it('30 days ahead and back, at run time and over two starts: nothing is lost, and nothing begins in the future', async () => {
  expect([await reaches(app, GRANTED), await reaches(observed, SEEN)]).toEqual([true, true]);
  expect(await reaches(app, DENIED)).toBe(false);
  await isEnforced();
  await waitFor('the records', async () => (await records()).length === 2);
  const before = { flows: await flows(), records: await records(), suggested: await suggested() };
  await goesOn();

  setClock(30);
  await goesOn();
  await isEnforced();
  await waitFor(
    'the grant to be over by the wall clock',
    async () => !(await reaches(app, GRANTED)),
    READ_MS,
  );
  expect(await reaches(observed, SEEN_AHEAD)).toBe(true);
  const ofTheJump = async () => (await flows()).items.filter(({ address }) => address === SEEN_AHEAD);
  await waitFor('a record of the jump', async () => (await ofTheJump()).length === 1);
  expect((await ofTheJump()).map(({ time }) => daysAhead(time))).toEqual([30]); // as all clocks of the host show it
  await cli('feeds', 'sync', 'feed');
  expect(daysAhead((await feed())?.attempted ?? '')).toBe(30);
  await isKept(before);

  setClock(0);
  await waitFor('the grant to be in force again', () => reaches(app, GRANTED));
  await goesOn();
  await isEnforced();
  await isKept(before);
  expect((await json<{ threats: { alerts: string[] } }>('/v1/status')).threats.alerts.join()).toMatch(
    /clock/,
  );

  await drawbridge.stop();
  setClock(30);
  drawbridge.start();
  await drawbridge.ready(60_000);
  await isEnforced('observe'); // the trial was over by the wall clock when the service started
  await isKept(before);

  setClock(0);
  await drawbridge.restart();
  await isEnforced('observe');
  await isKept(before);
  // its last attempt, of the future, counts as one of long ago
  const due = await drawbridge.request('POST', '/v1/feeds/feed/sync', { onlyDue: true });
  expect(JSON.parse(due.body)).toMatchObject({ outcome: 'attempted', feed: { status: 'current' } });
  expect(daysAhead((await feed())?.attempted ?? '')).toBeCloseTo(0);
  const { gaps } = await flows();
  expect(gaps.filter(({ to }) => Date.parse(to) > Date.now())).toEqual([]);
  expect(gaps.map(({ reason }) => reason)).toContain('the clock of this host was ahead');
  await cli('audit', 'verify');
  expect(drawbridge.logs()).not.toMatch(/"level":"(error|fatal)"/);
}, 180_000);
