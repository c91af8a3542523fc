/** A connection that only a name entry permits must ask for a permitted name, whatever else its address serves. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Container } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';

const GOOD = 'good.example';
const EVIL = 'evil.example';
const SHARED = '93.184.7.1';
const SHARED6 = '2600:9000::7';

let lab: Lab;
let drawbridge: Drawbridge;
let checked: Container;
let free: Container;
beforeAll(async () => {
  lab = await Lab.up({ sniffer: false });
  await lab.dns.set({ [GOOD]: { A: [SHARED], AAAA: [SHARED6] }, [EVIL]: { A: [SHARED], AAAA: [SHARED6] } });
  drawbridge = lab.drawbridge({});
  await drawbridge.ready();
  const mounts = await lab.nodeMounts();
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
