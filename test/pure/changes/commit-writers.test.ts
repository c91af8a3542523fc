/** Two hosts change one store, and the news of the one reaches the other late. */
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { Audit } from '../../../src/changes/audit.js';
import { Changes } from '../../../src/changes/changes.js';
import type { Logger } from '../../../src/lib/log.js';
import { RefusedError } from '../../../src/lib/problem.js';
import type { ContainerFacts } from '../../../src/policy/container.js';
import { openEmbeddedStore } from '../../../src/store/embedded-store.js';
import type { Store } from '../../../src/store/store-interface.js';

const quiet: Logger = { debug() {}, info() {}, warn() {}, error() {} };
const WEB: ContainerFacts = {
  id: 'a'.repeat(64),
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

let dir: string;
let store: Store;
let a: Changes;
let b: Changes;
/** What B has not been told yet. */
let late: (() => void)[];
let audits: Audit[];
let inForce: () => Promise<void>;
/** Before B's record of a change is written. */
let recording: () => Promise<unknown>;

/** The same store; what it tells waits for `deliver`. */
const delayed = (of: Store): Store => ({
  get: (key) => of.get(key),
  list: (prefix) => of.list(prefix),
  keys: (prefix) => of.keys(prefix),
  put: (key, value, options) => of.put(key, value, options),
  delete: (key, options) => of.delete(key, options),
  watch: (onChange) => of.watch((item) => void late.push(() => onChange(item))),
  health: () => of.health(),
  revision: () => of.revision(),
  identity: () => of.identity(),
  close: () => of.close(),
});
const deliver = (): void => {
  for (const news of late.splice(0)) news();
};

async function open(of: Store, state: string): Promise<Changes> {
  await mkdir(state);
  const audit = await Audit.open({ dir: state, store: of, kind: 'embedded', now: Date.now, log: quiet });
  audits.push(audit);
  return Changes.open({
    store: of,
    audit: {
      record: async (record) => {
        if (of !== store) await recording();
        await audit.record(record);
      },
    },
    reconciler: { inForce: () => inForce() },
    log: quiet,
    folderLists: () => [],
    usedBy: () => [],
    find: () => WEB,
    now: Date.now,
    onChange: () => undefined,
  });
}

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'drawbridge-writers-'));
  late = [];
  audits = [];
  inForce = async () => {};
  recording = async () => {};
  store = await openEmbeddedStore({ dir, log: quiet });
  a = await open(store, join(dir, 'a'));
  b = await open(delayed(store), join(dir, 'b'));
});
afterEach(async () => {
  a.close();
  b.close();
  for (const audit of audits) await audit[Symbol.asyncDispose]();
  await store.close();
  await rm(dir, { recursive: true });
});

const kindOf = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => 'done',
    (e: unknown) => (e instanceof RefusedError ? e.refusal.kind : String(e)),
  );
const allowed = async (name: string): Promise<unknown> =>
  (await store.get<{ allow: unknown }>(`list/${name}`))?.value.allow;

it('a list that has lost an entry elsewhere does not get it back by a change that had not seen that', async () => {
  await a.lists.put('ci', { allow: ['a.org', 'revoked.org'] }, undefined, 'ann');
  deliver();
  await a.lists.removeEntry('ci', 'revoked.org', undefined, 'ann');
  expect(await kindOf(b.lists.addEntry('ci', 'c.org', undefined, 'bob'))).toBe('precondition');
  expect(await kindOf(b.lists.put('ci', { allow: ['revoked.org'] }, undefined, 'bob'))).toBe('precondition');
  expect(await kindOf(b.lists.delete('ci', undefined, 'bob'))).toBe('precondition');
  expect(await allowed('ci')).toEqual(['a.org']);
  deliver();
  expect(await kindOf(b.lists.addEntry('ci', 'c.org', undefined, 'bob'))).toBe('done');
  expect(await allowed('ci')).toEqual(['a.org', 'c.org']);
});

it('a change for a revision that another host replaces while the record is written is refused', async () => {
  const { revision } = await a.lists.put('ci', { allow: ['start.org'] }, undefined, 'ann');
  deliver();
  recording = async () => {
    recording = async () => {};
    await a.lists.put('ci', { allow: ['a.org'] }, revision, 'ann');
    deliver();
  };
  const late = b.lists.put('ci', { allow: ['b.org'] }, revision, 'bob');
  await expect(late).rejects.toMatchObject({ refusal: { kind: 'precondition' } });
  expect((await store.get('list/ci'))?.value).toEqual({ allow: ['a.org'] });
  const { items } = (await audits[1]?.page(1, undefined)) ?? {};
  expect(items).toMatchObject([{ who: 'bob', outcome: 'refused' }]);
});

