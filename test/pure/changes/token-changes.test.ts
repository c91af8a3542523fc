import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { Audit } from '../../../src/changes/audit.js';
import { Changes } from '../../../src/changes/changes.js';
import { RefusedError } from '../../../src/lib/problem.js';
import { openEmbeddedStore } from '../../../src/store/embedded-store.js';
import type { Store } from '../../../src/store/store-interface.js';

const log = { debug() {}, info() {}, warn() {}, error() {} };
const HOUR = 3_600_000;
let dir: string;
let store: Store;
let changes: Changes;
let audit: Audit;
let now: number;

async function open(): Promise<void> {
  store = await openEmbeddedStore({ dir, log });
  audit = await Audit.open({ dir, store, kind: 'embedded', now: () => now, log });
  changes = await Changes.open({
    store,
    audit,
    reconciler: { inForce: () => Promise.reject(new Error('tokens need no kernel')) },
    log,
    tokens: [
      { name: 'plain', role: 'read', token: 'a-token-of-the-file' },
      {
        name: 'hashed',
        role: 'admin',
        token: 'sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824',
      },
    ],
    folderLists: () => [],
    usedBy: () => [],
    find: () => {
      throw new Error('unused');
    },
    now: () => now,
    monotonic: () => now,
    onChange: () => undefined,
  });
}
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'drawbridge-tokens-'));
  now = Date.parse('2030-01-01T00:00:00Z');
  await open();
});
afterEach(async () => {
  changes.close();
  await audit[Symbol.asyncDispose]();
  await store.close();
  await rm(dir, { recursive: true });
});

it('a token opens the API until it is revoked or over, also after a restart', async () => {
  const ci = await changes.tokens.create('ci', 'write', undefined, 'local:ann');
  const brief = await changes.tokens.create('brief', 'read', HOUR, 'local:ann');
  expect(ci.secret).toMatch(/^drawbridge_[\w-]{43}$/);
  expect(changes.tokens.authenticate(ci.secret)).toMatchObject({ name: 'ci', role: 'write' });
  changes.close();
  await audit[Symbol.asyncDispose]();
  await store.close();
  await open();
  expect(changes.tokens.authenticate(ci.secret)).toMatchObject({ name: 'ci' });
  expect(changes.tokens.authenticate(brief.secret)).toMatchObject({ role: 'read' });
  now += HOUR;
  expect(changes.tokens.authenticate(brief.secret)).toBeUndefined();
  await changes.tokens.create('brief', 'read', HOUR, 'local:ann');
  expect(changes.tokens.authenticate(brief.secret)).toBeUndefined();
  await changes.tokens.revoke('ci', 'local:ann');
  expect(changes.tokens.authenticate(ci.secret)).toBeUndefined();
});

it('tokens of the configuration count, as themselves or by their hash', () => {
  expect(changes.tokens.count).toBe(2);
  expect(changes.tokens.authenticate('a-token-of-the-file')).toMatchObject({ name: 'plain', role: 'read' });
  expect(changes.tokens.authenticate('hello')).toMatchObject({ name: 'hashed', role: 'admin' });
  expect(
    changes.tokens.authenticate('2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824'),
  ).toBeUndefined();
  expect(changes.tokens.authenticate('')).toBeUndefined();
});

it('neither the secret nor its hash is in what is audited, and the secret nowhere on disk', async () => {
  const { secret, token } = await changes.tokens.create('ci', 'write', undefined, 'local:ann');
  const lines = await readFile(join(dir, 'audit-000000000001.log'), 'utf8');
  expect(lines).toContain('token.create');
  expect(lines).not.toContain(token.hash);
  expect(JSON.stringify(await store.list(''))).not.toContain(secret);
});

it('refuses a second of a name, a name that is none, and to revoke what it has not', async () => {
  const kind = (e: unknown): string => (e instanceof RefusedError ? e.refusal.kind : String(e));
  await changes.tokens.create('ci', 'read', undefined, 'x');
  expect(await changes.tokens.create('ci', 'admin', undefined, 'x').catch(kind)).toBe('conflict');
  expect(await changes.tokens.create('plain', 'admin', undefined, 'x').catch(kind)).toBe('conflict');
  expect(await changes.tokens.create('a b', 'admin', undefined, 'x').catch(kind)).toBe('invalid');
  expect(await changes.tokens.revoke('plain', 'x').catch(kind)).toBe('read-only');
  expect(await changes.tokens.revoke('none', 'x').catch(kind)).toBe('not-found');
});
