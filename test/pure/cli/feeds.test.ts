import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { readConfig } from '../../../src/config/config.js';
import { RefusedError } from '../../../src/lib/problem.js';
import { CATALOGUE } from '../../../src/threats/feed-catalogue.js';
import { feed } from '../api/double.js';
import { Bench, type Ran } from './bench.js';

let bench: Bench;
beforeEach(async () => {
  bench = await Bench.make();
  await bench.serve();
});
afterEach(() => bench.end());

const HOUR = 3_600_000;
const ago = (ms: number): string => new Date(Date.now() - ms).toISOString();
/** Made when it is asked for: what the table shows is counted from then. */
const refused = () =>
  feed({
    name: 'broken',
    status: 'refused',
    reason: 'the list fell from 500 to 3 entries',
    remedy: 'accept this update once',
    confirmed: ago(50 * HOUR),
    next: ago(-HOUR - 60_000), // shown in whole hours: a minute for the command to run
  });

async function ok(...argv: string[]): Promise<string> {
  const ran = await bench.run(...argv);
  expect(ran).toMatchObject({ code: 0, err: '' });
  return ran.out;
}

describe('feeds', () => {
  it('are a table: what is in force, how old, and why nothing new came', async () => {
    bench.controller.feedsKnown.push(refused());
    expect((await ok('feeds')).split('\n')[1]).toMatch(
      /^broken\tREFUSED\t20\t\d{4}-\S+Z\t\d{4}-\S+Z\tblock\tthe list fell from 500 to 3 entries$/,
    );
    bench.host = { isTerminal: true };
    expect((await ok('feeds')).split('\n')[2]).toMatch(/^broken +REFUSED +20 +2d +1h +block /);
    bench.host = {};
    expect(JSON.parse(await ok('feeds', '--json'))).toMatchObject([{ name: 'bad' }, { name: 'broken' }]);
    bench.controller.alerts.push('broken: refused: the list fell');
    expect(await ok('status')).toContain('ALERT broken: refused: the list fell');
    expect(await ok('threats')).toMatch(/^0 entries of 0 feeds.*\nALERT broken/);
  });

  it('sync through the service: all, or one; a feed that brought nothing is a failure', async () => {
    expect(await ok('feeds', 'sync')).toBe('bad: current, 20 entries\n');
    expect(bench.controller.calls).toEqual([
      ['syncFeed', 'bad', { accept: false, onlyDue: false }, 'local:ann'],
    ]);
    expect(await ok('feeds', 'sync', '--due', '--quiet')).toBe('');
    expect(bench.controller.calls[1]?.[2]).toEqual({ accept: false, onlyDue: true });
    bench.controller.feedsKnown.push(refused());
    expect(await bench.run('feeds', 'sync', 'broken', '--accept')).toMatchObject({
      code: 1,
      out: 'broken: refused: the list fell from 500 to 3 entries\n  in force: the last good version, 20 entries\n  → accept this update once\n',
    });
    expect(bench.controller.calls[2]?.[2]).toEqual({ accept: true, onlyDue: false });
    expect(await bench.run('feeds', 'sync', 'nope')).toMatchObject({
      code: 1,
      err: expect.stringMatching(/no feed nope/),
    });
    expect((await bench.run('feeds', 'sync', '--accept')).code).toBe(2);
  });

  it('sync by itself where no service runs', async () => {
    await bench.stopServing();
    const asked: unknown[] = [];
    bench.host = {
      syncFeeds: async (config, attempt) => {
        asked.push([config.state, attempt.name, attempt.onlyDue]);
        return [{ outcome: 'busy', feed: refused() }];
      },
    };
    expect(await ok('feeds', 'sync', 'broken', '--due')).toBe('broken: another host is at it\n');
    const remedy = 'feeds here are bad';
    bench.host.syncFeeds = () =>
      Promise.reject(new RefusedError({ kind: 'not-found', detail: 'no feed', remedy }));
    expect(await bench.run('feeds', 'sync', 'x')).toMatchObject({
      code: 1,
      err: 'no feed\n  → feeds here are bad\n',
    });
    expect(asked).toEqual([[`${bench.dir}/state`, 'broken', true]]);
  });

  it('of the catalogue come with terms, and as what to write', async () => {
    const table = await bench.run('feeds', 'catalogue');
    expect(table.out.split('\n')).toHaveLength(CATALOGUE.length + 1);
    expect(table.out).toMatch(/^spamhaus-drop\tyes\tno\tboth\t12h\tSpamhaus DROP terms/m);
    for (const { name } of CATALOGUE) {
      const { out } = await bench.run('feeds', 'catalogue', name);
      const read = readConfig({ file: { name: 'c.yaml', text: out } });
      expect(read.ok && read.value.threats.feeds[0]?.name).toBe(name);
    }
    expect((await bench.run('feeds', 'catalogue', 'nope')).code).toBe(1);
  });
});

