/** What `explain` says is what happens, and what `ps` counts is what was tried. */
import { readdir, readFile } from 'node:fs/promises';
import { request } from 'node:http';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Container } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
import { listener } from './inside.js';
import type { Probe } from './policy-cases.js';

const PORT = 7070;
const TOKEN = 'a-token-that-reads';

interface Explained {
  readonly verdict: string;
  readonly reason: string;
  readonly entry: string | null;
  readonly list: string | null;
  readonly remedy: string | null;
}
interface Shown {
  readonly addresses: readonly string[];
  readonly allowed: number;
  readonly denied: number;
  readonly entries: readonly {
    readonly entry: string;
    readonly addresses: readonly string[];
    readonly packets: number;
  }[];
}
const ALLOW = [
  'api.exp.test',
  '*.wild.exp.test:8000',
  '93.184.80.0/24:80-90',
  '93.184.81.1',
  '[2600:9000:80::/48]:443',
  'any:8443',
  'host:9126',
  'container:db:5432',
  '93.184.82.1:5000/udp',
  '93.184.83.1/icmp',
  'list:nested',
].join(', ');

let lab: Lab;
let drawbridge: Drawbridge;
let app: Container;
beforeAll(async () => {
  lab = await Lab.up({});
  await lab.docker('network', 'create', '--ipv6', 'user');
  await lab.dns.set({
    'api.exp.test': { A: ['93.184.84.1'] },
    '*.wild.exp.test': { A: ['93.184.84.2'], AAAA: ['2600:9000:84::2'] },
    'nested.exp.test': { A: ['93.184.84.3'] },
    'base.exp.test': { A: ['93.184.84.4'] },
    'denied.exp.test': { A: ['93.184.84.5'] },
  });
  const lists = {
    'nested.yaml': 'allow: [nested.exp.test]\n',
    'everyone.yaml': 'allow: [base.exp.test]\n',
  };
  const api = { listen: `127.0.0.1:${PORT}`, tokens: [{ name: 'reader', role: 'read', token: TOKEN }] };
  drawbridge = lab.drawbridge({ lists, config: { baseline: ['everyone'], api } });
  await drawbridge.ready();
  await listener(lab, [9126, 9127], { network: 'host', labels: { 'drawbridge.mode': 'off' } });
  await listener(lab, [5432, 5433], { network: 'user', name: 'db' });
  app = await lab.start({ network: 'user', name: 'app', labels: { 'drawbridge.allow': ALLOW } });
});
afterAll(() => lab?.down());

async function explain(container: string, to: string): Promise<Explained> {
  const r = await drawbridge.get(`/v1/explain?container=${container}&to=${encodeURIComponent(to)}`);
  if (r.status !== 200) throw new Error(`${to}: ${r.status} ${r.body}`);
  return JSON.parse(r.body) as Explained;
}
async function shown(container: string): Promise<Shown> {
  return JSON.parse((await drawbridge.get(`/v1/containers/${container}`)).body) as Shown;
}
async function happens(c: Container, probe: Probe): Promise<string> {
  if (probe[0] === 'ping') {
    const r = await c.exec(['ping', '-c', '1', '-W', '5', String(probe[1])]);
    return r.code === 0 ? 'allow' : 'deny';
  }
  return (await c.probe(...probe, '--timeout', 6000)).ok ? 'allow' : 'deny';
}
const tcp = (host: string, port: number): Probe => ['tcp', host, port];

