import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { Audit } from '../../../src/changes/audit.js';
import { Changes } from '../../../src/changes/changes.js';
import { findContainer } from '../../../src/changes/container-changes.js';
import type { Logger } from '../../../src/lib/log.js';
import { RefusedError } from '../../../src/lib/problem.js';
import type { ContainerFacts } from '../../../src/policy/container.js';
import { listFromObject } from '../../../src/policy/list-parse.js';
import type { List } from '../../../src/policy/policy.js';
import { openEmbeddedStore } from '../../../src/store/embedded-store.js';
import { StoreError } from '../../../src/store/store-error.js';
import type { Store } from '../../../src/store/store-interface.js';

const quiet: Logger = { debug() {}, info() {}, warn() {}, error() {} };
const facts = (id: string, name: string, more: Partial<ContainerFacts> = {}): ContainerFacts => ({
  id: id.padEnd(64, '0'),
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
const SHOP_WEB = { 'com.docker.compose.project': 'shop', 'com.docker.compose.service': 'web' };
const containers = [
  facts('aaaa1', 'web', { labels: SHOP_WEB }),
  facts('aaaa2', 'db'),
  facts('cccc', 'posing', { labels: SHOP_WEB, imageLabels: SHOP_WEB }),
  facts('bbbb', 'side', { sharesWith: 'aaaa2'.padEnd(64, '0') }),
];
function folder(name: string, allow: unknown[]): List {
  const parsed = listFromObject(name, 'folder', { allow });
  if (!parsed.ok) throw new Error('bad list in test');
  return { ...parsed.value, file: `/etc/drawbridge/allowlists/${name}.yaml` };
}

let dir: string;
let store: Store;
let changes: Changes;
let audit: Audit;
let closeAudit: () => Promise<void>;
let now: number;
let passed = 0;
let inForce: () => Promise<void>;
let compiled: number;

async function open(): Promise<Changes> {
  await closeAudit();
  audit = await Audit.open({ dir, store, kind: 'embedded', now: () => now, log: quiet });
  const opened = audit;
  closeAudit = () => opened[Symbol.asyncDispose]();
  return Changes.open({
    store,
    audit,
    reconciler: { inForce: () => inForce() },
    log: quiet,
    folderLists: () => [folder('npm', ['registry.npmjs.org'])],
    usedBy: (list) => (list === 'npm' ? ['web'] : []),
    find: (idOrName) => findContainer(containers, idOrName),
    now: () => now,
    monotonic: () => passed,
    onChange: () => {
      compiled++;
    },
  });
}

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'drawbridge-changes-'));
  store = await openEmbeddedStore({ dir, log: quiet });
  now = Date.parse('2030-01-01T00:00:00Z');
  inForce = async () => {};
  compiled = 0;
  closeAudit = async () => {};
  changes = await open();
});
afterEach(async () => {
  vi.useRealTimers();
  vi.restoreAllMocks();
  changes.close();
  await closeAudit();
  await store.close();
  await rm(dir, { recursive: true });
});

async function refusal(work: Promise<unknown>): Promise<RefusedError['refusal']> {
  const error = await work.then(
    () => undefined,
    (e: unknown) => e,
  );
  if (!(error instanceof RefusedError)) throw new Error(`not refused: ${String(error)}`);
  return error.refusal;
}
/** Oldest first. */
const audits = async () => (await audit.page(999, undefined)).items.toReversed();

