/** Events leave the host: each once and in order, over a service that is killed and a receiver that is away. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { Value } from '@sinclair/typebox/value';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { EventRecordSchema } from '../../src/events/service-events.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';

const PORT = 9301;
const URL = `http://127.0.0.1:${PORT}`;
const DENIED = '93.184.91.9';

interface Got {
  readonly kind: string;
  readonly head: Readonly<Record<string, string>>;
  readonly body: string;
}
interface Line {
  readonly kind: string;
  readonly data: { readonly list?: string; readonly address?: string; readonly verdict?: string };
}

let lab: Lab;
let drawbridge: Drawbridge;
let receiver: ChildProcess | undefined;
let paths: { got: string; socket: string; events: string };

async function startReceiver(): Promise<void> {
  const script = join(import.meta.dirname, 'event-receiver.py');
  const argv = ['python3', script, String(PORT), paths.socket, paths.got];
  receiver = spawn('nsenter', [`--net=${lab.hostNetns}`, '--', ...argv], { stdio: 'ignore' });
}
async function stopReceiver(): Promise<void> {
  if (receiver?.kill('SIGKILL')) await once(receiver, 'exit');
  receiver = undefined;
}
function linesOf<T>(path: string): T[] {
  const text = existsSync(path) ? readFileSync(path, 'utf8') : '';
  return text.split('\n').flatMap((line) => (line === '' ? [] : [JSON.parse(line) as T]));
}
const got = (kind: string): Got[] => linesOf<Got>(paths.got).filter((one) => one.kind === kind);
/** Lists in the events that the webhook received, in the order of arrival. */
const hooked = (): string[] =>
  got('/hook').map(({ body }) => (JSON.parse(body) as { data: { list: string } }).data.list);
/** Lists in the file of records: a crash loses those of its last moment. */
const recorded = (): (string | undefined)[] => linesOf<Line>(paths.events).map(({ data }) => data.list);
const outputs = async () =>
  (JSON.parse((await drawbridge.get('/v1/notify')).body) as { items: Record<string, unknown>[] }).items;
const hook = async () => (await outputs()).find(({ name }) => name === 'hook');
async function putList(name: string): Promise<void> {
  const { status } = await drawbridge.request('PUT', `/v1/lists/${name}`, { allow: [`${name}.evt.test`] });
  expect(status).toBeLessThan(300);
}
async function crash(): Promise<void> {
  drawbridge.kill('SIGKILL');
  await drawbridge.exited();
  drawbridge.start();
  await drawbridge.ready();
}

beforeAll(async () => {
  lab = await Lab.up({ sniffer: false });
  paths = {
    got: join(lab.dir, 'got.jsonl'),
    socket: join(lab.dir, 'log.sock'),
    events: join(lab.dir, 'events.jsonl'),
  };
  drawbridge = lab.drawbridge({
    config: {
      notify: [{ name: 'hook', kind: 'json', url: `${URL}/hook`, events: ['list'] }],
      flows: { file: paths.events, syslog: paths.socket },
    },
    env: { OTEL_EXPORTER_OTLP_ENDPOINT: URL },
  });
  await drawbridge.ready();
});
afterAll(async () => {
  await stopReceiver();
  await lab?.down();
});

it('a webhook gets each event once and in order, although it was away and the service was killed', async () => {
  for (const name of ['l1', 'l2', 'l3']) await putList(name);
  await expect
    .poll(hook)
    .toMatchObject({ queued: 3, delivered: 0, lastError: expect.stringContaining('REFUSED') });
  await expect.poll(recorded).toContain('l3');
  await crash();
  await putList('l4');
  await expect.poll(hook).toMatchObject({ queued: 4 });
  await startReceiver();
  await expect.poll(hooked).toEqual(['l1', 'l2', 'l3', 'l4']);
  await expect.poll(hook).toMatchObject({ queued: 0, delivered: 4, lastError: null });
  await expect.poll(recorded).toContain('l4');
  await crash();
  await putList('l5');
  await expect.poll(hooked).toEqual(['l1', 'l2', 'l3', 'l4', 'l5']);
  const heads = got('/hook').map(({ head }) => head);
  expect(new Set(heads.map((head) => head['drawbridge-event'])).size).toBe(5);
  expect(heads.map((head) => head['webhook-id'])).toEqual(heads.map((head) => head['drawbridge-event']));
});

it('a denied connection is in the file, in syslog and at the collector', async () => {
  const container = await lab.start({ name: 'app', labels: { 'drawbridge.allow': 'l1.evt.test' } });
  expect(await container.probe('tcp', DENIED, 80)).toMatchObject({ ok: false });
  const ofFile = (path = paths.events) => linesOf<Line>(path).filter(({ data }) => data.address === DENIED);
  await expect
    .poll(() => ofFile()[0])
    .toMatchObject({ kind: 'flow', data: { container: 'app', verdict: 'deny' } });
  const lines = linesOf<Line>(paths.events);
  expect(lines.flatMap((line) => [...Value.Errors(EventRecordSchema, line)])).toEqual([]);
  expect(lines.flatMap(({ kind, data }) => (kind === 'list' ? [data.list] : []))).toEqual([
    'l1',
    'l2',
    'l3',
    'l4',
    'l5',
  ]);
  await expect
    .poll(() => got('syslog').map(({ body }) => body))
    .toContainEqual(
      expect.stringMatching(/^<29>1 \S+ \S+ drawbridge \d+ flow - \{.*"address":"93\.184\.91\.9"/),
    );
  await expect
    .poll(() => got('/v1/logs').map(({ body }) => body))
    .toContainEqual(expect.stringContaining(`app was denied ${DENIED}:80/tcp`));
  // logrotate
  renameSync(paths.events, `${paths.events}.1`);
  await putList('l6');
  await expect.poll(() => linesOf<Line>(paths.events).map(({ data }) => data.list)).toContain('l6');
});

it('a refused list file is an event, and the command tries a receiver', async () => {
  drawbridge.writeList('bad.yaml', 'allow: ["https://a.org"]\n');
  await expect.poll(hooked).toContain('bad');
  const { code, stdout } = await drawbridge.cli(['notify', 'test', 'hook']);
  expect([code, stdout.trim()]).toEqual([0, 'hook: ok']);
  await stopReceiver();
  const failed = await drawbridge.cli(['notify', 'test']);
  expect([failed.code, failed.stdout]).toEqual([
    1,
    expect.stringContaining('hook: FAILED: connect ECONNREFUSED'),
  ]);
});
