import { readlinkSync } from 'node:fs';
import { appendFile, cp, type FileHandle, mkdtemp, open, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { Audit } from '../../../src/changes/audit.js';
import { seal } from '../../../src/changes/audit-chain.js';
import { Committer } from '../../../src/changes/commit.js';
import { ChangesState } from '../../../src/changes/stored-state.js';
import type { Logger } from '../../../src/lib/log.js';
import { RefusedError } from '../../../src/lib/problem.js';
import { type EmbeddedStore, openEmbeddedStore } from '../../../src/store/embedded-store.js';
import { encodeChanges } from '../../../src/store/frame-file.js';

/** A value and its record are written at the same time: what is seen of it, and what a crash leaves. */
const quiet: Logger = { debug() {}, info() {}, warn() {}, error() {} };
const KEY = 'mode/name:web';
const CHANGE = {
  key: KEY,
  before: undefined,
  after: { mode: 'observe' },
  who: 'ann',
  action: 'mode.set',
  target: 'web',
} as const;
let dir: string;
let store: EmbeddedStore;
let audit: Audit;
let state: ChangesState;
let committer: Committer;
let inForce: number;
let end: (() => Promise<void>)[];

async function begin(): Promise<void> {
  store = await openEmbeddedStore({ dir, log: quiet });
  audit = await Audit.open({ dir, store, kind: 'embedded', now: () => 0, log: quiet });
  state = await ChangesState.open(
    store,
    quiet,
    () => 0,
    async () => ({ ok: false, problems: [] }),
  );
  committer = new Committer({
    store,
    state,
    audit,
    reconciler: { inForce: async () => void inForce++ },
    log: quiet,
    onChange: () => undefined,
  });
}
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'drawbridge-together-'));
  [inForce, end] = [0, []];
  await begin();
  await audit.record({ ...CHANGE, before: null, outcome: 'done', target: 'before' });
});
afterEach(async () => {
  vi.restoreAllMocks();
  committer.unwritten.close();
  state.close();
  await audit[Symbol.asyncDispose]();
  await store.close();
  for (const other of end) await other();
  await rm(dir, { recursive: true });
});

/** Calls `on` when a line is written to a file of the audit, before it counts as durable. */
async function onAuditSync(on: () => Promise<void>): Promise<void> {
  const probe = await open(join(dir, 'probe'), 'w');
  await probe.close();
  const handles = Object.getPrototypeOf(probe) as FileHandle;
  const { write } = handles;
  vi.spyOn(handles, 'write').mockImplementation(async function (this: FileHandle, ...args: unknown[]) {
    const done = await Reflect.apply(write, this, args);
    if (readlinkSync(`/proc/self/fd/${this.fd}`).startsWith(join(dir, 'audit-'))) await on();
    return done;
  } as typeof write);
}
const log = (): Promise<string> => readFile(join(dir, 'store.log'), 'latin1');
/** The state folder as a crash leaves it at this moment, opened. */
async function afterCrash(change?: (folder: string) => Promise<void>): Promise<EmbeddedStore> {
  const folder = await mkdtemp(join(tmpdir(), 'drawbridge-crash-'));
  await cp(dir, folder, { recursive: true, filter: (path) => !/\/lock|\.sock$/.test(path) });
  await change?.(folder);
  const opened = await openEmbeddedStore({ dir: folder, log: quiet });
  end.push(async () => {
    await opened.close();
    await rm(folder, { recursive: true });
  });
  return opened;
}
const AUDIT = 'audit-000000000001.log';

