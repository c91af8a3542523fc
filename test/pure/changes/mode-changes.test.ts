/** Modes that are set for good, for a time, and against a list: what counts when, over restarts and clocks. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { Audit } from '../../../src/changes/audit.js';
import { Changes } from '../../../src/changes/changes.js';
import { findContainer } from '../../../src/changes/container-changes.js';
import { keptOf } from '../../../src/changes/current-overrides.js';
import type { Logger } from '../../../src/lib/log.js';
import { RefusedError } from '../../../src/lib/problem.js';
import type { ContainerFacts } from '../../../src/policy/container.js';
import type { ModeSetting } from '../../../src/policy/policy.js';
import { openEmbeddedStore } from '../../../src/store/embedded-store.js';
import type { Store } from '../../../src/store/store-interface.js';

const quiet: Logger = { debug() {}, info() {}, warn() {}, error() {} };
const facts = (n: number, name: string, more: Partial<ContainerFacts> = {}): ContainerFacts => ({
  id: String(n).repeat(64),
  name,
  image: 'busybox',
  imageId: 'sha256:1',
  labels: {},
  imageLabels: {},
  state: 'running',
  networkMode: 'bridge',
  endpoints: [],
  published: [],
  ...more,
});
const shop = (service: string) => ({
  labels: { 'com.docker.compose.project': 'shop', 'com.docker.compose.service': service },
});
const containers = [
  facts(1, 'web'),
  facts(2, 'db'),
  facts(3, 'shop-api-1', shop('api')),
  facts(4, 'shop-api-2', shop('api')),
  facts(5, 'shop-side-1', { ...shop('side'), sharesWith: '3'.repeat(64) }),
];

const START = Date.parse('2030-01-01T00:00:00Z');
const MINUTE = 60_000;
let dir: string;
let store: Store;
let changes: Changes;
let audit: Audit;
/** The wall clock, and the one that only counts. */
let wall: number;
let counted: number;
let doubted: boolean;
let passes: number;
let inForce: () => Promise<void>;

async function open(): Promise<void> {
  audit = await Audit.open({ dir, store, kind: 'embedded', now: () => wall, log: quiet });
  changes = await Changes.open({
    store,
    audit,
    reconciler: { inForce: () => inForce() },
    log: quiet,
    folderLists: () => [{ name: 'ci', source: 'folder', allow: [] }],
    usedBy: () => [],
    find: (idOrName) => findContainer(containers, idOrName),
    isDoubted: () => doubted,
    now: () => wall,
    monotonic: () => counted,
    onChange: () => undefined,
  });
}
function pass(ms: number): void {
  wall += ms;
  counted += ms;
}
async function restart(downMs: number): Promise<void> {
  changes.close();
  await audit[Symbol.asyncDispose]();
  await store.close();
  wall += downMs;
  counted = 0;
  store = await openEmbeddedStore({ dir, log: quiet });
  await open();
}
const set = (...args: Parameters<Changes['modes']['set']>): Promise<void> => changes.modes.set(...args);
const tried = (minutes: number) => ({ mode: 'enforce', trialMs: minutes * MINUTE }) as const;
const modes = (): Record<string, ModeSetting> => Object.fromEntries(changes.current().modes);
const mode = (owner = 'name:web'): string | undefined => modes()[owner]?.mode;
const acts = async (): Promise<string[]> =>
  (await audit.page(20, undefined)).items.map((r) => `${r.who} ${r.action} ${r.target}`);

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'drawbridge-modes-'));
  store = await openEmbeddedStore({ dir, log: quiet });
  wall = START;
  counted = 1000;
  doubted = false;
  passes = 0;
  inForce = async () => void passes++;
  await open();
});
afterEach(async () => {
  changes.close();
  await audit[Symbol.asyncDispose]();
  await store.close();
  await rm(dir, { recursive: true });
});

async function refusal(work: Promise<unknown>): Promise<string> {
  const error = await work.catch((e: unknown) => e);
  return error instanceof RefusedError ? error.refusal.kind : `not refused: ${String(error)}`;
}

