import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { ClosedService } from '../../../src/api/closed-service.js';
import { readConfig } from '../../../src/config/config.js';
import type { Service } from '../../../src/ops/service-manager.js';
import { closedCause, StoreError } from '../../../src/store/store-error.js';
import type { SharedStore } from '../../../src/store/store-interface.js';

const nothing = (): void => undefined;
const log = { debug: nothing, info: nothing, warn: nothing, error: nothing };
const CAUSE = { reason: 'store.log is damaged', remedy: 'drawbridge store check' };

let dir: string;
let service: ClosedService | undefined;
let opens: number;
let isGood: boolean;
let tornDown: string[];
let whole: Service & { stops: number; end(): void };
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'drawbridge-closed-'));
  [opens, isGood, tornDown] = [0, false, []];
  let end: () => void = nothing;
  const done = new Promise<void>((resolve) => (end = resolve));
  whole = {
    stops: 0,
    done,
    end: () => end(),
    stuck: () => 'a pass',
    stop: async () => {
      whole.stops += 1;
      end();
    },
  };
});
afterEach(async () => {
  await service?.stop();
  await rm(dir, { recursive: true });
});

const socket = (): string => join(dir, 'api.sock');
async function begin(start: () => Promise<Service> = async () => whole): Promise<ClosedService> {
  const config = readConfig({ flags: { state: dir, 'api.listen': `unix:${socket()}` } });
  if (!config.ok) throw new Error('config');
  const open = async (): Promise<SharedStore> => {
    opens += 1;
    if (!isGood) throw new StoreError('corrupt', 'store.log is still damaged. Nothing was read');
    return {} as SharedStore;
  };
  const teardown = async (who: string): Promise<void> => {
    tornDown.push(who);
  };
  service = await ClosedService.begin(
    { config: config.value, log, open, begin: start, teardown, everyMs: 5 },
    CAUSE,
  );
  return service;
}
const ask = (method: string, path: string): Promise<{ status: number; body: string; type: string }> =>
  new Promise((resolve, reject) => {
    const req = request({ socketPath: socket(), method, path, agent: false }, (res) => {
      let body = '';
      res.on('data', (d: Buffer) => (body += d.toString()));
      res.on('end', () =>
        resolve({ status: res.statusCode ?? 0, body, type: String(res.headers['content-type']) }),
      );
    });
    req.on('error', reject);
    req.end();
  });

it('answers health, readiness and status, and refuses everything else with the remedy', async () => {
  await begin();
  expect((await ask('GET', '/healthz')).status).toBe(200);
  const ready = await ask('GET', '/readyz');
  expect([ready.status, JSON.parse(ready.body)]).toMatchObject([
    503,
    { ready: false, reason: expect.stringMatching(/store\.log is damaged.*drawbridge store check/) },
  ]);
  expect(JSON.parse((await ask('GET', '/v1/status')).body)).toMatchObject({ closed: CAUSE });
  for (const [method, path] of [
    ['GET', '/v1/containers'],
    ['PUT', '/v1/lockdown'],
    ['POST', '/v1/whatever'],
  ] as const) {
    const refused = await ask(method, path);
    expect([refused.status, refused.type]).toEqual([
      503,
      expect.stringContaining('application/problem+json'),
    ]);
    expect(JSON.parse(refused.body).errors).toMatchObject([{ remedy: CAUSE.remedy }]);
  }
});

it('tries the store again when a file of it changes, not all the time, and starts wholly', async () => {
  const closed = await begin();
  expect(closed.stuck()).toBeUndefined();
  await new Promise((resolve) => setTimeout(resolve, 60));
  expect(opens).toBe(0);
  await writeFile(join(dir, 'store.log'), 'x');
  await vi.waitFor(() => expect(opens).toBe(1));
  await vi.waitFor(async () => expect((await ask('GET', '/readyz')).body).toContain('still damaged'));
  await new Promise((resolve) => setTimeout(resolve, 60));
  expect(opens).toBe(1);
  isGood = true;
  await writeFile(join(dir, 'store.log'), 'xy');
  await vi.waitFor(() => expect(opens).toBe(2));
  await vi.waitFor(() => expect(ask('GET', '/readyz')).rejects.toThrow());
  await vi.waitFor(() => expect(closed.stuck()).toBe('a pass'));
  whole.end();
  await service?.done;
});

it('a start that fails then is said, and tried again', async () => {
  isGood = true;
  await begin(() => Promise.reject(new Error('no queue')));
  await writeFile(join(dir, 'store.log'), 'x');
  await vi.waitFor(async () => expect((await ask('GET', '/readyz')).body).toContain('no queue'));
});

it('ends when it is told, and with a teardown', async () => {
  const closed = await begin();
  expect((await ask('POST', '/v1/teardown')).status).toBe(204);
  await closed.done;
  expect(tornDown).toEqual([expect.stringMatching(/^local/)]);
});

it('the end after a whole start is the end of that', async () => {
  isGood = true;
  const closed = await begin();
  await writeFile(join(dir, 'store.log'), 'x');
  await vi.waitFor(() => expect(opens).toBe(1));
  await vi.waitFor(() => expect(ask('GET', '/readyz')).rejects.toThrow());
  await closed.stop();
  await closed.done;
  expect(whole.stops).toBe(1);
});

it('runs closed for what a person mends, not for a store in use or a wrong URL', () => {
  const system = (code: string): Error => Object.assign(new Error(`${code}: x`), { code, syscall: 'open' });
  expect(closedCause(new StoreError('corrupt', { detail: 'a is damaged', remedy: 'Do b' }))).toMatchObject({
    reason: 'a is damaged',
  });
  expect(closedCause(new StoreError('newer', 'a is newer. Do b'))?.remedy).toContain('the version');
  expect(closedCause(system('EROFS'))?.remedy).toContain('writable');
  expect(closedCause(system('ENOTDIR'))).toBeUndefined();
  expect(closedCause(new StoreError('locked', 'in use'))).toBeUndefined();
  expect(closedCause(new StoreError('value', 'no URL'))).toBeUndefined();
});
