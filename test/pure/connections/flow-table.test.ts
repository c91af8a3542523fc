/** Bounds of the flows whose names are being checked. */
import { expect, it } from 'vitest';
import type { NameJudge } from '../../../src/connections/flow-check.js';
import { FlowTable, type OpenFlow } from '../../../src/connections/flow-table.js';
import { HttpFlow } from '../../../src/connections/http-flow.js';
import { TlsFlow } from '../../../src/connections/tls-flow.js';
import { helloFor } from './hello-maker.js';

const BOUNDS = { ofOne: 3, ofAll: 5, waitingOfOne: 2, bytesOfOne: 1_000 };
const judge: NameJudge = {
  hello: () => ({ allow: true, name: 'a', entry: 'a' }),
  request: () => ({ allow: true, name: 'a', entry: 'a' }),
};
let keys = 0;
const flow = (container: string): OpenFlow => ({
  proto: 'tcp',
  source: '10.0.0.2',
  sourcePort: 1,
  address: '192.0.2.1',
  port: 80,
  key: String(++keys),
  container,
  check: new HttpFlow(judge, 80, 0),
  start: 0,
  waiting: new Map(),
  used: 0,
  placed: 0,
  state: 'begun',
  queuedAt: 0,
});
const packet = (id: number, length = 10) => ({ id, mark: 7, payload: Buffer.alloc(length) });

it('a container with too many flows loses its oldest that is idle', () => {
  const table = new FlowTable(BOUNDS);
  const [a, b, c, d] = [flow('x'), flow('x'), flow('x'), flow('x')];
  for (const one of [a, b, c]) expect(table.add(one).ok).toBe(true);
  table.use(a, 1_000);
  table.hold(b, packet(1));
  expect(table.add(d)).toEqual({ ok: true, evicted: c });
  expect([a, b, c, d].map((one) => table.get(one.key) === one)).toEqual([true, true, false, true]);
});

it('with too many in all, the container with the most loses one, and none that waits', () => {
  const table = new FlowTable(BOUNDS);
  const many = [flow('x'), flow('x'), flow('x')];
  const few = [flow('y'), flow('y')];
  for (const one of [...many, ...few]) table.add(one);
  expect(table.add(flow('z'))).toEqual({ ok: true, evicted: many[0] });
  const full = new FlowTable({ ...BOUNDS, ofAll: 2 });
  for (const [n, one] of [flow('x'), flow('y')].entries()) {
    full.add(one);
    full.hold(one, packet(n));
  }
  expect(full.add(flow('z'))).toEqual({ ok: false });
});

it('bounds what waits of one container by its number and its bytes, and gives room back', () => {
  const table = new FlowTable(BOUNDS);
  const [x, y] = [flow('x'), flow('y')];
  for (const one of [x, y]) table.add(one);
  expect([1, 2, 3].map((id) => table.hold(x, packet(id)))).toEqual([true, true, false]);
  expect(table.hold(y, packet(4, 900))).toBe(true);
  expect(table.hold(y, packet(5, 200))).toBe(false);
  expect(table.take(y, 4)).toMatchObject({ mark: 7 });
  expect(table.take(y, 4)).toBeUndefined();
  expect(table.hold(y, packet(5, 200))).toBe(true);
  expect(table.forget(x)).toEqual([1, 2]);
  table.add(x);
  expect(table.hold(x, packet(6, 1_000))).toBe(true);
});

it('forgets what is done after a second, what is silent after an hour, and nothing that it does not have', () => {
  const table = new FlowTable(BOUNDS);
  const [x, y, gone] = [flow('x'), flow('y'), flow('z')];
  for (const one of [x, y]) table.add(one);
  table.done(x);
  table.done(gone);
  expect(table.isBusy).toBe(true);
  table.forgetDone(1_001);
  expect([table.get(x.key), table.isBusy]).toEqual([undefined, false]);
  table.forgetIdle(3_600_000);
  expect(table.get(y.key)).toBe(y);
  table.forgetIdle(3_600_001);
  expect(table.isEmpty).toBe(true);
});

it('forgets a hello that the kernel has seen answered after half a minute, and none that is not complete', () => {
  const table = new FlowTable(BOUNDS);
  const [answered, begun] = [200, 20].map((bytes, n) => {
    const check = new TlsFlow(judge, 0);
    const payload = helloFor('a.example').subarray(0, bytes);
    check.take({ id: n, from: 'client', seq: 0, ack: 0, payload }, 0);
    return { ...flow('x'), check };
  }) as [OpenFlow, OpenFlow];
  for (const one of [answered, begun]) table.add(one);
  table.forgetIdle(30_000);
  expect(table.get(answered.key)).toBe(answered);
  table.forgetIdle(30_001);
  expect([table.get(answered.key), table.get(begun.key)]).toEqual([undefined, begun]);
});

it('forgets an earlier flow, and not the flow that has taken its place', () => {
  const table = new FlowTable(BOUNDS);
  const before = flow('x');
  const now = { ...flow('x'), key: before.key };
  table.add(before);
  table.forget(before);
  table.add(now);
  expect(table.forget(before)).toEqual([]);
  expect(table.get(now.key)).toBe(now);
});
