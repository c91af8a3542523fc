/** Deliveries to servers and programs, and the loop that repeats them. */
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { plainReceivers, type ReceiverConfig, readSecret } from '../../../src/config/endpoints.js';
import { EventLog } from '../../../src/events/event-log.js';
import { messageOf } from '../../../src/notify/formats.js';
import { Notifier } from '../../../src/notify/notifier.js';
import { deliver, retryAfter } from '../../../src/notify/receiver.js';
import { SmallState } from '../../../src/store/small-state.js';
import { containing } from '../contained-log.js';
import { eventOf, FLOW } from './events.js';
import { Server } from './servers.js';

let folder: string;
let server: Server;
beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'drawbridge-notify-'));
  server = await Server.start();
});
afterEach(async () => {
  await server[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true });
});

const silent = (): void => undefined;
const log = { debug: silent, info: silent, warn: silent, error: silent };
const receiver = (more: Partial<ReceiverConfig> = {}): ReceiverConfig => ({
  name: 'hook',
  kind: 'json',
  url: `${server.url}/hook`,
  command: [],
  events: ['flow'],
  containers: [],
  secretFile: undefined,
  digest: 10,
  timeoutMs: 5_000,
  ...more,
});
const MESSAGE = messageOf('host1', [eventOf('flow', FLOW)]);
const NEVER = new AbortController().signal;

describe('one delivery', () => {
  it('a POST with the event and its id', async () => {
    expect(await deliver(receiver(), MESSAGE, NEVER)).toMatchObject({ ok: true });
    expect(server.got).toMatchObject([{ url: '/hook', headers: { 'drawbridge-event': MESSAGE.id } }]);
    expect(JSON.parse(server.got[0]?.body ?? '')).toMatchObject({ id: MESSAGE.id, type: 'drawbridge.flow' });
  });

  it.each([
    [
      { status: 500, body: 'oh\u001b[31m no' },
      { hopeless: false, detail: 'status 500: oh [31m no' },
    ],
    [
      { status: 503, headers: { 'retry-after': '7' } },
      { hopeless: false, afterMs: 7_000 },
    ],
    [{ status: 400 }, { hopeless: true }],
    [{ status: 401 }, { hopeless: false }],
    [
      { status: 302, headers: { location: 'http://127.0.0.1:1/' } },
      { detail: expect.stringContaining('not followed') },
    ],
  ] as const)('an answer %o is a failure', async (answer, outcome) => {
    server.answer = answer;
    expect(await deliver(receiver(), MESSAGE, NEVER)).toMatchObject({ ok: false, ...outcome });
    expect(server.got).toHaveLength(1);
  });

  it('a server that does not answer, and one that is not there', async () => {
    server.answer = undefined;
    expect(await deliver(receiver({ timeoutMs: 50 }), MESSAGE, NEVER)).toMatchObject({
      ok: false,
      hopeless: false,
    });
    expect(await deliver(receiver({ url: 'http://127.0.0.1:1/' }), MESSAGE, NEVER)).toMatchObject({
      ok: false,
      detail: expect.stringContaining('ECONNREFUSED'),
    });
  });

  it('Retry-After is seconds or a date, an hour at most', () => {
    expect(retryAfter('5', 0)).toBe(5_000);
    expect(retryAfter('Thu, 01 Jan 1970 00:00:09 GMT', 1_000)).toBe(8_000);
    expect(retryAfter('999999', 0)).toBe(3_600_000);
    expect([retryAfter('soon', 0), retryAfter(undefined, 0)]).toEqual([undefined, undefined]);
  });

  it('a program gets the event on its standard input, and the end of its group with the time limit', async () => {
    const out = join(folder, 'out');
    const exec = { kind: 'exec', url: '' } as const;
    const good = receiver({ ...exec, command: ['/bin/sh', '-c', 'cat > "$0"; env >> "$0"', out] });
    expect(await deliver(good, MESSAGE, NEVER)).toEqual({ ok: true });
    const [line = '', ...environment] = readFileSync(out, 'utf8').split('\n');
    expect(JSON.parse(line)).toMatchObject({ id: MESSAGE.id });
    expect(environment.map((text) => text.split('=')[0]).sort()).toEqual(['', 'LC_ALL', 'PATH', 'PWD']);
    const bad = receiver({ ...exec, command: ['/bin/sh', '-c', 'echo wrong >&2; exit 3'] });
    expect(await deliver(bad, MESSAGE, NEVER)).toMatchObject({ ok: false, detail: 'exit code 3: wrong' });
    const late = join(folder, 'late');
    const slow = ['/bin/sh', '-c', '(sleep 5; touch "$0") & sleep 5', late];
    const ended = await deliver(receiver({ ...exec, command: slow, timeoutMs: 100 }), MESSAGE, NEVER);
    expect(ended).toMatchObject({ ok: false, detail: expect.stringContaining('took too long') });
    expect(existsSync(late)).toBe(false);
    const none = receiver({ ...exec, command: ['/nonexistent/program'] });
    expect(await deliver(none, MESSAGE, NEVER)).toMatchObject({
      detail: expect.stringContaining('/nonexistent/program'),
    });
  });
});

