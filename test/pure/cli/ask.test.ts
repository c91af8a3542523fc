/** Deciding about requests on the command line: by id, and by keys on a terminal. */
import { PassThrough, Readable } from 'node:stream';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { Host } from '../../../src/cli/host.js';
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
  expect((await bench.run('ask', '--newest')).out.match(/^\w+/gm)).toEqual(['n', 'two', '3f9c21ab']);
  expect(JSON.parse((await bench.run('ask', '--json')).out)).toHaveLength(3);
  bench.controller.asked = [];
  expect((await bench.run('ask')).err).toMatch(/drawbridge\.ask/);
});

it('lists the first of each container before the second of any', async () => {
  const of = (id: string, containerId: string) => ask({ id, containerId });
  bench.controller.asked = [of('a1', 'a'), of('a2', 'a'), of('a3', 'a'), of('b1', 'b'), of('b2', 'b')];
  expect((await bench.run('ask')).out.match(/^\w+/gm)).toEqual(['a1', 'b1', 'a2', 'b2', 'a3']);
  expect((await bench.run('ask', '--newest')).out.match(/^\w+/gm)).toEqual(['b2', 'a3', 'b1', 'a2', 'a1']);
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

describe('--oldest', () => {
  const old = ask({ id: 'old', until: null, token: 'of old' });
  const first = ask({ id: 'first', token: 'of first', entry: 'first.org' });
  const other = ask({ ...{ id: 'other', token: 'of other' }, container: 'db', containerId: 'def456' });

  it('allows the oldest for which a client waits, after it has printed it', async () => {
    bench.controller.asked = [old, first, v6];
    const { code, out } = await bench.run('ask', 'allow', '--oldest', '--for', '1h');
    expect([code, out.split('\n').slice(0, 2)]).toEqual([
      0,
      [
        'first: web wants 192.0.2.1:22/tcp, and would get first.org',
        'web may reach first.org until 2030-01-01T00:10:00.000Z',
      ],
    ]);
    expect(decisions()).toEqual([['first', { token: 'of first', allow: true, forMs: 3_600_000 }]]);
  });

  it('of a container leaves those of others out', async () => {
    bench.controller.asked = [first, other];
    const id = bench.controller.container('web').id;
    bench.controller.asked = [other, ask({ id: 'own', token: 'of own', containerId: id })];
    expect((await bench.run('ask', 'allow', '--oldest', '--container', 'web')).code).toBe(0);
    expect(decisions()).toEqual([['own', { token: 'of own', allow: true }]]);
  });

  it('fails when no client waits, and with an id', async () => {
    bench.controller.asked = [old];
    expect(await bench.run('ask', 'allow', '--oldest')).toMatchObject({
      code: 1,
      err: expect.stringMatching(/1 request of earlier attempts/),
    });
    expect((await bench.run('ask', 'allow', '--oldest', 'old')).code).toBe(2);
    expect((await bench.run('ask', 'allow')).code).toBe(2);
    expect(decisions()).toEqual([]);
  });

  it.each([true, false])(
    'as JSON needs --yes, which stands for what is not printed (a terminal: %s)',
    async (canAsk) => {
      bench.controller.asked = [first];
      bench.host = { canAsk, isTerminal: canAsk, stdin: Readable.from(['y\n']) };
      const { code, err } = await bench.run('ask', 'allow', '--oldest', '--json');
      expect([code, err, decisions()]).toEqual([2, expect.stringContaining('add --yes'), []]);
      expect((await bench.run('ask', 'allow', '--oldest', '--json', '--yes')).code).toBe(0);
      expect(decisions()).toHaveLength(1);
    },
  );

  it('asks on a terminal, and decides about what it has printed, whatever has become the oldest', async () => {
    bench.controller.asked = [first];
    const stdin = new PassThrough();
    bench.host = { canAsk: true, isTerminal: true, stdin };
    const running = bench.run('ask', 'allow', '--oldest');
    await vi.waitFor(() => expect(stdin.listenerCount('data')).toBeGreaterThan(0), 5_000);
    bench.controller.asked = [v6, first];
    stdin.write('y\n');
    await vi.waitFor(() => expect(stdin.readableLength).toBe(0), 5_000);
    expect(decisions()).toEqual([]); // it was typed before a person could read what is asked
    await vi.waitFor(() => {
      stdin.write('y\n');
      expect(decisions()).toHaveLength(1);
    }, 5_000);
    const { code, err } = await running;
    expect([code, err]).toEqual([0, expect.stringContaining('that was typed before it could be read')]);
    expect(decisions()).toEqual([['first', { token: 'of first', allow: true }]]);
    bench.host = { canAsk: true, isTerminal: true, stdin: Readable.from(['\n']) };
    expect((await bench.run('ask', 'allow', '--oldest')).code).toBe(1);
    expect(decisions()).toHaveLength(1);
  });
});

/** A terminal with a keyboard; `raw` is what its mode was set to. */
function terminal(more: Partial<Host> = {}) {
  const raw: boolean[] = [];
  let shown = '';
  const stdin = Object.assign(new PassThrough(), { setRawMode: (isRaw: boolean) => raw.push(isRaw) });
  const stdout = { write: (text: string) => (shown += text) };
  bench.host = { canAsk: true, isTerminal: true, stdin, stdout, ...more };
  const last = (): string => shown.split('\r\u001b[K').at(-1) ?? '';
  const press = async (key: string, until: () => boolean): Promise<void> => {
    stdin.write(key);
    await vi.waitFor(() => expect(until()).toBe(true), 5_000);
  };
  return {
    ...{ raw, press },
    text: () => shown,
    /** A key counts for what is shown. */
    ready: (fits = / waiting,|nothing waits now/) =>
      vi.waitFor(() => {
        expect(last()).toMatch(fits);
        expect(last()).not.toContain('read it first');
      }, 5_000),
  };
}

describe('--watch', () => {
  it.each([
    ['a', { allow: true }],
    ['o', { allow: true, forMs: 60_000 }],
    ['d', { allow: false }],
  ])('key %s decides, q ends, and the terminal is restored', async (key, decision) => {
    bench.controller.asked = [ask()];
    const { raw, press, ready, text } = terminal();
    const running = bench.run('ask', '--watch');
    await ready();
    await press(key, () => decisions().length === 1);
    expect(decisions()).toEqual([['3f9c21ab', { token: 'shown', ...decision }]]);
    await press('q', () => true);
    expect([(await running).code, raw]).toEqual([0, [true, false]]);
    expect(text()).toContain('\u0007web\n  wants 192.0.2.1:22/tcp\n  a allow 10 minutes');
  });

  it('keys that were typed before the request appeared, or several at once, decide nothing', async () => {
    const { press, ready, text } = terminal();
    const running = bench.run('ask', '--watch');
    await press('aaa', () => text().includes('no request waits'));
    bench.controller.asked = [ask(), ask({ id: 'next', token: 't2', entry: 'next.org' })];
    await press('a', () => text().includes('wants'));
    await ready(/1 more waiting/);
    expect(decisions()).toEqual([]);
    await press('aa', () => (text().split('\r\u001b[K').at(-1) ?? '').includes('read it first'));
    await ready(/1 more waiting/);
    expect(decisions()).toEqual([]);
    await press('a', () => decisions().length === 1);
    expect(decisions()).toEqual([['3f9c21ab', { token: 'shown', allow: true }]]);
    await press('q', () => true);
    expect((await running).code).toBe(0);
  });

  it('wraps to the terminal, with the container in bold, and no character of a name reaches it', async () => {
    const name = `${'long-'.repeat(40)}\u001b[2J\nsafe.example\u202e.org`;
    bench.controller.asked = [ask({ container: 'web\u0007\r', name, proto: 'dns', port: 0, entry: name })];
    const { press, ready, text } = terminal({ columns: 80, colours: { stdout: true, stderr: true } });
    const running = bench.run('ask', '--watch');
    await ready();
    await press('q', () => true);
    await running;
    expect(text()).toContain('\u0007\u001b[1mweb\ufffd\ufffd\u001b[22m\n');
    const plain = text()
      .replaceAll('\r\u001b[K', '\n')
      .replaceAll(/\u001b\[(1|22)m|\u0007/g, '');
    expect(plain).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u202e]|^safe/m);
    for (const line of plain.split('\n')) expect(line.length).toBeLessThanOrEqual(80);
    expect(plain.match(/wants/g)).toHaveLength(1);
    expect(plain).not.toContain('would get');
  });

  it('key l asks for a list by a line, in the usual mode of the terminal', async () => {
    bench.controller.asked = [ask()];
    const { raw, press, ready } = terminal();
    const running = bench.run('ask', '--watch');
    await ready();
    await press('l', () => raw.length === 2);
    await press('ci\n', () => decisions().length === 1);
    expect(decisions()).toEqual([['3f9c21ab', { token: 'shown', allow: true, list: 'ci' }]]);
    await press('q', () => true);
    expect([(await running).code, raw]).toEqual([0, [true, false, true, false]]);
  });

  it('key s shows the next request; the first one stays', async () => {
    bench.controller.asked = [ask(), ask({ id: 'next', token: 't2', until: null })];
    const { press, ready } = terminal();
    const running = bench.run('ask', '--watch');
    await ready();
    await press('s', () => true);
    await ready(/nothing waits now/);
    await press('d', () => decisions().length === 1);
    expect(decisions()).toEqual([['next', { token: 't2', allow: false }]]);
    await press('\u0003', () => true);
    expect((await running).code).toBe(0);
    expect(bench.controller.asked.map((one) => one.id)).toEqual(['3f9c21ab']);
  });

  it('shows a refusal and goes on', async () => {
    bench.controller.asked = [ask()];
    const { press, ready, text } = terminal();
    bench.controller.failure = new Error('broken');
    const running = bench.run('ask', '--watch');
    await ready();
    await press('d', () => decisions().length === 1);
    await press('q', () => true);
    expect((await running).code).toBe(0);
    expect(text()).toMatch(/→/);
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
