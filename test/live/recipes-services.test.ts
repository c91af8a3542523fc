/** Recipes for services of a host and of a fleet, typed in a lab of two hosts that share a Redis. */
import { chmodSync, mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { parse } from 'yaml';
import type { Container } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { run, waitFor } from '../lab/process.js';
import { SharedRedis } from './fleet-support.js';
import { Kitchen } from './recipe.js';

const ROOT = join(import.meta.dirname, '..', '..');
const GIT = mkdtempSync(join(tmpdir(), 'drawbridge-git-'));
const GIT_CONFIG = join(GIT, 'config');
const NOT_LISTED = '93.184.78.9';
const ZONE = {
  'apps.nextcloud.com': '93.184.77.1',
  'updates.nextcloud.com': '93.184.77.2',
  'download.nextcloud.com': '93.184.77.3',
  'acme-v02.api.letsencrypt.org': '93.184.77.4',
  'github.com': '93.184.77.5',
  'release-assets.githubusercontent.com': '93.184.77.6',
  'push-notifications.nextcloud.com': '93.184.77.7',
  'registry.example.com': '93.184.78.1',
  'pay.example.net': '93.184.78.2',
  'api.github.com': '93.184.78.3',
  'codeload.github.com': '93.184.78.4',
  'pastebin.com': NOT_LISTED,
} as const;
type Name = keyof typeof ZONE;

interface Member {
  readonly lab: Lab;
  readonly drawbridge: Drawbridge;
}
let redis: SharedRedis;
const labs: Lab[] = [];
let web: Member;
let build: Member;

async function host(n: number, node: string): Promise<Member> {
  const lab = await Lab.up();
  labs.push(lab);
  await lab.dns.set(Object.fromEntries(Object.entries(ZONE).map(([name, a]) => [name, { A: [a] }])));
  const store = { redis: await redis.link(lab, n) };
  const drawbridge = lab.drawbridge({ config: { node, store } });
  await drawbridge.ready(60_000);
  return { lab, drawbridge };
}
beforeAll(async () => {
  // Where the recipe's repository is: git takes this address for the other one.
  const url = `[url "${join(GIT, 'egress.git')}"]\n\tinsteadOf = https://git.example.com/ops/egress.git\n`;
  writeFileSync(GIT_CONFIG, `[user]\n\tname = Ops\n\temail = ops@example.com\n${url}`);
  vi.stubEnv('GIT_CONFIG_GLOBAL', GIT_CONFIG);
  redis = await SharedRedis.start();
  [web, build] = await Promise.all([host(1, 'web-1'), host(2, 'build-1')]);
});
afterAll(async () => {
  await Promise.all(labs.map((lab) => lab.down()));
  await redis?.[Symbol.asyncDispose]();
  vi.unstubAllEnvs();
  await run(['rm', '-rf', GIT]);
});

const text = (file: string): Promise<string> =>
  run(['cat', join(ROOT, file)], { check: true }).then(({ stdout }) => stdout);
/** A request for the page of a name, as a program in the container makes it. */
const asks = async (lab: Lab, container: string, name: Name, scheme = 'http'): Promise<boolean> => {
  const url = `${scheme}://${name}/`;
  const { code } = await lab.exec(container, ['wget', '-q', '-T', '5', '-O', '/dev/null', url]);
  return code === 0;
};
const connects = async (lab: Lab, container: string, to: string, port: number): Promise<boolean> =>
  (await lab.exec(container, ['nc', '-w', '3', to, String(port)])).code === 0;
const packetsTo = (lab: Lab, name: Name): Promise<number> =>
  lab.sniffer.count({ direction: 'out', dst: ZONE[name] });

describe('a self-hosted app', () => {
  const [PROXY, APP, DB] = ['cloud-proxy-1', 'cloud-app-1', 'cloud-db-1'];
  const serve = (command: string) => `#!/bin/sh\ntrap "exit 0" TERM\n${command} & wait\n`;
  const all = (names: readonly Name[], of: string, scheme?: string) =>
    Promise.all(names.map((name) => asks(web.lab, of, name, scheme)));
  const page = () => web.lab.probeFromNet('http', `http://${web.lab.addresses.host4}/status.php`);
  let kitchen: Kitchen;

  /** What each service may not do: by name, and by address. */
  const beyond = async (): Promise<Record<string, boolean>> => {
    const of = async (container: string) => [
      [`${container} by name`, await asks(web.lab, container, 'pastebin.com')] as const,
      [`${container} by address`, await connects(web.lab, container, NOT_LISTED, 80)] as const,
    ];
    return Object.fromEntries((await Promise.all([PROXY, APP, DB].map(of))).flat());
  };
  const everywhere = (is: boolean) =>
    Object.fromEntries(
      [PROXY, APP, DB].flatMap((c) => [`${c} by name`, `${c} by address`]).map((k) => [k, is]),
    );

  beforeAll(async () => {
    const { lab, drawbridge } = web;
    kitchen = new Kitchen(lab, drawbridge, 'self-hosted-app');
    await Promise.all([
      lab.image('caddy:2', { files: { '/bin/caddy': serve('nc -ll -p 80 -e nc app 80') } }),
      lab.image('nextcloud:32', {
        files: { '/web/status.php': 'installed', '/bin/serve': serve('httpd -f -p 80 -h /web') },
        cmd: ['serve'],
      }),
      lab.image('postgres:17', { files: { '/bin/serve': serve('nc -ll -p 5432 -e cat') }, cmd: ['serve'] }),
    ]);
    drawbridge.writeList('letsencrypt.yaml', await text('allowlists/letsencrypt.yaml'));
    kitchen.write();
    const { stdout } = await kitchen.type('Start it');
    expect(stdout).toMatch(/cloud-app-1\tenforce/);
  });

  it('is open without the policy: the control', async () => {
    await web.drawbridge.cli(['mode', '--project', 'cloud', 'observe'], { check: true });
    await web.lab.sniffer.clear();
    expect(await beyond()).toEqual(everywhere(true));
    expect(await packetsTo(web.lab, 'pastebin.com')).toBeGreaterThan(0);
    expect(await page()).toMatchObject({ ok: true, status: 200, body: 'installed' });
    await web.drawbridge.cli(['mode', '--project', 'cloud', 'auto'], { check: true });
  });

  it('reaches with the policy what each service needs, and the page is served', async () => {
    expect(await all(['apps.nextcloud.com', 'updates.nextcloud.com', 'download.nextcloud.com'], APP)).toEqual(
      [true, true, true],
    );
    expect(await all(['acme-v02.api.letsencrypt.org'], PROXY, 'https')).toEqual([true]);
    expect(await page()).toMatchObject({ ok: true, status: 200, body: 'installed' });
  });

  it('reaches nothing else', async () => {
    await Promise.all([web.lab.sniffer.clear(), web.lab.dns.clearLog()]);
    expect(await beyond()).toEqual(everywhere(false));
    expect(await all(['apps.nextcloud.com'], DB)).toEqual([false]);
    expect(await all(['apps.nextcloud.com', 'acme-v02.api.letsencrypt.org'], PROXY)).toEqual([false, false]);
    for (const name of ['pastebin.com', 'apps.nextcloud.com', 'acme-v02.api.letsencrypt.org'] as const)
      expect(await packetsTo(web.lab, name), name).toBe(0);
    expect(await web.lab.dns.queries('pastebin.com')).toEqual([]);
  });

  it('reaches neighbours on networks that both share', async () => {
    const address = await web.lab.docker(
      ...['inspect', '--format', '{{.NetworkSettings.Networks.cloud_back.IPAddress}}', DB],
    );
    expect({
      'proxy to app': await connects(web.lab, PROXY, 'app', 80),
      'app to db': await connects(web.lab, APP, 'db', 5432),
      'db to app': await connects(web.lab, DB, 'app', 80),
      'proxy to db': await connects(web.lab, PROXY, 'db', 5432),
      'proxy to the address of db': await connects(web.lab, PROXY, address, 5432),
    }).toEqual({
      'proxy to app': true,
      'app to db': true,
      'db to app': true,
      'proxy to db': false,
      'proxy to the address of db': false,
    });
  });

  it('shows after an update what was denied, and allows it for a time', async () => {
    const [NEW, ASSETS] = ['github.com', 'release-assets.githubusercontent.com'] as const;
    expect(await all([NEW], APP)).toEqual([false]);
    await waitFor('the denial to be recorded', async () =>
      (await web.drawbridge.cli(['flows', APP, '--denied'])).stdout.includes(NEW),
    );
    const { stdout } = await kitchen.type('After an update');
    expect(stdout).toMatch(/cloud-app-1\tdeny\tgithub\.com/);
    for (const lines of kitchen.recipe.below('After an update', 'console')) expect(stdout).toContain(lines);
    await kitchen.type('Allow it for the time of the update');
    expect(await all([NEW, ASSETS], APP)).toEqual([true, true]);
    await kitchen.type('End the grant earlier');
    expect(await all([NEW, ASSETS], APP)).toEqual([false, false]);
  });

  it('keeps what is allowed for good when the container is recreated', async () => {
    expect(await all(['push-notifications.nextcloud.com'], APP)).toEqual([false]);
    await kitchen.type('Allow it for good');
    expect(await all(['push-notifications.nextcloud.com'], APP)).toEqual([true]);
    expect(kitchen.untyped()).toEqual([]);
  });

  it('limits neighbours where the configuration asks for it', async () => {
    const { drawbridge, lab } = web;
    expect(await connects(lab, APP, 'db', 5432)).toBe(true);
    drawbridge.configure({
      node: 'web-1',
      store: { redis: 'redis://100.64.1.1:6379' },
      eastWest: { 'cloud_*': 'policy' },
    });
    drawbridge.kill('SIGHUP');
    await waitFor('neighbours to be limited', async () => !(await connects(lab, APP, 'db', 5432)));
    await drawbridge.ready();
    await drawbridge.cli(['allow', APP, 'container:db:5432'], { check: true });
    expect(await connects(lab, APP, 'db', 5432)).toBe(true);
    expect(await connects(lab, DB, 'app', 80)).toBe(false);
  });
});

describe('a fleet with its lists in git', () => {
  let kitchen: Kitchen;
  let shop: Container;
  let runners: { readonly onWeb: Container; readonly onBuild: Container };
  const at = (member: Member, container: Container, name: Name) => asks(member.lab, container.name, name);
  /** The steps of the workflow, which CI runs in a checkout. */
  const pipeline = async () => {
    const { jobs } = parse(kitchen.recipe.file('.github/workflows/lists.yaml'));
    const steps: readonly { readonly run?: string }[] = jobs.check.steps;
    return kitchen.sh(steps.flatMap((step) => step.run ?? []).join('\n'), { check: false });
  };
  const sync = () => kitchen.sh('sudo egress-sync');

  beforeAll(async () => {
    const { lab, drawbridge } = web;
    kitchen = new Kitchen(lab, drawbridge, 'fleet-in-git');
    const script = join(lab.dir, 'recipes', 'bin', 'egress-sync');
    writeFileSync(script, kitchen.recipe.file('/usr/local/sbin/egress-sync'));
    chmodSync(script, 0o755);
    await run(['git', 'init', '--quiet', '--bare', '--initial-branch', 'main', join(GIT, 'egress.git')], {
      check: true,
    });
    mkdirSync(join(lab.dir, 'srv'));
    await lab.inHost(['mount', '--bind', join(lab.dir, 'srv'), '/srv'], { check: true });
    kitchen.write(
      'lists/registry.yaml',
      'lists/shop.yaml',
      'lists/runners.yaml',
      '.github/workflows/lists.yaml',
    );
    shop = await lab.start({ name: 'shop-web-1' });
    runners = {
      onWeb: await lab.start({ name: 'runner-1' }),
      onBuild: await build.lab.start({ name: 'runner-1' }),
    };
  });

  it('is committed when CI has passed', async () => {
    expect(await pipeline()).toMatchObject({ code: 0 });
    await kitchen.type('The first commit');
  });

  it('is in force on each host where it counts, when one host has synced', async () => {
    // the control: observed, they reach what is denied below
    expect(await at(web, shop, 'pastebin.com')).toBe(true);
    expect(await at(build, runners.onBuild, 'pastebin.com')).toBe(true);
    const { stdout } = await kitchen.type('A host that syncs');
    expect(kitchen.recipe.file('/etc/cron.d/egress-sync')).toContain(' root /usr/local/sbin/egress-sync\n');
    for (const word of ['registry', 'shop', 'runners', 'web-1', 'build-1']) expect(stdout).toContain(word);
    await waitFor('the other host to have it', async () => {
      const { stdout: shown } = await build.drawbridge.cli(['ps', '--json']);
      return JSON.parse(shown).some((c: { mode: string }) => c.mode === 'enforce');
    });
    for (const { lab } of [web, build]) await lab.sniffer.clear();
    expect(await at(web, shop, 'pay.example.net')).toBe(true);
    expect(await at(web, shop, 'registry.example.com')).toBe(true);
    expect(await at(build, runners.onBuild, 'api.github.com')).toBe(true);
    expect(await at(web, shop, 'pastebin.com')).toBe(false);
    expect(await at(build, runners.onBuild, 'pastebin.com')).toBe(false);
    for (const { lab } of [web, build]) expect(await packetsTo(lab, 'pastebin.com')).toBe(0);
    // the list of the runners does not count on this host
    expect(await at(web, runners.onWeb, 'pastebin.com')).toBe(true);
  });

  it('refuses in CI what a test denies, and takes what was meant', async () => {
    expect(await at(build, runners.onBuild, 'codeload.github.com')).toBe(false);
    await kitchen.type('A change');
    const failed = await pipeline();
    expect(failed.code).toBe(1);
    const [shown = ''] = kitchen.recipe.below('A change', 'console');
    const typed = shown.split('\n').filter((line) => !line.startsWith('…'));
    expect(`$ drawbridge check lists/\n${failed.stderr}`.split('\n')).toEqual(expect.arrayContaining(typed));
    // A sync alone would take it: the script of the recipe checks first.
    expect(await kitchen.sh('drawbridge sync --dry-run lists/', { check: false })).toMatchObject({ code: 0 });
    await kitchen.type('Correct it');
    expect(await pipeline()).toMatchObject({ code: 0 });
    await sync();
    await waitFor('the other host to have it', () => at(build, runners.onBuild, 'codeload.github.com'));
  });

  it('closes on a rollback the connections that only the reverted entry allowed', async () => {
    const url = 'http://codeload.github.com/stream?rate=10000';
    // It gives up after 5 s without data: the server sends without end.
    const argv = ['wget', '-q', '-T', '5', '-O', '/dev/null', url];
    const download = build.lab.exec(runners.onBuild.name, argv, { timeoutMs: 60_000 });
    await waitFor('the download to begin', async () =>
      (await build.lab.web.requests()).some(({ path }) => path.startsWith('/stream')),
    );
    await kitchen.type('Roll back');
    await sync();
    expect((await download).code).toBe(1);
    await build.lab.sniffer.clear();
    expect(await at(build, runners.onBuild, 'codeload.github.com')).toBe(false);
    expect(await packetsTo(build.lab, 'codeload.github.com')).toBe(0);
    expect(await at(build, runners.onBuild, 'api.github.com')).toBe(true);
    expect(kitchen.untyped()).toEqual([]);
  });
});