describe('lists', () => {
  it('one that the store does not take for its size is too large, not out of force', async () => {
    vi.spyOn(store, 'put').mockRejectedValueOnce(new StoreError('value', 'store value of list/x is larger'));
    expect(await refusal(changes.lists.put('x', { allow: ['a.org'] }, undefined, 'ann'))).toMatchObject({
      kind: 'too-large',
      remedy: expect.stringContaining('split'),
    });
  });

  it('puts, shows, guards by revision, adds, removes and deletes, each audited', async () => {
    const made = await changes.lists.put('ci', { description: 'CI', allow: ['a.org, b.org'] }, 0, 'ann');
    expect(made).toMatchObject({ name: 'ci', source: 'store', description: 'CI', usedBy: [] });
    expect(made.revision).toBeGreaterThan(0);
    expect(await refusal(changes.lists.put('ci', { allow: [] }, 0, 'ann'))).toMatchObject({
      kind: 'precondition',
    });
    const added = await changes.lists.addEntry('ci', { to: '*.c.org', comment: 'why' }, made.revision, 'ann');
    expect(added.allow.map((e) => e.canonical)).toEqual(['a.org', 'b.org', '*.c.org']);
    expect(await refusal(changes.lists.addEntry('ci', 'A.org', undefined, 'ann'))).toMatchObject({
      kind: 'conflict',
    });
    const left = await changes.lists.removeEntry('ci', 'a.org', added.revision, 'bob');
    expect(left.allow.map((e) => e.canonical)).toEqual(['b.org', '*.c.org']);
    expect(await refusal(changes.lists.removeEntry('ci', 'x.org', undefined, 'bob'))).toMatchObject({
      kind: 'not-found',
    });
    await changes.lists.delete('ci', left.revision, 'bob');
    expect(changes.current().lists.size).toBe(0);
    expect((await audits()).map((a) => [a.who, a.action, a.outcome])).toEqual([
      ['ann', 'list.put', 'done'],
      ['ann', 'entry.add', 'done'],
      ['bob', 'entry.remove', 'done'],
      ['bob', 'list.delete', 'done'],
    ]);
  });

  it('makes no second of one name, and says how to replace it', async () => {
    await changes.lists.put('ci', { allow: ['a.org'] }, undefined, 'ann');
    expect(await refusal(changes.lists.put('ci', { allow: [] }, 0, 'ann'))).toMatchObject({
      kind: 'precondition',
      detail: expect.stringMatching(/there is a list ci already/),
      remedy: expect.stringMatching(/--replace/),
    });
  });

  it('gives every problem with its pointer and remedy', async () => {
    const bad = await refusal(
      changes.lists.put(
        'ci',
        { alow: [], allow: ['a.org', 'https://b.org', { to: '10.1.2.3/16' }] },
        undefined,
        'ann',
      ),
    );
    if (bad.kind !== 'invalid') throw new Error(bad.kind);
    expect(bad.problems.map((p) => p.pointer).sort()).toEqual(['/allow/1', '/allow/2/to', '/alow']);
    expect(bad.problems.every((p) => p.remedy.length > 0)).toBe(true);
    expect(await audits()).toHaveLength(0);
  });

  it('leaves folder lists to their files', async () => {
    expect(changes.lists.get('npm')).toMatchObject({ source: 'folder', revision: 0, usedBy: ['web'] });
    const no = await refusal(changes.lists.put('npm', { allow: [] }, undefined, 'ann'));
    expect(no).toMatchObject({
      kind: 'read-only',
      remedy: expect.stringContaining('/etc/drawbridge/allowlists/npm.yaml'),
    });
    expect(await refusal(changes.lists.addEntry('npm', 'a.org', undefined, 'ann'))).toMatchObject({
      kind: 'read-only',
    });
    expect(await refusal(changes.lists.delete('npm', undefined, 'ann'))).toMatchObject({ kind: 'read-only' });
  });

  it('refuses circles, over the folder too', async () => {
    await changes.lists.put('a', { allow: ['list:b'] }, undefined, 'ann');
    await changes.lists.put('b', { allow: ['list:npm'] }, undefined, 'ann');
    expect(await refusal(changes.lists.addEntry('b', 'list:a', undefined, 'ann'))).toMatchObject({
      kind: 'invalid',
    });
  });

  it('survives a restart', async () => {
    const { revision } = await changes.lists.put(
      'ci',
      { mode: 'enforce', allow: [{ to: 'a.org', ports: 443 }] },
      undefined,
      'ann',
    );
    changes.close();
    changes = await open();
    expect(changes.lists.get('ci')).toMatchObject({ revision, mode: 'enforce' });
  });
});

