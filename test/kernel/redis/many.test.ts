import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, it } from 'vitest';
import { Host } from './hosts.js';
import { freePort, RedisServer, until } from './server.js';

const open: AsyncDisposable[] = [];
afterEach(async () => {
  for (const part of open.splice(0).reverse()) await part[Symbol.asyncDispose]();
});
function keep<T extends AsyncDisposable>(part: T): T {
  open.push(part);
  return part;
}

const HOSTS = 200;
it(`${HOSTS} hosts hear of a change within two seconds, 99 of 100 times, and come back after Redis does`, async () => {
  const redis = keep(await new RedisServer({ port: await freePort() }).start());
  const hosts: Host[] = [];
  for (let i = 0; i < HOSTS; i += 20)
    hosts.push(
      ...(await Promise.all(Array.from({ length: 20 }, async () => keep(await Host.open(redis.url))))),
    );
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
  const sorted = late.sort((a, b) => a - b);
  const p99 = sorted[Math.floor(sorted.length * 0.99)] ?? Number.POSITIVE_INFINITY;
  expect(p99).toBeLessThan(2000);
  await redis.kill();
  await until('all notice', () => hosts.every((h) => !h.store.health().ok), 30_000);
  await redis.start();
  await until('all are back', () => hosts.every((h) => h.store.health().ok), 60_000);
}, 240_000);

it('over TLS, with the certificate of its own CA, and with no other', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'drawbridge-tls-'));
  try {
    const [key, cert] = [join(dir, 'key.pem'), join(dir, 'cert.pem')];
    const subject = ['-subj', '/CN=redis', '-addext', 'subjectAltName=IP:127.0.0.1'];
    const made = [
      'req',
      '-x509',
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:prime256v1',
      '-nodes',
      '-days',
      '2',
    ];
    execFileSync('openssl', [...made, '-keyout', key, '-out', cert, ...subject], { stdio: 'ignore' });
    const tls = await freePort();
    const conf = [
      `tls-port ${tls}`,
      `tls-cert-file ${cert}`,
      `tls-key-file ${key}`,
      `tls-ca-cert-file ${cert}`,
      'tls-auth-clients no',
    ];
    const redis = keep(await new RedisServer({ port: await freePort(), conf }).start());
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
  } finally {
    rmSync(dir, { recursive: true });
  }
});
