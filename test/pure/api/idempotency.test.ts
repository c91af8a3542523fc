/** Idempotency keys: a change is executed once, whatever happens to its first answer. */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { FastifyInstance } from 'fastify';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { buildServer } from '../../../src/api/api-server.js';
import { KeptAnswers } from '../../../src/api/idempotency.js';
import { RefusedError } from '../../../src/lib/problem.js';
import type { Role } from '../../../src/policy/token.js';
import { SmallState } from '../../../src/store/small-state.js';
import { MemoryService } from './double.js';

const said: object[] = [];
const log = { debug() {}, info() {}, warn() {}, error: (o: object) => void said.push(o) };
const authenticate = (secret: string) => ({ name: secret, role: 'admin' as Role });
const GRANTS = '/v1/containers/web/grants';
const BODY = { entry: 'a.org', for: '10m' };

let dir: string;
let service: MemoryService;
let server: FastifyInstance;
let small: SmallState;
const start = async (): Promise<void> => {
  small = await SmallState.open(dir, log);
  server = await buildServer({ context: service.context, log, version: '0', authenticate, small });
};
async function stop(): Promise<void> {
  await server.close();
  small[Symbol.dispose]();
}
async function restart(): Promise<void> {
  await stop();
  await start();
}
/** All that is on the disk, with its log. */
const onDisk = async (): Promise<string> => {
  const files = ['small-state.db', 'small-state.db-wal'].map((name) => readFile(join(dir, name), 'latin1'));
  return (await Promise.all(files)).join('');
};
beforeEach(async () => {
  said.length = 0;
  dir = await mkdtemp(join(tmpdir(), 'drawbridge-keys-'));
  service = new MemoryService();
  await start();
});
afterEach(async () => {
  await stop();
  await rm(dir, { recursive: true });
});

interface More {
  readonly who?: string;
  readonly method?: 'POST' | 'PUT' | 'DELETE' | 'GET';
  readonly url?: string;
  readonly headers?: Record<string, string>;
}
async function send(key: string | undefined, payload: object | undefined = BODY, more: More = {}) {
  const { who = 'ci', method = 'POST', url = GRANTS, headers = {} } = more;
  const answer = await server.inject({
    method,
    url,
    headers: {
      authorization: `Bearer ${who}`,
      ...(key === undefined ? {} : { 'idempotency-key': key }),
      ...headers,
    },
    ...(method === 'GET' || method === 'DELETE' ? {} : { payload }),
  });
  const { statusCode: status, body } = answer;
  return { status, body, replayed: answer.headers['idempotency-replayed'], headers: answer.headers };
}
const grants = (): number => service.calls.filter(([what]) => what === 'grant').length;
const remedyOf = (body: string): string => JSON.parse(body).errors[0].remedy;

describe('the same request', () => {
  it('is answered as the first time, and made once', async () => {
    const first = await send('"k1"');
    const second = await send('"k1"');
    expect(first).toMatchObject({ status: 201, replayed: undefined });
    expect(second).toMatchObject({ status: 201, body: first.body, replayed: 'true' });
    expect(second.headers['content-type']).toBe(first.headers['content-type']);
    expect(grants()).toBe(1);
    expect((await send('k1')).replayed).toBe('true');
    expect((await send('"k2"')).replayed).toBeUndefined();
    expect(await send(undefined)).toMatchObject({ status: 201, replayed: undefined });
    expect(grants()).toBe(3);
  });

  it('repeats answers without a body, and the ETag', async () => {
    const id = JSON.parse((await send(undefined)).body).id;
    const gone = { method: 'DELETE', url: `${GRANTS}/${id}` } as const;
    for (const replayed of [undefined, 'true'])
      expect(await send('"d"', undefined, gone)).toMatchObject({ status: 204, body: '', replayed });
    const list = { method: 'PUT', url: '/v1/lists/ci' } as const;
    const made = await send('"l"', { allow: ['a.org'] }, list);
    const again = await send('"l"', { allow: ['a.org'] }, list);
    expect([made.status, again.status, again.headers.etag]).toEqual([201, 201, made.headers.etag]);
  });

  it('after a restart of the service, too', async () => {
    const first = await send('"k"');
    await restart();
    expect(await send('"k"')).toMatchObject({ status: 201, body: first.body, replayed: 'true' });
    expect(grants()).toBe(1);
    expect(await onDisk()).toContain('"state":');
    expect(await onDisk()).not.toContain('"k"');
  });

  it('a refusal is remembered, a failure of the service is not', async () => {
    service.failure = new RefusedError({ kind: 'conflict', detail: 'no', remedy: 'wait' });
    expect((await send('"c"')).status).toBe(409);
    service.failure = new RefusedError({ kind: 'not-in-force', detail: 'not yet', remedy: 'wait' });
    expect((await send('"f"')).status).toBe(503);
    service.failure = new Error('broken');
    expect((await send('"f"')).status).toBe(500);
    service.failure = undefined;
    expect(await send('"c"')).toMatchObject({ status: 409, replayed: 'true' });
    expect(await send('"f"')).toMatchObject({ status: 201, replayed: undefined });
    await restart();
    expect(await send('"f"')).toMatchObject({ status: 201, replayed: 'true' });
  });
});

