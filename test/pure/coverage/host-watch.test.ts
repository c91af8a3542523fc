import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { HostWatch, type HostWatchOptions } from '../../../src/coverage/host-watch.js';
import { runThrough } from '../../../src/kernel/exec.js';

const nothing = (): void => undefined;
const log = { debug: nothing, info: nothing, warn: nothing, error: nothing };
let started: string[] = [];

beforeEach(() => {
  started = [];
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  runThrough(async (file) => {
    started.push(file);
    return { code: 0, stdout: '', stderr: '' };
  });
});
afterEach(() => {
  runThrough(undefined);
  vi.useRealTimers();
});

type HostRules = ReturnType<HostWatchOptions['kernel']['hostRules']>;
function watched() {
  const now: { generation: number; isLegacy: boolean; bridges: string[]; rules?: HostRules } = {
    generation: 1,
    isLegacy: false,
    bridges: ['br-1'],
  };
  const watch = new HostWatch({
    config: {
      docker: { socket: '/run/docker.sock' },
      state: '/var/lib/drawbridge',
      allowlists: '/etc/drawbridge/allowlists',
      store: { redis: '' },
      api: { listen: 'unix:/run/drawbridge/api.sock' },
      kernel: { prefix: 'DB' },
    },
    docker: {
      onChange: () => ({ [Symbol.dispose]: nothing }),
      info: () => Promise.reject(new Error('away')),
      infoAtConnection: () => Promise.reject(new Error('away')),
    },
    applied: {
      get value() {
        return { vethMap: { bridges: new Map(now.bridges.map((b) => [b, {}])) } };
      },
    },
    kernel: { generation: () => now.generation, hostRules: () => now.rules },
    hostMode: now,
    log,
  } as unknown as HostWatchOptions);
  const minute = async (): Promise<number> => {
    started = [];
    await vi.advanceTimersByTimeAsync(60_000);
    return started.length;
  };
  return { watch, now, minute };
}

it('starts no process while no rule has changed', async () => {
  const { watch, minute } = watched();
  await watch.start();
  expect(started).toContain('nft');
  expect([await minute(), await minute()]).toEqual([0, 0]);
  expect(watch.host).toBeDefined();
  await watch[Symbol.asyncDispose]();
});

it('reads the rules again a minute after an error', async () => {
  const { watch, now, minute } = watched();
  await watch.start();
  now.generation += 1;
  const bridges = now.bridges.splice(0);
  now.bridges.map = () => {
    throw new Error('an error of this turn');
  };
  expect(await minute()).toBe(0);
  now.bridges = bridges;
  expect(await minute()).toBeGreaterThan(0);
  await watch[Symbol.asyncDispose]();
});

it('takes the rules of other programs from the first pass, and reads them again within seconds', async () => {
  const { watch, now } = watched();
  const jump = [{ text: '-j DOCKER-USER', hash: undefined }];
  const filter = new Map([
    ['FORWARD', jump],
    ['DOCKER-USER', []],
  ]);
  const filters = new Map([
    [4, filter],
    [6, new Map()],
  ] as const);
  now.rules = { filters, nftTables: 'table inet firewalld\ntable ip nat\n' };
  await watch.start();
  expect(started).toEqual([]);
  expect(watch.host?.firewalld).toBe(true);
  expect(watch.host?.dockerUser).toEqual({ v4: true, v6: false });
  await vi.advanceTimersByTimeAsync(5_000);
  expect(started).toContain('iptables-save');
  expect(watch.host?.dockerUser).toEqual({ v4: false, v6: false });
  expect(watch.host?.firewalld).toBe(false);
  await watch[Symbol.asyncDispose]();
});

it('lists the tables of nftables where that was not done before', async () => {
  const { watch, now } = watched();
  now.rules = { filters: new Map([4, 6].map((family) => [family as 4 | 6, new Map()])) };
  await watch.start();
  expect(started).toEqual(['nft']);
  await watch[Symbol.asyncDispose]();
});

type Now = ReturnType<typeof watched>['now'];
const CHANGES: Readonly<Record<string, (now: Now) => void>> = {
  'a rule': (now) => {
    now.generation = 2;
  },
  'the managed bridges': (now) => {
    now.bridges = ['br-1', 'br-2'];
  },
  'iptables-legacy is in use': (now) => {
    now.isLegacy = true;
  },
};
for (const [what, change] of Object.entries(CHANGES))
  it(`reads the rules again: ${what}`, async () => {
    const { watch, now, minute } = watched();
    await watch.start();
    change(now);
    expect(await minute()).toBeGreaterThan(0);
    await watch[Symbol.asyncDispose]();
  });
