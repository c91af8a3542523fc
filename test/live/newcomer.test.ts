/** A newcomer enforces a compose project by its preview: it lists what enforce denies, and nothing that passes. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { PreviewBody } from '../../src/api/schemas-traffic.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
import { listener } from './inside.js';
import { Shop, type Step } from './newcomer-support.js';

const SERVICES = ['proxy', 'web', 'worker', 'db', 'queue', 'monitoring'];
const HOST = '192.0.2.2';
const NAMES = '198.51.100.53';
/** Between services of the project: enforce lets it pass. */
const PASSES: readonly Step[] = [
  ['proxy', 'tcp', 'web', 8000],
  ['web', 'tcp', 'db', 5432],
  ['web', 'udp', 'queue', 5672],
  ['worker', 'tcp', 'queue', 5672],
  ['db', 'tcp', 'queue', 5672],
  ['queue', 'tcp', 'db', 5432],
  ['monitoring', 'tcp', 'web', 8000],
  ['monitoring', 'tcp', 'proxy', 8000],
];
/** What else they do, and the entry that permits it. */
const DENIED: readonly (readonly [step: Step, entry: string])[] = [
  [['worker', 'tcp', 'api.example.com', 443], 'api.example.com'],
  [['worker', 'tcp', 'files.example.com', 8443], 'files.example.com:8443'],
  [['worker', 'dns', NAMES, 'only.example.com', 'A'], 'only.example.com'],
  [['worker', 'udp', '93.184.7.7', 5000], '93.184.7.7:5000/udp'],
  [['monitoring', 'tcp', 'host.docker.internal', 9100], 'host:9100'],
  [['monitoring', 'tcp', HOST, 9090], 'host:9090'],
  [['monitoring', 'tcp', HOST, 8080], 'host:8080'],
  [['monitoring', 'tcp', 'legacy', 7000], 'container:legacy:7000'],
  [['monitoring', 'udp', 'legacy', 7001], 'container:legacy:7001/udp'],
];
const ALL = [...PASSES, ...DENIED.map(([step]) => step)];
const entriesOf = (service: string): string[] =>
  DENIED.filter(([step]) => step[0] === service)
    .map(([, entry]) => entry)
    .sort();

let lab: Lab;
let shop: Shop;
let drawbridge: Drawbridge;
beforeAll(async () => {
  lab = await Lab.up({});
  for (const tables of ['iptables', 'ip6tables']) // neighbours of one bridge speak past FORWARD
    await lab.inHost(['sysctl', '-qew', `net.bridge.bridge-nf-call-${tables}=0`], { check: true });
  await lab.dns.set({
    'api.example.com': { A: ['93.184.1.1'] },
    'files.example.com': { A: ['93.184.1.2'] },
    'only.example.com': { A: ['93.184.1.3'] },
  });
  shop = await Shop.prepare(lab, await lab.image('shop', {}));
  drawbridge = lab.drawbridge({});
  await drawbridge.ready();
  await waitFor('the record to begin', async () => {
    const { recordedUntil } = JSON.parse((await drawbridge.get('/v1/flows?limit=1')).body);
    return recordedUntil !== null;
  });
  await lab.docker('network', 'create', 'other');
  await Promise.all([
    listener(lab, [9100], { network: 'host', labels: { 'drawbridge.mode': 'off' } }),
    listener(lab, [9000], { name: 'other-app', network: 'other', args: ['-p', '9090:9000'] }),
    shop.run('up', '-d'),
  ]);
  await listener(lab, [7000, 7001], { name: 'legacy', network: 'shop_default' });
}, 180_000);
afterAll(() => lab?.down());

async function preview(service: string): Promise<PreviewBody> {
  const r = await drawbridge.get(`/v1/containers/shop-${service}-1/preview`);
  if (r.status !== 200) throw new Error(`${service}: ${r.status} ${r.body}`);
  return JSON.parse(r.body) as PreviewBody;
}
const proposed = async (service: string): Promise<string[]> =>
  (await preview(service)).destinations.map((d) => d.entry ?? `${d.address}:${d.port}/${d.proto}`).sort();
const proposals = async () =>
  Object.fromEntries(await Promise.all(SERVICES.map(async (s) => [s, await proposed(s)] as const)));
const EXPECTED = Object.fromEntries(SERVICES.map((s) => [s, entriesOf(s)]));
async function must(method: string, path: string, body: unknown): Promise<unknown> {
  const r = await drawbridge.request(method, path, body);
  if (r.status >= 300) throw new Error(`${method} ${path}: ${r.status} ${r.body}`);
  return JSON.parse(r.body);
}

describe('a project of six services', () => {
  it('works while it is observed', async () => {
    expect(await shop.failures(ALL)).toEqual([]);
  });

  it('is previewed: what enforce denies, as entries, and nothing that passes', async () => {
    await waitFor(
      'the last packets to be recorded',
      async () =>
        (await proposed('monitoring')).length === entriesOf('monitoring').length &&
        (await proposed('worker')).length === entriesOf('worker').length,
    ).catch(() => undefined); // the comparison shows what is there
    expect(await proposals()).toEqual(EXPECTED);
    const { destinations, recordingSince, gaps, dropped, owner, mode, to } = await preview('monitoring');
    expect([owner, mode, to, gaps, dropped]).toEqual([
      'compose:shop/monitoring',
      'observe',
      'enforce',
      [],
      0,
    ]);
    expect(Date.parse(recordingSince ?? '')).toBeLessThanOrEqual(Date.now());
    expect((await preview('monitoring')).notRecorded.join('\n')).toMatch(
      /^the names that its connections ask for are not seen while it is observed/m,
    );
    const kinds = Object.fromEntries(destinations.map((d) => [d.entry, [d.kind, d.name]]));
    expect(kinds).toMatchObject({
      'host:9100': ['host', null],
      'host:9090': ['published', 'other-app'],
      'host:8080': ['published', 'shop-proxy-1'],
      'container:legacy:7000': ['neighbour', 'legacy'],
    });
  });

  it('is remembered when the service restarts, which is said, and when a container is recreated', async () => {
    await drawbridge.restart();
    await shop.run('up', '-d', '--force-recreate', '--no-deps', 'monitoring');
    await waitFor('the new container', async () => (await preview('monitoring')).recordingSince !== null);
    expect(await proposals()).toEqual(EXPECTED);
    const { gaps } = await preview('worker');
    expect(gaps).toMatchObject([{ reason: expect.stringMatching(/^the service was not running/) }]);
  });

  it('is denied exactly that', async () => {
    const answers = await Promise.all(
      SERVICES.map((s) => must('PUT', `/v1/containers/shop-${s}-1/mode?dryRun=true`, { mode: 'enforce' })),
    );
    expect(answers).toHaveLength(SERVICES.length);
    expect((await preview('worker')).mode).toBe('observe');
    for (const s of SERVICES) await must('PUT', `/v1/containers/shop-${s}-1/mode`, { mode: 'enforce' });
    expect(await shop.failures(ALL)).toEqual(DENIED.map(([step]) => step.join(' ')).sort());
  });

  it('works again with the entries of its preview', async () => {
    for (const s of SERVICES)
      for (const entry of entriesOf(s)) await must('POST', `/v1/containers/shop-${s}-1/grants`, { entry });
    expect(await shop.failures(ALL)).toEqual([]);
    for (const s of SERVICES) await must('PUT', `/v1/containers/shop-${s}-1/mode`, { mode: 'observe' });
    expect(await proposals()).toEqual(Object.fromEntries(SERVICES.map((s) => [s, []])));
  });
});
