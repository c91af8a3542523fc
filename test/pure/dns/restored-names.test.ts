/** What a process learned, read by the next one, which has another clock: nothing outlives its time, and nothing is lost. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { DnsService } from '../../../src/dns/dns-service.js';
import type { Fact } from '../../../src/dns/ledger.js';
import type { QueryPolicy } from '../../../src/dns/names-policy.js';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'drawbridge-restored-'));
});
afterEach(() => rmSync(dir, { recursive: true }));

const log = { debug() {}, info() {}, warn() {}, error() {} };
const policy = {
  decide: () => ({ allow: false, entries: [], sets: [], allowPrivate: false }),
} as unknown as QueryPolicy;
const nothing = async (): Promise<void> => undefined;
const sets = { add: nothing, addAll: nothing, remove: nothing, repeated: () => undefined };

/** Seconds. What an answer gives is rounded up by at most 225 s (a sixteenth of the grace). */
const [MAX_TTL, GRACE, STEP] = [86_400, 3600, 225];
const RIGHT = Date.UTC(2026, 5, 1);
const [SECOND, HOUR, DAY] = [1000, 3_600_000, 86_400_000];

/** A service of its own process. Both clocks are in ms since the epoch; `steady` is the wall clock at its start. */
class Process {
  wall: number;
  steady: number;
  readonly dns: DnsService;

  constructor(wall: number) {
    this.wall = wall;
    this.steady = wall;
    this.dns = new DnsService({
      config: { upstreams: [], zones: {}, minTtl: 5, maxTtl: MAX_TTL, grace: GRACE },
      policy,
      sets,
      original: { lookup: () => undefined },
      log,
      journal: join(dir, 'names.journal'),
      onEvent() {},
      now: () => this.steady,
      wallClock: () => this.wall,
    });
  }

  /** Records an address, which a flow uses: the journal has a line of it. */
  async learn(address: string): Promise<void> {
    const until = this.steady + SECOND;
    this.dns.ledger.record({ container: 'c', name: 'a.example', address, until, shownUntil: until });
    await this.dns.extend('c', address);
  }

  /** The address is shown only: another resolver answered. */
  see(address: string, ms: number): void {
    const shownUntil = this.steady + ms;
    this.dns.ledger.record({ container: 'c', name: 'a.example', address, until: 0, shownUntil });
  }

  pass(ms: number): void {
    this.wall += ms;
    this.steady += ms;
  }

  /** By address: for how long from now (ms). */
  left(pick: 'until' | 'shownUntil' = 'until'): Readonly<Record<string, number>> {
    const facts: readonly Fact[] = [...this.dns.ledger.snapshot()];
    return Object.fromEntries(facts.map((f) => [f.address, f[pick] - this.steady]));
  }
}

const STARTS = [
  ['ahead by a year', RIGHT + 365 * DAY],
  ['ahead by two hours', RIGHT + 2 * HOUR],
  ['behind by three years', RIGHT - 1095 * DAY],
  ['at 1970', 0],
] as const;

describe.each(STARTS)('a start with a clock %s, which is then corrected', (_, wrong) => {
  it.each([
    ['a beat', (first: Process) => first.dns.purge()],
    ['the next line', (first: Process) => first.learn('192.0.2.2')],
    ['the stop', (first: Process) => first.dns[Symbol.dispose]()],
  ])('after %s, and a restart, each address has the time that it had left', async (_what, then) => {
    const first = new Process(wrong);
    await first.learn('192.0.2.1');
    first.see('192.0.2.9', HOUR);
    first.wall = RIGHT;
    await then(first);
    const second = new Process(RIGHT + 10 * SECOND);
    expect(second.left()['192.0.2.1']).toBe(110 * SECOND);
    expect([...second.dns.ledger.snapshot()].find((f) => f.address === '192.0.2.9')?.until).toBe(0);
    expect(second.left('shownUntil')['192.0.2.9']).toBe(HOUR - 10 * SECOND);
  });

  it('of which the journal knows nothing: no address is permitted for longer than by an answer of now', async () => {
    const first = new Process(wrong);
    await first.learn('192.0.2.1');
    first.see('192.0.2.9', 1000 * DAY);
    const second = new Process(RIGHT);
    const most = (MAX_TTL + GRACE + STEP) * SECOND;
    for (const pick of ['until', 'shownUntil'] as const)
      expect(Math.max(0, ...Object.values(second.left(pick)))).toBeLessThanOrEqual(most);
  });
});

it('a machine that was suspended: the time that the kernel has not counted is not counted over a restart', async () => {
  const first = new Process(RIGHT);
  await first.learn('192.0.2.1');
  first.wall += 8 * HOUR;
  first.dns.purge();
  expect(new Process(first.wall + 20 * SECOND).left()).toEqual({ '192.0.2.1': 100 * SECOND });
});

it('a clock that is right: the time between two processes counts', async () => {
  const first = new Process(RIGHT);
  await first.learn('192.0.2.1');
  first.pass(30 * SECOND);
  first.dns.purge();
  expect(new Process(RIGHT + 50 * SECOND).left()).toEqual({ '192.0.2.1': 70 * SECOND });
  expect(new Process(RIGHT + 120 * SECOND).left()).toEqual({});
});