/** Destination as `explain` takes it · the same as an attempt · the entry that decides, its list. */
type Row = readonly [to: string, probe: Probe, entry: string | null, list?: string];
const matrix: readonly Row[] = [
  ['api.exp.test', tcp('api.exp.test', 443), 'api.exp.test'],
  ['api.exp.test:80', tcp('api.exp.test', 80), 'api.exp.test'],
  ['api.exp.test:8080', tcp('api.exp.test', 8080), null],
  ['93.184.84.1:443', tcp('93.184.84.1', 443), 'api.exp.test'],
  ['denied.exp.test', tcp('denied.exp.test', 443), null],
  ['a.wild.exp.test:8000', tcp('a.wild.exp.test', 8000), '*.wild.exp.test:8000'],
  ['wild.exp.test:8000', tcp('wild.exp.test', 8000), null],
  ['nested.exp.test', tcp('nested.exp.test', 443), 'nested.exp.test', 'nested'],
  ['base.exp.test:80', tcp('base.exp.test', 80), 'base.exp.test', 'everyone'],
  ['93.184.80.7:85', tcp('93.184.80.7', 85), '93.184.80.0/24:80-90'],
  ['93.184.80.7:91', tcp('93.184.80.7', 91), null],
  ['93.184.81.1:9', tcp('93.184.81.1', 81), '93.184.81.1'],
  ['93.184.81.1:99/udp', ['udp', '93.184.81.1', 99], '93.184.81.1'],
  ['93.184.81.1/icmp', ['ping', '93.184.81.1'], '93.184.81.1'],
  ['93.184.81.2:80', tcp('93.184.81.2', 80), null],
  ['[2600:9000:80::5]:443', tcp('2600:9000:80::5', 443), '[2600:9000:80::/48]:443'],
  ['[2600:9000:80::5]:444', tcp('2600:9000:80::5', 444), null],
  ['93.184.89.1:8443', tcp('93.184.89.1', 8443), 'any:8443'],
  ['10.200.1.1:8443', tcp('10.200.1.1', 8443), null],
  ['169.254.169.254:8443', tcp('169.254.169.254', 8443), null],
  ['host:9126', tcp('192.0.2.2', 9126), 'host:9126'],
  ['host:9127', tcp('192.0.2.2', 9127), null],
  ['192.0.2.2:9127', tcp('192.0.2.2', 9127), null],
  ['container:db:5432', tcp('db', 5432), 'container:db:5432'],
  ['container:db:5433', tcp('db', 5433), null],
  ['93.184.82.1:5000/udp', ['udp', '93.184.82.1', 5000], '93.184.82.1:5000/udp'],
  ['93.184.82.1:5001/udp', ['udp', '93.184.82.1', 5001], null],
  ['93.184.82.1:5000', tcp('93.184.82.1', 5000), null],
  ['93.184.83.1/icmp', ['ping', '93.184.83.1'], '93.184.83.1/icmp'],
  ['93.184.83.2/icmp', ['ping', '93.184.83.2'], null],
];

/** An address of the host needs a host: entry; for credentials of the host no command is offered. */
function remedyFor(to: string): RegExp {
  if (to.startsWith('169.254.')) return /^leave it denied/;
  const entry = to.replace('192.0.2.2:', 'host:').replace(/[[\]*.]/g, '\\$&');
  return new RegExp(`^drawbridge allow app ${entry} --for 1h$`);
}