describe('threats check', () => {
  const check = (...argv: string[]): Promise<Ran> => bench.run('threats', 'check', '203.0.113.7', ...argv);
  const hit = {
    feed: 'bad',
    action: 'block',
    direction: 'both',
    listed: '203.0.113.0/24',
    line: 12,
    positions: 'line',
    since: '2030-01-01T00:00:00.000Z',
    spared: null,
  } as const;

  it('says which feed, line and since when; a verdict is no failure', async () => {
    expect(await check('--exit-code')).toMatchObject({ code: 0, out: '203.0.113.7: in no feed\n' });
    bench.controller.threatKnown = [hit];
    expect(await check()).toMatchObject({
      code: 0,
      out: '203.0.113.7: blocked for every container\n  bad (block, both) lists 203.0.113.0/24 in line 12, since 2030-01-01T00:00:00.000Z\n',
    });
    expect((await check('--exit-code')).code).toBe(1);
    bench.controller.threatKnown = [{ ...hit, direction: 'inbound' }];
    expect((await check()).out).toMatch(/blocked for every container, as the source of what comes in\n/);
    bench.controller.threatKnown = [
      { ...hit, direction: 'inbound' },
      { ...hit, direction: 'outbound' },
    ];
    expect((await check()).out).toMatch(/blocked for every container\n/);
  });

  it('says why what is listed is spared', async () => {
    bench.controller.threatKnown = [{ ...hit, spared: 'a resolver in use' }];
    expect(await check('--exit-code')).toMatchObject({
      code: 0,
      out: expect.stringMatching(/listed, and spared\n.*\n {4}spared: a resolver in use/),
    });
  });
});

describe('notify', () => {
  const output = {
    name: 'hook',
    kind: 'json',
    target: 'https://h.example',
    queued: 2,
    delivered: 40,
    failed: 3,
    dropped: 0,
    suppressed: 7,
    lastDelivered: null,
    lastError: 'status 500',
  };

  it('is a table of receivers and records', async () => {
    expect((await bench.run('notify')).err).toContain('events go nowhere');
    bench.controller.outputs = [output, { ...output, name: 'flows.file', kind: 'file' }];
    expect((await ok('notify')).split('\n').slice(0, 2)).toEqual([
      'hook\tjson\thttps://h.example\t2\t40\t3\t0\t-\tstatus 500',
      'flows.file\tfile\thttps://h.example\t2\t40\t3\t0\t-\tstatus 500',
    ]);
    expect(JSON.parse(await ok('notify', '--json'))).toMatchObject([{ suppressed: 7 }, { kind: 'file' }]);
  });

  it('test tries every receiver, and fails with one that failed', async () => {
    bench.controller.outputs = [
      output,
      { ...output, name: 'other' },
      { ...output, name: 'flows.file', kind: 'file' },
    ];
    expect(await bench.run('notify', 'test')).toMatchObject({
      code: 1,
      out: 'hook: ok\nother: FAILED: status 500\n',
    });
    expect(await ok('notify', 'test', 'hook')).toBe('hook: ok\n');
  });
});
