/** Emergencies while the store cannot write. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { Audit } from '../../../src/changes/audit.js';
import { Changes } from '../../../src/changes/changes.js';
import { findContainer } from '../../../src/changes/container-changes.js';
import type { Logger } from '../../../src/lib/log.js';
import { RefusedError } from '../../../src/lib/problem.js';
import type { ContainerFacts } from '../../../src/policy/container.js';
import { openEmbeddedStore } from '../../../src/store/embedded-store.js';
import { StoreError } from '../../../src/store/store-error.js';
import type { Store } from '../../../src/store/store-interface.js';

const quiet: Logger = { debug() {}, info() {}, warn() {}, error() {} };
const ID = 'a'.repeat(64);
const web: ContainerFacts = {
  id: ID,
  name: 'web',
  image: 'busybox',
  imageId: 'sha256:1',
  labels: {},
  imageLabels: {},
  state: 'running',
  networkMode: 'bridge',
  endpoints: [],
  published: [],
};
const FULL = {
  detail: 'cannot write /state/store.log: the disk is full',
  remedy: 'Nothing was changed; free space',
};

let dir: string;
let store: Store;
let changes: Changes;
let audit: Audit;
let isFull: boolean;
let inForce: () => Promise<void>;

/** The store on a disk that may be full. */
const onDisk = (inner: Store): Store => {
  const unlessFull = <T>(work: () => Promise<T>): Promise<T> =>
    isFull ? Promise.reject(new StoreError('write', FULL)) : work();
  return {
    get: (key) => inner.get(key),
    list: (prefix) => inner.list(prefix),
    keys: (prefix) => inner.keys(prefix),
    put: (key, value, options) => unlessFull(() => inner.put(key, value, options)),
    delete: (key, options) => unlessFull(() => inner.delete(key, options)),
    watch: (listener) => inner.watch(listener),
    health: () => inner.health(),
    revision: () => inner.revision(),
    identity: () => inner.identity(),
    close: () => inner.close(),
  };
};
async function open(): Promise<void> {
  store = onDisk(await openEmbeddedStore({ dir, log: quiet }));
  audit = await Audit.open({ dir, store, kind: 'embedded', now: Date.now, log: quiet });
  changes = await Changes.open({
    store,
    audit,
    reconciler: { inForce: () => inForce() },
    log: quiet,
    folderLists: () => [],
    usedBy: () => [],
    find: (idOrName) => findContainer([web], idOrName),
    now: Date.now,
    onChange: () => undefined,
  });
}
async function restart(): Promise<void> {
  changes.close();
  await store.close();
  await open();
}
const written = () => vi.waitFor(() => expect(changes.unwritten.list()).toEqual([]), { timeout: 10_000 });
const actions = async () => (await audit.page(50, undefined)).items.map((r) => `${r.who} ${r.action}`);

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'drawbridge-unwritten-'));
  isFull = false;
  inForce = async () => {};
  await open();
});
afterEach(async () => {
  changes.close();
  await store.close();
  await rm(dir, { recursive: true });
});

it('a lockdown is in force on a full disk, says so, and is stored and recorded as soon as there is space', async () => {
  isFull = true;
  expect(await changes.emergency.setLockdown(true, 'ann')).toMatchObject({ by: 'ann' });
  expect(changes.current().lockdown).toMatchObject({ by: 'ann' });
  expect(changes.unwritten.list()).toMatchObject([
    {
      key: 'lockdown/all',
      action: 'lockdown.on',
      target: 'all',
      note: 'in force, but not stored (the change was not stored: cannot write /state/store.log: the disk is full): until it is, a restart of the service brings back what is stored',
    },
  ]);
  isFull = false;
  await written();
  expect(await actions()).toEqual(['ann lockdown.on']);
  await restart();
  expect(changes.current().lockdown).toMatchObject({ by: 'ann' });
});

it('a lockdown that was never stored ends as soon as the store takes changes again', async () => {
  isFull = true;
  await changes.emergency.setLockdown(true, 'ann');
  await changes.emergency.pause('web', 60_000, 'ann');
  isFull = false;
  expect(await changes.emergency.setLockdown(false, 'ben')).toBeUndefined();
  await changes.emergency.endPause('web', 'ben');
  expect([changes.current().lockdown, changes.current().pauses]).toEqual([undefined, []]);
  expect(changes.unwritten.list()).toEqual([]);
  await restart();
  expect([changes.current().lockdown, changes.current().pauses]).toEqual([undefined, []]);
});