it('is in the log before its record is durable, and neither seen nor in force until then', async () => {
  let release = (): void => undefined;
  const gate = new Promise<void>((resolve) => {
    release = resolve;
  });
  await onAuditSync(() => gate);
  let told = 0;
  store.watch(() => told++);
  const committed = committer.commit(CHANGE);
  await vi.waitFor(async () => expect(await log()).toContain(KEY));
  await vi.waitFor(async () => expect(await readFile(join(dir, AUDIT), 'utf8')).toContain('"target":"web"'));
  expect([await store.get(KEY), state.modes.size, told, inForce]).toEqual([undefined, 0, 0, 0]);
  // What is written after a power loss in which the line was lost: the change was neither acknowledged nor in force.
  const lost = await afterCrash(async (folder) => {
    const lines = (await readFile(join(folder, AUDIT), 'utf8')).trimEnd().split('\n');
    await writeFile(join(folder, AUDIT), `${lines.slice(0, -1).join('\n')}\n`);
  });
  expect(await lost.get(KEY)).toBeUndefined();
  const kept = await afterCrash();
  expect((await kept.get(KEY))?.value).toEqual({ mode: 'observe' });
  release();
  await committed;
  expect([(await store.get(KEY))?.value, state.modes.size, told, inForce]).toEqual([
    { mode: 'observe' },
    1,
    1,
    1,
  ]);
});

it('is removed when a crash has lost its record or any part of it, and kept when the audit has the record', async () => {
  await committer.commit(CHANGE);
  const whole = await readFile(join(dir, AUDIT));
  const from = whole.lastIndexOf(10, whole.length - 2) + 1;
  for (let length = from; length < whole.length; length += 7) {
    const torn = await afterCrash((folder) => writeFile(join(folder, AUDIT), whole.subarray(0, length)));
    expect(await torn.get(KEY)).toBeUndefined();
    expect(await torn.put('again', 1)).toBe(2);
  }
  const holed = Buffer.from(whole).fill(0, from, from + 20);
  expect(
    await (await afterCrash((folder) => writeFile(join(folder, AUDIT), holed))).get(KEY),
  ).toBeUndefined();
  expect((await (await afterCrash()).get(KEY))?.value).toEqual({ mode: 'observe' });
});

it('is kept behind many later records, in an older file of the audit, and without files of the audit', async () => {
  await committer.commit(CHANGE);
  const value = { mode: 'observe' };
  const records = Array.from({ length: 400 }, (_, i) =>
    audit.record({ ...CHANGE, before: null, target: `${i} ${'x'.repeat(500)}`, outcome: 'refused' }),
  );
  await Promise.all(records);
  expect((await (await afterCrash()).get(KEY))?.value).toEqual(value);
  const next = await afterCrash((folder) =>
    appendFile(join(folder, 'audit-000000000999.log'), seal('0'.repeat(64), { drawbridgeAudit: 1 }).line),
  );
  expect((await next.get(KEY))?.value).toEqual(value);
  expect((await (await afterCrash((folder) => rm(join(folder, AUDIT)))).get(KEY))?.value).toEqual(value);
});

it('is refused and taken out of the log when its record cannot be written', async () => {
  let fails = true;
  await onAuditSync(async () => {
    if (!fails) return;
    await vi.waitFor(async () => expect(await log()).toContain(KEY));
    throw Object.assign(new Error('EIO: i/o error'), { code: 'EIO' });
  });
  await expect(committer.commit(CHANGE)).rejects.toThrow(RefusedError);
  expect([await store.get(KEY), state.modes.size, inForce]).toEqual([undefined, 0, 0]);
  expect(await log()).not.toContain(KEY);
  expect(store.health().ok).toBe(true);
  fails = false;
  await committer.commit(CHANGE);
  expect((await (await afterCrash()).get(KEY))?.value).toEqual({ mode: 'observe' });
  const { items } = await audit.page(9, undefined);
  expect(items.map((r) => [r.target, r.outcome])).toEqual([
    ['web', 'done'],
    ['before', 'done'],
  ]);
});

it('is corrected in the audit when the store does not take it', async () => {
  state.apply(KEY, { mode: 'off' }, 7);
  await expect(committer.commit(CHANGE)).rejects.toThrow(/changed meanwhile/);
  const { items } = await audit.page(2, undefined);
  expect(items.map((r) => r.outcome)).toEqual(['refused', 'done']);
});

it('an older version reads the frames that name a record', () => {
  const [row] = JSON.parse(
    encodeChanges([{ revision: 3, key: 'k', json: '{"a":1}', record: { n: 9, hash: 'f' } }]),
  );
  expect(row).toEqual([3, 'k', { a: 1 }, [9, 'f']]);
});
