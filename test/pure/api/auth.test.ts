/** Who acts over the unix socket is the kernel's word, not the caller's. */
import { mkdtemp, rename, rm, stat, utimes, writeFile } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import type { FastifyInstance } from 'fastify';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { buildServer } from '../../../src/api/api-server.js';
import { type Peer, peerOf, UserNames, userNames } from '../../../src/api/auth.js';
import { ApiClient } from '../../../src/api/client.js';
import { listen } from '../../../src/api/listen.js';
import {
  changedKeys,
  FailedLogins,
  recordStart,
  recordTeardown,
} from '../../../src/changes/service-records.js';
import { MemoryService } from './double.js';

const log = { debug() {}, info() {}, warn() {}, error() {} };
let dir: string;
let server: FastifyInstance | undefined;
let controller: MemoryService;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'drawbridge-who-'));
  controller = new MemoryService();
});
afterEach(async () => {
  vi.useRealTimers();
  await server?.close();
  await rm(dir, { recursive: true });
});

async function said(user: string, of: (socket: Socket) => Peer | undefined): Promise<unknown> {
  const socket = join(dir, 'api.sock');
  server = await buildServer({ context: controller.context, log, version: '0', peerOf: of });
  await listen(server, { address: `unix:${socket}`, localSocket: socket, log });
  await new ApiClient({ socket, user }).setLockdown(true);
  await server.close();
  return controller.calls.at(-1)?.at(-1);
}

it("is the user of the peer's uid, whatever its header says", async () => {
  const { username, uid } = userInfo();
  const who = String(await said('the-boss', peerOf));
  expect(who).toBe(uid === 0 ? `local:${username} (says: the-boss)` : `local:${username}`);
  expect(await said('the-boss', () => ({ uid: 1000, name: 'bob' }))).toBe('local:bob');
});

it('of root has the claim of the header behind it, marked as one; a name cannot pose as the mark', async () => {
  const root = (): Peer => ({ uid: 0, name: 'root' });
  expect(await said('alice', root)).toBe('local:root (says: alice)');
  expect(await said('root', root)).toBe('local:root');
  expect(await said('a) (says: b', root)).toBe('local:root (says: asaysb)');
  expect(await said('alice', () => undefined)).toBe('local (says: alice)');
});

it('names of passwd are one word, and the first of a number counts', () => {
  const names = userNames('root:x:0:0::/:\ntoor:x:0:0::/:\na b:x:5:5::/:\nbad\nbob:x:1000:1000::/:/bin/sh\n');
  expect([...names]).toEqual([
    [0, 'root'],
    [1000, 'bob'],
  ]);
});

it('names of users count as soon as their file has changed, and are not read again before', async () => {
  const path = join(dir, 'passwd');
  const names = new UserNames(path);
  expect(names.read().size).toBe(0);
  const write = async (text: string, age = 0): Promise<void> => {
    await writeFile(path, text);
    const then = new Date(Date.now() - age);
    await utimes(path, then, then);
  };
  await write('ann:x:1000:1000::/:\n');
  expect(names.read().get(1000)).toBe('ann');
  // In place, with the same length and mtime: it has just changed, so that nothing was kept.
  await write('bob:x:1000:1000::/:\n');
  expect(names.read().get(1000)).toBe('bob');
  vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + 60_000 });
  const kept = names.read();
  expect(names.read()).toBe(kept);
  const { mtime } = await stat(path);
  await writeFile(path, 'eve:x:1000:1000::/:\n');
  await utimes(path, mtime, mtime);
  expect(names.read().get(1000)).toBe('eve');
  expect(names.read()).toBe(names.read());
  await writeFile(`${path}.new`, 'joe:x:1000:1000::/:\n');
  await utimes(`${path}.new`, mtime, mtime);
  await rename(`${path}.new`, path);
  expect(names.read().get(1000)).toBe('joe');
  await rm(path);
  expect(names.read().size).toBe(0);
});

