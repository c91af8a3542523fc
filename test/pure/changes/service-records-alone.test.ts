/** Records of changes that are made while the service does not run: in the chain of the audit's files, or the reason why not. */
import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { Audit } from '../../../src/changes/audit.js';
import { verifyAudit } from '../../../src/changes/audit-verify.js';
import { recordAlone } from '../../../src/changes/service-records.js';
import type { Logger } from '../../../src/lib/log.js';
import { openEmbeddedStore } from '../../../src/store/embedded-store.js';
import { lockFolder } from '../../../src/store/folder-lock.js';

const quiet: Logger = { debug() {}, info() {}, warn() {}, error() {} };
const RECORD = { who: 'local:root (says: ann)', action: 'teardown', after: null, outcome: 'done' } as const;
let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'drawbridge-alone-'));
});
afterEach(() => rm(dir, { recursive: true }));

const alone = (state = dir) => recordAlone({ state, node: 'one' }, RECORD, () => 0);

/** Runs `use` with the audit of a service, which then ends. */
async function withAudit<T>(use: (audit: Audit) => Promise<T>): Promise<T> {
  const store = await openEmbeddedStore({ dir, log: quiet });
  try {
    await using audit = await Audit.open({
      dir,
      store,
      kind: 'embedded',
      now: () => 0,
      node: 'one',
      log: quiet,
    });
    return await use(audit);
  } finally {
    await store.close();
  }
}

it('continues the chain of the service, which continues it in turn', async () => {
  const stop = {
    who: 'drawbridge',
    action: 'service.stop',
    target: 'one',
    before: null,
    after: null,
  } as const;
  await withAudit((audit) => audit.record({ ...stop, outcome: 'done' }));
  expect(await alone()).toBeUndefined();
  const { items } = await withAudit(async (audit) => {
    await audit.record({ ...stop, outcome: 'done' });
    return audit.page(9, undefined);
  });
  expect(items.map((r) => r.action)).toEqual(['service.stop', 'teardown', 'service.stop']);
  expect(items[1]).toMatchObject({
    ...RECORD,
    n: 2,
    node: 'one',
    target: 'one',
    before: null,
    time: '1970-01-01T00:00:00.000Z',
  });
  expect(await verifyAudit(dir)).toMatchObject({ ok: true, records: 3 });
});

it('begins the chain where there is none, and leaves no lock', async () => {
  expect(await alone()).toBeUndefined();
  expect(await verifyAudit(dir)).toMatchObject({ ok: true, records: 1 });
  expect(await readdir(dir)).toEqual(['audit-000000000001.log']);
});

it('does not write next to another process that holds the state folder', async () => {
  const lock = await lockFolder(dir);
  expect(await alone()).toBe(`another process uses ${dir}`);
  await lock.release();
  expect(await readdir(dir)).toEqual([]);
});

it('returns the reason where nothing can be written, and does not reject', async () => {
  expect(await alone(join(dir, 'none'))).toMatch(/none cannot be written: ENOENT/);
  await mkdir(join(dir, 'audit-000000000001.log'));
  const why = await alone();
  expect(why).toMatch(/cannot be written: EISDIR/);
  expect(why).not.toContain('Nothing was changed');
  expect(await readdir(dir)).toEqual(['audit-000000000001.log']);
});
