import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { Audit } from '../../../src/changes/audit.js';
import { verifyAudit } from '../../../src/changes/audit-verify.js';
import { openEmbeddedStore } from '../../../src/store/embedded-store.js';
import { bundled } from '../bundle.js';

const quiet = { debug() {}, info() {}, warn() {}, error() {} };
/** Times that the writer is killed, at a moment at random. */
const ROUNDS = Number(process.env.STORE_KILLS ?? 12);
const WRITER = await bundled('store/writer.ts');
const TIMEOUT_MS = Math.max(180_000, ROUNDS * 10_000);
let dir: string;
let child: ChildProcess | undefined;

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'drawbridge-kill-'));
});
afterEach(async () => {
  child?.kill('SIGKILL');
  await rm(dir, { recursive: true });
});

/** Runs the writer until it has said `lines` lines, kills it with -9; what it had acknowledged. */
async function killedAfter(
  round: number,
  lines: number,
  kind = 'plain',
): Promise<{ put: Map<string, number>; deleted: Set<string> }> {
  const put = new Map<string, number>();
  const deleted = new Set<string>();
  const started = spawn(process.execPath, [WRITER, dir, String(round), kind], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  child = started;
  let seen = 0;
  const reader = createInterface({ input: started.stdout });
  reader.on('line', (line) => {
    const [key = '', revision] = line.split(' ');
    if (line.startsWith('-')) deleted.add(line.slice(1));
    else if (revision) put.set(key, Number(revision));
    if (++seen === lines) started.kill('SIGKILL');
  });
  await Promise.all([once(started, 'exit'), once(reader, 'close')]);
  expect(started.signalCode).toBe('SIGKILL');
  return { put, deleted };
}

it(
  `loses nothing that was acknowledged, killed with -9 ${ROUNDS} times`,
  async () => {
    const live = new Map<string, number>();
    for (let round = 0; round < ROUNDS; round++) {
      const { put, deleted } = await killedAfter(round, 1 + Math.floor(Math.random() * 400));
      const store = await openEmbeddedStore({ dir, log: quiet });
      for (const [key, revision] of put) live.set(key, revision);
      for (const key of deleted) live.delete(key);
      const held = new Map((await store.list('r')).map((i) => [i.key, i.revision]));
      for (const [key, revision] of live) {
        // A deletion may have been durable without having been acknowledged.
        if (held.has(key)) expect(held.get(key)).toBe(revision);
        else expect(key.startsWith(`r${round}/`)).toBe(true);
      }
      for (const key of deleted) expect(held.has(key)).toBe(false);
      for (const key of live.keys()) if (!held.has(key)) live.delete(key);
      for (const key of held.keys()) if (!live.has(key)) live.set(key, held.get(key) ?? 0);
      await store.close();
    }
  },
  TIMEOUT_MS,
);

it(
  'has no change without its record, and every acknowledged one, when both are written together',
  async () => {
    const acknowledged = new Set<string>();
    for (let round = 0; round < ROUNDS / 2; round++) {
      const { put } = await killedAfter(round, 1 + Math.floor(Math.random() * 200), 'recorded');
      for (const key of put.keys()) acknowledged.add(key);
      const store = await openEmbeddedStore({ dir, log: quiet });
      const audit = await Audit.open({ dir, store, kind: 'embedded', now: Date.now, log: quiet });
      const stored = new Set(await store.keys('mode/'));
      const { items } = await audit.page(1_000_000, undefined);
      const recorded = new Set(items.map((record) => record.target));
      expect([...acknowledged].filter((key) => !stored.has(key))).toEqual([]);
      expect([...stored].filter((key) => !recorded.has(key))).toEqual([]);
      expect((await verifyAudit(dir)).faults).toEqual([]);
      await audit[Symbol.asyncDispose]();
      await store.close();
    }
  },
  TIMEOUT_MS,
);
