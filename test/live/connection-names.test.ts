/** A connection that only a name entry permits must ask for a permitted name, whatever else its address serves. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Container } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
import { SINK } from '../lab/topology.js';
import { LateRequest } from './late-request.js';

const GOOD = 'good.example';
const EVIL = 'evil.example';
const SHARED = '93.184.7.1';
const SHARED6 = '2600:9000::7';

let lab: Lab;
let drawbridge: Drawbridge;
let checked: Container;
let free: Container;
let mounts: Awaited<ReturnType<Lab['nodeMounts']>>;
beforeAll(async () => {
  lab = await Lab.up({ sniffer: false });
  await lab.dns.set({ [GOOD]: { A: [SHARED], AAAA: [SHARED6] }, [EVIL]: { A: [SHARED], AAAA: [SHARED6] } });
  drawbridge = lab.drawbridge({});
  await drawbridge.ready();
  mounts = await lab.nodeMounts();
  checked = await lab.start({ labels: { 'drawbridge.allow': GOOD }, mounts });
  free = await lab.start({ labels: { 'drawbridge.allow': `${GOOD} tls=off` }, mounts });
}, 120_000);
afterAll(() => lab?.down());

interface Asked {
  readonly sni?: string;
  readonly host?: string;
}
const fetchFrom = (container: Container, url: string, asked: Asked = {}) =>
  container.probe(
    'http',
    url,
    ...(asked.sni ? ['--sni', asked.sni] : []),
    ...(asked.host ? ['--host', asked.host] : []),
  );

describe.each([
  ['TLS', `https://${GOOD}/`, (name: string): Asked => ({ sni: name })],
  ['HTTP', `http://${GOOD}/`, (name: string): Asked => ({ host: name })],
])('%s', (_, url, by) => {
  it('reaches the permitted site', async () => {
    expect(await fetchFrom(checked, url)).toMatchObject({ ok: true, status: 200 });
  });
  it('does not reach another site of the same address; without the check it does', async () => {
    const before = (await lab.web.requests()).length;
    const refused = await fetchFrom(checked, url, by(EVIL));
    expect(refused).toMatchObject({ ok: false, code: 'ECONNRESET' });
    expect((await lab.web.requests()).length).toBe(before);
    expect(await fetchFrom(free, url, by(EVIL))).toMatchObject({ ok: true });
  });
});

const queued = async (): Promise<number> =>
  JSON.parse((await drawbridge.get('/v1/status')).body).connections.queued;

/** argv: address, name of the permitted site, length of the body, name behind it. */
const UPLOAD = `
const [address, host, length, next] = process.argv.slice(1);
const socket = require('node:net').connect(80, address);
socket.on('error', (e) => { console.log(e.code); process.exit(1); });
socket.write('POST / HTTP/1.1\\r\\nHost: ' + host + '\\r\\nContent-Length: ' + length + '\\r\\n\\r\\n');
socket.write(Buffer.alloc(Number(length), 'u'));
socket.end('GET / HTTP/1.1\\r\\nHost: ' + next + '\\r\\n\\r\\n');
socket.resume();
`;
describe.each([
  [4, `${SINK.prefix4}80`],
  [6, `${SINK.prefix6}80`],
] as const)('over IPv%i the body of an upload to port 80', (family, address) => {
  const LENGTH = 12 * 2 ** 20;
  const HOST = `upload${family}.example`;
  it.each([
    ['a permitted name', HOST],
    ['another name', EVIL],
  ])('passes in the kernel, and the request behind it for %s is read', async (_, next) => {
    await lab.dns.set({ [HOST]: { A: [`${SINK.prefix4}80`], AAAA: [`${SINK.prefix6}80`] } });
    /** How much of the body has arrived, and what behind it. */
    const upload = async (flags: string): Promise<{ length: number; behind: string }> => {
      const c = await lab.start({ labels: { 'drawbridge.allow': `${HOST}${flags}` } });
      await c.probe('dns', '8.8.8.8', HOST, family === 4 ? 'A' : 'AAAA');
      const before = (await lab.web.streams()).length;
      await c.exec(['node', '-e', UPLOAD, address, HOST, String(LENGTH), next], { timeoutMs: 30_000 });
      const text = (await lab.web.streams())[before]?.text ?? '';
      const [head = '', body = ''] = /\r\n\r\n(u*)/.exec(text) ?? [];
      return { length: body.length, behind: text.slice(text.indexOf(head) + head.length) };
    };
    const before = await queued();
    const request = `GET / HTTP/1.1\r\nHost: ${next}\r\n\r\n`;
    const checkedOne = await upload('');
    // a reset takes what the other side has not read yet
    if (next === HOST) expect(checkedOne).toEqual({ length: LENGTH, behind: request });
    else expect(checkedOne.behind).toBe('');
    // at most a MiB at each end is read, in segments of some 1,400 bytes
    expect((await queued()) - before).toBeLessThan(LENGTH / 1_400 / 4);
    expect(await upload(' tls=off')).toEqual({ length: LENGTH, behind: request });
  });
});