describe('in force or undone', () => {
  it('takes back what is not in force in time, and says so', async () => {
    const before = await changes.lists.put('ci', { allow: ['a.org'] }, undefined, 'ann');
    inForce = () => Promise.reject(new Error('the kernel did not answer'));
    const works = [
      changes.lists.addEntry('ci', 'b.org', undefined, 'ann'),
      changes.lists.delete('ci', undefined, 'ann'),
      changes.lists.put('new', { allow: [] }, undefined, 'ann'),
      changes.containers.grant('db', 'a.org', undefined, 'ann'),
      changes.modes.set(['db'], { mode: 'off' }, 'ann'),
    ];
    const detail = expect.stringContaining('the kernel did not answer');
    for (const no of await Promise.all(works.map(refusal))) {
      expect(no).toMatchObject({ kind: 'not-in-force', detail });
    }
    const { lists, grants, modes } = changes.current();
    expect([...lists.keys()]).toEqual(['ci']);
    expect(lists.get('ci')?.allow).toEqual(before.allow);
    expect([grants.length, modes.size]).toEqual([0, 0]);
    expect(await store.list('grant/')).toHaveLength(0);
    expect((await audits()).filter((a) => a.outcome === 'undone')).toHaveLength(5);
  });

  it('keeps changes of one list apart while one waits to be undone', async () => {
    await changes.lists.put('ci', { allow: ['a.org'] }, undefined, 'ann');
    let fail: (e: Error) => void = () => {};
    inForce = () =>
      new Promise((_, reject) => {
        fail = reject;
      });
    const first = refusal(changes.lists.addEntry('ci', 'bad.org', undefined, 'ann'));
    await vi.waitFor(() => expect(changes.lists.get('ci').allow).toHaveLength(2));
    const second = changes.lists.addEntry('ci', 'good.org', undefined, 'ann');
    inForce = async () => {};
    fail(new Error('late'));
    await first;
    expect((await second).allow.map((e) => e.canonical)).toEqual(['a.org', 'good.org']);
  });

  it('tells a change that the store refused', async () => {
    await store.close();
    expect(await refusal(changes.containers.grant('db', 'a.org', undefined, 'ann'))).toMatchObject({
      kind: 'not-in-force',
      detail: expect.stringContaining('closed'),
    });
    expect(changes.current().grants).toEqual([]);
  });
});