it('a change that is not in force is not undone over what another host has made of it since', async () => {
  const { revision } = await a.lists.put('ci', { allow: ['start.org'] }, undefined, 'ann');
  deliver();
  inForce = async () => {
    inForce = async () => {};
    deliver();
    await a.lists.put('ci', { allow: ['a.org'] }, undefined, 'ann');
    deliver();
    throw new Error('no pass in time');
  };
  await expect(b.lists.put('ci', { allow: ['b.org'] }, revision, 'bob')).rejects.toThrow(
    /not undone, because ci was changed again/,
  );
  expect((await store.get('list/ci'))?.value).toEqual({ allow: ['a.org'] });
});

it('a mode, a pause, a grant and the lockdown likewise', async () => {
  await b.modes.set(['web'], { mode: 'observe' }, 'bob');
  await a.modes.set(['web'], { mode: 'enforce' }, 'ann');
  expect(await kindOf(b.modes.set(['web'], { mode: 'off' }, 'bob'))).toBe('precondition');
  expect((await store.get('mode/name:web'))?.value).toEqual({ mode: 'enforce' });
  await a.emergency.setLockdown(true, 'ann');
  await a.emergency.setLockdown(false, 'ann');
  deliver();
  await a.emergency.setLockdown(true, 'ann');
  expect(await kindOf(b.emergency.setLockdown(true, 'bob'))).toBe('precondition');
  const { id } = await a.containers.grant('web', 'a.org', undefined, 'ann');
  deliver();
  await a.containers.revokeGrant('web', id, 'ann');
  expect(await kindOf(b.containers.revokeGrant('web', id, 'bob'))).not.toBe('not-in-force');
  expect(await store.get(`grant/${id}`)).toBeUndefined();
});

it('an import that had not seen what another host wrote changes nothing', async () => {
  await a.lists.put('ci', { allow: ['a.org', 'revoked.org'] }, undefined, 'ann');
  deliver();
  await a.lists.removeEntry('ci', 'revoked.org', undefined, 'ann');
  const document = { lists: { ci: { allow: ['revoked.org'] }, other: { allow: ['b.org'] } } };
  const how = { replace: false, dryRun: false };
  expect(await kindOf(b.transfer.import(document, how, 'bob'))).toBe('precondition');
  expect(await allowed('ci')).toEqual(['a.org']);
  expect(await store.get('list/other')).toBeUndefined();
});

it('an import that waited behind another change of the same host sees that it is outdated', async () => {
  await a.lists.put('ci', { allow: ['a.org', 'revoked.org'] }, undefined, 'ann');
  let release: () => void = () => undefined;
  const gate = new Promise<void>((resolve) => {
    release = resolve;
  });
  inForce = () => gate;
  const first = a.lists.put('ci', { allow: ['a.org'] }, undefined, 'ann');
  const document = { lists: { ci: { allow: ['revoked.org'] } } };
  const second = kindOf(a.transfer.import(document, { replace: false, dryRun: false }, 'bob'));
  release();
  await first;
  expect(await second).toBe('precondition');
  expect(await allowed('ci')).toEqual(['a.org']);
});

it('and one that another host was ahead of while it waited, too', async () => {
  await a.lists.put('ci', { allow: ['a.org', 'revoked.org'] }, undefined, 'ann');
  deliver();
  let release: () => void = () => undefined;
  const gate = new Promise<void>((resolve) => {
    release = resolve;
  });
  inForce = () => gate;
  const held = b.modes.set(['web'], { mode: 'enforce' }, 'bob');
  const document = { lists: { ci: { allow: ['revoked.org'] } }, modes: { 'name:web': 'observe' } };
  const second = kindOf(b.transfer.import(document, { replace: false, dryRun: false }, 'bob'));
  inForce = async () => {};
  await a.lists.removeEntry('ci', 'revoked.org', undefined, 'ann');
  deliver();
  release();
  await held;
  expect(await second).toBe('precondition');
  expect(await allowed('ci')).toEqual(['a.org']);
});
