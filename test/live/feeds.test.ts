/** Feeds end to end: a server that misbehaves, poisoned lists, and what containers reach meanwhile. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Container } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
import { haveReal, realFeed } from '../pure/threats/feed-shape.js';

const PORT = 9099;
const BAD = '93.184.66.6';
const FINE = '93.184.1.1';
const CDN = '151.101.1.1';
const RESOLVER = '198.51.100.53';
/** Docker's own pool, and a network of public addresses. */
const POOL = '172.16.0.0/12';
const PUBLIC = '198.51.100.128/28';
const GOOD = `${Array.from({ length: 250 }, (_, i) => `203.0.113.${i}`).join('\n')}\n${BAD}\nevil.example\n`;

let lab: Lab;
let drawbridge: Drawbridge;
let server: ChildProcess;
let app: Container;
let neighbour: Container;
let paths: { body: string; mode: string };

const feed = (more: object = {}) => ({
  name: 'feed',
  url: `http://127.0.0.1:${PORT}/feed`,
  format: 'plain',
  allowPrivate: true,
  every: '1d',
  minInterval: '0s',
  timeout: '1s',
  ...more,
});
const send = (body: string | Uint8Array, mode = 'good'): void => {
  writeFileSync(paths.body, body);
  writeFileSync(paths.mode, mode);
};
const json = async (path: string) => JSON.parse((await drawbridge.get(path)).body);
const view = async () => (await json('/v1/feeds')).items[0];
async function sync(accept = false) {
  const { status, body } = await drawbridge.request('POST', '/v1/feeds/feed/sync', { accept });
  expect(status).toBe(200);
  return JSON.parse(body).feed;
}
const reaches = async (to: string, port = 80): Promise<boolean> =>
  (await app.probe('tcp', to, port, '--timeout', 2000)).ok;
const resolves = async (name: string): Promise<boolean> =>
  (await app.probe('http', `http://${name}/`, '--timeout', 2000)).ok;

/** Everything that the container is permitted, whatever a feed says. */
async function permitted(): Promise<Record<string, boolean>> {
  const [fine, cdn, name, next, host] = await Promise.all([
    reaches(FINE),
    reaches(CDN),
    resolves('fine.example'),
    reaches((await neighbour.addresses('pub')).ip4, 8000),
    reaches('192.0.2.2', PORT - 1),
  ]);
  return { fine, cdn, name, next, host };
}
const ALL = { fine: true, cdn: true, name: true, next: true, host: true };

/** Public addresses of the host: one of an interface, and one that only a route makes local. */
const OWN = ['93.184.77.1', '93.184.78.9'] as const;
function serve(): void {
  const script = join(import.meta.dirname, 'feed-server.mjs');
  const argv = [process.execPath, script, String(PORT), paths.body, paths.mode, ...OWN];
  server = spawn('nsenter', [`--net=${lab.hostNetns}`, '--', ...argv], { stdio: 'ignore' });
}
async function stopServer(): Promise<void> {
  if (server.kill('SIGKILL')) await once(server, 'exit');
}

beforeAll(async () => {
  lab = await Lab.up({});
  paths = { body: join(lab.dir, 'feed.txt'), mode: join(lab.dir, 'feed.mode') };
  send(GOOD);
  await lab.inHost(['ip', 'address', 'add', `${OWN[0]}/32`, 'dev', 'lo'], { check: true });
  await lab.inHost(['ip', 'route', 'add', 'local', OWN[1], 'dev', 'lo'], { check: true });
  serve();
  await lab.dns.set({ 'fine.example': { A: [FINE] }, 'evil.example': { A: [FINE] } });
  await lab.docker('network', 'create', '--subnet', PUBLIC, 'pub');
  drawbridge = lab.drawbridge({ config: { dns: { upstreams: [RESOLVER] }, threats: { feeds: [feed()] } } });
  await drawbridge.ready(60_000);
  const listen = `require('node:net').createServer((s) => s.on('error', () => s.destroy()).end('hello')).listen(${PORT - 1}, '::')`;
  hostService = spawn('nsenter', [`--net=${lab.hostNetns}`, '--', process.execPath, '-e', listen], {
    stdio: 'ignore',
  });
  neighbour = await lab.start({
    name: 'next',
    network: 'pub',
    cmd: ['node', '-e', listen.replace(String(PORT - 1), '8000')],
  });
  app = await lab.start({
    name: 'app',
    network: 'pub',
    labels: {
      'drawbridge.allow': `93.184.0.0/16, 203.0.113.0/24, ${CDN}, fine.example, evil.example, container:next:8000, host:${PORT - 1}`,
    },
  });
});
let hostService: ChildProcess;
afterAll(async () => {
  if (server) await stopServer();
  if (hostService?.kill('SIGKILL')) await once(hostService, 'exit');
  await lab?.down();
});

