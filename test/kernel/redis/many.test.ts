import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { ThreatWorker } from '../../../src/threats/feed-worker-client.js';
import { Host } from './hosts.js';
import { freePort, RedisServer, until } from './server.js';
import { SimulatedHost } from './simulated.js';

const open: AsyncDisposable[] = [];
afterEach(async () => {
  for (const part of open.splice(0).reverse()) await part[Symbol.asyncDispose]();
});
function keep<T extends AsyncDisposable>(part: T): T {
  open.push(part);
  return part;
}

const HOSTS = 200;
const percentile = (sorted: readonly number[], share: number): number =>
  sorted[Math.floor(sorted.length * share)] ?? Number.POSITIVE_INFINITY;
/**
 * Prints the times (milliseconds). They depend on what else runs on the processors, so no test compares them: a host that does
 * not hear of a change ends its test by the time limit.
 */
function print(what: string, late: readonly number[]): void {
  const sorted = [...late].sort((a, b) => a - b);
  const [p50, p99] = [percentile(sorted, 0.5), percentile(sorted, 0.99)];
  console.info(`${what}: p50 ${p50} ms, p99 ${p99} ms, last ${sorted.at(-1)} ms of ${sorted.length}`);
}

describe.sequential(`${HOSTS} hosts of one Redis`, () => {
  let redis: RedisServer;
  const hosts: Host[] = [];
  beforeAll(async () => {
    redis = await new RedisServer({ port: await freePort() }).start();
    for (let i = 0; i < HOSTS; i += 20)
      hosts.push(...(await Promise.all(Array.from({ length: 20 }, () => Host.open(redis.url)))));
  });
  afterAll(async () => {
    await Promise.all(hosts.map((host) => host[Symbol.asyncDispose]()));
    await redis[Symbol.asyncDispose]();
  });

  it('hear of every change, all of them', async () => {
    const [writer] = hosts as [Host];
    const late: number[] = [];
    for (let n = 0; n < 20; n++) {
      const heard = hosts.map(
        (h) =>
          new Promise<number>((resolve) => {
            const watch = h.store.watch(({ key }) => {
              if (key !== `threat/${n}`) return;
              watch[Symbol.dispose]();
              resolve(Date.now());
            });
          }),
      );
      const start = Date.now();
      await writer.store.put(`threat/${n}`, { address: `192.0.2.${n}` });
      late.push(...(await Promise.all(heard)).map((at) => at - start));
    }
    print('a change is heard', late);
  });

  it('put each version of a feed in force that one of them publishes, all of them', async () => {
    const file = join((hosts[0] as Host).dir, 'feed.txt');
    const list = Array.from({ length: 500 }, (_, i) => `198.51.${i >> 8}.${i & 255}`);
    const publish = (...bad: string[]): void => writeFileSync(file, `${[...list, ...bad].join('\n')}\n`);
    publish();
    const feed = { name: 'bad', url: `file://${file}`, format: 'plain', every: '1d', minInterval: '0s' };
    const worker = keep(new ThreatWorker());
    const fleet = hosts.map((host, n) =>
      keep(
        new SimulatedHost(host.shared, worker, {
          state: host.dir,
          node: `n-${n}`,
          threats: { feeds: [feed] },
        }),
      ),
    );
    const first = fleet.map((host) => host.holds('198.51.0.7'));
    for (const { feeds } of fleet) feeds.begin();
    await Promise.all(first);
    const bad: string[] = [];
    for (let n = 1; n <= 3; n++) {
      bad.push(`203.0.113.${n}`);
      publish(...bad);
      const held = fleet.map((host) => host.holds(`203.0.113.${n}`));
      let asked = 0;
      const { feed: view } = await until('the lease is free', async () => {
        asked = Date.now();
        const done = await (fleet[n] as SimulatedHost).feeds.sync('bad', { accept: false, onlyDue: false });
        return done.outcome === 'attempted' && done;
      });
      expect(view.status).toBe('current');
      // Each one has it, or this would not go on.
      const late = (await Promise.all(held)).map((at) => at - asked);
      print(`version ${n} is in force`, late);
    }
    for (const { said } of fleet) expect(said).toEqual([]);
  });

  it('come back after Redis does', async () => {
    await redis.kill();
    await until('all notice', () => hosts.every((h) => !h.store.health().ok), 30_000);
    await redis.start();
    await until('all are back', () => hosts.every((h) => h.store.health().ok), 60_000);
  }, 120_000);
});

