import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { StoreTrust } from '../../../src/changes/store-trust.js';
import type { Overrides } from '../../../src/enforce/policies.js';
import type { Exec } from '../../../src/kernel/exec.js';
import { formatRecord, parseRecord, type StoreRecord } from '../../../src/kernel/store-record.js';
import type { ContainerFacts } from '../../../src/policy/container.js';
import type { Grant, List, Mode, Policy } from '../../../src/policy/policy.js';

const nothing = (): void => undefined;
const said = (over: Partial<Overrides> = {}): Overrides => ({
  lists: new Map(),
  absent: new Map(),
  grants: [],
  modes: new Map(),
  pauses: [],
  lockdown: undefined,
  ...over,
});
const observed: Policy = {
  mode: 'observe',
  modeSource: { kind: 'default' },
  entries: [],
  lists: [],
  notes: [],
};
const container = { id: 'c', name: 'c', labels: {}, imageLabels: {} } as unknown as ContainerFacts;

/** Sets of the kernel that have a comment, by name. */
let sets: Map<string, string>;
let warned: string[];
let store: { id: string; revision: number; ok: boolean };
let inForce: ReadonlyMap<string, Mode> | undefined;
/** The kernel takes a record only after this. */
let write: (() => Promise<void>) | undefined;
beforeEach(() => {
  sets = new Map();
  warned = [];
  store = { id: 'one', revision: 7, ok: true };
  inForce = undefined;
  write = undefined;
});

const members = async (set: string) => {
  const comment = sets.get(set);
  return comment === undefined ? undefined : [{ address: '127.0.0.1', nomatch: false, comment }];
};
const run: Exec = async (_file, _args, { input = '' } = {}) => {
  const [, set = '', comment = ''] = /^add (\S+) .*comment "([^"]*)"/m.exec(input) ?? [];
  await write?.();
  sets.set(set, comment);
  return { code: 0, stdout: '', stderr: '' };
};
const warn = (_: object, msg = ''): void => void warned.push(msg);
const opened: StoreTrust[] = [];
afterEach(async () => {
  for (const trust of opened.splice(0)) await trust.close();
});
async function open(
  over: { isShared?: boolean; former?: string[]; takeOver?: () => Promise<void> } = {},
): Promise<StoreTrust> {
  const { takeOver } = over;
  const trust = await StoreTrust.open({
    store: {
      identity: () => store.id,
      revision: () => store.revision,
      health: () => ({ ok: store.ok, detail: '' }),
      ...(takeOver && { takeOver, replacement: () => ({ id: 'two', revision: 3 }) }),
    },
    isShared: false,
    sets: { members },
    run,
    prefix: 'DB',
    former: [],
    log: { debug: nothing, info: nothing, warn, error: warn },
    modes: () => inForce,
    onChange: nothing,
    now: () => 0,
    ...over,
  });
  opened.push(trust);
  return trust;
}
const record = (): StoreRecord | undefined => parseRecord(sets.get('DB-record') ?? '');
/** The record follows, and then the next start. */
async function noted(trust: StoreTrust, revision: number): Promise<void> {
  trust.changed();
  await vi.waitFor(() => expect(record()?.revision).toBe(revision));
}
const modeOf = (trust: StoreTrust, revision = 0): string =>
  trust.policy(observed, container, () => revision).mode;

it('a kernel without a record (before the first start, after a teardown or from an older version) claims nothing', async () => {
  const trust = await open();
  trust.said(said(), () => 0);
  expect([trust.doubt, modeOf(trust)]).toEqual([undefined, 'observe']);
  await noted(trust, 7);
  expect(record()).toEqual({ id: 'one', revision: 7, isLockdown: false, isPaused: false });
});

it('the same store, or a later state of it, is believed', async () => {
  sets.set('DB-record', formatRecord({ id: 'one', revision: 7, isLockdown: false, isPaused: false }));
  store.revision = 8;
  expect((await open()).doubt).toBeUndefined();
});

it.each([
  ['another store', 'two', 9],
  ['an older state', 'one', 6],
])('%s loosens nothing, and the record stays', async (_, id, revision) => {
  const known = { id: 'one', revision: 7, isLockdown: true, isPaused: false };
  sets.set('DB-record', formatRecord(known));
  store = { id, revision, ok: true };
  const trust = await open();
  expect(modeOf(trust)).toBe('enforce');
  expect(trust.said(said(), () => 0).lockdown).toMatchObject({ by: expect.stringContaining('the kernel') });
  expect(warned.join()).toContain('nothing gets looser');
  store.revision += 5;
  trust.changed();
  await vi.waitFor(() => expect(record()).toEqual({ ...known, found: { id, revision } }));
  expect((await open()).doubt?.revision).toBe(revision);
});

