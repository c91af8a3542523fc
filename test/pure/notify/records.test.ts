/** Records of events: a file that is rotated or on a full disk, syslog, a collector of OpenTelemetry. */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, renameSync, rmSync, statSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { EventLog } from '../../../src/events/event-log.js';
import { FileSink } from '../../../src/notify/record-sinks.js';
import { OtlpSink, otlpSettings, Records } from '../../../src/notify/records.js';
import { ALL, eventOf, FLOW } from './events.js';
import { Server } from './servers.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'drawbridge-records-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

const silent = (): void => undefined;
const log = { debug: silent, info: silent, warn: silent, error: silent };
const NEVER = new AbortController().signal;
const begin = (
  events: EventLog,
  flows: { file?: string; syslog?: string; format?: 'json' | 'ocsf' },
  env: Readonly<Record<string, string>> = {},
): Records => {
  const config = {
    flows: { keepMs: 1, maxSizeBytes: 1, file: '', syslog: '', format: 'json' as const, ...flows },
  };
  return new Records({ config, node: 'host1', events, log, env });
};
const linesOf = (path: string): { data: { port: number }; class_uid?: number }[] =>
  (existsSync(path) ? readFileSync(path, 'utf8') : '')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as { data: { port: number } });

describe('a file', () => {
  it('has a line for each event, goes on after a rotation, and has the last ones at the end', async () => {
    const path = join(folder, 'log', 'events.jsonl');
    const events = new EventLog();
    const records = begin(events, { file: path });
    events.emit('flow', { ...FLOW, port: 1 });
    await expect.poll(() => linesOf(path).length).toBe(1);
    expect(statSync(path).mode & 0o777).toBe(0o640 & ~process.umask());
    renameSync(path, `${path}.1`);
    events.emit('flow', { ...FLOW, port: 2 });
    await expect.poll(() => linesOf(path).length).toBe(1);
    events.emit('flow', { ...FLOW, port: 3 });
    await records[Symbol.asyncDispose]();
    expect(linesOf(`${path}.1`).map(({ data }) => data.port)).toEqual([1]);
    expect(linesOf(path).map(({ data }) => data.port)).toEqual([2, 3]);
    expect(records.status()).toMatchObject([{ kind: 'file', delivered: 3, dropped: 0, lastError: null }]);
  });

  it('has the events of a container, however many another one causes at once', async () => {
    const events = new EventLog();
    const records = begin(events, { file: join(folder, 'f') });
    for (let port = 1; port <= 300; port++) events.emit('flow', { ...FLOW, port });
    for (let n = 0; n < 20_000; n++) events.emit('flow', { ...FLOW, container: 'bad', port: n });
    await expect.poll(() => records.status()[0]?.queued).toBe(0);
    await records[Symbol.asyncDispose]();
    const of = linesOf(join(folder, 'f')).map(({ data }) => (data as { container?: string }).container);
    expect(of.filter((container) => container === 'web')).toHaveLength(300);
    expect(records.status()).toMatchObject([{ dropped: 20_300 - of.length }]);
  });

  it('ocsf has connections only', async () => {
    const path = join(folder, 'ocsf.jsonl');
    const events = new EventLog();
    const records = begin(events, { file: path, format: 'ocsf' });
    events.emit('flow', FLOW);
    events.emit('repair', { detail: 'x' });
    await records[Symbol.asyncDispose]();
    expect(linesOf(path)).toMatchObject([{ class_uid: 4001 }]);
  });

  it('a disk that takes nothing drops and counts, and never waits', async () => {
    const events = new EventLog();
    const records = begin(events, { file: '/dev/full' });
    events.emit('flow', FLOW);
    events.emit('flow', FLOW);
    await expect.poll(() => records.status()[0]).toMatchObject({ dropped: 2, queued: 0 });
    expect(records.warnings()).toEqual([
      expect.stringContaining('2 events were not recorded at /dev/full: ENOSPC'),
    ]);
    await records[Symbol.asyncDispose]();
  });

  it('a folder in the place of the file is an error, and the events are lost', async () => {
    const sink = new FileSink(folder, (event) => event);
    expect(await sink.send([eventOf('flow', FLOW)])).toMatchObject({ taken: 1, dropped: 1 });
  });
});

