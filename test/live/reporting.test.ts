/** What reports is damaged, configured wrongly or cannot listen: an enforced container resolves its names all the time. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import Database from 'libsql';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Container } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
import { withInside } from './inside.js';

const RESOLVER = '198.51.100.53';
const NAME = 'api.reporting.test';
/** More than a read that ends the process of the database needs: the file is replaced after the second end. */
const MOST_TRIES = 10;
const PORT = 17_070;

let lab: Lab;
let drawbridge: Drawbridge;
let client: Container;
beforeAll(async () => {
  lab = await Lab.up();
  await lab.dns.set({ [NAME]: { A: ['93.184.1.1'] } });
  drawbridge = lab.drawbridge();
  await drawbridge.ready();
  const cmd = ['node', '/inside.mjs', 'ask', RESOLVER, NAME];
  client = await lab.start(withInside({ labels: { 'drawbridge.allow': NAME }, cmd }));
  await answered();
});
afterAll(() => lab?.down());

/** How each question of the client has ended, until now. */
const asked = async (): Promise<readonly string[]> => (await client.logs()).trim().split('\n');
/** Waits for answers to questions that are asked from now on. */
async function answered(): Promise<void> {
  const before = (await asked()).length;
  await waitFor(
    'answers',
    async () => (await asked()).slice(before + 1).filter((l) => l === 'ok').length > 2,
  );
}
const warnings = async (): Promise<string> => {
  const { status, body } = await drawbridge.get('/v1/status');
  expect(status).toBe(200);
  return (JSON.parse(body) as { warnings: string[] }).warnings.join('\n');
};
/** The service is ready again after a reload, which its log shows. */
async function reloaded(): Promise<void> {
  const starts = (): number => drawbridge.logs().match(/"msg":"(not )?ready/g)?.length ?? 0;
  const before = starts();
  drawbridge.kill('SIGHUP');
  await waitFor('the new configuration', () => starts() > before, 60_000);
  await drawbridge.ready(60_000);
}
/** Over TCP, from the host. */
async function overTcp(path: string, token = ''): Promise<{ status: number; body: string }> {
  const program = `fetch('http://127.0.0.1:${PORT}${path}', { headers: { authorization: 'Bearer ${token}' } })
    .then(async (r) => console.log(JSON.stringify({ status: r.status, body: await r.text() })))`;
  const { stdout } = await lab.inHost([process.execPath, '-e', program], { check: true });
  return JSON.parse(stdout) as { status: number; body: string };
}

describe('an enforced container that asks all the time', () => {
  it('loses no answer when the library of the database of flows aborts', async () => {
    await client.probe('tcp', '93.184.9.9', 443, '--timeout', 1_000);
    const flows = () => drawbridge.get('/v1/flows');
    await waitFor('a record', async () => JSON.parse((await flows()).body).items?.length > 0);
    const before = (await asked()).length;
    const { pid } = drawbridge;
    const file = join(drawbridge.stateDir, 'flows.db');
    const db = new Database(file);
    // A text where libsql expects a number, which it takes for UTF-8 without a check.
    db.exec("UPDATE fact SET value = CAST(X'ff41' AS TEXT) WHERE key = 'since'");
    db.close();
    const seen: number[] = [];
    while (seen.at(-1) !== 200 && seen.length < MOST_TRIES) seen.push((await flows()).status);
    expect(seen.at(-1)).toBe(200);
    expect(seen.filter((status) => status !== 200 && status !== 503)).toEqual([]);
    expect(drawbridge.logs()).toContain('the process that records flows has ended');
    expect(existsSync(`${file}.unusable`)).toBe(true);
    expect(await warnings()).toMatch(/flows are recorded since .* only/);
    await client.probe('tcp', '93.184.9.10', 443, '--timeout', 1_000);
    await waitFor('a new record', async () => (await flows()).body.includes('93.184.9.10'));
    await answered();
    expect((await asked()).slice(before).filter((line) => line !== 'ok')).toEqual([]);
    expect(drawbridge.pid).toBe(pid);
    expect((await drawbridge.get('/healthz')).status).toBe(200);
  });

  it('gets answers after a reload with errors in all that reports, and TCP without a token stays closed', async () => {
    drawbridge.configure({
      api: { listen: `127.0.0.1:${PORT}` },
      flows: { bogus: true },
      notify: [{ name: 'chat', kind: 'pigeon' }],
    });
    await reloaded();
    await answered();
    expect(await warnings()).toMatch(/flows.*bogus(.|\n)*notify/);
    expect(JSON.parse((await drawbridge.get('/readyz')).body).reason).toMatch(
      /\d errors in what reports: see drawbridge status/,
    );
    expect(await overTcp('/healthz')).toEqual({ status: 200, body: '{"ok":true}' });
    for (const path of ['/readyz', '/v1/status', '/metrics', '/nothing'])
      expect(await overTcp(path)).toMatchObject({
        status: 401,
        body: expect.stringContaining('drawbridge tokens create NAME --role admin'),
      });
    const made = await drawbridge.cli(['tokens', 'create', 'first', '--role', 'read', '--json']);
    const { token } = JSON.parse(made.stdout) as { token: string };
    expect((await overTcp('/v1/status', token)).status).toBe(200);
    expect((await overTcp('/v1/status', 'other')).status).toBe(401);
  });

  it('gets answers after a reload with an error, at which a token that was taken out is refused', async () => {
    const [token, secret] = ['0123456789abcdef0123456789abcdef', 'T0K3N-of-the-webhook'];
    const listen = `127.0.0.1:${PORT}`;
    drawbridge.configure({ api: { listen, tokens: [{ name: 'gone', role: 'read', token }] } });
    await reloaded();
    expect((await overTcp('/v1/status', token)).status).toBe(200);
    const url = `https://hooks.reporting.test/${secret} x`;
    drawbridge.configure({ api: { listen, bogus: 1 }, notify: [{ kind: 'slack', url }] });
    await reloaded();
    await answered();
    expect((await overTcp('/v1/status', token)).status).toBe(401);
    const open = await overTcp('/readyz'); // the store has a token: who has none reads this
    expect(open).toMatchObject({ status: 200, body: expect.stringMatching(/\d errors in what reports/) });
    expect(await warnings()).toMatch(/notify\[0\].url(.|\n)*the listener of before stays in force/);
    expect(open.body + (await warnings()) + drawbridge.logs()).not.toContain(secret);
  });

  it('gets answers after a restart with a listener that is none, or cannot listen', async () => {
    drawbridge.configure({ api: { listen: 'nowhere', bogus: 1 } });
    await drawbridge.restart();
    await answered();
    expect(await warnings()).toMatch(/api.bogus(.|\n)*api.listen: not valid/);
    expect((await drawbridge.cli(['status'])).stdout).toMatch(/WARNING.*api/);
    expect((await drawbridge.cli(['doctor'])).stdout).toMatch(/reporting\s+warning/);
    drawbridge.configure({ api: { listen: '192.0.2.77:7070' } }); // no address of this host
    await reloaded();
    await answered();
    expect(await warnings()).toMatch(/does not listen on 192.0.2.77:7070: .*EADDRNOTAVAIL/);
    // What enforces still stops the start, or changes nothing.
    drawbridge.configure({ dns: { bogus: 1 } });
    drawbridge.kill('SIGHUP');
    await waitFor('the refusal', () => drawbridge.logs().includes('the new configuration is refused'));
    await answered();
  });
});