it('requests that are refused for their token are seen with their address, and those let in are not', async () => {
  const refused: unknown[] = [];
  const authenticate = (secret: string) =>
    secret === 'r' ? { name: 'r', role: 'read' as const } : undefined;
  server = await buildServer({
    context: controller.context,
    log,
    version: '0',
    authenticate,
    onRefused: (r) => refused.push(r),
  });
  const ask = (method: 'GET' | 'POST', url: string, token: string) =>
    server?.inject({ method, url, headers: { authorization: `Bearer ${token}` } });
  await ask('GET', '/v1/status', 'r');
  await server.inject({ url: '/healthz' });
  expect(refused).toEqual([]);
  await ask('GET', '/v1/status', 'wrong');
  await server.inject({ url: '/v1/status' });
  await ask('POST', '/v1/teardown', 'r');
  expect(refused).toEqual([
    { address: '127.0.0.1', reason: 'the bearer token is unknown, revoked or expired' },
    { address: '127.0.0.1', reason: 'the request has no bearer token' },
    { address: '127.0.0.1', reason: expect.any(String) },
  ]);
});

it('failed authentications are one record for each address and minute, and a flood is few', () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  let now = 0;
  const records: { target: string; after: { requests: number; addresses?: number } }[] = [];
  const record = async (r: unknown): Promise<void> => void records.push(r as never);
  const failed = new FailedLogins({ record }, log, () => now);
  const minute = (): void => {
    now += 60_000;
    vi.advanceTimersByTime(60_000);
  };
  for (let i = 0; i < 30; i++) failed.seen({ address: i % 3 ? 'a' : 'b', reason: 'no token' });
  expect(records).toEqual([]);
  minute();
  expect(records.map((r) => [r.target, r.after.requests])).toEqual([
    ['a', 20],
    ['b', 10],
  ]);
  let requests = 30;
  for (let m = 0; m < 24 * 60; m++) {
    for (let i = 0; i < 100; i++, requests++) failed.seen({ address: `10.${m}.0.${i}`, reason: 'no token' });
    minute();
  }
  failed[Symbol.dispose]();
  expect(records.length).toBeLessThan(50 + (24 * 60) / 3 + 5);
  expect(records.reduce((sum, r) => sum + r.after.requests, 0)).toBe(requests);
});

it('failed authentications are recorded with the time by the wall clock, whatever the clock was at the start', () => {
  vi.useFakeTimers({ now: Date.UTC(2026, 5, 1), toFake: ['Date', 'setTimeout', 'clearTimeout'] });
  let steady = 5_000; // the clock was at 1970
  const records: { after: { since: string } }[] = [];
  const record = async (r: unknown): Promise<void> => void records.push(r as never);
  const failed = new FailedLogins({ record }, log, () => steady);
  failed.seen({ address: 'a', reason: 'no token' });
  steady += 60_000;
  vi.advanceTimersByTime(60_000);
  failed[Symbol.dispose]();
  expect(records.map((r) => r.after.since)).toEqual(['2026-06-01T00:00:00.000Z']);
});

it('a reload names the keys that changed, and none of their values', async () => {
  const before = { api: { listen: 'a', tokens: [{ token: 'secret-1' }] }, dns: { grace: 1 }, same: 1 };
  const after = {
    api: { listen: 'a', tokens: [{ token: 'secret-2' }] },
    dns: { grace: 2 },
    same: 1,
    more: {},
  };
  expect(changedKeys(before, after)).toEqual(['api.tokens', 'dns.grace', 'more']);
  const records: unknown[] = [];
  const audit = { recordOrWait: async (r: unknown) => records.push(r) > 0 };
  await recordStart(audit, 'host', null, changedKeys(before, after));
  await recordTeardown(audit, 'host', 'local:bob');
  expect(records).toMatchObject([
    { action: 'config.reload', target: 'host', after: { changed: ['api.tokens', 'dns.grace', 'more'] } },
    { action: 'teardown', who: 'local:bob' },
  ]);
  expect(JSON.stringify(records)).not.toContain('secret');
});
