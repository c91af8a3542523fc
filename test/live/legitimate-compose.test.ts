/** An app of three services comes up by docker compose with its health checks, is updated, and works, each service held. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';

const UPSTREAM = 'upstream.app.test';
const DENIED = '93.184.75.9';
const isHealthy = (port: number, path: string) => ({
  test: ['CMD', 'wget', '-q', '-O', '/dev/null', `http://127.0.0.1:${port}/${path}`],
  interval: '300ms',
  timeout: '5s',
  retries: 60,
});
/** Fetches what it needs of others in its first instruction, once, and serves it. */
const service = (from: string, port: number) => ({
  image: 'busybox:lab',
  command: ['sh', '-c', `wget -q -T 10 -O /tmp/page ${from} && exec httpd -f -p ${port} -h /tmp`],
  healthcheck: isHealthy(port, 'page'),
  stop_signal: 'SIGKILL',
});
const app = {
  services: {
    db: {
      image: 'busybox:lab',
      command: ['httpd', '-f', '-p', '5432', '-h', '/etc'],
      healthcheck: isHealthy(5432, 'passwd'),
      stop_signal: 'SIGKILL',
      labels: { 'drawbridge.mode': 'enforce' },
    },
    api: {
      ...service(`http://db:5432/passwd && wget -q -T 10 -O /tmp/page http://${UPSTREAM}/`, 8080),
      depends_on: { db: { condition: 'service_healthy' } },
      labels: { 'drawbridge.allow': UPSTREAM },
    },
    web: {
      ...service('http://api:8080/page', 80),
      depends_on: { api: { condition: 'service_healthy' } },
      ports: ['8300:80'],
      labels: { 'drawbridge.mode': 'enforce' },
    },
  },
  networks: { default: { enable_ipv6: true, ipam: { config: [{ subnet: 'fd00:db:75::/64' }] } } },
};

let lab: Lab;
let drawbridge: Drawbridge;
beforeAll(async () => {
  lab = await Lab.up();
  await lab.dns.set({ [UPSTREAM]: { A: ['93.184.75.1'], ttl: 1 } });
  drawbridge = lab.drawbridge();
  await drawbridge.ready();
});
afterAll(() => lab?.down());

async function composeOf(project: string, content: object, ...args: string[]): Promise<void> {
  const file = join(lab.dir, `${project}.yaml`);
  writeFileSync(file, JSON.stringify(content));
  const whole = ['compose', '--project-name', project, '--file', file, ...args];
  const { code, stderr } = await lab.dockerResult(whole, { env: lab.view.env, check: false });
  if (code === 0) return;
  const flows = await drawbridge.get('/v1/flows');
  throw new Error(`${stderr}\n${await logsOf(project)}\n${flows.body}`);
}
/** What containers of a project wrote before they ended. */
async function logsOf(project: string): Promise<string> {
  const filter = `label=com.docker.compose.project=${project}`;
  const names = await lab.docker('ps', '-a', '--filter', filter, '--format', '{{.Names}}');
  const wrote = names.split('\n').map(async (name) => {
    const { stdout, stderr } = await lab.dockerResult(['logs', '--timestamps', name], { check: false });
    return `${name}: ${stdout}${stderr}`;
  });
  return (await Promise.all(wrote)).join('\n');
}
const compose = (...args: string[]): Promise<void> => composeOf('shop', app, ...args);
/** The page went from the upstream through api and web to somebody outside; each service is held all the same. */
async function works(): Promise<void> {
  for (const host of [lab.addresses.host4, `[${lab.addresses.host6}]`]) {
    const page = await lab.probeFromNet('http', `http://${host}:8300/page`);
    expect(page).toMatchObject({ ok: true, status: 200, body: { host: UPSTREAM } });
  }
  for (const name of ['db', 'api', 'web']) {
    const r = await lab.exec(`shop-${name}-1`, ['nc', '-w', '3', DENIED, '80']);
    expect(r.code, name).not.toBe(0);
  }
  expect((await lab.exec('shop-web-1', ['nslookup', UPSTREAM])).code).not.toBe(0);
  expect(await lab.sniffer.count({ direction: 'out', dst: DENIED })).toBe(0);
}

it('up, with dependencies by health', async () => {
  await compose('up', '--detach', '--wait', '--wait-timeout', '90');
  await works();
});
it('restarted, and recreated', async () => {
  for (const name of ['api', 'web']) {
    await lab.docker('restart', `shop-${name}-1`);
    await compose('up', '--detach', '--wait', '--wait-timeout', '90');
  }
  await works();
  await compose('up', '--detach', '--wait', '--wait-timeout', '90', '--force-recreate');
  await works();
});
it('down', async () => {
  await compose('down');
  expect(await lab.docker('ps', '-aq')).toBe('');
});

