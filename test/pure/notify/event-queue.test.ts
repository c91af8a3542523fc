/** The events that an output has not got: what a queue has after any interruption, and what it drops. */
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { BY_WEIGHT, EventQueue } from '../../../src/notify/event-queue.js';
import { SmallState } from '../../../src/store/small-state.js';
import { eventOf, FLOW } from './events.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'drawbridge-queue-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

const logged: string[] = [];
const note = (_: object, message = ''): void => void logged.push(message);
const log = { debug: note, info: note, warn: note, error: note };
const event = (n: number) => eventOf('flow', { ...FLOW, port: n }, new Date(n * 1000).toISOString());
const portsOf = (queue: EventQueue): readonly unknown[] =>
  queue.events.map(({ data }) => ('port' in data ? data.port : undefined));
const turn = (): Promise<void> => new Promise((done) => setImmediate(done));
/** The queue as a process finds it when the one before was killed. */
async function open(most = BY_WEIGHT.most, path = folder): Promise<EventQueue> {
  await turn();
  return new EventQueue({ ...BY_WEIGHT, most }, await SmallState.open(path, log), 'outbox x');
}

it('events, a begun message and its end survive the end of the process', async () => {
  const first = await open();
  for (let n = 1; n <= 4; n++) first.add(event(n));
  first.begin(2);
  const second = await open();
  expect([portsOf(second), second.head]).toEqual([[1, 2, 3, 4], 2]);
  second.add(event(5));
  second.end();
  const third = await open();
  expect([portsOf(third), third.head]).toEqual([[3, 4, 5], 0]);
  expect(third.fault).toBe('');
});

it('a part of a message that was taken is not sent again', async () => {
  const first = await open();
  for (let n = 1; n <= 4; n++) first.add(event(n));
  first.begin(3);
  first.end(1);
  const second = await open();
  expect([portsOf(second), second.head]).toEqual([[2, 3, 4], 2]);
});

it('a damaged row is passed over', async () => {
  const state = await SmallState.open(folder, log);
  for (const [key, text] of [
    ['1', '{"kind":'],
    ['2', JSON.stringify(event(2))],
    ['head', 'x'],
    ['3', '[]'],
  ] as const)
    await state.set('outbox x', key, text);
  const found = await open();
  expect([portsOf(found), found.head]).toEqual([[2], 0]);
  found.add(event(3));
  expect(portsOf(await open())).toEqual([2, 3]);
});

it('beyond its bound the oldest events are dropped and counted; a message that is being delivered stays', async () => {
  const queue = await open(3);
  for (let n = 1; n <= 3; n++) expect(queue.add(event(n))).toBe(0);
  queue.begin(1);
  expect(queue.add(event(4))).toBe(1);
  expect(queue.add(event(5))).toBe(1);
  expect(portsOf(queue)).toEqual([1, 4, 5]);
  expect(portsOf(await open(3))).toEqual([1, 4, 5]);
  queue.end();
  expect(queue.expire(4_500)).toBe(1);
  expect(portsOf(queue)).toEqual([5]);
});

it('an alert is dropped for no lesser event, and none for the many of another container; what is left out is counted', () => {
  const queue = new EventQueue({ ...BY_WEIGHT, most: 50 });
  const contact = (container: string, verdict: 'deny' | 'threat', port: number) =>
    eventOf('first-contact', { ...FLOW, container, verdict, port, known: false });
  const add = (...of: Parameters<typeof contact>): number => queue.add(contact(...of));
  const count = (container: string, verdict: string): number =>
    queue.events.filter(
      ({ data }) => 'verdict' in data && data.container === container && data.verdict === verdict,
    ).length;
  let dropped = add('bad', 'threat', 1);
  for (let n = 0; n < 20; n++) dropped += add('web', 'threat', n) + add('web', 'deny', n);
  for (let n = 0; n < 1_000; n++) dropped += add('bad', 'deny', n);
  expect([count('bad', 'threat'), count('web', 'threat')]).toEqual([1, 20]);
  expect([count('web', 'deny'), count('bad', 'deny'), dropped]).toEqual([14, 15, 991]);
  for (let n = 0; n < 1_000; n++) dropped += add('bad', 'threat', n);
  expect([count('web', 'threat'), count('bad', 'threat'), queue.size]).toEqual([20, 30, 50]);
  queue.begin(50);
  expect(queue.leftOut).toHaveLength(dropped);
  expect(queue.leftOut.filter((container) => container === 'web')).toHaveLength(20);
  queue.end();
  add('web', 'deny', 1);
  queue.begin(1);
  expect(queue.leftOut).toEqual([]);
});

it('the file does not grow without bound', async () => {
  const queue = await open(10);
  for (let n = 1; n <= 3_000; n++) {
    queue.add(event(n));
    if (n % 3 === 0) {
      queue.begin(1);
      queue.end();
    }
    if (n % 10 === 0) await turn();
  }
  expect(statSync(join(folder, 'small-state.db')).size).toBeLessThan(64 * 1024);
  expect(statSync(join(folder, 'small-state.db-wal')).size).toBeLessThan(2 * 1024 * 1024);
  expect(portsOf(await open(10))).toEqual(portsOf(queue));
});

it('a queue that cannot be written goes on in memory, and shows why', async () => {
  const queue = await open(10, join(folder, 'missing'));
  queue.add(event(1));
  expect(portsOf(queue)).toEqual([1]);
  expect(queue.fault).toContain('ENOENT');
});