it('without space until the restart, what is stored comes back', async () => {
  isFull = true;
  await changes.emergency.setLockdown(true, 'ann');
  await restart();
  expect(changes.current().lockdown).toBeUndefined();
});

it('the end of a lockdown and of a pause, too; what came and went is only recorded', async () => {
  await changes.emergency.setLockdown(true, 'ann');
  await changes.emergency.pause('web', 60_000, 'ann');
  isFull = true;
  await changes.emergency.setLockdown(false, 'ben');
  await changes.emergency.endPause('web', 'ben');
  await changes.emergency.pause(undefined, 60_000, 'ben');
  await changes.emergency.endPause(undefined, 'ben');
  expect([changes.current().lockdown, changes.current().pauses]).toEqual([undefined, []]);
  isFull = false;
  await written();
  expect((await actions()).filter((a) => a.startsWith('ben')).sort()).toEqual([
    'ben lockdown.off',
    'ben pause.end',
    'ben pause.end',
    'ben pause.set',
  ]);
  await restart();
  expect([changes.current().lockdown, changes.current().pauses]).toEqual([undefined, []]);
});

it('what tightens is in force; what loosens is refused', async () => {
  const grant = await changes.containers.grant('web', 'a.example.org', undefined, 'ann');
  await changes.lists.put('ci', { allow: ['a.example.org', 'b.example.org'] }, undefined, 'ann');
  isFull = true;
  await changes.containers.revokeGrant('web', grant.id, 'ben');
  expect((await changes.lists.removeEntry('ci', 'a.example.org', undefined, 'ben')).allow).toHaveLength(1);
  expect(changes.current().grants).toEqual([]);
  expect(changes.unwritten.list().map((u) => u.action)).toEqual(['grant.remove', 'entry.remove']);
  for (const work of [
    () => changes.containers.grant('web', 'c.example.org', undefined, 'ben'),
    () => changes.lists.addEntry('ci', 'c.example.org', undefined, 'ben'),
    () => changes.lists.put('other', { allow: [] }, undefined, 'ben'),
    () => changes.lists.delete('ci', undefined, 'ben'),
    () => changes.modes.set(['web'], { mode: 'off' }, 'ben'),
  ])
    await expect(work()).rejects.toThrow(RefusedError);
  expect(changes.lists.get('ci').allow.map((e) => e.canonical)).toEqual(['b.example.org']);
  isFull = false;
  await written();
  await restart();
  expect(changes.lists.get('ci').allow.map((e) => e.canonical)).toEqual(['b.example.org']);
  expect(changes.current().grants).toEqual([]);
});

it('a later change of the same key that is stored brings the first with it', async () => {
  await changes.lists.put('ci', { allow: ['a.example.org', 'b.example.org'] }, undefined, 'ann');
  isFull = true;
  await changes.lists.removeEntry('ci', 'a.example.org', undefined, 'ben');
  isFull = false;
  await changes.lists.addEntry('ci', 'c.example.org', undefined, 'cat');
  expect(changes.unwritten.list()).toEqual([]);
  await restart();
  expect(changes.lists.get('ci').allow.map((e) => e.canonical)).toEqual(['b.example.org', 'c.example.org']);
  expect((await actions()).slice(0, 2).sort()).toEqual(['ben entry.remove', 'cat entry.add']);
});

it('what does not come into force in the kernel is taken back', async () => {
  isFull = true;
  inForce = async () => {
    throw new Error('no iptables');
  };
  await expect(changes.emergency.setLockdown(true, 'ann')).rejects.toThrow(/not in force, and undone/);
  expect(changes.current().lockdown).toBeUndefined();
  expect(changes.unwritten.list()).toEqual([]);
});

it('a store that refuses for another reason is believed', async () => {
  const grant = await changes.containers.grant('web', 'a.example.org', undefined, 'ann');
  vi.spyOn(store, 'delete').mockRejectedValue(
    new RefusedError({ kind: 'precondition', detail: 'another host was first', remedy: 'read it again' }),
  );
  await expect(changes.containers.revokeGrant('web', grant.id, 'ben')).rejects.toThrow(
    /another host was first/,
  );
  expect(changes.unwritten.list()).toEqual([]);
});
