/** apt, npm, pip and NTP by the lists that ship: the tools themselves, against mirrors and a time server in the lab. */
import { copyFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Container } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { execInside, withInside } from './inside.js';
import { npmProgram, sites, toolMounts } from './package-tools.js';

const SHIPPED = join(import.meta.dirname, '..', '..', 'allowlists');
const TIME = '0.debian.pool.ntp.org';
/** Where Debian's tools look for whom to trust. */
const CA = '/etc/ssl/certs/ca-certificates.crt';
const OTHER = 'evil.pkg.test';

let lab: Lab;
let drawbridge: Drawbridge;
let served: readonly string[];
beforeAll(async () => {
  lab = await Lab.up();
  const pages = await sites();
  served = Object.keys(pages);
  for (const [host, site] of Object.entries(pages)) await lab.web.serve(host, site);
  const at = (n: number) => ({ A: [`93.184.71.${n}`], AAAA: [`2600:9000:71::${n}`], ttl: 30 });
  const names = [...served, OTHER, TIME];
  await lab.dns.set(Object.fromEntries(names.map((name, i) => [name, at(i + 1)])));
  drawbridge = lab.drawbridge({});
  for (const list of ['debian', 'npm', 'pypi', 'ntp'])
    copyFileSync(join(SHIPPED, `${list}.yaml`), join(drawbridge.allowlists, `${list}.yaml`));
  await drawbridge.ready();
});
afterAll(() => lab?.down());

const machine = (list: string): Promise<Container> =>
  lab.start(
    withInside({
      name: list,
      labels: { 'drawbridge.lists': list },
      env: { NODE_EXTRA_CA_CERTS: CA, HOME: '/tmp' },
      mounts: [...toolMounts(), `${lab.caFile}:${CA}:ro`],
    }),
  );
async function works(c: Container, ...argv: string[]): Promise<string> {
  const r = await c.exec(argv, { timeoutMs: 60_000 });
  expect(r.code, `${argv.join(' ')}: ${r.stdout}${r.stderr}`).toBe(0);
  return r.stdout;
}
/** What the list does not name stays out: another site, and the other lists'. */
async function nothingElse(c: Container, sites: readonly string[]): Promise<void> {
  for (const site of sites)
    expect(await c.probe('http', `https://${site}/`)).toMatchObject({ code: 'ENOTFOUND' });
}

it.concurrent('apt-get update and download by list debian', async () => {
  const c = await machine('debian');
  const folders = [
    '/etc/apt/apt.conf.d',
    '/var/lib/apt/lists/partial',
    '/var/cache/apt/archives/partial',
    '/var/lib/dpkg',
  ];
  await works(c, 'mkdir', '-p', ...folders);
  const sources = [
    'deb [trusted=yes] http://deb.debian.org/debian ./',
    'deb [trusted=yes] https://security.debian.org/debian-security ./',
  ];
  await works(c, 'sh', '-c', `echo "${sources.join('\n')}" >/etc/apt/sources.list; : >/var/lib/dpkg/status`);
  const options = [`Acquire::https::CAInfo=${CA}`, 'APT::Sandbox::User=root', 'APT::Update::Error-Mode=any'];
  const apt = ['apt-get', '-q', ...options.flatMap((o) => ['-o', o])];
  await works(c, ...apt, 'update');
  await works(c, ...apt, 'download', 'greeting');
  expect(await works(c, 'cat', 'greeting_1.0_all.deb')).toBe('what dpkg would unpack');
  await nothingElse(c, [OTHER, 'pypi.org']);
});

it.concurrent('npm install by list npm', async () => {
  const c = await machine('npm');
  await works(c, 'sh', '-c', `cd /tmp && node ${npmProgram()} install --no-audit --no-fund greeting`);
  expect(await works(c, 'node', '-p', 'require("/tmp/node_modules/greeting")')).toBe('from the lab\n');
  await nothingElse(c, [OTHER, 'pypi.org']);
});

it.concurrent('pip install by list pypi', async () => {
  const c = await machine('pypi');
  const options = ['--no-cache-dir', '--disable-pip-version-check', '--target', '/tmp/lib'];
  await works(c, 'python3', '-m', 'pip', 'install', ...options, 'greeting');
  const say = 'import sys; sys.path.insert(0, "/tmp/lib"); import greeting; print(greeting.text)';
  expect(await works(c, 'python3', '-c', say)).toBe('from the lab\n');
  await nothingElse(c, [OTHER, 'registry.npmjs.org']);
});

it.concurrent('the time by list ntp, over IPv4 and IPv6', async () => {
  const c = await machine('ntp');
  for (const family of [4, 6])
    expect(await execInside(c, 'ntp', TIME, family)).toEqual({ stratum: 2, isNow: true });
  expect(await c.probe('udp', '93.184.71.99', 123)).toMatchObject({ ok: false });
  await nothingElse(c, [OTHER, 'deb.debian.org']);
});

it('the tools spoke to every mirror, and to nothing else', async () => {
  const hosts = new Set((await lab.web.requests()).map((r) => r.host));
  expect([...hosts].sort()).toEqual([...served].sort());
  const asked = (await lab.dns.queries()).map((q) => q.name);
  expect(asked).not.toContain(OTHER);
});
