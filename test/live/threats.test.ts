/** Threat feeds in force: whatever a container's mode and entries, listed addresses and names are not reached. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Container } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
import { Flows } from './flows.js';
import { listener } from './inside.js';

const BAD = ['93.184.66.1', '93.184.67.9', '2600:9000:66::1', '2600:9000:67::9'];
const LISTED = ['93.184.66.1', '93.184.67.0/24', '2600:9000:66::1', '2600:9000:67::/48'];
/** Listed later, when flows to them are alive. */
const LATER = ['93.184.69.1', '2600:9000:69::1'];
const FINE = ['93.184.70.1', '2600:9000:70::1'];
const WATCHED = '93.184.68.1';
const MODES = ['enforce', 'observe', 'off', 'host'] as const;
type Kind = (typeof MODES)[number];
const ALLOW = 'any:1-65535/tcp+udp, .exp.test:7777';
const specOf = (kind: Kind) => ({
  name: `in-${kind}`,
  ...(kind === 'host' ? { network: 'host' } : { network: 'user' }),
  labels: {
    'drawbridge.mode': kind === 'host' ? 'enforce' : kind,
    ...(kind === 'enforce' || kind === 'host' ? { 'drawbridge.allow': ALLOW } : {}),
  },
});
/** Spec: within a second. */
const CUT_MS = 1_000;
const WATCH_MS = 2_500;

let lab: Lab;
let drawbridge: Drawbridge;
const containers = new Map<Kind, Container>();
const of = (kind: Kind): Container => containers.get(kind) as Container;
const feedFile = (name: string): string => join(lab.dir, `${name}.txt`);
const write = (name: string, lines: readonly string[]): void =>
  writeFileSync(feedFile(name), ['# a feed', ...lines, ''].join('\n'));

async function api<T>(method: string, path: string): Promise<T> {
  const r = await drawbridge.request(method, path);
  if (r.status >= 300) throw new Error(`${method} ${path}: ${r.status} ${r.body}`);
  return JSON.parse(r.body) as T;
}
/** In force when it returns. */
async function publish(name: string, lines: readonly string[]): Promise<void> {
  write(name, lines);
  const r = await drawbridge.cli(['feeds', 'sync', name]);
  if (r.code !== 0) throw new Error(`feeds sync ${name}: ${r.code} ${r.stdout}${r.stderr}`);
}
const reach = async (c: Container, host: string) =>
  (await c.probe('tcp', host, 7777, '--timeout', 6000)).code ?? 'ok';
interface Denial {
  readonly container: string;
  readonly verdict: string;
  readonly address: string;
  readonly name: string | null;
  readonly reason: string;
}
const flows = async (c: Container): Promise<readonly Denial[]> =>
  (await api<{ items: Denial[] }>('GET', `/v1/flows?container=${c.name}&limit=999`)).items;

/** From an address of the internet's to a published port. */
async function knock(source: string): Promise<string> {
  const script = join(import.meta.dirname, 'inside.mjs');
  return (await lab.inNet([process.execPath, script, 'from', source, lab.addresses.host4, '8088'])).stdout;
}

beforeAll(async () => {
  lab = await Lab.up({});
  await lab.docker('network', 'create', '--ipv6', 'user');
  await lab.dns.set({
    'good.exp.test': { A: [FINE[0] as string], AAAA: [FINE[1] as string] },
    'bad.exp.test': { A: ['93.184.70.2'] },
    'deep.bad.exp.test': { A: ['93.184.70.2'] },
    'alias.exp.test': { CNAME: 'bad.exp.test' },
    'mixed.exp.test': { A: ['93.184.66.1', '93.184.70.3'] },
    'seen.exp.test': { A: ['93.184.70.4'] },
    'later.exp.test': { A: ['93.184.71.1'] },
  });
  for (const name of ['addresses', 'names', 'watched']) write(name, []);
  const feed = (name: string, more: object) => ({
    name,
    url: `file://${feedFile(name)}`,
    every: '1d',
    minInterval: '0s',
    guards: { minEntries: 0 },
    ...more,
  });
  drawbridge = lab.drawbridge({
    config: {
      threats: {
        feeds: [
          feed('addresses', { format: 'netset' }),
          feed('names', { format: 'domains' }),
          feed('watched', { format: 'domains', action: 'observe' }),
        ],
      },
    },
  });
  await drawbridge.ready();
  for (const kind of MODES) containers.set(kind, await lab.start(specOf(kind)));
  await listener(lab, [7777], { network: 'user', name: 'service', args: ['-p', '8088:7777'] });
});
afterAll(() => lab?.down());

