import { setImmediate as turn } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { EventData } from '../../../src/events/service-events.js';
import { refuse } from '../../../src/lib/problem.js';
import { denial } from '../api/double.js';
import { Bench } from './bench.js';

let bench: Bench;
beforeEach(async () => {
  bench = await Bench.make();
  await bench.serve();
});
afterEach(() => bench.end());

const event = (more: Partial<EventData['flow']>): EventData['flow'] => {
  const { time: _, last: __, count: ___, ...flow } = denial();
  return { ...flow, ...more };
};

describe('flows', () => {
  it('prints one line for each record, the newest last, and since when it records', async () => {
    bench.controller.denied.push(
      denial({
        time: '2030-01-02T00:00:00.000Z',
        verdict: 'allow',
        name: 'a.org',
        entry: 'a.org',
        bytes: 1_500,
        packets: 12,
      }),
      denial({ address: '2001:db8::7', count: 3 }),
    );
    const { out, err, code } = await bench.run('flows');
    expect(code).toBe(0);
    expect(out).toBe(
      '2030-01-01T00:00:00.000Z\tweb\tdeny\t[2001:db8::7]:443/tcp\t3\t1\t-\tno entry covers it\n' +
        '2030-01-02T00:00:00.000Z\tweb\tallow\ta.org 192.0.2.1:443/tcp\t1\t12\t1500 B\ta.org\n',
    );
    expect(err).toBe(
      'recording since 2030-01-01T00:00:00.000Z\n3 flows of this host could not be recorded: some may be of what is shown here\n',
    );
    expect((await bench.run('flows', 'web', '--denied', '--limit', '1')).out.split('\n')).toHaveLength(2);
    const json = JSON.parse((await bench.run('flows', '--json')).out);
    expect(json).toMatchObject({ items: [{ name: 'a.org' }, {}], next: null, dropped: 3 });
    expect((await bench.run('flows', '--limit', '1')).err).toContain('these are the newest 1');
    expect((await bench.run('flows', '--verdict', 'threat')).out).toBe('');
  });

  it('refuses options that do not fit', async () => {
    for (const [args, words] of [
      [['--denied', '--verdict', 'deny'], 'exclude each other'],
      [['--limit', '0'], 'is not a number'],
      [['--mark-known', 'a.org'], 'drawbridge flows CONTAINER --mark-known a.org'],
    ] as const)
      expect(await bench.run('flows', ...args)).toMatchObject({
        code: 2,
        err: expect.stringContaining(words),
      });
    expect(await bench.run('flows', 'none')).toMatchObject({ code: 1 });
    expect(await bench.run('flows', '--since', 'yesterday')).toMatchObject({
      code: 2,
      err: expect.stringContaining('write a duration like 2h30m'),
    });
  });

  it('follows events, filters them, and reports what was left out', async () => {
    const { events } = bench.controller;
    const running = bench.run('flows', 'web', '-f', '--denied', '--name', '*.org', '--json');
    while (events.readers === 0) await turn();
    events.emit('flow', event({ name: 'a.org' }));
    events.emit('flow', event({ name: 'b.com' }));
    events.emit('flow', event({ name: 'c.org', verdict: 'allow' }));
    events.emit('flow', event({ name: 'd.org', container: 'other' }));
    await bench.stopServing();
    events.emit('flow', event({ name: 'e.org', verdict: 'threat' })); // read after the service is there again
    await bench.serve();
    while (events.readers === 0) await turn();
    bench.controller.container = () => refuse('not-found', 'there is no container web', 'see drawbridge ps');
    await bench.stopServing();
    await bench.serve();
    const { out, err } = await running;
    expect(
      out
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line).name),
    ).toEqual(['a.org', 'e.org']);
    expect(err).toContain('the service has ended the stream');
    expect(err).toContain('there is no container web');
  });

  it('marks a destination as known, and says that it stays denied', async () => {
    const marked = await bench.run('flows', 'web', '--mark-known', 'telemetry.a.org:443');
    expect(marked).toMatchObject({
      code: 0,
      out: expect.stringContaining('raises no alert, and stays denied'),
    });
    expect(bench.controller.marked).toEqual([{ owner: 'name:web', target: 'telemetry.a.org', port: 443 }]);
    expect((await bench.run('flows', 'web', '--unmark-known', 'telemetry.a.org:443')).code).toBe(0);
    expect((await bench.run('flows', 'web', '--unmark-known', 'telemetry.a.org:443')).code).toBe(1);
  });
});