/** docker compose build writes the project and the service on the image, so that they equal the container's labels. */
describe('services that compose builds', () => {
  const idle = { command: ['sleep', '1000000'], stop_signal: 'SIGKILL' };
  const served = { ...idle, image: 'busybox:lab', command: ['httpd', '-f', '-p', '80', '-h', '/etc'] };
  const pulled = { ...idle, image: 'busybox:lab' };
  const up = (cell: object, ...args: string[]): Promise<void> =>
    composeOf('made', { services: { cell, store: served } }, 'up', '--detach', ...args);
  let built: object;
  interface View {
    readonly mode: string;
    readonly modeFrom: string;
    readonly entries: readonly { readonly entry: string; readonly from: string }[];
    readonly coverage: { readonly reasons: readonly string[] };
  }
  const known = (name: string): Promise<View> =>
    waitFor(`${name} to be known`, async () => {
      const { status, body } = await drawbridge.get(`/v1/containers/${name}`);
      return status === 200 && (JSON.parse(body) as View);
    });
  const opens = async (name: string, host: string): Promise<boolean> =>
    (await lab.exec(name, ['nc', '-w', '3', host, '80'])).code === 0;

  beforeAll(() => {
    const folder = join(lab.dir, 'made');
    mkdirSync(folder);
    writeFileSync(join(folder, 'Dockerfile'), 'FROM busybox:lab\nENV MADE=1\n');
    built = { ...idle, build: folder };
  });
  afterAll(() => composeOf('made', { services: { cell: built, store: served } }, 'down'));

  it('keep the mode that was set for the service: from image: to build:, and for every replica', async () => {
    await up(pulled);
    await known('made-cell-1');
    const set = await drawbridge.request('PUT', '/v1/containers/made-cell-1/mode', { mode: 'enforce' });
    expect(set.status).toBe(200);
    await up(built, '--build', '--scale', 'cell=2');
    const { Config } = JSON.parse(await lab.docker('image', 'inspect', '-f', '{{json .}}', 'made-cell'));
    expect(Config.Labels).toMatchObject({
      'com.docker.compose.project': 'made',
      'com.docker.compose.service': 'cell',
    });
    for (const name of ['made-cell-1', 'made-cell-2']) {
      const { mode, modeFrom, coverage } = await known(name);
      expect({ name, mode, modeFrom }).toEqual({ name, mode: 'enforce', modeFrom: 'api' });
      expect(coverage.reasons.join()).not.toContain('image');
      expect(await opens(name, DENIED)).toBe(false);
    }
    expect(await lab.sniffer.count({ direction: 'out', dst: DENIED })).toBe(0);
  });
  it('are neighbours of their project, by their names', async () => {
    expect(await opens('made-cell-1', 'store')).toBe(true);
    expect(await opens('made-cell-2', 'made-store-1')).toBe(true);
    expect((await lab.exec('made-store-1', ['nslookup', 'cell'])).stdout).toContain('Name:');
  });
  it('get the entries of a list that claims their project', async () => {
    expect(await opens('made-cell-1', UPSTREAM)).toBe(false);
    drawbridge.writeList(
      'made.yaml',
      `match: { labels: { com.docker.compose.project: made } }\nallow: ["${UPSTREAM}"]\n`,
    );
    for (const name of ['made-cell-1', 'made-cell-2', 'made-store-1'])
      await waitFor(`${name} to be claimed`, async () => {
        const { entries } = await known(name);
        return entries.some((e) => e.entry === UPSTREAM);
      });
    expect(await opens('made-cell-1', UPSTREAM)).toBe(true);
  });
  it('lend none of it to a container that somebody makes of the image by hand', async () => {
    const other = await lab.start({ image: 'made-cell', name: 'by-hand', network: 'made_default' });
    const { mode, entries, coverage } = await known(other.name);
    expect({ mode, entries }).toEqual({ mode: 'enforce', entries: [] });
    expect(coverage.reasons.join()).toContain('com.docker.compose.service=cell came with the image');
    expect(await opens(other.name, 'made-store-1')).toBe(false);
    const audit = JSON.parse((await drawbridge.get('/v1/audit')).body) as { items: { action: string }[] };
    expect(audit.items.map((i) => i.action)).toContain('labels.ignore');
    await other.remove();
  });
  it('get the mode back that labels and lists give, by auto', async () => {
    const set = await drawbridge.request('PUT', '/v1/containers/made-cell-2/mode', { mode: 'auto' });
    expect(set.status).toBe(200);
    for (const name of ['made-cell-1', 'made-cell-2'])
      expect(await known(name)).toMatchObject({ mode: 'enforce', modeFrom: 'claim:made' });
  });
});