describe.sequential('threat feeds', () => {
  it('control: what no feed lists is reached', async () => {
    for (const kind of MODES)
      for (const bad of [...BAD, ...LATER])
        expect([kind, bad, await reach(of(kind), bad)]).toEqual([kind, bad, 'ok']);
    for (const kind of MODES) expect(await reach(of(kind), 'deep.bad.exp.test')).toBe('ok');
    expect(await knock('93.184.66.1')).toContain('"ok"');
  });

  it('a bad address, network or name is refused in every mode, at once, and what is fine is not', async () => {
    await publish('addresses', LISTED);
    await publish('names', ['bad.exp.test']);
    await publish('watched', ['seen.exp.test', WATCHED]);
    const since = Date.now();
    await Promise.all(
      MODES.map(async (kind) => {
        for (const bad of BAD)
          expect([kind, bad, await reach(of(kind), bad)]).toEqual([kind, bad, 'ECONNREFUSED']);
        for (const fine of [...FINE, 'good.exp.test', WATCHED])
          expect([kind, fine, await reach(of(kind), fine)]).toEqual([kind, fine, 'ok']);
      }),
    );
    expect(await lab.sniffer.count({ direction: 'out', dst: BAD, since })).toBe(0);
    const status = await api<{ threats: { entries: number; feeds: number } }>('GET', '/v1/status');
    expect(status.threats.feeds).toBe(3);
    expect(status.threats.entries).toBeGreaterThanOrEqual(LISTED.length);
  });

  it('bad names get NXDOMAIN and are asked of nobody; what leads to one is not told; a bad address is left out', async () => {
    await lab.dns.clearLog();
    for (const kind of ['enforce', 'observe', 'host'] as const)
      for (const name of ['bad.exp.test', 'deep.bad.exp.test', 'DEEP.BAD.exp.test'])
        expect([kind, name, await reach(of(kind), name)]).toEqual([kind, name, 'ENOTFOUND']);
    expect(await lab.dns.queries('bad.exp.test')).toEqual([]);
    for (const kind of ['enforce', 'observe'] as const)
      expect(await reach(of(kind), 'alias.exp.test')).toBe('ENOTFOUND');
    expect(await reach(of('enforce'), 'mixed.exp.test')).toBe('ok');
    // in mode off DNS is nobody's to touch
    expect(await reach(of('off'), 'bad.exp.test')).toBe('ok');
  });

  it('is told: in flows, ps and explain, with the feed, its line and the remedy; watched ones are counted only', async () => {
    expect(await reach(of('enforce'), 'seen.exp.test')).toBe('ok');
    for (const kind of MODES) {
      const told = await flows(of(kind));
      expect(
        told.filter((d) => d.verdict === 'threat' && d.address === '93.184.67.9').map((d) => d.reason)[0],
      ).toMatch(/threat feed addresses lists 93\.184\.67\.0\/24 \(line 3, since /);
      expect(told.some((d) => d.verdict === 'would-deny' && d.address === WATCHED)).toBe(true);
      const shown = await api<{ denied: number }>('GET', `/v1/containers/${of(kind).name}`);
      expect(shown.denied).toBeGreaterThanOrEqual(BAD.length);
    }
    const seen = (await flows(of('enforce'))).find((d) => d.name === 'seen.exp.test');
    expect(seen).toMatchObject({ verdict: 'would-deny', reason: expect.stringContaining('action observe') });
    for (const [to, kind] of [
      ['93.184.67.9', 'off'],
      ['deep.bad.exp.test', 'enforce'],
      ['2600:9000:66::1', 'observe'],
    ] as const) {
      const said = await api('GET', `/v1/explain?container=${of(kind).name}&to=${encodeURIComponent(to)}`);
      expect(said).toMatchObject({
        verdict: 'threat',
        remedy: expect.stringContaining('threats.exceptions'),
      });
    }
  });

  it('from outside by source', async () => {
    expect(await knock('93.184.70.1')).toContain('"ok"');
    expect(await knock('93.184.66.1')).not.toContain('"ok"');
    const told = await api<{ items: Denial[] }>('GET', '/v1/flows?container=service&limit=99');
    expect(told.items[0]).toMatchObject({
      verdict: 'threat',
      address: '93.184.66.1',
      reason: expect.stringMatching(/^from outside: /),
    });
  });

  it('live flows to what becomes bad end within a second; a name that becomes bad loses its addresses', async () => {
    const live = await Promise.all(
      MODES.map((kind) => Flows.start(lab, { ...specOf(kind), name: `live-${kind}` }, LATER)),
    );
    const reached = await lab.start({
      network: 'user',
      name: 'by-name',
      labels: { 'drawbridge.allow': '.exp.test:7777' },
    });
    expect(await reach(reached, 'later.exp.test')).toBe('ok');
    expect(await reach(reached, '93.184.71.1')).toBe('ok');
    for (const f of live) await f.moving();
    await publish('addresses', [...LISTED, ...LATER]);
    const from = Date.now();
    await publish('names', ['bad.exp.test', 'later.exp.test']);
    expect(await reach(reached, '93.184.71.1')).toBe('ECONNREFUSED');
    await delay(Math.max(0, from + WATCH_MS - Date.now()));
    for (const f of live)
      expect([f.container.name, await f.movedAfter(from + CUT_MS)]).toEqual([f.container.name, []]);
    const out = await lab.sniffer.packets({
      direction: 'out',
      proto: ['tcp', 'udp'],
      dst: LATER,
      since: from + CUT_MS,
    });
    expect(out.map((p) => `${p.proto} ${p.dport} ${p.flags ?? ''}`)).toEqual([]);
  });

  it('sets that somebody empties are filled again; and a restart leaves no moment open', async () => {
    await lab.inHost(['ipset', 'flush', 'DB-threat-ip4'], { check: true });
    await waitFor(
      'the repair',
      async () => (await reach(of('off'), '93.184.66.1')) === 'ECONNREFUSED',
      10_000,
    );
    const since = Date.now();
    drawbridge.kill('SIGKILL');
    await drawbridge.exited();
    for (const bad of BAD) expect([bad, await reach(of('off'), bad)]).toEqual([bad, 'ECONNREFUSED']);
    drawbridge.start();
    const tries = async (): Promise<void> => {
      for (let n = 0; n < 20; n++) expect(await reach(of('off'), '93.184.66.1')).toBe('ECONNREFUSED');
    };
    await Promise.all([drawbridge.ready(), tries()]);
    expect(await reach(of('enforce'), 'bad.exp.test')).toBe('ENOTFOUND');
    expect(await lab.sniffer.count({ direction: 'out', dst: BAD, since })).toBe(0);
  });

  it('what is listed no more is reached again', async () => {
    await publish('addresses', ['93.184.99.1']);
    for (const kind of MODES) expect(await reach(of(kind), '93.184.66.1')).toBe('ok');
  });
});