describe('syslog', () => {
  it('over UDP, a datagram for each event', async () => {
    const socket = createSocket('udp4');
    const got: string[] = [];
    socket.on('message', (message) => got.push(message.toString()));
    socket.bind(0, '127.0.0.1');
    await once(socket, 'listening');
    const events = new EventLog();
    const records = begin(events, { syslog: `udp://127.0.0.1:${socket.address().port}` });
    for (const { kind, data } of ALL) events.emit(kind, data as never);
    await expect.poll(() => got.length).toBe(ALL.length);
    expect(got[0]).toMatch(/^<29>1 \S+ host1 drawbridge \d+ flow - \{"_schema":"drawbridge\.event\/v1"/);
    await records[Symbol.asyncDispose]();
    socket.close();
  });

  it('over TCP with octet counting, and again after the server was away', async () => {
    let text = '';
    const start = async (port: number) => {
      const server = createServer((socket) => socket.on('data', (data) => (text += data.toString())));
      server.listen(port, '127.0.0.1');
      await once(server, 'listening');
      return server;
    };
    const first = await start(0);
    const { port } = first.address() as AddressInfo;
    first.close();
    await once(first, 'close');
    const events = new EventLog();
    const records = begin(events, { syslog: `tcp://127.0.0.1:${port}` });
    events.emit('flow', { ...FLOW, name: 'ä.example' });
    events.emit('repair', { detail: 'x' });
    await expect.poll(() => records.status()[0]?.failed).toBeGreaterThan(0);
    const second = await start(port);
    await expect.poll(() => records.status()[0]).toMatchObject({ queued: 0, delivered: 2, lastError: null });
    // What was written is in the kernel's hands: the server reads it a moment later.
    await expect.poll(() => text).toMatch(/ repair - \{.*\}$/);
    await records[Symbol.asyncDispose]();
    second.close();
    const frames: string[] = [];
    for (let rest = Buffer.from(text); rest.length > 0; ) {
      const space = rest.indexOf(' ');
      const length = Number(rest.subarray(0, space).toString());
      frames.push(rest.subarray(space + 1, space + 1 + length).toString());
      rest = rest.subarray(space + 1 + length);
    }
    expect(frames).toEqual([
      expect.stringMatching(/^<29>1 .* flow - \{.*\}$/),
      expect.stringMatching(/^<28>1 .* repair - \{.*\}$/),
    ]);
  });

  it('a socket that is not there is an error, and the events wait', async () => {
    const events = new EventLog();
    const records = begin(events, { syslog: join(folder, 'log.sock') });
    events.emit('flow', FLOW);
    await expect.poll(() => records.status()[0]).toMatchObject({ queued: 1, lastError: expect.any(String) });
    await records[Symbol.asyncDispose]();
  });
});

describe('OpenTelemetry', () => {
  it('is on only with an endpoint, and follows the variables of the specification', () => {
    expect(otlpSettings({}, 'h')).toBeUndefined();
    const env = { OTEL_EXPORTER_OTLP_ENDPOINT: 'http://c:4318/' };
    expect(otlpSettings({ ...env, OTEL_SDK_DISABLED: 'true' }, 'h')).toBeUndefined();
    expect(otlpSettings({ ...env, OTEL_LOGS_EXPORTER: 'none' }, 'h')).toBeUndefined();
    const more = {
      ...env,
      OTEL_EXPORTER_OTLP_HEADERS: 'authorization=Bearer%20x,api-key = k',
      OTEL_RESOURCE_ATTRIBUTES: 'deployment.environment.name=prod,service.name=other',
      OTEL_SERVICE_NAME: 'egress',
      OTEL_EXPORTER_OTLP_TIMEOUT: '2500',
    };
    expect(otlpSettings(more, 'host1')).toEqual({
      url: 'http://c:4318/v1/logs',
      headers: { authorization: 'Bearer x', 'api-key': 'k' },
      resource: expect.objectContaining({
        'service.name': 'egress',
        'host.name': 'host1',
        'deployment.environment.name': 'prod',
      }),
      timeoutMs: 2_500,
    });
    const own = { ...env, OTEL_EXPORTER_OTLP_LOGS_ENDPOINT: 'https://logs/x' };
    expect(otlpSettings(own, 'h')?.url).toBe('https://logs/x');
  });

  it('sends log records in the JSON encoding, and again after a failure', async () => {
    await using server = await Server.start();
    server.answer = { status: 503 };
    const events = new EventLog(() => 1_893_456_000_000);
    const env = { OTEL_EXPORTER_OTLP_ENDPOINT: server.url, OTEL_EXPORTER_OTLP_HEADERS: 'x-key=1' };
    await using records = begin(events, {}, env);
    events.emit('flow', FLOW);
    events.emit('repair', { detail: 'x' });
    await expect.poll(() => records.status()[0]).toMatchObject({ queued: 2, failed: 1 });
    server.answer = { status: 200, body: '{}' };
    await expect.poll(() => records.status()[0]).toMatchObject({ queued: 0, delivered: 2, lastError: null });
    const { url, headers, body } = server.got.at(-1) ?? { url: '', headers: {}, body: '' };
    expect([url, headers['content-type'], headers['x-key']]).toEqual(['/v1/logs', 'application/json', '1']);
    expect(JSON.parse(body)).toMatchObject({
      resourceLogs: [
        {
          resource: {
            attributes: expect.arrayContaining([
              { key: 'service.name', value: { stringValue: 'drawbridge' } },
            ]),
          },
          scopeLogs: [
            {
              scope: { name: 'drawbridge' },
              logRecords: [
                {
                  timeUnixNano: '1893456000000000000',
                  severityNumber: 10,
                  eventName: 'drawbridge.flow',
                  attributes: expect.arrayContaining([
                    { key: 'destination.port', value: { intValue: '443' } },
                    { key: 'container.name', value: { stringValue: 'web' } },
                  ]),
                },
                { eventName: 'drawbridge.repair' },
              ],
            },
          ],
        },
      ],
    });
  });

  it('what the collector refuses is dropped and counted', async () => {
    await using server = await Server.start();
    const settings = otlpSettings({ OTEL_EXPORTER_OTLP_LOGS_ENDPOINT: server.url }, 'h');
    if (!settings) throw new Error('no settings');
    const sink = new OtlpSink(settings);
    server.answer = { status: 400, body: 'bad' };
    expect(await sink.send(ALL, NEVER)).toMatchObject({ taken: ALL.length, dropped: ALL.length });
    const partialSuccess = { rejectedLogRecords: '2', errorMessage: 'too old' };
    server.answer = { status: 200, body: JSON.stringify({ partialSuccess }) };
    expect(await sink.send(ALL, NEVER)).toMatchObject({ taken: ALL.length, dropped: 2 });
    server.answer = { status: 200, body: '' };
    expect(await sink.send(ALL, NEVER)).toEqual({ taken: ALL.length, dropped: 0 });
  });
});