const arrived = async (path: string): Promise<boolean> =>
  (await lab.web.requests()).some((r) => r.path === path);

describe('a connection that is open while', () => {
  it('its entry is removed ends, although another name has the same address', async () => {
    await drawbridge.request('PUT', '/v1/lists/both', { allow: [GOOD, 'also.example'] });
    await lab.dns.set({ 'also.example': { A: [SHARED], AAAA: [] } });
    const both = await lab.start({ labels: { 'drawbridge.lists': 'both' }, mounts });
    for (const name of [GOOD, 'also.example'])
      expect(await fetchFrom(both, `http://${name}/`)).toMatchObject({ ok: true });
    const kept = new LateRequest(both, 'kept', { host: GOOD, address: SHARED });
    const ended = new LateRequest(both, 'ended', { host: 'also.example', address: SHARED });
    for (const one of [kept, ended]) {
      await one.has('open');
      await one.go();
      await one.has('answered0');
    }
    await drawbridge.request('PUT', '/v1/lists/both', { allow: [GOOD] });
    await ended.go(1);
    await ended.has('failed');
    await kept.go(1);
    await kept.has('answered1');
  });

  it('rules are flushed, and the service does not run, delivers no request', async () => {
    await fetchFrom(checked, `http://${GOOD}/`);
    const late = new LateRequest(checked, 'flushed', { host: EVIL, address: SHARED });
    const control = new LateRequest(free, 'control', { host: EVIL, address: SHARED });
    await fetchFrom(free, `http://${GOOD}/`);
    await late.has('open');
    await control.has('open');
    drawbridge.kill('SIGSTOP');
    try {
      for (const tool of ['iptables', 'ip6tables'])
        for (const table of ['filter', 'security']) await lab.inHost([tool, '-w', '-t', table, '-F']);
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

  it('the service restarts is checked by the next one', async () => {
    const late = new LateRequest(checked, 'restarted', { host: GOOD, address: SHARED });
    const wrong = new LateRequest(checked, 'wrong', { host: 'wrong.example', address: SHARED });
    for (const one of [late, wrong]) await one.has('open');
    await drawbridge.restart();
    await drawbridge.ready();
    for (const one of [late, wrong]) await one.go();
    await waitFor('the request', () => arrived('/restarted'));
    await wrong.has('failed');
    expect(await arrived('/wrong')).toBe(false);
    expect(await fetchFrom(checked, `http://${GOOD}/`)).toMatchObject({ ok: true });
  });

  it('its container becomes enforced ends if its name should have been checked', async () => {
    const name = 'observed';
    const observed = await lab.start({
      name,
      labels: { 'drawbridge.allow': GOOD, 'drawbridge.mode': 'observe' },
      mounts,
    });
    expect(await fetchFrom(observed, `http://${GOOD}/`)).toMatchObject({ ok: true });
    const late = new LateRequest(observed, 'unchecked', { host: EVIL, address: SHARED });
    await late.has('open');
    await drawbridge.cli(['mode', name, 'enforce', '--yes']);
    await late.go();
    await late.has('failed');
    expect(await arrived('/unchecked')).toBe(false);
  });
});

it('status counts what was refused', async () => {
  await fetchFrom(checked, `https://${GOOD}/`, { sni: EVIL });
  const { connections } = JSON.parse((await drawbridge.get('/v1/status')).body);
  expect(connections).toMatchObject({ beyondBounds: 0, faults: 0, queueFull: 0, waiting: 0 });
  expect(connections.refused).toBeGreaterThan(0);
  expect((await drawbridge.cli(['status'])).stdout).toMatch(
    /names of connections: checked, \d+ connections? refused\n/,
  );
});
it('a denial has the name that was asked for, and the reason', async () => {
  await fetchFrom(checked, `https://${GOOD}/`, { sni: EVIL });
  const { items } = JSON.parse((await drawbridge.get('/v1/flows?limit=50')).body);
  expect(items).toContainEqual(
    expect.objectContaining({
      verdict: 'deny',
      name: EVIL,
      port: 443,
      proto: 'tcp',
      reason: expect.stringMatching(/^server-name: no entry permits evil\.example on tcp\/443/),
    }),
  );
});

/** Repetitions under load are queued as well: the least of some connections counts. */
it('of a connection of TLS one packet is queued; the kernel reads the answer', async () => {
  const counts: number[] = [];
  for (let round = 0; round < 5; round++) {
    const before = await queued();
    expect(await fetchFrom(checked, `https://${GOOD}/`)).toMatchObject({ ok: true });
    counts.push((await queued()) - before);
  }
  expect(Math.min(...counts)).toBe(1);
});