describe('a trial', () => {
  it('enforces for its time, over a restart, and then what was set before counts again', async () => {
    await set(['web'], { mode: 'off' }, 'ann');
    await set(['web'], tried(10), 'ann');
    expect(modes()['name:web']).toEqual({
      mode: 'enforce',
      trial: {
        created: '2030-01-01T00:00:00.000Z',
        expires: '2030-01-01T00:10:00.000Z',
        before: { mode: 'off' },
      },
    });
    pass(4 * MINUTE);
    await restart(MINUTE);
    expect(mode()).toBe('enforce');
    pass(5 * MINUTE - 1000);
    expect(mode()).toBe('enforce');
    pass(1000);
    expect(mode()).toBe('off');
    await changes.forget(() => false);
    expect(await store.list('mode/')).toMatchObject([{ key: 'mode/name:web', value: { mode: 'off' } }]);
    expect(await acts()).toEqual([
      'expiry mode.fallback name:web',
      'ann mode.trial name:web (web)',
      'ann mode.set name:web (web)',
    ]);
  });

  it('that ended while the service was away is over from the start on, and leaves the store', async () => {
    await set(['web'], tried(1), 'ann');
    await restart(2 * MINUTE);
    expect(modes()).toEqual({});
    expect(await store.list('mode/')).toEqual([]);
    expect((await acts())[0]).toBe('expiry mode.fallback name:web');
  });

  it('ends by itself when its time is over', async () => {
    vi.useFakeTimers({ now: START });
    try {
      await set(['web'], tried(1), 'ann');
      pass(MINUTE);
      await vi.advanceTimersByTimeAsync(MINUTE);
    } finally {
      vi.useRealTimers();
    }
    await vi.waitFor(async () => expect(await store.list('mode/')).toEqual([]));
  });

  it('is ended by no wall clock that is set, neither forward nor back', async () => {
    await set(['web'], tried(10), 'ann');
    expect(mode()).toBe('enforce');
    wall += 60 * MINUTE;
    expect(mode()).toBe('enforce');
    wall -= 120 * MINUTE;
    expect(mode()).toBe('enforce'); // it began in what the clock calls the future
    counted += 10 * MINUTE;
    expect(mode()).toBeUndefined();
  });

  it('over a restart with a clock that was set back lasts no longer than it was made for', async () => {
    await set(['web'], tried(10), 'ann');
    await restart(-60 * MINUTE);
    expect(mode()).toBe('enforce');
    counted += 10 * MINUTE;
    expect(mode()).toBeUndefined();
  });

  it('is extended by another, and keeps what counts afterwards', async () => {
    await set(['web'], { mode: 'observe', against: 'ci' }, 'ann');
    const before = modes()['name:web'];
    await set(['web'], tried(10), 'ann');
    pass(9 * MINUTE);
    await set(['web'], tried(10), 'ben');
    pass(9 * MINUTE);
    expect(mode()).toBe('enforce');
    pass(MINUTE);
    expect(modes()['name:web']).toEqual(before);
  });

  it('is confirmed for good, and ended by every other mode', async () => {
    await set(['web'], tried(10), 'ann');
    await changes.modes.confirm(['web'], 'ben');
    expect((await acts())[0]).toBe('ben mode.confirm name:web (web)');
    pass(20 * MINUTE);
    expect(modes()).toEqual({ 'name:web': { mode: 'enforce' } });
    for (const other of ['observe', 'off', 'enforce'] as const) {
      await set(['web'], { mode: 'auto' }, 'ann');
      await set(['web'], tried(10), 'ann');
      await set(['web'], { mode: other }, 'ann');
      pass(20 * MINUTE);
      expect(modes()).toEqual({ 'name:web': { mode: other } });
    }
    await set(['web'], { mode: 'observe' }, 'ann');
    await set(['web'], tried(10), 'ann');
    await set(['web'], { mode: 'auto' }, 'ann');
    expect(modes()).toEqual({});
  });

  it('is refused where it makes no sense, and nothing changes', async () => {
    expect(await refusal(changes.modes.confirm(['web'], 'ann'))).toBe('conflict');
    await set(['web'], tried(1), 'ann');
    pass(MINUTE);
    expect(await refusal(changes.modes.confirm(['web'], 'ann'))).toBe('conflict');
    expect(await refusal(set(['web'], { mode: 'observe', trialMs: MINUTE }, 'ann'))).toBe('invalid');
    expect(await refusal(set(['web'], { mode: 'enforce', trialMs: 10 }, 'ann'))).toBe('invalid');
    expect(await refusal(set(['web'], tried(60 * 24 * 32), 'ann'))).toBe('invalid');
    expect(modes()).toEqual({});
    await set(['web'], { mode: 'enforce' }, 'ann');
    expect(await refusal(set(['web'], tried(1), 'ann'))).toBe('conflict');
    expect(modes()).toEqual({ 'name:web': { mode: 'enforce' } });
  });

  it('neither begins nor ends in the store while that is in doubt', async () => {
    await set(['web'], tried(1), 'ann');
    doubted = true;
    expect(await refusal(set(['db'], tried(1), 'ann'))).toBe('conflict');
    pass(2 * MINUTE);
    await changes.forget(() => false);
    expect(await store.list('mode/')).toHaveLength(1);
    expect((await acts())[0]).toBe('ann mode.trial name:web (web)');
    doubted = false;
    await changes.forget(() => false);
    expect(await store.list('mode/')).toEqual([]);
  });

  it('is no part of an export: what was set before it is', async () => {
    await set(['web'], { mode: 'observe' }, 'ann');
    await set(['web', 'db'], tried(1), 'ann');
    const everything = changes.transfer.export();
    expect(everything.modes).toEqual({ 'name:web': 'observe' });
    const how = { replace: true, dryRun: false };
    expect(await changes.transfer.import(everything, how, 'ann')).toEqual([]);
    expect(mode('name:db')).toBe('enforce');
  });

  it('that cannot be read never ends', async () => {
    await store.put('mode/name:web', { mode: 'enforce', trial: { expires: 'soon' } });
    await vi.waitFor(() => expect(modes()).toEqual({ 'name:web': { mode: 'enforce' } }));
  });
});

