import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Audit } from '../../../src/changes/audit.js';
import { Changes } from '../../../src/changes/changes.js';
import { RefusedError } from '../../../src/lib/problem.js';
import type { List } from '../../../src/policy/policy.js';
import { openEmbeddedStore } from '../../../src/store/embedded-store.js';
import type { Store } from '../../../src/store/store-interface.js';

const log = { debug() {}, info() {}, warn() {}, error() {} };
let dir: string;
let store: Store;
let changes: Changes;
let audit: Audit;
let inForce: () => Promise<void>;
let folder: List[];

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'drawbridge-transfer-'));
  inForce = () => Promise.resolve();
  folder = [];
  store = await openEmbeddedStore({ dir, log });
  audit = await Audit.open({ dir, store, kind: 'embedded', now: Date.now, log });
  changes = await Changes.open({
    store,
    audit,
    reconciler: { inForce: () => inForce() },
    log,
    folderLists: () => folder,
    usedBy: () => [],
    find: () => {
      throw new Error('unused');
    },
    now: Date.now,
    onChange: () => undefined,
  });
});
afterEach(async () => {
  changes.close();
  await audit[Symbol.asyncDispose]();
  await store.close();
  await rm(dir, { recursive: true });
});

const HASH = 'a'.repeat(64);
const DOCUMENT = {
  lists: {
    npm: { description: 'npm', allow: ['registry.npmjs.org'] },
    ci: {
      hosts: ['ci-*'],
      allow: ['list:npm'],
      tests: [{ allow: 'registry.npmjs.org' }, { deny: 'a.org:80' }],
    },
  },
  modes: { 'compose:shop/db': 'enforce' },
  grants: [{ owner: 'name:web', entry: 'a.org' }],
  tokens: [{ name: 'ci', role: 'write', hash: HASH, created: '2030-01-01T00:00:00.000Z', by: 'local:ann' }],
};
const EVERYTHING = { replace: true, dryRun: false };
const kindOf = (e: unknown): string => (e instanceof RefusedError ? e.refusal.kind : String(e));
const names = () => changes.lists.all().map((l) => l.name);
const lines = (plan: readonly { action: string; kind: string; name: string }[]) =>
  plan.map((c) => `${c.action} ${c.kind} ${c.name}`).sort();

describe('export and import', () => {
  it('what is exported is what was imported, and imports as nothing to change', async () => {
    const plan = await changes.transfer.import(DOCUMENT, EVERYTHING, 'x');
    expect(lines(plan)).toEqual([
      'create grant name:web a.org',
      'create list ci',
      'create list npm',
      'create mode compose:shop/db',
      'create token ci',
    ]);
    expect(JSON.parse(JSON.stringify(changes.transfer.export()))).toEqual(DOCUMENT);
    expect(await changes.transfer.import(changes.transfer.export(), EVERYTHING, 'x')).toEqual([]);
  });

  it('a dry run changes nothing', async () => {
    const plan = await changes.transfer.import(DOCUMENT, { replace: true, dryRun: true }, 'x');
    expect(plan).toHaveLength(5);
    expect(names()).toEqual([]);
    expect(await store.list('')).toEqual([]);
  });

  it('adds and changes; deletes only with replace', async () => {
    await changes.transfer.import(DOCUMENT, EVERYTHING, 'x');
    const next = { lists: { npm: { allow: ['registry.npmjs.org', '*.npmjs.org'] } } };
    const some = await changes.transfer.import(next, { replace: false, dryRun: false }, 'x');
    expect(lines(some)).toEqual(['update list npm']);
    expect(names()).toEqual(['ci', 'npm']);
    expect(lines(await changes.transfer.import(next, EVERYTHING, 'x'))).toEqual([
      'delete grant name:web a.org',
      'delete list ci',
      'delete mode compose:shop/db',
      'delete token ci',
    ]);
    expect(names()).toEqual(['npm']);
  });

  it('tells every problem at its place, and changes nothing', async () => {
    const wrong = {
      lists: { a: { allow: ['https://a.org'] }, 'b/c': { alow: [] } },
      modes: { x: 'strict' },
      grants: [{ owner: 'id:abc', entry: 'a.org' }],
      tokens: [{ name: 'x', role: 'root', hash: 'abc', created: '', by: '' }],
      more: 1,
    };
    const refused = await changes.transfer.import(wrong, EVERYTHING, 'x').catch((e: unknown) => e);
    const problems =
      refused instanceof RefusedError && refused.refusal.kind === 'invalid' ? refused.refusal.problems : [];
    expect(problems.map((p) => p.pointer)).toEqual(
      expect.arrayContaining([
        '/lists/a/allow/0',
        '/lists/b~1c/alow',
        '/modes/x',
        '/grants/0/owner',
        '/tokens/0/role',
        '/tokens/0/hash',
        '/more',
      ]),
    );
    expect(await store.list('')).toEqual([]);
  });

  it('not in force: everything is as it was', async () => {
    await changes.transfer.import({ lists: { npm: { allow: ['old.org'] } } }, EVERYTHING, 'x');
    inForce = () => Promise.reject(new Error('no kernel'));
    expect(await changes.transfer.import(DOCUMENT, EVERYTHING, 'x').catch(kindOf)).toBe('not-in-force');
    expect(JSON.parse(JSON.stringify(changes.transfer.export()))).toEqual({
      lists: { npm: { allow: ['old.org'] } },
      modes: {},
      grants: [],
      tokens: [],
    });
    const { items } = await audit.page(99, undefined);
    expect(items.filter((a) => a.outcome === 'undone')).toHaveLength(5);
  });

  it('many lists are one pass', async () => {
    let passes = 0;
    inForce = async () => void passes++;
    const lists = Object.fromEntries(
      Array.from({ length: 500 }, (_, i) => [`l${i}`, { allow: [`h${i}.org`] }]),
    );
    await changes.transfer.import({ lists }, EVERYTHING, 'x');
    expect(passes).toBe(1);
    expect(names()).toHaveLength(500);
  });
});

