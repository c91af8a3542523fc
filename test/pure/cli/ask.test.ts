/** Deciding about requests on the command line: by id, and by keys on a terminal. */
import { PassThrough } from 'node:stream';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { ask } from '../api/double.js';
import { Bench } from './bench.js';

let bench: Bench;
beforeEach(async () => {
  bench = await Bench.make();
  await bench.serve();
});
afterEach(() => bench.end());

const decisions = (): unknown[] =>
  bench.controller.calls.filter(([what]) => what === 'decideAsk').map(([, id, decision]) => [id, decision]);
const v6 = ask({
  ...{ id: 'two', name: 'x.org', proto: 'udp', port: 53, entry: 'x.org:53/udp', token: 't2' },
  addresses: ['192.0.2.1', '2001:db8::1'],
});

it('lists what waits, and names the next step when nothing does', async () => {
  bench.controller.asked = [
    ask(),
    v6,
    ask({ id: 'n', name: 'new.org', proto: 'dns', port: 0, addresses: [], entry: 'new.org', until: null }),
  ];
  const { code, out } = await bench.run('ask');
  expect([code, out.trim().split('\n')]).toEqual([
    0,
    [
      '3f9c21ab\tweb\t192.0.2.1:22/tcp\t192.0.2.1:22\tuntil 2030-01-01T00:00:10.000Z\t1\t2030-01-01T00:00:00.000Z',
      'two\tweb\tx.org:53/udp (192.0.2.1, [2001:db8::1])\tx.org:53/udp\tuntil 2030-01-01T00:00:10.000Z\t1\t2030-01-01T00:00:00.000Z',
      'n\tweb\tnew.org\tnew.org\t-\t1\t2030-01-01T00:00:00.000Z',
    ],
  ]);
  expect(JSON.parse((await bench.run('ask', '--json')).out)).toHaveLength(3);
  bench.controller.asked = [];
  expect((await bench.run('ask')).err).toMatch(/drawbridge\.ask/);
});

describe('one request', () => {
  it.each([
    [['allow', '3f9c21ab'], { allow: true }, /web may reach 192\.0\.2\.1:22 until 2030/],
    [['allow', '3f9c21ab', '--once'], { allow: true, forMs: 60_000 }, /until 2030/],
    [['allow', '3f9c21ab', '--for', '1h'], { allow: true, forMs: 3_600_000 }, /until 2030/],
    [['allow', '3f9c21ab', '--always', 'ci'], { allow: true, list: 'ci' }, /in the list ci/],
    [['deny', '3f9c21ab'], { allow: false }, /not asked again/],
  ])('%j', async (argv, decision, text) => {
    bench.controller.asked = [ask()];
    const { code, out } = await bench.run('ask', ...argv);
    expect([code, out]).toEqual([0, expect.stringMatching(text)]);
    expect(decisions()).toEqual([['3f9c21ab', { token: 'shown', ...decision }]]);
  });

  it('that is not there fails, and two terms at once are wrong usage', async () => {
    expect(await bench.run('ask', 'deny', 'gone')).toMatchObject({
      code: 1,
      err: expect.stringMatching(/no request gone/),
    });
    expect((await bench.run('ask', 'allow', '3f9c21ab', '--once', '--for', '1h')).code).toBe(2);
    expect((await bench.run('ask', 'allow', '3f9c21ab', '--for', 'soon')).code).toBe(2);
    expect(decisions()).toEqual([]);
  });
});

/** A terminal with a keyboard; `raw` is what its mode was set to. */
function terminal() {
  const raw: boolean[] = [];
  const stdin = Object.assign(new PassThrough(), { setRawMode: (isRaw: boolean) => raw.push(isRaw) });
  bench.host = { canAsk: true, isTerminal: true, stdin };
  const press = async (key: string, until: () => boolean): Promise<void> => {
    stdin.write(key);
    await vi.waitFor(() => expect(until()).toBe(true), 5_000);
  };
  return { raw, press };
}

describe('--watch', () => {
  it.each([
    ['a', { allow: true }],
    ['o', { allow: true, forMs: 60_000 }],
    ['d', { allow: false }],
  ])('key %s decides, q ends, and the terminal is restored', async (key, decision) => {
    bench.controller.asked = [ask()];
    const { raw, press } = terminal();
    const running = bench.run('ask', '--watch');
    await press(key, () => decisions().length === 1);
    expect(decisions()).toEqual([['3f9c21ab', { token: 'shown', ...decision }]]);
    await press('q', () => true);
    const { code, out } = await running;
    expect([code, raw]).toEqual([0, [true, false]]);
    expect(out).toMatch(/web wants 192\.0\.2\.1:22\/tcp and would get 192\.0\.2\.1:22/);
  });

  it('key l asks for a list by a line, in the usual mode of the terminal', async () => {
    bench.controller.asked = [ask()];
    const { raw, press } = terminal();
    const running = bench.run('ask', '--watch');
    await press('l', () => raw.length === 2);
    await press('ci\n', () => decisions().length === 1);
    expect(decisions()).toEqual([['3f9c21ab', { token: 'shown', allow: true, list: 'ci' }]]);
    await press('q', () => true);
    expect([(await running).code, raw]).toEqual([0, [true, false, true, false]]);
  });

  it('key s shows the next request; the first one stays', async () => {
    bench.controller.asked = [ask(), ask({ id: 'next', token: 't2', until: null })];
    const { press } = terminal();
    const running = bench.run('ask', '--watch');
    await press('s', () => true);
    await press('d', () => decisions().length === 1);
    expect(decisions()).toEqual([['next', { token: 't2', allow: false }]]);
    await press('\u0003', () => true);
    expect((await running).code).toBe(0);
    expect(bench.controller.asked.map((one) => one.id)).toEqual(['3f9c21ab']);
  });

  it('shows a refusal and goes on', async () => {
    bench.controller.asked = [ask()];
    const { press } = terminal();
    bench.controller.failure = new Error('broken');
    const running = bench.run('ask', '--watch');
    await press('d', () => decisions().length === 1);
    await press('q', () => true);
    expect(await running).toMatchObject({ code: 0, out: expect.stringMatching(/→/) });
  });

  it('in a pipe it prints a line for each wait, until a signal', async () => {
    let stop: () => void = () => undefined;
    const reads = vi.fn(() => [ask()]);
    Object.defineProperty(bench.controller, 'asked', { get: reads });
    bench.host = {
      onSignal: (_signals, handler) => {
        stop = () => handler('SIGTERM');
        return { [Symbol.dispose]: () => undefined };
      },
    };
    const running = bench.run('ask', '--watch', '--json');
    await vi.waitFor(() => expect(reads.mock.calls.length).toBeGreaterThan(2), 5_000);
    stop();
    const { code, out } = await running;
    expect([
      code,
      out
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line).id),
    ]).toEqual([0, ['3f9c21ab']]);
  });
});