describe('several containers', () => {
  it('change together, once for each owner, with what shares the network of one of them', async () => {
    passes = 0;
    await set(['web', 'shop-api-1', 'shop-api-2', 'shop-side-1'], tried(1), 'ann');
    expect(Object.keys(modes()).sort()).toEqual(['compose:shop/api', 'name:web']);
    expect(passes).toBe(1);
    expect(await refusal(set(['web', 'shop-side-1'], { mode: 'off' }, 'ann'))).toBe('conflict');
    await changes.modes.confirm(['web', 'db', 'shop-api-1'], 'ann');
    pass(2 * MINUTE);
    expect(modes()).toEqual({ 'name:web': { mode: 'enforce' }, 'compose:shop/api': { mode: 'enforce' } });
  });

  it('are all as they were when one cannot be brought into force', async () => {
    await set(['web'], { mode: 'observe' }, 'ann');
    inForce = async () => {
      throw new Error('the kernel refuses');
    };
    expect(await refusal(set(['web', 'db', 'shop-api-1'], { mode: 'enforce' }, 'ann'))).toBe('not-in-force');
    expect(modes()).toEqual({ 'name:web': { mode: 'observe' } });
    expect(await refusal(set(['web', 'nope'], { mode: 'off' }, 'ann'))).toBe('not-found');
    expect(modes()).toEqual({ 'name:web': { mode: 'observe' } });
  });
});

describe('a list in place of the policy', () => {
  it('is evaluated since it was set, until another mode is', async () => {
    await set(['web'], { mode: 'observe', against: 'ci' }, 'ann');
    pass(MINUTE);
    await set(['web'], { mode: 'observe', against: 'ci' }, 'ann');
    const since = '2030-01-01T00:00:00.000Z';
    expect(modes()['name:web']).toEqual({ mode: 'observe', against: { list: 'ci', since } });
    await restart(MINUTE);
    expect(modes()['name:web']).toEqual({ mode: 'observe', against: { list: 'ci', since } });
    await set(['web'], { mode: 'observe' }, 'ann');
    expect(modes()).toEqual({ 'name:web': { mode: 'observe' } });
  });

  it('must exist, and belongs to mode observe', async () => {
    expect(await refusal(set(['web'], { mode: 'observe', against: 'nope' }, 'ann'))).toBe('not-found');
    expect(await refusal(set(['web'], { mode: 'enforce', against: 'ci' }, 'ann'))).toBe('invalid');
  });
});