describe('grants and modes', () => {
  it('belong to the compose service or the name; a second same grant is the first', async () => {
    const grant = await changes.containers.grant('web', 'A.org:443/tcp', undefined, 'ann');
    expect(grant).toMatchObject({ entry: 'a.org:443', owner: 'compose:shop/web' });
    expect(await changes.containers.grant('aaaa1', 'a.org:443', undefined, 'ann')).toEqual(grant);
    expect(await refusal(changes.containers.revokeGrant('db', grant.id, 'ann'))).toMatchObject({
      kind: 'not-found',
    });
    await changes.containers.revokeGrant('web', grant.id, 'ann');
    expect(changes.current().grants).toEqual([]);
    await changes.modes.set(['web'], { mode: 'observe' }, 'ann');
    expect([...changes.current().modes]).toEqual([['compose:shop/web', { mode: 'observe' }]]);
    await changes.modes.set(['web'], { mode: 'auto' }, 'ann');
    expect(changes.current().modes.size).toBe(0);
  });

  it('end at their time, in the store too, with a compile', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    const grant = await changes.containers.grant('web', 'a.org', 600_000, 'ann');
    expect(grant).toMatchObject({ owner: `id:${containers[0]?.id}`, expires: '2030-01-01T00:10:00.000Z' });
    const before = compiled;
    now += 600_000;
    passed += 600_000;
    expect(changes.current().grants).toEqual([]);
    vi.advanceTimersByTime(600_000);
    vi.useRealTimers();
    await vi.waitFor(async () => expect(await store.list('grant/')).toHaveLength(0));
    expect(compiled).toBeGreaterThan(before);
    expect((await audits()).at(-1)).toMatchObject({ who: 'expiry', action: 'grant.remove' });
  });

  it('last no longer because the store has written them again, with the clock set back', async () => {
    await changes.containers.grant('web', 'a.org', 600_000, 'ann');
    await changes.emergency.pause('db', 600_000, 'ann');
    passed += 400_000; // and the wall clock is set back by as much
    for (const { key, value } of [...(await store.list('grant/')), ...(await store.list('pause/'))])
      await store.put(key, value);
    const inForce = (): number => changes.current().grants.length + changes.current().pauses.length;
    expect(inForce()).toBe(2);
    passed += 200_000;
    expect(inForce()).toBe(0);
    // Another one under the same key has its own time.
    now += 1;
    await changes.emergency.pause('db', 600_000, 'ann');
    expect(inForce()).toBe(1);
  });

  it('of a host that is gone cause no pass after their end, and go a day later', async () => {
    // time goes on while a write waits for the store; a wait that has begun would have no end with the real timers
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'], shouldAdvanceTime: true });
    const wait = async (ms: number): Promise<void> => {
      for (const end = now + ms; now < end; ) {
        now += 10_000;
        passed += 10_000;
        await vi.advanceTimersByTimeAsync(10_000);
      }
    };
    const created = new Date(now).toISOString();
    const expires = new Date(now + 600_000).toISOString();
    const grant = { id: 'x', entry: 'a.org', owner: 'id:x', by: 'ann', node: 'gone', created, expires };
    await store.put('grant/x', grant);
    // While another one lasts, the time is checked all the same.
    await changes.containers.grant('web', 'b.org', 2 * 86_400_000, 'ann');
    await wait(620_000);
    expect(changes.current().grants).toHaveLength(1);
    const before = compiled;
    await wait(600_000);
    expect([compiled - before, (await store.keys('grant/')).length]).toEqual([0, 2]);
    // Ended by the monotonic clock alone: it is due once.
    await changes.emergency.pause('db', 600_000, 'ann');
    now -= 600_000;
    const since = compiled;
    passed += 600_000;
    await vi.advanceTimersByTimeAsync(10_000);
    expect(compiled).toBeGreaterThan(since);
    await vi.waitFor(async () => expect(await store.keys('pause/')).toEqual([]));
    now += 86_400_000;
    await changes.forget(() => false);
    expect(await store.keys('grant/')).toHaveLength(1);
  });

  it('of a time die with the container, open-ended ones stay', async () => {
    await changes.containers.grant('web', 'a.org', 600_000, 'ann');
    const open = await changes.containers.grant('web', 'b.org', undefined, 'ann');
    await changes.forget((id) => id === containers[0]?.id);
    expect(changes.current().grants).toEqual([open]);
  });

  it('are refused for members of a shared namespace, unknown and ambiguous containers, and bad entries', async () => {
    expect(await refusal(changes.containers.grant('side', 'a.org', undefined, 'ann'))).toMatchObject({
      kind: 'conflict',
    });
    expect(await refusal(changes.containers.grant('nobody', 'a.org', undefined, 'ann'))).toMatchObject({
      kind: 'not-found',
    });
    expect(await refusal(changes.modes.set(['aaaa'], { mode: 'off' }, 'ann'))).toMatchObject({
      kind: 'conflict',
    });
    expect(await refusal(changes.containers.grant('db', 'https://a.org', undefined, 'ann'))).toMatchObject({
      kind: 'invalid',
    });
    expect(await refusal(changes.containers.grant('db', 'a.org', 1, 'ann'))).toMatchObject({
      kind: 'invalid',
    });
  });
});

