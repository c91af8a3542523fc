/** Names of connections of a container in the host's network: what is permitted goes on as without the check, and what is not does not. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Container } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
import { LateRequest } from './late-request.js';

const GOOD = 'good.example';
const EVIL = 'evil.example';
const SHARED = { v4: '93.184.7.1', v6: '2600:9000::7' } as const;
/** A published port of a container on this host. */
const LOCAL = 8088;
const MANY = 40;
const BULK = 40_000_000;

let lab: Lab;
let drawbridge: Drawbridge;
let checked: Container;
let free: Container;
beforeAll(async () => {
  lab = await Lab.up({ sniffer: false });
  const addresses = { A: [SHARED.v4], AAAA: [SHARED.v6] };
  await lab.dns.set({ [GOOD]: addresses, [EVIL]: addresses });
  drawbridge = lab.drawbridge({});
  await drawbridge.ready();
  const mounts = await lab.nodeMounts();
  const start = (allow: string) =>
    lab.start({ network: 'host', labels: { 'drawbridge.allow': `${allow}, host:${LOCAL}` }, mounts });
  [checked, free] = [await start(GOOD), await start(`${GOOD} tls=off`)];
  for (const c of [checked, free])
    await waitFor('the name', async () => (await fetchFrom(c, `https://${GOOD}/`)).ok);
}, 120_000);
afterAll(() => lab?.down());

const fetchFrom = (c: Container, url: string, ...more: string[]) => c.probe('http', url, ...more);
const arrived = async (path: string): Promise<boolean> =>
  (await lab.web.requests()).some((r) => r.path === path);

describe.each([
  ['TLS', 'https', '--sni'],
  ['HTTP', 'http', '--host'],
])('%s', (_, scheme, by) => {
  it.each([SHARED.v4, `[${SHARED.v6}]`])('to %s: the permitted site and no other one', async (address) => {
    const url = `${scheme}://${address}/`;
    expect(await fetchFrom(checked, url, by, GOOD)).toMatchObject({ ok: true, status: 200 });
    const before = (await lab.web.requests()).length;
    expect(await fetchFrom(checked, url, by, EVIL)).toMatchObject({ ok: false, code: 'ECONNRESET' });
    expect((await lab.web.requests()).length).toBe(before);
    expect(await fetchFrom(free, url, by, EVIL)).toMatchObject({ ok: true });
  });
});

/** Prints what a program has found. */
const node = async (c: Container, program: string): Promise<string> =>
  (await c.exec(['node', '-e', program], { check: true, timeoutMs: 60_000 })).stdout.trim();
const agent = `const https = require('node:https');
const ask = (o, body) => new Promise((resolve) => {
  const request = https.request({ host: '${GOOD}', rejectUnauthorized: false, ...o }, (answer) => {
    let bytes = 0;
    answer.on('data', (d) => (bytes += d.length));
    answer.on('end', () => resolve(bytes));
  });
  request.on('error', (e) => resolve(e.code));
  request.end(body);
});`;

it('many connections at once, each with a hello of its own', async () => {
  const program = `${agent} Promise.all(Array.from({ length: ${MANY} }, () => ask({ path: '/bytes?n=1000', agent: false })))
    .then((all) => console.log(JSON.stringify([...new Set(all)])));`;
  expect(await node(checked, program)).toBe('[1000]');
});
it('much data in both directions; of each connection one packet is queued', async () => {
  const counts = async (): Promise<Record<string, number>> =>
    JSON.parse((await drawbridge.get('/v1/status')).body).connections;
  const before = await counts();
  const program = `${agent} (async () => {
    console.log(await ask({ path: '/bytes?n=${BULK}' }),
      typeof (await ask({ path: '/', method: 'POST' }, Buffer.alloc(${BULK}))));
  })();`;
  expect(await node(checked, program)).toBe(`${BULK} number`);
  const after = await counts();
  expect((after.queued ?? 0) - (before.queued ?? 0)).toBeLessThan(8);
  expect(after).toMatchObject({ beyondBounds: 0, faults: 0, queueFull: 0, waiting: 0 });
});
it('many requests on one connection of HTTP, with large answers', async () => {
  const program = `${agent.replace("'node:https'", "'node:http'")} (async () => {
    const agent = new https.Agent({ keepAlive: true, maxSockets: 1 });
    let sum = 0;
    for (let n = 0; n < 20; n++) sum += await ask({ path: '/bytes?n=500000', agent });
    console.log(sum);
    process.exit(0);
  })();`;
  expect(await node(checked, program)).toBe(String(20 * 500_000));
});

it('a port that the host publishes for another container is reached by its host entry', async () => {
  await lab.start({
    labels: { 'drawbridge.mode': 'off' },
    args: ['-p', `${LOCAL}:80`],
    cmd: ['node', '-e', "require('node:http').createServer((q, a) => a.end('here')).listen(80)"],
  });
  await waitFor('it', async () => (await fetchFrom(checked, `http://${lab.addresses.host4}:${LOCAL}/`)).ok);
  expect(await fetchFrom(checked, `http://127.0.0.1:${LOCAL}/`)).toMatchObject({ ok: true });
});

it('rules are flushed, and the service does not run: no request is delivered', async () => {
  const late = new LateRequest(checked, 'flushed', { host: EVIL, address: SHARED.v4 });
  const control = new LateRequest(free, 'control', { host: EVIL, address: SHARED.v4 });
  await late.has('open');
  await control.has('open');
  drawbridge.kill('SIGSTOP');
  try {
    for (const tool of ['iptables', 'ip6tables'])
      for (const table of ['filter', 'security', 'mangle', 'raw'])
        await lab.inHost([tool, '-w', '-t', table, '-F']);
    await control.go();
    await late.go();
    await waitFor('the request without the check', () => arrived('/control'));
  } finally {
    drawbridge.kill('SIGCONT');
  }
  await late.has('failed');
  expect(await arrived('/flushed')).toBe(false);
  await drawbridge.ready();
});

it('explain names the check', async () => {
  const { stdout } = await drawbridge.cli(['explain', checked.name, `${GOOD}:443`]);
  expect(stdout).toMatch(/^allow: .*\n.*checked by the server name in the hello of TLS/);
  expect(stdout).not.toContain('by address only');
});
