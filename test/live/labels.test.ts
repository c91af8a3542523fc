/** Whose word counts: an image's own labels, and what stays with a container that is made anew. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Container, RunSpec } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';

const A = '93.184.70.1';
const B = '93.184.70.2';
const ENFORCED = { 'drawbridge.allow': '93.184.1.1:80' };

let lab: Lab;
let drawbridge: Drawbridge;
beforeAll(async () => {
  lab = await Lab.up({});
  drawbridge = lab.drawbridge({});
  await drawbridge.ready();
});
afterAll(() => lab?.down());

const reach = async (c: Container, host: string, port = 80): Promise<string> => {
  const r = await c.probe('tcp', host, port, '--timeout', 8000);
  return r.ok ? 'ok' : String(r.code);
};
interface View {
  readonly mode: string;
  readonly entries: readonly { readonly entry: string }[];
  readonly coverage: { readonly reasons: readonly string[] };
  readonly grants: readonly { readonly entry: string }[];
}
const view = async (name: string): Promise<View> =>
  JSON.parse((await drawbridge.get(`/v1/containers/${name}`)).body) as View;
async function grant(name: string, entry: string, time?: string): Promise<void> {
  const body = { entry, ...(time === undefined ? {} : { for: time }) };
  const r = await drawbridge.request('POST', `/v1/containers/${name}/grants`, body);
  expect(r.status).toBe(201);
}

describe('labels that come with the image', () => {
  it('mode=off does not loosen, and is said', async () => {
    const image = await lab.image('off:1', { labels: { 'drawbridge.mode': 'off' } });
    const c = await lab.start({ image, name: 'says-off', labels: ENFORCED });
    expect(await reach(c, A)).toBe('ECONNREFUSED');
    expect(await reach(c, '93.184.1.1')).toBe('ok');
    const shown = await view('says-off');
    expect(shown.mode).toBe('enforce');
    expect(shown.coverage.reasons.join(' ')).toMatch(/image/);
    await c.remove();
  });

  it('from the first instruction', async () => {
    const image = await lab.image('off:2', { labels: { 'drawbridge.mode': 'off', 'drawbridge.allow': A } });
    await lab.sniffer.clear();
    for (let i = 0; i < 4; i++)
      expect(
        await lab.runProbe({ image, labels: { 'drawbridge.mode': 'enforce' } }, 'tcp', A, 80),
      ).toMatchObject({
        code: 'ECONNREFUSED',
      });
    expect(await lab.sniffer.count({ direction: 'out', dst: A })).toBe(0);
  });

  it('allow enforces and adds nothing', async () => {
    const image = await lab.image('allows:1', { labels: { 'drawbridge.allow': `${A}, ${B}` } });
    const c = await lab.start({ image, name: 'says-allow' });
    expect((await view('says-allow')).mode).toBe('enforce');
    expect(await reach(c, A)).toBe('ECONNREFUSED');
    const both = await lab.start({ image, name: 'says-both', labels: { 'drawbridge.lists': 'none' } });
    expect(await reach(both, A)).toBe('ECONNREFUSED');
    for (const each of [c, both]) await each.remove();
  });

  it('control: the same labels on the container count', async () => {
    const allowed = await lab.start({ name: 'allowed', labels: { 'drawbridge.allow': A } });
    const off = await lab.start({ name: 'off', labels: { 'drawbridge.mode': 'off' } });
    expect([await reach(allowed, A), await reach(allowed, B), await reach(off, B)]).toEqual([
      'ok',
      'ECONNREFUSED',
      'ok',
    ]);
    for (const each of [allowed, off]) await each.remove();
  });

  it('with default enforce an image cannot free itself', async () => {
    const image = await lab.image('off:3', { labels: { 'drawbridge.mode': 'off' } });
    await drawbridge.stop();
    drawbridge.configure({ default: 'enforce' });
    drawbridge.start();
    await drawbridge.ready();
    const c = await lab.start({ image, name: 'by-default' });
    expect(await reach(c, A)).toBe('ECONNREFUSED');
    expect((await view('by-default')).mode).toBe('enforce');
    await c.remove();
    await drawbridge.stop();
    drawbridge.configure({});
    drawbridge.start();
    await drawbridge.ready();
  });

  it('a broken or unknown label enforces, with nothing allowed', async () => {
    for (const labels of [{ 'drawbridge.allow': 'https://a.org' }, { 'drawbridge.alow': A }]) {
      const c = await lab.start({ name: 'broken', labels });
      expect(await reach(c, A)).toBe('ECONNREFUSED');
      expect((await view('broken')).mode).toBe('enforce');
      expect((await view('broken')).coverage.reasons.join(' ')).toMatch(/drawbridge\.al/);
      await c.remove();
    }
  });
});

describe('what stays with a container that is made anew', () => {
  const service = { 'com.docker.compose.project': 'shop', 'com.docker.compose.service': 'web' };
  const again: readonly (readonly [string, RunSpec, RunSpec])[] = [
    ['its name', { name: 'keeper', labels: ENFORCED }, { name: 'keeper', labels: ENFORCED }],
    [
      'its compose service',
      { name: 'shop-web-1', labels: { ...ENFORCED, ...service } },
      { name: 'shop-web-2', labels: { ...ENFORCED, ...service } },
    ],
  ];
  it.each(again)(
    'open-ended grants and modes belong to %s, timed ones to the container',
    async (_, first, next) => {
      const before = await lab.start(first);
      const name = String(first.name);
      await grant(name, `${A}:80`);
      await grant(name, `${B}:80`, '10m');
      expect([await reach(before, A), await reach(before, B)]).toEqual(['ok', 'ok']);
      await lab.docker('restart', '-t', '1', name);
      expect([await reach(before, A), await reach(before, B)]).toEqual(['ok', 'ok']);
      await before.remove();
      const after = await lab.start(next);
      expect([await reach(after, A), await reach(after, B)]).toEqual(['ok', 'ECONNREFUSED']);
      expect((await view(String(next.name))).grants.map((g) => g.entry)).toEqual([`${A}:80`]);
      const other = await lab.start({
        name: 'another',
        labels: { ...ENFORCED, 'com.docker.compose.project': 'shop' },
      });
      expect(await reach(other, A)).toBe('ECONNREFUSED');
      for (const c of [after, other]) await c.remove();
    },
  );

  it('a mode set by API', async () => {
    const c = await lab.start({ name: 'moody', labels: ENFORCED });
    const put = (mode: string) => drawbridge.request('PUT', '/v1/containers/moody/mode', { mode });
    expect((await put('observe')).status).toBe(200);
    expect(await reach(c, A)).toBe('ok');
    await c.remove();
    const next = await lab.start({ name: 'moody', labels: ENFORCED });
    expect(await reach(next, A)).toBe('ok');
    expect((await put('auto')).status).toBe(200);
    expect(await reach(next, A)).toBe('ECONNREFUSED');
    await next.remove();
  });
});
