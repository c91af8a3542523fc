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
/** Of feeds of one direction: who may not come in, and where nobody may go. */
const COMERS = ['93.184.72.1', '2600:9000:72::1'];
const GOALS = ['93.184.73.1', '2600:9000:73::1'];
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
/** Live flows from outside, from before a version comes until it is judged. */
const HOLD_MS = 10_000;

let lab: Lab;
let drawbridge: Drawbridge;
let service: Container;
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

/** What a program says that runs on the internet and comes to the published port. */
async function fromNet(command: string, ...words: (string | number)[]): Promise<string> {
  const script = join(import.meta.dirname, 'inside.mjs');
  return (await lab.inNet([process.execPath, script, command, ...words.map(String)])).stdout;
}
const hostFor = (source: string): string =>
  source.includes(':') ? lab.addresses.host6 : lab.addresses.host4;
/** From an address of the internet's to a published port. */
const knock = (source: string): Promise<string> => fromNet('from', source, hostFor(source), 8088);
/** When what they send to the published port was last echoed, for each of these of one family. */
async function hold(ms: number, sources: readonly string[]): Promise<Record<string, number>> {
  return JSON.parse(await fromNet('hold', ms, hostFor(sources[0] ?? ''), 8088, ...sources)).last;
}

beforeAll(async () => {
  lab = await Lab.up({});
  await lab.docker('network', 'create', '--ipv6', 'user');
  // What answers at any address sends from any in IPv4 only.
  for (const six of [COMERS[1], GOALS[1]])
    await lab.inNet(['ip', 'address', 'add', `${six}/128`, 'dev', 'lo', 'nodad'], { check: true });
  await lab.dns.set({
    'good.exp.test': { A: [FINE[0] as string], AAAA: [FINE[1] as string] },
    'bad.exp.test': { A: ['93.184.70.2'] },
    'deep.bad.exp.test': { A: ['93.184.70.2'] },
    'alias.exp.test': { CNAME: 'bad.exp.test' },
    'mixed.exp.test': { A: ['93.184.66.1', '93.184.70.3'] },
    'seen.exp.test': { A: ['93.184.70.4'] },
    'later.exp.test': { A: ['93.184.71.1'] },
  });
  for (const name of ['addresses', 'names', 'watched', 'comers', 'goals']) write(name, []);
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
          feed('comers', { format: 'netset', direction: 'inbound' }),
          feed('goals', { format: 'netset', direction: 'outbound' }),
        ],
      },
    },
  });
  await drawbridge.ready();
  for (const kind of MODES) containers.set(kind, await lab.start(specOf(kind)));
  service = await listener(lab, [7777], { network: 'user', name: 'service', args: ['-p', '8088:7777'] });
});
afterAll(() => lab?.down());

describe.sequential('threat feeds', () => {
  it('control: what no feed lists is reached', async () => {
    for (const kind of MODES)
      for (const bad of [...BAD, ...LATER])
        expect([kind, bad, await reach(of(kind), bad)]).toEqual([kind, bad, 'ok']);
    for (const kind of MODES) expect(await reach(of(kind), 'deep.bad.exp.test')).toBe('ok');
    for (const source of ['93.184.66.1', ...COMERS, ...GOALS])
      expect([source, await knock(source)]).toEqual([source, expect.stringContaining('"ok"')]);
    for (const to of [...COMERS, ...GOALS]) expect([to, await reach(of('off'), to)]).toEqual([to, 'ok']);
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
    const out = await lab.sniffer.packets({ direction: 'out', dst: BAD, since });
    expect(out.map((p) => `${p.proto} ${p.dst}:${p.dport} ${p.flags ?? ''}`)).toEqual([]);
    const threats = async () =>
      (await api<{ threats: { entries: number; feeds: number } }>('GET', '/v1/status')).threats;
    await waitFor('all feeds', async () => (await threats()).feeds === 5);
    expect((await threats()).entries).toBeGreaterThanOrEqual(LISTED.length);
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
    const watched = (await flows(of('enforce'))).filter((d) => d.verdict === 'would-deny');
    const seen = watched.find((d) => d.name === 'seen.exp.test');
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

  it('of direction inbound ends and refuses what comes in from there, outbound what goes there, and neither the other', async () => {
    const ends = [0, 1].map((n) => hold(HOLD_MS, [COMERS[n] ?? '', GOALS[n] ?? '']));
    const all = [...COMERS, ...GOALS];
    await waitFor('the flows to come in', async () => {
      const logs = await service.logs();
      return all.every((source) => (logs.match(new RegExp(`[":]${source}"`, 'g'))?.length ?? 0) > 1);
    });
    await publish('goals', GOALS);
    await publish('comers', COMERS);
    const published = Date.now();
    for (const source of COMERS)
      expect([source, await knock(source)]).toEqual([source, expect.not.stringContaining('"ok"')]);
    for (const source of GOALS)
      expect([source, await knock(source)]).toEqual([source, expect.stringContaining('"ok"')]);
    await Promise.all(
      MODES.map(async (kind) => {
        for (const to of COMERS) expect([kind, to, await reach(of(kind), to)]).toEqual([kind, to, 'ok']);
        for (const to of GOALS)
          expect([kind, to, await reach(of(kind), to)]).toEqual([kind, to, 'ECONNREFUSED']);
      }),
    );
    const last = Object.assign({}, ...(await Promise.all(ends)));
    for (const source of COMERS) expect(last[source]).toBeLessThan(published + CUT_MS);
    for (const source of GOALS) expect(last[source]).toBeGreaterThan(published + CUT_MS);
    const told = await flows(service);
    expect(told.find((d) => d.address === COMERS[0])).toMatchObject({
      verdict: 'threat',
      reason: expect.stringMatching(/^from outside: threat feed comers lists /),
    });
    expect(told.some((d) => GOALS.includes(d.address))).toBe(false);
    const [comer, goal] = await Promise.all(
      [COMERS, GOALS].map(([address]) => api<object>('GET', `/v1/threats/${address}`)),
    );
    expect(comer).toMatchObject({ verdict: 'block', hits: [{ feed: 'comers', direction: 'inbound' }] });
    expect(goal).toMatchObject({ verdict: 'block', hits: [{ feed: 'goals', direction: 'outbound' }] });
    const explained = async (to: string) =>
      (await api<{ verdict: string }>('GET', `/v1/explain?container=in-enforce&to=${to}:7777`)).verdict;
    expect([await explained(COMERS[0] ?? ''), await explained(GOALS[0] ?? '')]).toEqual(['allow', 'threat']);
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
    await waitFor(
      'the connections of the empty moment to be deleted',
      async () => (await lab.inHost(['conntrack', '-L', '-d', '93.184.66.1'], { check: true })).stdout === '',
      CUT_MS * 10,
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
    const out = await lab.sniffer.packets({ direction: 'out', dst: BAD, since });
    expect(out.map((p) => `${p.time - since} ms: ${p.proto} ${p.dst}:${p.dport} ${p.flags ?? ''}`)).toEqual(
      [],
    );
  });

  it('what is listed no more is reached again', async () => {
    await publish('addresses', ['93.184.99.1']);
    for (const kind of MODES) expect(await reach(of(kind), '93.184.66.1')).toBe('ok');
  });
});