describe('audit', () => {
  it('holds what differs of a list, whatever its size, and is not kept in the store', async () => {
    const allow = Array.from({ length: 3000 }, (_, i) => `n${i}.org`);
    await changes.lists.put('ci', { allow }, undefined, 'ann');
    await changes.lists.addEntry('ci', 'one.org', undefined, 'ann');
    await changes.lists.removeEntry('ci', 'n7.org', undefined, 'ann');
    const [made, added, removed] = await audits();
    expect(JSON.stringify(made).length).toBeLessThan(4000);
    expect(added).toMatchObject({ before: { allow: [] }, after: { allow: ['one.org'] } });
    expect(removed).toMatchObject({ before: { allow: ['n7.org'] }, after: { allow: [] } });
    expect(added?.sha256).toEqual({ before: made?.sha256?.after, after: removed?.sha256?.before });
    expect(await store.keys('audit/')).toEqual([]);
  });

  it('says of a change that the store did not take that it was refused', async () => {
    await changes.lists.put('ci', { allow: [] }, undefined, 'ann');
    vi.spyOn(store, 'put').mockRejectedValueOnce(new Error('no disk'));
    expect(await refusal(changes.lists.addEntry('ci', 'a.org', undefined, 'ann'))).toMatchObject({
      kind: 'not-in-force',
    });
    expect((await audits()).map((a) => [a.action, a.outcome])).toEqual([
      ['list.put', 'done'],
      ['entry.add', 'done'],
      ['entry.add', 'refused'],
    ]);
  });

  it('a change whose record cannot be written is not made', async () => {
    vi.spyOn(audit, 'record').mockRejectedValue(new Error('cannot write the audit: the disk is full'));
    const put = vi.spyOn(store, 'put');
    const no = await refusal(changes.lists.put('ci', { allow: [] }, undefined, 'ann'));
    expect(no).toMatchObject({ kind: 'not-in-force', detail: expect.stringContaining('the disk is full') });
    expect(put).not.toHaveBeenCalled();
    expect(changes.current().lists.size).toBe(0);
  });

  it('the record is durable before the store is asked', async () => {
    const order: string[] = [];
    const [record, put] = [audit.record.bind(audit), store.put.bind(store)];
    vi.spyOn(audit, 'record').mockImplementation(async (r) => {
      await record(r);
      order.push('recorded');
    });
    vi.spyOn(store, 'put').mockImplementation((...args) => {
      order.push('stored');
      return put(...args);
    });
    await changes.modes.set(['db'], { mode: 'off' }, 'ann');
    expect(order).toEqual(['recorded', 'stored']);
  });
});

describe('a mode that counts by more than one owner', () => {
  const modes = (): Record<string, unknown> =>
    Object.fromEntries([...changes.current().modes].map(([owner, setting]) => [owner, setting.mode]));
  const left = async (): Promise<void> => {
    await store.put('mode/name:web', { mode: 'enforce' });
    changes.close();
    changes = await open();
  };

  it.each([
    ['observe', { 'compose:shop/web': 'observe' }],
    ['auto', {}],
  ] as const)('%s takes the stricter one of the name away with it, audited', async (mode, expected) => {
    await left();
    await changes.modes.set(['web'], { mode }, 'ann');
    expect(modes()).toEqual(expected);
    const targets = (await audits()).map((i) => i.target);
    expect(targets).toContain('name:web (web)');
  });
  it('enforce leaves it', async () => {
    await left();
    await changes.modes.set(['web'], { mode: 'enforce' }, 'ann');
    expect(modes()).toEqual({ 'name:web': 'enforce', 'compose:shop/web': 'enforce' });
  });
  it("that of a service which only the image names is that service's", async () => {
    await changes.modes.set(['web'], { mode: 'enforce' }, 'ann');
    expect(await refusal(changes.modes.set(['posing'], { mode: 'off' }, 'ann'))).toMatchObject({
      kind: 'conflict',
      detail: expect.stringContaining('compose:shop/web'),
    });
    await changes.modes.set(['posing'], { mode: 'enforce' }, 'ann');
    await changes.modes.set(['posing'], { mode: 'auto' }, 'ann');
    expect(modes()).toEqual({ 'compose:shop/web': 'enforce' });
  });
});