describe('a revision that a change is made for', () => {
  const refused = { refusal: { kind: 'precondition' } };
  const now = () => changes.modes.modeSet('web');

  it('is 0 while no mode is set, and another one after each change', async () => {
    expect(now()).toEqual({ owner: 'name:web', mode: undefined, revision: 0 });
    await set(['web'], { mode: 'observe' }, 'ann', 0);
    const first = now();
    expect(first).toMatchObject({ mode: 'observe' });
    await expect(set(['web'], tried(15), 'ann', 0)).rejects.toMatchObject(refused);
    await set(['web'], tried(15), 'ann', first.revision);
    expect(now().mode).toBe('enforce');
    expect(now().revision).toBeGreaterThan(first.revision);
  });

  it('guards a confirmation, too', async () => {
    await set(['web'], { mode: 'observe' }, 'ann');
    const { revision } = now();
    await set(['web'], tried(15), 'ann');
    await expect(changes.modes.confirm(['web'], 'ann', revision)).rejects.toMatchObject(refused);
    await changes.modes.confirm(['web'], 'ann', now().revision);
    expect(modes()['name:web']).toEqual({ mode: 'enforce' });
  });

  it('lets one of two changes at the same time pass', async () => {
    await set(['web'], { mode: 'observe' }, 'ann');
    const { revision } = now();
    const both = await Promise.allSettled([
      set(['web'], { mode: 'off' }, 'ann', revision),
      set(['web'], tried(15), 'bob', revision),
    ]);
    expect(both.map((one) => one.status)).toEqual(['fulfilled', 'rejected']);
    expect(mode()).toBe('off');
  });
});

it('a trial with less than a millisecond left by one clock is taken out all the same', async () => {
  await set(['web'], { mode: 'observe' }, 'ann');
  await set(['web'], tried(1), 'ann');
  wall += MINUTE;
  counted += MINUTE - 1.4;
  changes.rearm();
  expect(mode()).toBe('enforce');
  pass(1);
  await vi.waitFor(async () => expect((await acts())[0]).toBe('expiry mode.fallback name:web'));
});

describe('an owner without a container', () => {
  it('keeps its mode until a person takes it away by its key', async () => {
    await set(['shop-api-1'], { mode: 'enforce' }, 'ann');
    await changes.modes.forget('compose:shop/api', 'bob');
    expect(modes()).toEqual({});
    expect(await acts()).toContain('bob mode.set compose:shop/api');
    await expect(changes.modes.forget('compose:shop/api', 'bob')).rejects.toMatchObject({
      refusal: { kind: 'not-found' },
    });
  });

  it('keeps its grants, which are revoked by its key', async () => {
    const grant = await changes.containers.grant('shop-api-1', 'a.example', undefined, 'ann');
    const revoke = (owner: string) => changes.containers.revokeGrant(owner, grant.id, 'bob');
    await expect(revoke('compose:shop/other')).rejects.toMatchObject({ refusal: { kind: 'not-found' } });
    await revoke('compose:shop/api');
    expect(changes.current().grants).toEqual([]);
  });

  it('is told from one that runs: with its project if that has other services', () => {
    const grant = (owner: string, more = {}) => ({ id: owner, entry: 'a.org', owner, created: '', ...more });
    const overrides = {
      modes: new Map<string, ModeSetting>(
        ['name:web', 'name:gone', 'compose:shop/api', 'compose:shop/old', 'compose:down/api'].map((owner) => [
          owner,
          { mode: 'enforce' },
        ]),
      ),
      grants: [grant('compose:shop/old'), grant('name:db'), grant('id:1', { expires: '' })],
    };
    expect(keptOf(overrides as never, containers)).toEqual({
      modes: 3,
      grants: 1,
      owners: [
        {
          ...{ owner: 'compose:shop/old', hasProject: true, mode: 'enforce' },
          grants: [{ id: 'compose:shop/old', entry: 'a.org' }],
        },
        { owner: 'compose:down/api', hasProject: false, mode: 'enforce', grants: [] },
        { owner: 'name:gone', hasProject: false, mode: 'enforce', grants: [] },
      ],
    });
  });
});