describe('over TLS', () => {
  const dir = mkdtempSync(join(tmpdir(), 'drawbridge-tls-'));
  const [key, cert] = [join(dir, 'key.pem'), join(dir, 'cert.pem')];
  beforeAll(() => {
    const subject = ['-subj', '/CN=redis', '-addext', 'subjectAltName=IP:127.0.0.1'];
    const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1'];
    const made = ['req', '-x509', ...curve, '-nodes', '-days', '2'];
    execFileSync('openssl', [...made, '-keyout', key, '-out', cert, ...subject], { stdio: 'ignore' });
  });
  afterAll(() => rmSync(dir, { recursive: true }));
  /** Its port for TLS, too. */
  async function start(): Promise<{ readonly redis: RedisServer; readonly tls: number }> {
    const tls = await freePort();
    const conf = [
      `tls-port ${tls}`,
      `tls-cert-file ${cert}`,
      `tls-key-file ${key}`,
      `tls-ca-cert-file ${cert}`,
      'tls-auth-clients no',
    ];
    return { redis: keep(await new RedisServer({ port: await freePort(), conf }).start()), tls };
  }

  it('with the certificate of its own CA, and with no other', async () => {
    const { redis, tls } = await start();
    await redis.ask('CONFIG', 'SET', 'requirepass', 'hidden');
    const host = keep(await Host.open(`rediss://:hidden@127.0.0.1:${tls}?ca=${cert}`));
    await host.store.put('k', 1);
    expect(host.store.health()).toMatchObject({ ok: true, detail: expect.not.stringContaining('hidden') });
    const stranger = keep(await Host.open(`rediss://:hidden@127.0.0.1:${tls}`, 500));
    expect(stranger.store.health()).toMatchObject({
      ok: false,
      detail: expect.stringMatching(/self-signed certificate/),
    });
    const guess = keep(await Host.open(`rediss://:wrong@127.0.0.1:${tls}?ca=${cert}`, 500));
    expect(guess.store.health()).toMatchObject({ ok: false, detail: expect.stringMatching(/WRONGPASS/) });
  });

  it('a connection that is ended within its handshake ends no process, whatever comes then', async () => {
    const { tls } = await start();
    // hands on what Redis sends once it has ended the connection: its certificate, and an alert about the end of the client
    const clients = new Set<Socket>();
    const relay = createServer({ allowHalfOpen: true }, (client) => {
      clients.add(client.once('close', () => clients.delete(client)).on('error', () => client.destroy()));
      const server = connect(tls, '127.0.0.1').on('error', () => client.destroy());
      client.pipe(server);
      const sent: Buffer[] = [];
      server.on('data', (bytes) => sent.push(bytes)).once('end', () => client.end(Buffer.concat(sent)));
    }).listen(0, '127.0.0.1');
    await once(relay, 'listening');
    const errors: unknown[] = [];
    const note = (error: unknown): void => void errors.push(error);
    process.on('uncaughtExceptionMonitor', note);
    try {
      const host = await Host.open(`rediss://127.0.0.1:${(relay.address() as AddressInfo).port}`, 50);
      await until('a handshake waits', () => clients.size > 0);
      await host[Symbol.asyncDispose]();
      await until('its connections are closed', () => clients.size === 0);
      expect(errors).toEqual([]);
    } finally {
      process.off('uncaughtExceptionMonitor', note);
      relay.close();
    }
  });
});