describe('the same key', () => {
  it('with another request is a 422', async () => {
    await send('"k"');
    const others: readonly (readonly [object, More])[] = [
      [{ entry: 'b.org', for: '10m' }, {}],
      [BODY, { url: '/v1/containers/abc123/grants' }],
      [BODY, { url: '/v1/pause' }],
      [{ on: true }, { method: 'PUT', url: '/v1/lockdown' }],
    ];
    for (const [body, more] of others) {
      const answer = await send('"k"', more.url === '/v1/pause' ? { for: '10m' } : body, more);
      expect(answer).toMatchObject({ status: 422 });
      expect(remedyOf(answer.body)).toContain('new key');
    }
    expect(service.calls).toHaveLength(1);
  });

  it('with another guard is a 422', async () => {
    const list = { method: 'PUT', url: '/v1/lists/ci' } as const;
    await send('"k"', { allow: [] }, { ...list, headers: { 'if-none-match': '*' } });
    expect((await send('"k"', { allow: [] }, list)).status).toBe(422);
  });

  it('of another client is another key', async () => {
    await send('"k"');
    expect(await send('"k"', BODY, { who: 'other' })).toMatchObject({ status: 201, replayed: undefined });
  });

  it('while the first request runs is a 409', async () => {
    let resolve: () => void = () => undefined;
    const promise = new Promise<void>((done) => (resolve = done));
    const original = service.grant.bind(service);
    service.grant = async (...args) => {
      await promise;
      return original(...args);
    };
    const first = send('"k"');
    await expect.poll(async () => (await send('"k"')).status).toBe(409);
    resolve();
    expect((await first).status).toBe(201);
    expect(await send('"k"')).toMatchObject({ status: 201, replayed: 'true' });
    expect(grants()).toBe(1);
  });

  it('of a request that the end of the service has interrupted is a 409', async () => {
    let resolve: () => void = () => undefined;
    const promise = new Promise<void>((done) => (resolve = done));
    let isRunning = false;
    service.grant = async () => {
      isRunning = true;
      await promise;
      throw new Error('the service of before');
    };
    const first = send('"k"');
    await expect.poll(() => isRunning).toBe(true);
    const before = [server, small] as const;
    await start(); // the process of before was killed
    const answer = await send('"k"');
    expect(answer.status).toBe(409);
    expect(remedyOf(answer.body)).toContain('new key');
    resolve();
    await first;
    await before[0].close();
    before[1][Symbol.dispose]();
  });
});

describe('a secret', () => {
  const tokens = { url: '/v1/tokens' };
  const token = { name: 'ci2', role: 'read' };

  it('is repeated by the same service, and never written', async () => {
    const first = await send('"t"', token, tokens);
    expect(JSON.parse(first.body).token).toBe('drawbridge_secret');
    expect(await send('"t"', token, tokens)).toMatchObject({ status: 201, body: first.body });
    expect(await onDisk()).not.toContain('drawbridge_secret');
    await restart();
    const later = await send('"t"', token, tokens);
    expect(later.status).toBe(409);
    expect(remedyOf(later.body)).toContain('revoked');
    expect(service.tokensMade).toHaveLength(1);
    expect(await onDisk()).not.toContain('drawbridge_secret');
  });
});