describe('sync', () => {
  const how = { adopt: false, dryRun: false };
  const allow = (...entries: string[]) => ({ allow: entries });

  it('adds, changes and deletes what it made, and leaves the rest alone', async () => {
    await changes.lists.put('mine', allow('m.org'), undefined, 'x');
    expect(
      lines(await changes.transfer.sync('git', { a: allow('a.org'), b: allow('b.org') }, how, 'x')),
    ).toEqual(['create list a', 'create list b']);
    expect(await changes.transfer.sync('git', { a: allow('a.org'), b: allow('b.org') }, how, 'x')).toEqual(
      [],
    );
    expect(lines(await changes.transfer.sync('git', { b: allow('b.org', 'c.org') }, how, 'x'))).toEqual([
      'delete list a',
      'update list b',
    ]);
    expect(names()).toEqual(['b', 'mine']);
    expect(lines(await changes.transfer.sync('git', {}, how, 'x'))).toEqual(['delete list b']);
    expect(names()).toEqual(['mine']);
    expect(await store.get('sync/git')).toBeUndefined();
  });

  it('two owners do not touch one another, and nobody else’s list is taken over unasked', async () => {
    await changes.transfer.sync('one', { a: allow('a.org') }, how, 'x');
    expect(await changes.transfer.sync('two', { a: allow('b.org') }, how, 'x').catch(kindOf)).toBe(
      'conflict',
    );
    await changes.transfer.sync('two', { b: allow('b.org') }, how, 'x');
    await changes.transfer.sync('one', {}, how, 'x');
    expect(names()).toEqual(['b']);
    await changes.lists.put('mine', allow('m.org'), undefined, 'x');
    await changes.transfer.sync('one', { mine: allow('m.org') }, { ...how, adopt: true }, 'x');
    await changes.transfer.sync('one', {}, how, 'x');
    expect(names()).toEqual(['b']);
  });

  it('a list that somebody deleted meanwhile comes back; a dry run tells and changes nothing', async () => {
    await changes.transfer.sync('git', { a: allow('a.org') }, how, 'x');
    await changes.lists.delete('a', undefined, 'x');
    expect(
      lines(await changes.transfer.sync('git', { a: allow('a.org') }, { ...how, dryRun: true }, 'x')),
    ).toEqual(['create list a']);
    expect(names()).toEqual([]);
    await changes.transfer.sync('git', { a: allow('a.org') }, how, 'x');
    expect(names()).toEqual(['a']);
  });

  it('refuses cycles, bad lists and names of files', async () => {
    expect(
      await changes.transfer.sync('git', { a: allow('list:b'), b: allow('list:a') }, how, 'x').catch(kindOf),
    ).toBe('invalid');
    expect(await changes.transfer.sync('git', { a: allow('999.1.1.1') }, how, 'x').catch(kindOf)).toBe(
      'invalid',
    );
    folder = [{ name: 'npm', source: 'folder', file: '/x/npm.yaml', allow: [] }];
    expect(await changes.transfer.sync('git', { npm: allow('a.org') }, how, 'x').catch(kindOf)).toBe(
      'invalid',
    );
    expect(names()).toEqual(['npm']);
  });
});