describe('secrets', () => {
  const write = (text: string, mode: number): string => {
    const path = join(folder, 'secret');
    writeFileSync(path, text);
    chmodSync(path, mode);
    return path;
  };
  it('one line that only its owner and group read', async () => {
    expect(await readSecret(write('tk_1\n', 0o640))).toBe('tk_1');
    await expect(readSecret(write('tk_1\n', 0o644))).rejects.toThrow('chmod 600');
    await expect(readSecret(write('tk_1\n', 0o660))).rejects.toThrow('chmod 600');
    await expect(readSecret(write('a\r\nx-header: b', 0o600))).rejects.toThrow('one line');
    await expect(readSecret(write('', 0o600))).rejects.toThrow('one line');
    await expect(readSecret(folder)).rejects.toThrow('regular file');
  });

  it('without a usable secret nothing is sent', async () => {
    const secretFile = write('tk_1', 0o604);
    expect(await deliver(receiver({ secretFile }), MESSAGE, NEVER)).toMatchObject({ ok: false });
    const slack = receiver({ kind: 'slack', url: '', secretFile: write('http://slack.example/x', 0o600) });
    expect(await deliver(slack, MESSAGE, NEVER)).toMatchObject({ detail: expect.stringContaining('https') });
    expect(server.got).toEqual([]);
  });

  it('a token over the network without TLS is reported', () => {
    const found = plainReceivers([
      receiver({ name: 'a', kind: 'ntfy', url: 'http://192.0.2.1/t', secretFile: '/x' }),
      receiver({ name: 'b', url: 'http://192.0.2.1/t' }),
      receiver({ name: 'c', url: 'http://127.0.0.1/t' }),
      receiver({ name: 'd', url: 'http://[::1]:80/t' }),
      receiver({ name: 'e', url: 'https://192.0.2.1/t' }),
    ]);
    expect(found.map(({ detail }) => detail)).toEqual([
      expect.stringContaining('receiver a: its token and events'),
      expect.stringContaining('receiver b: events cross'),
    ]);
  });
});