it.each(['', '""', '"a', 'a b', '"ä"', `"${'x'.repeat(256)}"`, '"a", "b"', 'a;b=1'])(
  'the key %j is a 400, and nothing happens',
  async (key) => {
    const answer = await send(key);
    expect(answer.status).toBe(400);
    expect(service.calls).toEqual([]);
  },
);

it('a read takes no key', async () => {
  for (let n = 0; n < 2; n++)
    expect(await send('"k"', undefined, { method: 'GET', url: '/v1/status' })).toMatchObject({
      status: 200,
      replayed: undefined,
    });
});

it('a request that is refused before it begins leaves its key free', async () => {
  expect((await send('"k"', { entri: 'a.org' })).status).toBe(400);
  expect((await send('"k"')).status).toBe(201);
});

describe('the bounds', () => {
  const answer = { status: 200, headers: {}, body: 'x'.repeat(100) };
  const fill = async (kept: KeptAnswers, who: string, count: number, body = answer.body): Promise<void> => {
    for (let n = 0; n < count; n++) {
      await kept.begin({ id: `${who} ${n}`, who, print: 'p', isSecret: false });
      await kept.finish(`${who} ${n}`, { ...answer, body });
    }
  };
  const found = (kept: KeptAnswers, who: string, count: number): number =>
    Array.from({ length: count }, (_, n) => kept.find(`${who} ${n}`)).filter(Boolean).length;

  it('one client takes its own share only', async () => {
    const kept = new KeptAnswers(() => 0);
    await fill(kept, 'quiet', 3);
    await fill(kept, 'loud', 500);
    expect([found(kept, 'quiet', 3), found(kept, 'loud', 500)]).toEqual([3, 200]);
    expect(kept.find('loud 499')).toBeDefined();
    expect(kept.find('loud 299')).toBeUndefined();
    for (let n = 0; n < 10; n++) await fill(kept, `client${n}`, 150);
    const all = Array.from({ length: 10 }, (_, n) => found(kept, `client${n}`, 150));
    expect(all.reduce((sum, n) => sum + n) + found(kept, 'loud', 500)).toBeLessThanOrEqual(1_000);
    expect(found(kept, 'quiet', 3)).toBe(3);
  });

  it('answers take a bounded amount of memory', async () => {
    const kept = new KeptAnswers(() => 0);
    for (let n = 0; n < 4; n++) await fill(kept, `c${n}`, 100, 'x'.repeat(32 * 1024));
    const left = Array.from({ length: 4 }, (_, n) => found(kept, `c${n}`, 100)).reduce((a, b) => a + b);
    expect(left).toBe(256);
  });

  it('a day later a key is free', async () => {
    let now = 0;
    const kept = new KeptAnswers(() => now);
    await fill(kept, 'a', 1);
    now = 24 * 3_600_000 - 1;
    expect(kept.find('a 0')).toBeDefined();
    now++;
    expect(kept.find('a 0')).toBeUndefined();
  });

  it('the file has what is kept, and does not grow with what was', async () => {
    const kept = new KeptAnswers(() => 0, small);
    await fill(kept, 'a', 1_000, 'x'.repeat(16 * 1024));
    await stop();
    expect((await readFile(join(dir, 'small-state.db'))).length).toBeLessThan(9 * 1024 * 1024);
    small = await SmallState.open(dir, log);
    expect(found(new KeptAnswers(() => 0, small), 'a', 1_000)).toBe(200);
  });

  it('an answer that is too large is not sent again', async () => {
    service.grant = async () => ({
      id: 'g',
      entry: 'x'.repeat(40_000),
      owner: 'name:web',
      created: '2030-01-01T00:00:00Z',
    });
    expect((await send('"k"')).status).toBe(201);
    expect((await send('"k"')).status).toBe(409);
  });

  it('a folder that cannot be written is reported once, and the service goes on', async () => {
    const kept = new KeptAnswers(() => 0, await SmallState.open(join(dir, 'missing'), log));
    await fill(kept, 'a', 5);
    expect(found(kept, 'a', 5)).toBe(5);
    expect(said).toHaveLength(1);
  });
});