it('a feed is fetched by itself, and what it lists is blocked, though the policy has it', async () => {
  expect(await sync()).toMatchObject({ status: 'current', entries: 252 });
  expect([await reaches(BAD), await reaches('203.0.113.9'), await resolves('evil.example')]).toEqual([
    false,
    false,
    false,
  ]);
  expect(await permitted()).toEqual(ALL);
  expect((await json('/v1/status')).threats).toMatchObject({ feeds: 1, alerts: [] });
  const { stdout } = await drawbridge.cli(['threats', 'check', BAD]);
  expect(stdout).toMatch(
    /blocked for every container\n {2}feed \(block, both\) lists 93\.184\.66\.6 in line 251, since/,
  );
});

describe('a poisoned feed', () => {
  it('never blocks a permitted connection', async () => {
    const gateway = (
      await lab.docker('network', 'inspect', 'pub', '-f', '{{(index .IPAM.Config 0).Gateway}}')
    ).trim();
    const own = ['192.0.2.2', '2001:db8:fff0::2', gateway, RESOLVER, '8.8.8.8'];
    const wide = [POOL, '198.51.100.0/24', '151.96.0.0/12', '151.101.0.0/16', '10.0.0.0/8', '127.0.0.0/8'];
    send(`${GOOD}${[...own, ...wide].join('\n')}\n`);
    expect(await sync()).toMatchObject({ status: 'current' });
    expect(await permitted()).toEqual(ALL);
    expect([await reaches(BAD), await reaches('198.51.100.9')]).toEqual([false, false]);
    const { spared, known } = await view();
    const labels = spared.map(({ label }: { label: string }) => label);
    expect(labels).toEqual(
      expect.arrayContaining(["this host's own address", 'a resolver in use', "Docker's network pub"]),
    );
    expect(known.map(({ label }: { label: string }) => label)).toContain('Fastly');
    expect(await json(`/v1/threats/${RESOLVER}`)).toMatchObject({
      verdict: 'none',
      hits: expect.arrayContaining([expect.objectContaining({ spared: 'a resolver in use' })]),
    });
  });

  it('that lists half of everything is refused whole', async () => {
    send(`${GOOD}0.0.0.0/1\n`);
    expect(await sync(true)).toMatchObject({
      status: 'refused',
      reason: expect.stringMatching(/wider than \/8/),
    });
    expect([await permitted(), await reaches(BAD)]).toEqual([ALL, false]);
  });
});

describe('whatever its server sends', () => {
  it('a redirect leads to no address of the host itself, private or not', async () => {
    const asked = (): string => readFileSync(`${paths.body}.asked`, 'utf8');
    writeFileSync(`${paths.body}.asked`, '');
    // the services answer, and redirects to other hosts are followed
    for (const address of OWN)
      await lab.inHost(['wget', '-q', '-O', '/dev/null', `http://${address}:${PORT}/`], { check: true });
    expect(asked()).toBe(`${OWN.join('\n')}\n`);
    const before = (await lab.web.requests()).length;
    send(GOOD, 'to-public');
    expect((await sync()).status).toBe('refused');
    expect((await lab.web.requests()).slice(before)).toMatchObject([{ path: '/' }]);
    for (const mode of ['to-own', 'to-local']) {
      send(GOOD, mode);
      expect(await sync()).toMatchObject({
        status: 'failed',
        reason: expect.stringContaining('an address of this host'),
      });
    }
    expect(asked()).toBe(`${OWN.join('\n')}\n`);
  });

  it('the last good version stays in force, and that is said', async () => {
    const edge = haveReal
      ? readdirSync(join(process.cwd(), '../shared/feeds/edge'))
          .filter((file) => !file.startsWith('threatfox'))
          .map((file) => realFeed(`edge/${file}`))
      : ['', 'error code: 520', 'Could not connect:', '# nothing\n'];
    for (const body of edge) {
      send(body);
      expect((await sync()).status).toBe('refused');
    }
    for (const mode of ['500', 'cut', 'silent', 'inwards']) {
      send(GOOD, mode);
      expect([mode, (await sync()).status]).toEqual([mode, 'failed']);
    }
    expect([await permitted(), await reaches(BAD), await resolves('evil.example')]).toEqual([
      ALL,
      false,
      false,
    ]);
    expect((await json('/v1/status')).threats.alerts).toEqual([
      expect.stringMatching(/^feed: failed: .*the version in force was confirmed/),
    ]);
    const shown = await drawbridge.cli(['feeds']);
    expect(shown.stdout).toMatch(/^feed\tFAILED\t\d+\t\d{4}-\d\d-\d\dT[\d:.]+Z\t/);
  });

  it('also over a restart, with the server gone', async () => {
    await stopServer();
    await drawbridge.restart();
    await waitFor('the last good version', async () => (await view()).entries > 0, 10_000);
    expect([await permitted(), await reaches(BAD), await resolves('evil.example')]).toEqual([
      ALL,
      false,
      false,
    ]);
  });

  it('a feed that leaves the configuration leaves the kernel', async () => {
    drawbridge.configure({ dns: { upstreams: [RESOLVER] } });
    drawbridge.kill('SIGHUP');
    await waitFor('it to be free', () => reaches(BAD), 30_000);
    await drawbridge.ready();
    expect((await json('/v1/status')).threats).toEqual({ entries: 0, feeds: 0, alerts: [] });
    expect(await resolves('evil.example')).toBe(true);
  });
});
