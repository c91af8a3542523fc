/** What an enforced container may do works as without Drawbridge: published ports, path MTU, idle and many connections. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Container, type ProbeResult, parseProbe } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { FAR } from '../lab/far.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
import { execInside, listener, runInside, withInside } from './inside.js';

const PEER4 = '93.184.74.1';
const PEER6 = '2600:9000:74::1';
const NAME = 'site.ok.test';
const FORBIDDEN = '93.184.74.9';
const ENFORCED = { 'drawbridge.mode': 'enforce' };

let lab: Lab;
let drawbridge: Drawbridge;
beforeAll(async () => {
  lab = await Lab.up();
  await lab.far();
  await lab.dns.set({ [NAME]: { A: ['93.184.74.2'], AAAA: ['2600:9000:74::2'], ttl: 1 } });
  await lab.docker('network', 'create', '--ipv6', 'six');
  await lab.docker('network', 'create', 'four');
  drawbridge = lab.drawbridge();
  await drawbridge.ready();
});
afterAll(() => lab?.down());

const logged = (c: Container, text: string, times = 1): Promise<unknown> =>
  waitFor(`${text} in the log of ${c.name}`, async () => (await c.logs()).split(text).length > times, 20_000);
async function fromHost(host: string, port: number): Promise<ProbeResult> {
  const probe = new URL('../lab/probe.cjs', import.meta.url).pathname;
  return parseProbe(await lab.inHost([process.execPath, probe, 'tcp', host, String(port), 'hello']));
}

it.concurrent('published ports: from outside and from the host, both families', async () => {
  const { host4, host6 } = lab.addresses;
  const spec = { network: 'six', labels: ENFORCED, args: ['-p', '6001:6001', '-p', '6001:6001/udp'] };
  const c = await listener(lab, [6001], spec);
  for (const host of [host4, host6]) {
    expect(await lab.probeFromNet('tcp', host, 6001, 'hello')).toMatchObject({ ok: true, data: 'hello' });
    expect(await lab.probeFromNet('udp', host, 6001)).toMatchObject({ ok: true });
  }
  for (const host of [host4, host6, '127.0.0.1', '::1'])
    expect(await fromHost(host, 6001), host).toMatchObject({ ok: true, data: 'hello' });
  await c.remove();
});

it.concurrent('a port published over IPv6 of a container without IPv6: the proxy of Docker', async () => {
  const c = await listener(lab, [6002], { network: 'four', labels: ENFORCED, args: ['-p', '6002:6002'] });
  for (const host of [lab.addresses.host4, lab.addresses.host6])
    expect(await lab.probeFromNet('tcp', host, 6002, 'hello'), host).toMatchObject({ ok: true });
  await c.remove();
});

it.concurrent('a published port through the host’s address, by a neighbour that may', async () => {
  const host = lab.addresses.host4;
  const c = await listener(lab, [6003], { network: 'six', labels: ENFORCED, args: ['-p', '6003:6003'] });
  const labels = { 'drawbridge.allow': 'host:6003' };
  for (const network of ['six', 'four'])
    expect(await lab.runProbe({ network, labels }, 'tcp', host, 6003, 'hello')).toMatchObject({ ok: true });
  expect(await lab.runProbe({ network: 'four', labels: ENFORCED }, 'tcp', host, 6003)).toMatchObject({
    ok: false,
  });
  await c.remove();
});

it.concurrent.each([
  ['IPv4', FAR.v4],
  ['IPv6', FAR.v6],
])('a path narrower than its ends, over %s: "packet too big" reaches the container', async (_, far) => {
  const c = await lab.start(
    withInside({ network: 'six', labels: { 'drawbridge.allow': `${FAR.v4}, ${FAR.v6}` } }),
  );
  const bytes = 300_000;
  expect(await execInside(c, 'volume', far, FAR.port, bytes)).toEqual({ got: bytes });
  // it learned the path's size, so a packet had been too big
  const nsenter = ['nsenter', '-t', String(await c.pid()), '-n', 'ip', 'route', 'get', far];
  expect((await lab.inHost(nsenter)).stdout).toContain(`mtu ${FAR.mtu}`);
  await c.remove();
});

it.concurrent('400 connections at once, from the first instruction', async () => {
  const labels = { 'drawbridge.allow': `${NAME}:8000, ${PEER4}:80, [${PEER6}]:80` };
  for (const url of [`http://${NAME}:8000/`, `http://${PEER4}/`, `http://[${PEER6}]/`])
    expect(await runInside(lab, { network: 'six', labels }, 'many', url, 400)).toEqual({
      answered: 400,
      others: [],
    });
});

it.concurrent('a container that is restarted, stopped, paused', async () => {
  const labels = { 'drawbridge.allow': NAME };
  const c = await lab.start({ network: 'six', name: 'again', labels });
  const works = async (): Promise<void> => {
    const answer = await c.probe('http', `http://${NAME}/`);
    expect(answer, JSON.stringify(answer)).toMatchObject({ ok: true });
    expect(await c.probe('tcp', FORBIDDEN, 80)).toMatchObject({ code: 'ECONNREFUSED' });
  };
  await works();
  await lab.docker('restart', 'again');
  await works();
  await lab.docker('stop', 'again');
  await lab.docker('start', 'again');
  await works();
  await lab.docker('pause', 'again');
  await lab.docker('unpause', 'again');
  await works();
  expect(await lab.sniffer.count({ direction: 'out', dst: FORBIDDEN })).toBe(0);
  await c.remove();
});

describe('while the service is restarted', () => {
  it('connections that are idle stay open', async () => {
    const cmd = ['node', '/inside.mjs', 'idle', PEER4, PEER6];
    const labels = { 'drawbridge.allow': `${PEER4}, ${PEER6}` };
    const c = await lab.start({ ...withInside({ network: 'six', name: 'sleeper', labels }), cmd });
    await logged(c, '"open"', 2);
    await drawbridge.restart();
    await lab.docker('kill', '-s', 'HUP', 'sleeper');
    await logged(c, '"answered"', 2);
    drawbridge.kill('SIGKILL');
    await drawbridge.exited();
    await lab.docker('kill', '-s', 'HUP', 'sleeper');
    await logged(c, '"answered"', 4);
    drawbridge.start();
    await drawbridge.ready();
    await lab.docker('kill', '-s', 'HUP', 'sleeper');
    await logged(c, '"answered"', 6);
    expect(await c.logs()).not.toContain('lost');
  });
});