describe('the loop', () => {
  const ports = (): unknown[] =>
    server.got.map(({ body }) => (JSON.parse(body) as { data: { port?: number } }).data.port);
  let small: SmallState;
  beforeEach(async () => {
    small = await SmallState.open(folder, log);
  });
  afterEach(() => small[Symbol.dispose]());
  const begin = (events: EventLog, more: Partial<ReceiverConfig> = {}, to = log): Notifier =>
    new Notifier({ keepQueues: false, receivers: [receiver(more)], node: 'host1', events, log: to, small });

  it('what was not delivered is delivered by the next run, once and in order', async () => {
    server.answer = { status: 500 };
    const events = new EventLog();
    const first = begin(events);
    for (let port = 1; port <= 3; port++) events.emit('flow', { ...FLOW, port });
    await expect.poll(() => first.status()[0]).toMatchObject({ queued: 3, failed: 1, delivered: 0 });
    await first[Symbol.asyncDispose]();
    small[Symbol.dispose]();
    small = await SmallState.open(folder, log);
    server.answer = { status: 200 };
    const failed = server.got.splice(0).length;
    expect(failed).toBeGreaterThan(0);
    const second = begin(events);
    events.emit('flow', { ...FLOW, port: 4 });
    await expect.poll(() => second.status()[0]).toMatchObject({ queued: 0, delivered: 4, lastError: null });
    expect(ports()).toEqual([1, 2, 3, 4]);
    await second[Symbol.asyncDispose]();
  });

  it('goes on after an error in one of its turns', async () => {
    server.answer = { status: 500 };
    await containing(async (logged) => {
      const broken = {
        ...log,
        warn: () => {
          server.answer = { status: 200 };
          throw new Error('an error of this turn');
        },
      };
      const events = new EventLog();
      await using notifier = begin(events, {}, broken);
      events.emit('flow', FLOW);
      await expect.poll(() => notifier.status()[0], { timeout: 10_000 }).toMatchObject({ delivered: 1 });
      expect(logged).toEqual(['an error of Drawbridge: events wait for hook']);
    });
  }, 15_000);

  it('a storm is a digest', async () => {
    const events = new EventLog();
    await using notifier = begin(events);
    for (let port = 1; port <= 200; port++) events.emit('flow', { ...FLOW, port });
    await expect.poll(() => notifier.status()[0]).toMatchObject({ queued: 0, delivered: 200 });
    expect(server.got.length).toBeLessThan(3);
    expect(JSON.parse(server.got.at(-1)?.body ?? '')).toMatchObject({ type: 'drawbridge.digest' });
  });

  it('a digest has the alert that came before very many lesser events, and says how many it has not', async () => {
    const events = new EventLog();
    await using notifier = begin(events, { events: ['first-contact'] });
    const { packets: _, bytes: __, ...contact } = FLOW;
    events.emit('first-contact', { ...contact, verdict: 'threat', name: 'listed.example', known: false });
    for (let n = 0; n < 3_000; n++)
      events.emit('first-contact', { ...contact, name: `n${n}.example`, known: false });
    await expect.poll(() => notifier.status()[0]).toMatchObject({ queued: 0, failed: 0 });
    const { delivered = 0, dropped = 0 } = notifier.status()[0] ?? {};
    expect(delivered + dropped).toBe(3_001);
    expect(server.got.map(({ body }) => body).join('')).toContain('was kept from a threat: listed.example');
    expect(dropped).toBeGreaterThan(1_000);
    expect(notifier.warnings()).toEqual([expect.stringContaining(`${dropped} events`)]);
  });

  it('an event that the receiver refuses for good is dropped, and status shows it', async () => {
    server.answer = { status: 422, body: 'no' };
    const events = new EventLog();
    await using notifier = begin(events);
    events.emit('flow', FLOW);
    await expect.poll(() => notifier.status()[0]).toMatchObject({ queued: 0, dropped: 1, failed: 3 });
    expect(notifier.warnings()).toEqual([expect.stringContaining('1 events for receiver hook were dropped')]);
    expect(new Set(server.got.map(({ headers }) => headers['webhook-id'])).size).toBe(1);
  });

  it('a test is sent at once, and a receiver that does not exist is named with those that do', async () => {
    await using notifier = begin(new EventLog());
    expect(await notifier.test('hook')).toEqual({ name: 'hook', ok: true, detail: 'delivered' });
    expect(JSON.parse(server.got[0]?.body ?? '')).toMatchObject({ type: 'drawbridge.test' });
    server.answer = { status: 404, body: 'gone' };
    expect(await notifier.test('hook')).toEqual({ name: 'hook', ok: false, detail: 'status 404: gone' });
    expect(() => notifier.test('other')).toThrow('there is no receiver other');
  });

  it('the queue of a receiver that is not configured any more is removed', async () => {
    for (const area of ['outbox old', 'outbox hook']) await small.set(area, '1', '{}');
    const restart = async (): Promise<void> => {
      small[Symbol.dispose]();
      small = await SmallState.open(folder, log);
    };
    await restart();
    {
      await using _notifier = begin(new EventLog());
    }
    await restart();
    expect(small.areas).toEqual(['outbox hook']);
  });
});