it('containers that the kernel observed stay so, but not where a pause was in force', async () => {
  const flags = { isLockdown: false, isPaused: false };
  sets.set('DB-record', formatRecord({ id: 'other', revision: 1, ...flags }));
  const trust = await open();
  trust.takeOver(new Map([['c', 'observe']]));
  expect(modeOf(trust)).toBe('observe');
  sets.set('DB-record', formatRecord({ id: 'other', revision: 1, ...flags, isPaused: true }));
  const paused = await open();
  paused.takeOver(new Map([['c', 'observe']]));
  expect(modeOf(paused)).toBe('enforce');
});

it('a lockdown and a pause are noted as they come', async () => {
  const trust = await open();
  await noted(trust, 7);
  const lockdown = { since: '', by: '' };
  const pauses = [{ owner: 'all', created: '', expires: '', by: '' }];
  trust.said(said({ lockdown, pauses }), () => 0);
  await vi.waitFor(() => expect(record()).toMatchObject({ isLockdown: true, isPaused: true }));
});

it('acceptance by a person ends it, and the record is the store that was accepted', async () => {
  sets.set('DB-record', formatRecord({ id: 'other', revision: 99, isLockdown: true, isPaused: false }));
  const trust = await open();
  await trust.accept();
  expect([trust.doubt, modeOf(trust), trust.said(said(), () => 0).lockdown]).toEqual([
    undefined,
    'observe',
    undefined,
  ]);
  await vi.waitFor(() =>
    expect(record()).toEqual({ id: 'one', revision: 7, isLockdown: false, isPaused: false }),
  );
  expect(() => trust.checkAcceptable()).toThrow('nothing to accept');
});

describe('while another store is taken over', () => {
  const known = { id: 'one', revision: 7, isLockdown: true, isPaused: false };
  const REMEMBERED = { mode: 'enforce', grants: [], isLockdown: true };
  const grant = { id: 'old', entry: 'a.org', owner: 'id:c' } as unknown as Grant;
  /** What a pass makes of a store with a grant and without a lockdown. */
  const pass = (trust: StoreTrust) => {
    const { grants, lockdown } = trust.said(said({ grants: [grant] }), () => 3);
    return { mode: modeOf(trust), grants, isLockdown: lockdown !== undefined };
  };
  let end: { resolve: () => void; reject: (e: Error) => void };
  /** A copy that is older than what the kernel remembers, while Redis holds another store. */
  async function accepting(): Promise<{ trust: StoreTrust; accepted: Promise<void> }> {
    sets.set('DB-record', formatRecord(known));
    store = { id: 'one', revision: 6, ok: false };
    const takeOver = (): Promise<void> =>
      new Promise((resolve, reject) => {
        end = { resolve, reject };
      });
    const trust = await open({ isShared: true, takeOver });
    const accepted = trust.accept();
    accepted.catch(nothing);
    return { trust, accepted };
  }

  it('a pass is no looser, also after its content has come', async () => {
    const { trust, accepted } = await accepting();
    expect(pass(trust)).toEqual(REMEMBERED);
    store = { id: 'two', revision: 3, ok: true };
    expect(pass(trust)).toEqual(REMEMBERED);
    await vi.waitFor(() => expect(record()).toEqual({ ...known, found: { id: 'two', revision: 3 } }));
    end.resolve();
    await accepted;
    expect(pass(trust)).toEqual({ mode: 'observe', grants: [grant], isLockdown: false });
    await vi.waitFor(() => expect(record()).toEqual({ ...known, id: 'two', revision: 3, isLockdown: false }));
  });

  it('a failure has changed nothing, and the acceptance can be repeated', async () => {
    const { trust, accepted } = await accepting();
    end.reject(new Error('Redis went away'));
    await expect(accepted).rejects.toThrow('the store was not taken over: Redis went away');
    expect(pass(trust)).toEqual(REMEMBERED);
    expect((await open({ isShared: true })).doubt).toBeDefined();
    const again = trust.accept();
    store = { id: 'two', revision: 3, ok: true };
    end.resolve();
    await again;
    expect(trust.doubt).toBeUndefined();
  });

  it('a record that was being written then does not replace the accepted store', async () => {
    const { trust, accepted } = await accepting();
    const writes: (() => void)[] = [];
    write = () => new Promise((resolve) => writes.push(resolve));
    store = { id: 'two', revision: 3, ok: true };
    pass(trust);
    await vi.waitFor(() => expect(writes).toHaveLength(1));
    end.resolve();
    await vi.waitFor(() => expect(trust.doubt).toBeUndefined());
    write = undefined;
    writes[0]?.();
    await accepted;
    expect(pass(trust)).toMatchObject({ mode: 'observe', grants: [grant] });
    expect(record()).toMatchObject({ id: 'two', revision: 3 });
  });
});

