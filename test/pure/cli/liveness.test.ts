import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { Liveness } from '../../../src/cli/service-commands.js';
import type { Service } from '../../../src/ops/service-manager.js';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

const said: string[] = [];
const say = (o: object, msg?: string): void => void said.push(`${msg} ${JSON.stringify(o)}`);
const log = { debug: say, info: say, warn: say, error: say };
let stuck: string | undefined;
const service: Service = { stop: async () => undefined, done: Promise.resolve(), stuck: () => stuck };
let sent: string[];
let isGone: boolean;
const manager = {
  watchdogMs: 40_000,
  notify: (state: string) => {
    if (isGone) throw new Error('ECONNREFUSED');
    sent.push(state);
  },
};
const beats = (): number => sent.filter((state) => state === 'WATCHDOG=1').length;
beforeEach(() => {
  stuck = undefined;
  isGone = false;
  sent = [];
  said.length = 0;
});

it('reports ready, then four times in each period that it is alive, and that it stops', () => {
  using liveness = new Liveness(manager, Date.now);
  liveness.ready(service, log);
  expect(sent[0]).toMatch(/^READY=1\n/);
  vi.advanceTimersByTime(40_000);
  expect(beats()).toBe(4);
  liveness.stopping();
  expect(sent.at(-1)).toMatch(/^STOPPING=1\n/);
});

it('is silent while the service is stuck, and says once what is', () => {
  using liveness = new Liveness(manager, Date.now);
  liveness.ready(service, log);
  stuck = 'a pass\nhangs';
  vi.advanceTimersByTime(40_000);
  expect(beats()).toBe(0);
  expect(sent.filter((state) => state.startsWith('STATUS='))).toEqual(['STATUS=stuck: a pass hangs']);
  expect(said).toHaveLength(1);
  stuck = undefined;
  vi.advanceTimersByTime(10_000);
  expect(beats()).toBe(1);
});

it('is alive while it starts again, for two minutes', () => {
  using liveness = new Liveness(manager, Date.now);
  liveness.ready(service, log);
  stuck = 'the former service';
  liveness.reloading();
  expect(sent.at(-1)).toMatch(/^RELOADING=1\nMONOTONIC_USEC=\d+\n/);
  vi.advanceTimersByTime(120_000);
  expect(beats()).toBe(12);
  vi.advanceTimersByTime(40_000);
  expect(beats()).toBe(12);
});

it('a manager that cannot be reached is said once, and tried again', () => {
  using liveness = new Liveness(manager, Date.now);
  liveness.ready(service, log);
  isGone = true;
  vi.advanceTimersByTime(40_000);
  expect(said).toHaveLength(1);
  isGone = false;
  vi.advanceTimersByTime(10_000);
  expect(beats()).toBe(1);
});

it('without a manager, and without its watchdog, nothing is sent', () => {
  using alone = new Liveness(undefined);
  alone.ready(service, log);
  using unwatched = new Liveness({ ...manager, watchdogMs: undefined });
  unwatched.ready(service, log);
  vi.advanceTimersByTime(100_000);
  expect(sent).toHaveLength(1);
});