describe('explain', () => {
  it.each(matrix.map((row) => ({ to: row[0], row })))('$to', async ({ row: [to, probe, entry, list] }) => {
    // the address of a name is permitted once it was told: as it happens, the question comes first
    const real = await happens(app, probe);
    const said = await explain('app', to);
    expect({ verdict: said.verdict, entry: said.entry, list: said.list }).toEqual({
      verdict: real,
      entry,
      list: list ?? null,
    });
    expect(real).toBe(entry === null ? 'deny' : 'allow');
    if (entry === null) expect(said.remedy).toMatch(remedyFor(to));
  });

  it('says of a name that was not asked yet what will become of it', async () => {
    const c = await lab.start({
      network: 'user',
      name: 'fresh',
      labels: { 'drawbridge.allow': 'api.exp.test' },
    });
    // The container runs before Drawbridge has received the event.
    const known = '/v1/explain?container=fresh&to=api.exp.test';
    await waitFor('its place on the network', async () => (await drawbridge.get(known)).status === 200);
    expect(await explain('fresh', 'api.exp.test')).toMatchObject({ verdict: 'allow', entry: 'api.exp.test' });
    expect(await explain('fresh', 'api.exp.test:8080')).toMatchObject({ verdict: 'deny' });
    expect(await explain('fresh', '93.184.84.1:443')).toMatchObject({ verdict: 'deny' });
    expect(await happens(c, tcp('93.184.84.1', 443))).toBe('deny');
    expect(await happens(c, tcp('api.exp.test', 443))).toBe('allow');
    expect(await explain('fresh', '93.184.84.1:443')).toMatchObject({
      verdict: 'allow',
      entry: 'api.exp.test',
    });
    expect((await shown('fresh')).entries).toMatchObject([
      { entry: 'api.exp.test', addresses: ['93.184.84.1'] },
      { entry: 'base.exp.test' },
    ]);
    await c.remove();
  });

  it('the remedy, done as it is printed, is one', async () => {
    const name = 'cured';
    const c = await lab.start({ network: 'user', name, labels: { 'drawbridge.allow': '93.184.1.1:80' } });
    const cases: readonly (readonly [string, Probe])[] = [
      ['denied.exp.test', tcp('denied.exp.test', 443)],
      ['93.184.85.1:8080', tcp('93.184.85.1', 8080)],
      ['[2600:9000:85::1]:80', tcp('2600:9000:85::1', 80)],
      ['192.0.2.2:9126', tcp('192.0.2.2', 9126)],
    ];
    for (const [to, probe] of cases) {
      const before = await drawbridge.cli(['explain', name, to, '--exit-code']);
      expect(before.code).toBe(1);
      expect(await happens(c, probe)).toBe('deny');
      const { remedy } = await explain(name, to);
      expect(before.stdout).toContain(remedy);
      const [program, ...words] = (remedy ?? '').split(' ');
      expect(program).toBe('drawbridge');
      expect((await drawbridge.cli(words)).code).toBe(0);
      expect(await happens(c, probe)).toBe('allow');
      const after = await drawbridge.cli(['explain', name, to, '--exit-code']);
      expect(after.code).toBe(0);
      expect(after.stdout).toMatch(/grant/);
    }
    await c.remove();
  });

  it('of observed containers and of those in mode off', async () => {
    const watched = await lab.start({ network: 'user', name: 'watched' });
    const off = await lab.start({ network: 'user', name: 'off', labels: { 'drawbridge.mode': 'off' } });
    for (const c of [watched, off]) expect(await happens(c, tcp('denied.exp.test', 443))).toBe('allow');
    expect(await explain('watched', 'denied.exp.test')).toMatchObject({
      verdict: 'allow',
      reason: expect.stringContaining('enforce would deny'),
    });
    expect(await explain('off', 'denied.exp.test')).toMatchObject({ verdict: 'allow' });
    for (const c of [watched, off]) await c.remove();
  });
});

describe('ps', () => {
  it('counts what was allowed and what was denied, and keeps counting over a change', async () => {
    const name = 'counted';
    const labels = { 'drawbridge.allow': '93.184.86.1:80, 93.184.86.2:80' };
    const c = await lab.start({ network: 'user', name, labels });
    for (let i = 0; i < 3; i++) expect(await happens(c, tcp('93.184.86.1', 80))).toBe('allow');
    for (let i = 0; i < 2; i++) expect(await happens(c, tcp('93.184.86.9', 80))).toBe('deny');
    await c.probe('dns', '8.8.8.8', 'denied.exp.test', 'A');
    // a connection of the last second may be missing
    await waitFor('the third', async () => (await shown(name)).allowed >= 3, 5000);
    expect(await shown(name)).toMatchObject({ allowed: 3, denied: 3 });
    const line = (await drawbridge.cli(['ps'])).stdout.split('\n').find((l) => l.includes(name));
    expect(line).toMatch(/enforce.*\b3\b.*\b3\b/);
    await drawbridge.request('POST', `/v1/containers/${name}/grants`, { entry: '93.184.86.3:80' });
    expect(await happens(c, tcp('93.184.86.3', 80))).toBe('allow');
    await waitFor('the fourth', async () => (await shown(name)).allowed >= 4, 5000);
    expect(await shown(name)).toMatchObject({ allowed: 4, denied: 3 });
    const second = 'counted-second';
    await lab.docker('network', 'create', '--ipv6', second);
    await lab.docker('network', 'connect', second, name);
    await waitFor('its addresses there', async () => (await shown(name)).addresses.length === 4, 5000);
    // the permits for ICMP errors of the new addresses come in the pass after theirs
    await waitFor(
      'a plan without lines',
      async () => (await drawbridge.cli(['plan', '--exit-code'])).code === 0,
      10_000,
    );
    expect(await shown(name)).toMatchObject({ allowed: 4, denied: 3 });
    await c.remove();
    await lab.docker('network', 'rm', second);
  });

  it('denials are told as they happen, with the name that was told for the address', async () => {
    const labels = { 'drawbridge.allow': 'api.exp.test' };
    const c = await lab.start({ network: 'user', name: 'teller', labels });
    let told = '';
    const stream = request({ socketPath: drawbridge.apiSocket, path: '/v1/events' }, (res) =>
      res.on('data', (d: Buffer) => {
        told += d.toString();
      }),
    );
    stream.on('error', () => undefined); // it is cut below
    stream.end();
    await waitFor('the stream to begin', () => told !== '');
    expect(await happens(c, tcp('api.exp.test', 8080))).toBe('deny');
    expect(await happens(c, tcp('denied.exp.test', 443))).toBe('deny');
    await waitFor('both', () => told.includes('"port":8080') && told.includes('"denied.exp.test"'));
    stream.destroy();
    const events = told
      .split('\n')
      .flatMap((l) => (l.startsWith('data: ') ? [JSON.parse(l.slice(6)) as object] : []));
    expect(events).toContainEqual(
      expect.objectContaining({
        container: 'teller',
        verdict: 'deny',
        proto: 'tcp',
        address: '93.184.84.1',
        port: 8080,
        name: 'api.exp.test',
      }),
    );
    await c.remove();
  });
});