it('a store that was exchanged before a pass has compared it is not noted as the one that the kernel remembers', async () => {
  const known = { id: 'one', revision: 7, isLockdown: false, isPaused: false };
  sets.set('DB-record', formatRecord(known));
  const trust = await open({ isShared: true });
  store = { id: 'two', revision: 30, ok: true };
  trust.changed();
  await vi.waitFor(() => expect(record()).toEqual({ ...known, found: { id: 'two', revision: 30 } }));
  expect(modeOf(trust)).toBe('enforce');
});

it('Redis that answers late is believed when it has come, one that comes back older is not', async () => {
  const known = { id: 'one', revision: 7, isLockdown: false, isPaused: false };
  sets.set('DB-record', formatRecord(known));
  store = { id: '', revision: 0, ok: false };
  const trust = await open({ isShared: true });
  expect(modeOf(trust)).toBe('enforce');
  expect(() => trust.checkAcceptable()).toThrow('does not answer');
  store = { id: 'one', revision: 7, ok: true };
  trust.said(said(), () => 0);
  expect(modeOf(trust)).toBe('observe');

  store = { id: 'one', revision: 6, ok: true };
  const older = await open({ isShared: true });
  older.said(said(), () => 0);
  store.revision = 20; // writes since do not make it the store that it was
  older.said(said(), () => 0);
  expect(modeOf(older)).toBe('enforce');
});

it('a shared store that is exchanged while the service runs is in doubt from the next pass on', async () => {
  sets.set('DB-record', formatRecord({ id: 'one', revision: 7, isLockdown: false, isPaused: false }));
  const trust = await open({ isShared: true });
  trust.said(said(), () => 0);
  inForce = new Map([['c', 'enforce']]);
  store = { id: 'two', revision: 3, ok: true };
  trust.said(said(), () => 0);
  expect(modeOf(trust)).toBe('enforce');
});

it('the record under a former prefix counts', async () => {
  sets.set('OLD-record', formatRecord({ id: 'other', revision: 1, isLockdown: false, isPaused: false }));
  expect((await open({ former: ['OLD'] })).doubt).toBeDefined();
});

it('a record that cannot be read is no proof: nothing gets looser', async () => {
  sets.set('DB-record', 'drawbridge-store 2 whatever');
  const trust = await open();
  expect(modeOf(trust)).toBe('enforce');
  expect(trust.doubt?.reason).toContain('cannot be read');
});

it('nothing is written after the end, as before a teardown', async () => {
  const trust = await open();
  trust.changed();
  await trust.close();
  trust.changed();
  await new Promise((resolve) => setTimeout(resolve, 80));
  expect(sets.size).toBe(0);
});

it('entries and tokens of an old backup count only as far as a person has made them since', async () => {
  sets.set('DB-record', formatRecord({ id: 'one', revision: 7, isLockdown: false, isPaused: false }));
  store.revision = 6;
  const trust = await open();
  const list = (name: string, source: 'store' | 'folder') => ({ name, source, allow: [] }) as unknown as List;
  const grant = (id: string) => ({ id, entry: 'a.org', owner: 'id:c' }) as unknown as Grant;
  const lists = new Map(
    [list('old', 'store'), list('new', 'store'), list('file', 'folder')].map((l) => [l.name, l]),
  );
  const of = (key: string): number => (key.endsWith('new') ? 9 : 5);
  const now = trust.said(said({ lists, grants: [grant('old'), grant('new')] }), of);
  expect([...now.lists.keys()]).toEqual(['new', 'file']);
  expect(now.grants.map((g) => g.id)).toEqual(['new']);
  expect(now.absent.get('old')?.detail).toMatch(/list old of the store is not in force: .*older|revision 6/);
  expect([trust.believes('token/old', of), trust.believes('token/new', of)]).toEqual([false, true]);
  await trust.accept();
  expect([...trust.said(said({ lists }), of).lists.keys()]).toEqual(['old', 'new', 'file']);
  expect(trust.believes('token/old', of)).toBe(true);
});
