/** Deny entries beat whatever permits: by DNS, by address, by server name, from an image, and for flows that are open. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Container } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
import { Flows } from './flows.js';

const SITE = 'site.example';
const SECRET = 'secret.corp.example';
const ALIAS = 'alias.example';
/** The address of all three names. */
const SHARED = '93.184.7.1';
const RESOLVER = '8.8.8.8';
const OTHER = '93.184.8.1';
const PEER = '93.184.50.1';
const OPEN = 'any, *.example broad';
const DENIED = '!*.corp.example';

let lab: Lab;
let drawbridge: Drawbridge;
let held: Container;
let free: Container;
beforeAll(async () => {
  lab = await Lab.up({ sniffer: false });
  await lab.dns.set({
    [SITE]: { A: [SHARED] },
    [SECRET]: { A: [SHARED] },
    [ALIAS]: { CNAME: SECRET },
  });
  drawbridge = lab.drawbridge({
    lists: {
      'later.yaml': `allow: ["any"]\n`,
      'some.yaml': `allow: [${DENIED}, "!${OTHER}"]\n`.replace(DENIED, `"${DENIED}"`),
    },
  });
  await drawbridge.ready();
  const mounts = await lab.nodeMounts();
  held = await lab.start({
    name: 'held',
    labels: { 'drawbridge.allow': OPEN, 'drawbridge.lists': 'some' },
    mounts,
  });
  free = await lab.start({ name: 'free', labels: { 'drawbridge.allow': OPEN }, mounts });
}, 120_000);
afterAll(() => lab?.down());

const fetchFrom = (c: Container, url: string, ...args: string[]) => c.probe('http', url, ...args);
const explained = async (to: string): Promise<{ verdict: string; entry: string | null; reason: string }> =>
  JSON.parse(
    (await drawbridge.request('GET', `/v1/explain?container=held&to=${encodeURIComponent(to)}`)).body,
  );

describe('a deny entry for names', () => {
  it('makes them not resolve, and names that lead to them', async () => {
    expect(await held.probe('dns', RESOLVER, SITE, 'A')).toMatchObject({ ok: true, addresses: [SHARED] });
    for (const name of [SECRET, ALIAS]) {
      expect(await held.probe('dns', RESOLVER, name, 'A')).toMatchObject({ rcode: 'NXDOMAIN' });
      expect(await free.probe('dns', RESOLVER, name, 'A')).toMatchObject({ ok: true });
    }
    expect(await explained(`${SECRET}:443`)).toMatchObject({ verdict: 'deny', entry: DENIED });
  });

  it.each([
    ['a permitted name', `https://${SITE}/`, []],
    ['any name that is not denied at a permitted address', `https://${SHARED}/`, ['--sni', 'unknown.test']],
    ['a Host that is not denied', `http://${SHARED}/`, ['--host', 'unknown.test']],
    ['the address itself as Host', `http://${SHARED}/`, []],
  ])('lets pass %s', async (_, url, args) => {
    expect(await fetchFrom(held, url, ...args)).toMatchObject({ ok: true, status: 200 });
  });

  it.each([
    ['TLS', `https://${SHARED}/`, ['--sni', SECRET]],
    ['TLS, by an address that a permitted name resolved to', `https://${SITE}/`, ['--sni', SECRET]],
    ['HTTP', `http://${SHARED}/`, ['--host', SECRET]],
    ['TLS without a server name', `https://${SHARED}/`, []],
  ])('holds back %s; without the entry it passes', async (_, url, args) => {
    const before = (await lab.web.requests()).length;
    expect(await fetchFrom(held, url, ...args)).toMatchObject({ ok: false, code: 'ECONNRESET' });
    expect((await lab.web.requests()).length).toBe(before);
    expect(await fetchFrom(free, url, ...args)).toMatchObject({ ok: true, status: 200 });
  });

  it('is reported as the reason', async () => {
    const denials = await drawbridge.request('GET', '/v1/flows?container=held&verdict=denied');
    expect(denials.body).toContain(`${DENIED} denies it`);
  });
});

describe('a deny entry for an address', () => {
  it('is denied, while others pass', async () => {
    expect(await held.probe('tcp', OTHER, '7777')).toMatchObject({ ok: false, code: 'ECONNREFUSED' });
    expect(await free.probe('tcp', OTHER, '7777')).toMatchObject({ ok: true });
    expect(await explained(OTHER)).toMatchObject({ verdict: 'deny', entry: `!${OTHER}` });
  });

  it('refuses a grant, and names itself and its list', async () => {
    const answer = await drawbridge.request('POST', '/v1/containers/held/grants', { entry: `${OTHER}:443` });
    expect(answer.status).toBe(409);
    expect(answer.body).toContain(`!${OTHER}`);
    expect(answer.body).toContain('list some');
    const itself = await drawbridge.request('POST', '/v1/containers/held/grants', { entry: `!${PEER}` });
    expect(itself.status).toBe(422);
  });

  it('of an image counts, and what it permits does not', async () => {
    const image = await lab.image('denies:1', { labels: { 'drawbridge.allow': `!${OTHER}` } });
    const c = await lab.start({ image, name: 'from-image', labels: { 'drawbridge.lists': 'later' } });
    expect(await c.probe('tcp', OTHER, '7777')).toMatchObject({ ok: false, code: 'ECONNREFUSED' });
    expect(await c.probe('tcp', PEER, '7777')).toMatchObject({ ok: true });
    await c.remove();
  });

  it('deletes flows that are open when it comes', async () => {
    const flows = await Flows.start(lab, { name: 'open', labels: { 'drawbridge.lists': 'later' } }, [PEER]);
    await flows.moving();
    drawbridge.writeList('later.yaml', `allow: ["any", "!${PEER}"]\n`);
    await waitFor(
      'the open flows to stop',
      async () => {
        const since = Date.now() - 1_500;
        return (await flows.movedAfter(since)).length === 0;
      },
      15_000,
      250,
    );
  });
});