it('the service goes before the processes of other sessions, and its thread for new namespaces before all', async () => {
  const proc = `/proc/${drawbridge.pid}`;
  const autogroup = await readFile(`${proc}/autogroup`, 'utf8').catch(() => 'no autogroups: nice -10');
  expect(autogroup).toMatch(/nice -10$/m);
  const niceOf = async (tid: string): Promise<number> =>
    Number((await readFile(`${proc}/task/${tid}/stat`, 'utf8')).split(') ')[1]?.split(' ')[16]);
  const values = await Promise.all((await readdir(`${proc}/task`)).map(niceOf));
  expect(values.filter((nice) => nice === -20)).toHaveLength(1);
  expect(await niceOf(String(drawbridge.pid))).toBe(-10);
});

describe('fifty readers over TCP, each as fast as it can', () => {
  it('cost no new container its first connection, and no grant its time', async () => {
    const script = join(import.meta.dirname, 'readers.mjs');
    const readers = lab.inHost([process.execPath, script, String(PORT), TOKEN, '50', '8', '0'], {
      check: true,
    });
    const childrenOf = async (pid: number | string): Promise<string[]> =>
      (await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8').catch(() => ''))
        .split(' ')
        .filter(Boolean);
    // Tools are children of one of them (kernel/tool-process.ts).
    const children = async (): Promise<number> => {
      const own = await childrenOf(drawbridge.pid);
      return own.length + (await Promise.all(own.map(childrenOf))).flat().length;
    };
    const firsts = [1, 2, 3].map((n) => {
      const address = `93.184.87.${n}`;
      const labels = { 'drawbridge.allow': `${address}:80` };
      return lab.runProbe({ network: 'user', labels }, 'tcp', address, '80', '--timeout', '5000');
    });
    const begun = performance.now();
    const grant = await drawbridge.request('POST', '/v1/containers/app/grants', { entry: '93.184.87.9:80' });
    expect({ status: grant.status, inTime: performance.now() - begun < 5_000 }).toEqual({
      status: 201,
      inTime: true,
    });
    expect(await children()).toBeLessThan(20);
    expect((await Promise.all(firsts)).map((first) => first.ok)).toEqual([true, true, true]);
    expect(await happens(app, tcp('93.184.87.9', 80))).toBe('allow');
    const counts = JSON.parse((await readers).stdout.split('\n')[1] ?? '') as Record<string, number>;
    expect(counts['200']).toBeGreaterThan(50);
    const failed = Object.keys(counts).filter((code) => code.startsWith('5'));
    expect(failed, drawbridge.logs().slice(-4000)).toEqual([]);
  });
});
