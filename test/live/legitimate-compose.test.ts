/** An app of three services comes up by docker compose with its health checks, is updated, and works, each service held. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { Lab } from '../lab/lab.js';

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
beforeAll(async () => {
  lab = await Lab.up();
  await lab.dns.set({ [UPSTREAM]: { A: ['93.184.75.1'], ttl: 1 } });
  const drawbridge = lab.drawbridge();
  await drawbridge.ready();
});
afterAll(() => lab?.down());

async function compose(...args: string[]): Promise<string> {
  const file = join(lab.dir, 'compose.yaml');
  writeFileSync(file, JSON.stringify(app));
  const whole = ['compose', '--project-name', 'shop', '--file', file, ...args];
  return (await lab.dockerResult(whole, { env: lab.view.env })).stdout;
}
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
