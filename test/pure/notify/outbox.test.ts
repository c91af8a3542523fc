/** The queue of a receiver on the disk: what it has after any interruption. */
import { mkdtempSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { Outbox } from '../../../src/notify/receiver.js';
import { eventOf, FLOW } from './events.js';

let folder: string;
let path: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'drawbridge-outbox-'));
  path = join(folder, 'notify-x.outbox');
});
afterEach(() => rmSync(folder, { recursive: true }));

const logged: string[] = [];
const note = (_: object, message = ''): void => void logged.push(message);
const log = { debug: note, info: note, warn: note, error: note };
const event = (n: number) => eventOf('flow', { ...FLOW, port: n }, new Date(n * 1000).toISOString());
const portsOf = (outbox: Outbox): readonly unknown[] =>
  outbox.events.map(({ data }) => ('port' in data ? data.port : undefined));

it('events, a begun message and its end survive the end of the process', async () => {
  const first = await Outbox.open(path, log);
  for (let n = 1; n <= 4; n++) first.add(event(n));
  first.begin(2);
  // no disposal: the process was killed
  const second = await Outbox.open(path, log);
  expect([portsOf(second), second.head]).toEqual([[1, 2, 3, 4], 2]);
  second.add(event(5));
  second.end();
  const third = await Outbox.open(path, log);
  expect([portsOf(third), third.head]).toEqual([[3, 4, 5], 0]);
  expect(third.fault).toBe('');
});

it('a file that ends at any byte has the events that were written whole, in their order', async () => {
  const outbox = await Outbox.open(path, log);
  outbox.add(event(1));
  outbox.add(event(2));
  outbox.begin(1);
  outbox.end();
  outbox.add(event(3));
  await outbox[Symbol.asyncDispose]();
  const whole = readFileSync(path);
  const seen = new Set<string>();
  for (let length = 0; length <= whole.length; length++) {
    writeFileSync(path, whole);
    truncateSync(path, length);
    const found = await Outbox.open(path, log);
    expect(found.fault).toBe('');
    seen.add(JSON.stringify([portsOf(found), found.head]));
    found.add(event(9));
    await found[Symbol.asyncDispose]();
    const again = await Outbox.open(path, log);
    expect(portsOf(again).at(-1)).toBe(9);
    await again[Symbol.asyncDispose]();
  }
  expect([...seen]).toEqual(['[[],0]', '[[1],0]', '[[1,2],0]', '[[1,2],1]', '[[2],0]', '[[2,3],0]']);
});

it('a damaged file is kept, and what is readable of it is delivered', async () => {
  const outbox = await Outbox.open(path, log);
  outbox.add(event(1));
  const length = statSync(path).size;
  outbox.add(event(2));
  outbox.add(event(3));
  await outbox[Symbol.asyncDispose]();
  const bytes = readFileSync(path);
  bytes[length + 20] = (bytes[length + 20] ?? 0) ^ 0xff;
  writeFileSync(path, bytes);
  const found = await Outbox.open(path, log);
  expect(portsOf(found)).toEqual([1]);
  expect(readFileSync(`${path}.damaged`)).toEqual(bytes);
  expect(logged).toContain('the queue of a receiver was damaged');
  expect(portsOf(await Outbox.open(path, log))).toEqual([1]);
});

it('beyond its bound the oldest events are dropped and counted; a message that is being delivered stays', async () => {
  const outbox = await Outbox.open(path, log, { events: 3, bytes: 1 << 20 });
  for (let n = 1; n <= 3; n++) expect(outbox.add(event(n))).toBe(0);
  outbox.begin(1);
  expect(outbox.add(event(4))).toBe(1);
  expect(outbox.add(event(5))).toBe(1);
  expect(portsOf(outbox)).toEqual([1, 4, 5]);
  expect(portsOf(await Outbox.open(path, log))).toEqual([1, 4, 5]);
  outbox.end();
  expect(outbox.expire(4_500)).toBe(1);
  expect(portsOf(outbox)).toEqual([5]);
});

it('an alert is dropped for no lesser event, and none for the many of another container; what is left out is counted', async () => {
  const outbox = await Outbox.open(path, log, { events: 50, bytes: 1 << 20 });
  const contact = (container: string, verdict: 'deny' | 'threat', port: number) =>
    eventOf('first-contact', { ...FLOW, container, verdict, port, known: false });
  const add = (...of: Parameters<typeof contact>): number => outbox.add(contact(...of));
  const count = (container: string, verdict: string): number =>
    outbox.events.filter(
      ({ data }) => 'verdict' in data && data.container === container && data.verdict === verdict,
    ).length;
  let dropped = add('bad', 'threat', 1);
  for (let n = 0; n < 20; n++) dropped += add('web', 'threat', n) + add('web', 'deny', n);
  for (let n = 0; n < 1_000; n++) dropped += add('bad', 'deny', n);
  expect([count('bad', 'threat'), count('web', 'threat')]).toEqual([1, 20]);
  expect([count('web', 'deny'), count('bad', 'deny'), dropped]).toEqual([14, 15, 991]);
  for (let n = 0; n < 1_000; n++) dropped += add('bad', 'threat', n);
  expect([count('web', 'threat'), count('bad', 'threat'), outbox.size]).toEqual([20, 30, 50]);
  outbox.begin(50);
  expect(outbox.leftOut).toHaveLength(dropped);
  expect(outbox.leftOut.filter((container) => container === 'web')).toHaveLength(20);
  outbox.end();
  add('web', 'deny', 1);
  outbox.begin(1);
  expect(outbox.leftOut).toEqual([]);
});

it('the file does not grow without bound', async () => {
  const outbox = await Outbox.open(path, log, { events: 10, bytes: 8192 });
  for (let n = 1; n <= 500; n++) {
    outbox.add(event(n));
    if (n % 3 === 0) {
      outbox.begin(1);
      outbox.end();
    }
  }
  expect(statSync(path).size).toBeLessThan(8192 + 10 * 1024);
  expect(portsOf(await Outbox.open(path, log))).toEqual(portsOf(outbox));
  while (outbox.size > 0) {
    outbox.begin(1);
    outbox.end();
  }
  expect(statSync(path).size).toBeLessThan(1024);
  expect(portsOf(await Outbox.open(path, log))).toEqual([]);
});

it('a queue that cannot be written goes on in memory, and shows why', async () => {
  const outbox = await Outbox.open(join(folder, 'missing', 'x.outbox'), log);
  outbox.add(event(1));
  expect(portsOf(outbox)).toEqual([1]);
  expect(outbox.fault).toContain('ENOENT');
});
