/** What cannot be held is said: every kind of container, and every state of the host, on a real engine. */
import { existsSync, linkSync, mkdtempSync, readdirSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { RunSpec } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';

const FORBIDDEN = '93.184.9.9';
const ENFORCED = { 'drawbridge.mode': 'enforce' };
const WAIT_MS = 30_000;

interface Scanned {
  readonly container: string | null;
  readonly findings: readonly {
    kind: string;
    code: string;
    state: string;
    detail: string;
    remedy: string;
  }[];
}
interface Shown {
  readonly name: string;
  readonly coverage: { state: string; reasons: string[] };
}

async function scan(d: Drawbridge): Promise<readonly Scanned[]> {
  return JSON.parse((await d.get('/v1/scan')).body).items;
}
/** Of one container, or (null) of the host: "code:state", without practices. */
async function codes(d: Drawbridge, container: string | null): Promise<string[]> {
  const of = (await scan(d)).find((i) => i.container === container);
  const found = (of?.findings ?? []).filter((f) => f.kind !== 'practice');
  return found.map((f) => `${f.code}:${f.state}`).sort();
}
async function coverage(d: Drawbridge, container: string): Promise<Shown['coverage'] | undefined> {
  const items: readonly Shown[] = JSON.parse((await d.get('/v1/containers')).body).items;
  return items.find((c) => c.name === container)?.coverage;
}
const until = async (what: string, check: () => Promise<boolean>): Promise<void> => {
  await waitFor(what, check, WAIT_MS);
};

describe('containers', () => {
  let lab: Lab;
  let d: Drawbridge;
  beforeAll(async () => {
    lab = await Lab.up({ sniffer: false, daemon: { runtimes: { other: { path: 'runc' } } } });
    d = lab.drawbridge({ config: { networks: { ignore: ['free'] } } });
    await d.ready(60_000);
    await lab.docker('network', 'create', 'free');
    const lan = ['--driver', 'macvlan', '-o', 'parent=eth0', '--ipv6', '--subnet', 'fd00:77::/64', 'lan'];
    await lab.docker('network', 'create', ...lan);
  });
  afterAll(() => lab?.down());

  const bind = (source: string, ro = ''): string => `${source}:/mnt${ro}`;
  const kinds: readonly (readonly [string, RunSpec, readonly string[]])[] = [
    ['plain', {}, []],
    ['privileged', { args: ['--privileged'] }, ['privileged:unenforced']],
    ['net-admin', { args: ['--cap-add=NET_ADMIN'] }, ['net-admin:partial']],
    ['sys-admin', { args: ['--cap-add=SYS_ADMIN'] }, ['sys-admin:partial']],
    ['sys-module', { args: ['--cap-add=SYS_MODULE'] }, ['sys-module:unenforced']],
    ['dac-read', { args: ['--cap-add=DAC_READ_SEARCH'] }, ['dac-read-search:partial']],
    ['all-caps', { args: ['--cap-add=ALL'] }, ['all-capabilities:unenforced']],
    ['host-pid', { args: ['--pid=host'] }, ['host-pid:partial']],
    ['ptrace', { args: ['--pid=host', '--cap-add=SYS_PTRACE'] }, ['host-pid:unenforced']],
    ['tun', { args: ['--device=/dev/null:/dev/null', '-v', '/dev/net:/dev/net'] }, ['tun:partial']],
    ['host-network', { network: 'host' }, ['host-net-raw:partial', 'host-network:enforced']],
    ['host-network-plain', { network: 'host', args: ['--cap-drop=NET_RAW'] }, ['host-network:enforced']],
    [
      'host-network-admin',
      { network: 'host', args: ['--cap-add=NET_ADMIN'] },
      ['host-net-admin:unenforced', 'host-network:enforced', 'net-admin:partial'],
    ],
    ['macvlan', { network: 'lan' }, ['macvlan-net-raw:partial', 'macvlan-network:enforced']],
    ['macvlan-plain', { network: 'lan', args: ['--cap-drop=NET_RAW'] }, ['macvlan-network:enforced']],
    [
      'macvlan-admin',
      { network: 'lan', args: ['--cap-add=NET_ADMIN'] },
      ['macvlan-network:unenforced', 'net-admin:partial'],
    ],
    ['system-paths', { args: ['--security-opt=systempaths=unconfined'] }, ['system-paths:partial']],
    ['seccomp', { args: ['--security-opt=seccomp=unconfined'] }, ['seccomp-unconfined:partial']],
    ['apparmor', { args: ['--security-opt=apparmor=unconfined'] }, ['apparmor-unconfined:enforced']],
    ['runtime', { args: ['--runtime=other'] }, ['runtime:partial']],
    ['host-proc', { mounts: ['/proc:/host/proc:ro'] }, ['host-proc:partial']],
    ['engine-entry', { labels: { ...ENFORCED, 'drawbridge.allow': 'host:2375' } }, ['engine-port:enforced']],
    ['ignored-network', { network: 'free' }, ['unmanaged-network:unenforced']],
    ['no-network', { network: 'none' }, []],
    ['proxy', { env: { HTTPS_PROXY: 'http://10.200.0.5:3128' } }, ['proxy-variable:enforced']],
    [
      'proxied',
      {
        env: { HTTPS_PROXY: 'http://10.200.0.5:3128' },
        labels: { 'drawbridge.allow': '10.200.0.5:3128' },
      },
      ['relay:partial'],
    ],
  ];

  it.each(kinds)('%s', async (name, spec, expected) => {
    await lab.start({ name, node: false, labels: ENFORCED, ...spec });
    const worst = ['unenforced', 'partial'].find((s) => expected.some((e) => e.endsWith(`:${s}`)));
    // Of a container that is created and does not run, all is known; its mounts are not, for a moment after it was started.
    await until(`${name} to be inspected`, async () => {
      // One that is not listed yet has no codes either.
      const shown = await coverage(d, name);
      return (
        shown?.reasons.length === expected.length &&
        shown.state === (worst ?? 'enforced') &&
        JSON.stringify(await codes(d, name)) === JSON.stringify([...expected])
      );
    }).catch(async (e: Error) => {
      throw new Error(`${e.message}: ${JSON.stringify(await coverage(d, name))}`);
    });
    await lab.docker('rm', '-f', name);
  });

  it.each([
    ['itself', () => lab.socketPath, ''],
    ['read-only', () => lab.socketPath, ':ro'],
    ['its folder', () => lab.dir, ''],
    ['a folder above, read-only', () => lab.dir.slice(0, lab.dir.lastIndexOf('/')), ':ro'],
  ])('the Docker socket: %s', async (_name, source, ro) => {
    await lab.start({ name: 'socket', node: false, labels: ENFORCED, mounts: [bind(source(), ro)] });
    await until('the socket to be found', async () =>
      (await codes(d, 'socket')).includes('docker-socket:unenforced'),
    );
    expect((await coverage(d, 'socket'))?.state).toBe('unenforced');
    await lab.docker('rm', '-f', 'socket');
  });

  it("the engine's containerd, where it listens", async () => {
    const mounts = [bind(lab.execRoot, ':ro')];
    await lab.start({ name: 'runtime', node: false, labels: ENFORCED, mounts });
    await until('it to be found', async () =>
      (await codes(d, 'runtime')).includes('runtime-socket:unenforced'),
    );
    await lab.docker('rm', '-f', 'runtime');
  });

  describe('what a mount leads to, whatever it is called', () => {
    let folder: string;
    beforeAll(async () => {
      folder = mkdtempSync(join(tmpdir(), 'drawbridge-cov-'));
      symlinkSync(lab.dir, join(folder, 'link'));
      linkSync(lab.socketPath, join(lab.dir, 'other-name'));
      const device = `device=${lab.dir}`;
      await lab.docker('volume', 'create', '-o', 'type=none', '-o', 'o=bind', '-o', device, 'innocent');
    });
    afterAll(() => rmSync(folder, { recursive: true }));

    const asksDocker = (path: string): string =>
      `require('http').get({socketPath:'${path}',path:'/_ping'},r=>{console.log(r.statusCode);process.exit()})`;
    it.each([
      ['a volume of the local driver', () => 'innocent:/mnt', '/mnt/docker.sock', 'volume innocent'],
      ['a symbolic link', () => bind(join(folder, 'link')), '/mnt/docker.sock', '/link'],
      ['a hard link', () => bind(join(lab.dir, 'other-name')), '/mnt', 'other-name'],
    ])('%s to the Docker socket', async (_name, mount, path, shown) => {
      const c = await lab.start({ name: 'led', labels: ENFORCED, mounts: [mount()] });
      const socket = path.endsWith('docker.sock') ? join('/mnt', lab.socketPath.slice(lab.dir.length)) : path;
      expect((await c.exec(['node', '-e', asksDocker(socket)])).stdout.trim()).toBe('200'); // the control
      await until('the socket to be found', async () =>
        (await codes(d, 'led')).includes('docker-socket:unenforced'),
      ).catch(async (e: Error) => {
        const found = (await d.get('/v1/scan?container=led')).body;
        throw new Error(`${e.message}: ${found}; log:\n${d.logs().slice(-4_000)}`);
      });
      const { state, reasons } = (await coverage(d, 'led')) ?? { state: '', reasons: [] };
      expect(state).toBe('unenforced');
      expect(reasons.some((r) => r.includes('the Docker socket') && r.includes(shown))).toBe(true);
      await lab.docker('rm', '-f', 'led');
    });

    const existing = (...paths: string[]): string => paths.find((p) => existsSync(p)) ?? '/etc';
    const files: readonly (readonly [string, () => string, string])[] = [
      [
        'what cron or a shell of root runs',
        () => existing('/etc/cron.d', '/etc/profile.d'),
        'host-files:partial',
      ],
      ['the home of root', () => '/root', 'host-files:partial'],
      ["Docker's data root", () => lab.dataRoot, 'engine-files:unenforced'],
      ['the containers in it', () => join(lab.dataRoot, 'containers'), 'engine-files:unenforced'],
    ];
    it.each(files)('%s, writable', async (_name, source, expected) => {
      const c = await lab.start({ name: 'writer', node: false, labels: ENFORCED, mounts: [bind(source())] });
      const readOnly = [bind(source(), ':ro')];
      await lab.start({ name: 'reader', node: false, labels: ENFORCED, mounts: readOnly });
      expect((await c.exec(['test', '-w', '/mnt'])).code).toBe(0); // the control
      await until('it alone to be said', async () => {
        const found = await codes(d, 'writer');
        return found.length === 1 && found[0] === expected;
      });
      await until('the other to be read', async () => (await coverage(d, 'reader'))?.state === 'enforced');
      await lab.docker('rm', '-f', 'writer', 'reader');
    });

    it('of what is its own, nothing', async () => {
      const mounts = ['/data', 'named:/named', bind(folder)];
      const args = ['--tmpfs=/tmp', '--shm-size=1m', '--read-only'];
      await lab.start({ name: 'own', node: false, labels: ENFORCED, mounts, args });
      await until('it to be read', async () => (await coverage(d, 'own'))?.state === 'enforced');
      expect(await coverage(d, 'own')).toEqual({ state: 'enforced', reasons: [] });
      await lab.docker('rm', '-f', '-v', 'own');
    });

    it('a disk by another name', async () => {
      const disk = readdirSync('/sys/block').find((name) => existsSync(join('/dev', name)));
      if (disk === undefined) throw new Error('this machine has no block device');
      symlinkSync(join('/dev', disk), join(folder, 'mine'));
      const args = [`--device=${join(folder, 'mine')}:/dev/mine`];
      await lab.start({ name: 'disk', node: false, labels: ENFORCED, args });
      await until('it to be said', async () => (await codes(d, 'disk')).includes('disk-device:unenforced'));
      expect((await coverage(d, 'disk'))?.reasons.join()).toContain(`(/dev/${disk})`);
      await lab.docker('rm', '-f', 'disk');
    });
  });

  it('a device rule, by which it makes any device itself', async () => {
    const open = 'mknod /disk b 240 0; dd if=/disk of=/dev/null count=0 2>&1'; // a number that no driver has
    const plain = await lab.start({ name: 'no-rule', node: false, labels: ENFORCED });
    expect((await plain.exec(['sh', '-c', open])).stdout).toContain('not permitted');
    const args = ['--device-cgroup-rule=b *:* rmw'];
    const c = await lab.start({ name: 'rule', node: false, labels: ENFORCED, args });
    expect((await c.exec(['sh', '-c', open])).stdout).not.toContain('not permitted'); // the control
    const harmless = ['--device-cgroup-rule=c 188:* rmw'];
    await lab.start({ name: 'serial', node: false, labels: ENFORCED, args: harmless });
    await until('it to be said', async () => (await codes(d, 'rule')).includes('device-rule:unenforced'));
    await until('the others to be read', async () => {
      const states = await Promise.all(['no-rule', 'serial'].map((name) => coverage(d, name)));
      return states.every((s) => s?.state === 'enforced' && s.reasons.length === 0);
    });
    await lab.docker('rm', '-f', 'no-rule', 'rule', 'serial');
  });

  it("the processes of another: both have the worse one's mode", async () => {
    const memory = "require('fs').closeSync(require('fs').openSync('/proc/1/mem','r+'))";
    await lab.start({ name: 'watched', node: false, labels: { 'drawbridge.mode': 'observe' } });
    const joins = { labels: ENFORCED, args: ['--pid=container:watched'] };
    const c = await lab.start({ name: 'ptracer', ...joins });
    expect((await c.exec(['node', '-e', memory])).code).toBe(0); // the control: what ptrace asks is granted
    await lab.start({ name: 'victim', node: false, labels: ENFORCED });
    await lab.start({
      name: 'intruder',
      node: false,
      labels: { 'drawbridge.mode': 'off' },
      args: ['--pid=container:victim'],
    });
    await lab.start({
      name: 'twin',
      node: false,
      labels: ENFORCED,
      args: ['--pid=container:victim', '--net=container:victim'],
    });
    await until('all to be said', async () => {
      const found = await Promise.all(['ptracer', 'victim', 'twin'].map((name) => codes(d, name)));
      return found.every((f) => f.includes('shared-pid:unenforced'));
    });
    expect((await coverage(d, 'ptracer'))?.reasons.join()).toContain('watched, which is in mode observe');
    await lab.docker('rm', '-f', 'intruder');
    await until('them to be alone', async () => (await codes(d, 'victim')).length === 0);
    await lab.docker('rm', '-f', 'ptracer', 'watched', 'twin', 'victim');
  });

  it('one that shares a network has the coverage of its holder', async () => {
    await lab.start({ name: 'vpn', node: false, labels: ENFORCED });
    await lab.start({ name: 'side', node: false, network: 'container:vpn' });
    await lab.start({ name: 'told', node: false, network: 'container:vpn', labels: ENFORCED });
    await until('both to be read', async () => {
      const found = await Promise.all([codes(d, 'told'), codes(d, 'side')]);
      return JSON.stringify(found) === '[["shared-network:partial"],["shared-network:enforced"]]';
    }).catch(async (e: Error) => {
      throw new Error(`${e.message}: ${await codes(d, 'told')} ${await codes(d, 'side')}`);
    });
    await lab.docker('rm', '-f', 'told', 'side', 'vpn');
  });

  it('a second network that is not held, joined while it runs', async () => {
    await lab.docker('network', 'create', '--ipv6', 'front');
    await lab.start({ name: 'joiner', node: false, network: 'front', labels: ENFORCED });
    const isFree = async (): Promise<boolean> =>
      (await codes(d, 'joiner')).includes('unmanaged-network:unenforced');
    const isEnforced = async (): Promise<boolean> => (await coverage(d, 'joiner'))?.state === 'enforced';
    await until('it to be enforced', isEnforced).catch(async (e: Error) => {
      throw new Error(`${e.message}: ${JSON.stringify(await coverage(d, 'joiner'))}`);
    });
    await lab.docker('network', 'connect', 'free', 'joiner');
    await until('the network to be said', isFree);
    // the two views are computed at a pace of their own
    await until('it to count', async () => (await coverage(d, 'joiner'))?.state === 'unenforced');
    await lab.docker('network', 'disconnect', 'free', 'joiner');
    await until('it to be forgotten', async () => !(await isFree()));
    await lab.docker('rm', '-f', 'joiner');
  });

  it('practices are told, secrets by name only', async () => {
    await lab.start({
      name: 'careless',
      node: false,
      env: { API_TOKEN: 'swordfish-7', EMPTY_SECRET: '' },
      args: ['-p', '8088:80'],
    });
    await lab.start({
      name: 'careful',
      node: false,
      args: ['-p', '127.0.0.1:8089:80', '--user=1000', '--memory=64m', '--pids-limit=50'],
    });
    const practices = async (name: string): Promise<string[]> => {
      const found = (await scan(d)).find((i) => i.container === name)?.findings ?? [];
      return found.filter((f) => f.kind === 'practice').map((f) => f.code);
    };
    await until('both to be inspected', async () => (await practices('careless')).length > 1);
    expect(await practices('careless')).toEqual([
      'image-not-pinned',
      'root-user',
      'secret-in-environment',
      'no-limits',
      'published-everywhere',
    ]);
    expect(await practices('careful')).toEqual(['image-not-pinned']);
    const text = await d.cli(['scan', '--exit-code']);
    expect(text.code).toBe(1);
    expect(text.stdout).toContain('API_TOKEN');
    const everything = text.stdout + (await d.get('/v1/scan')).body + (await d.get('/v1/containers')).body;
    expect(everything + d.logs()).not.toContain('swordfish');
    expect(everything).not.toContain('EMPTY_SECRET');
    await lab.docker('rm', '-f', 'careless', 'careful');
  });

  it('ps shows the state and what to do', async () => {
    await lab.start({ name: 'risky', node: false, labels: ENFORCED, args: ['--privileged'] });
    await until('it to be said', async () => (await coverage(d, 'risky'))?.state === 'unenforced');
    expect((await d.cli(['ps'])).stdout).toMatch(/^risky\tenforce\tnone \(1\)\t.*\tprivileged$/m);
    expect((await d.cli(['inspect', 'risky'])).stdout).toMatch(
      /NONE privileged: the container is privileged: .*\n {4}→ run the container without --privileged/,
    );
    expect((await d.cli(['status'])).stdout).toMatch(
      /^1 of 1 enforced, 0 observed\ncoverage of the enforced: 0 full, 0 partial, 1 none/,
    );
    const denied = (await d.cli(['explain', 'risky', '93.184.1.1:80'])).stdout;
    expect(denied).toMatch(
      /^deny: risky .*\n(.*\n)* {2}but: coverage of risky is unenforced: the container is privileged/,
    );
    await lab.docker('rm', '-f', 'risky');
  });
});

describe('the host', () => {
  let lab: Lab;
  let d: Drawbridge;
  beforeAll(async () => {
    lab = await Lab.up({});
    await lab.inHost(['sysctl', '-qw', 'net.bridge.bridge-nf-call-iptables=0'], { check: true });
    d = lab.drawbridge({});
    await d.ready(60_000);
  });
  afterAll(() => lab?.down());

  it('an accept ahead of ours is said with every container, and lets nothing forbidden out', async () => {
    const c = await lab.start({ name: 'web', labels: ENFORCED });
    await until('it to be enforced', async () => (await coverage(d, 'web'))?.state === 'enforced');
    await lab.inHost(['iptables', '-I', 'FORWARD', '1', '-j', 'ACCEPT'], { check: true });
    await until('it to be said', async () => (await codes(d, null)).includes('foreign-accept:partial'));
    expect((await coverage(d, 'web'))?.reasons[0]).toContain('IPv4 FORWARD: -j ACCEPT');
    await lab.sniffer.clear();
    expect((await c.probe('tcp', FORBIDDEN, 80, '--timeout', 1500)).ok).toBe(false);
    expect(await lab.sniffer.count({ direction: 'out', dst: FORBIDDEN })).toBe(0);
    await lab.inHost(['iptables', '-D', 'FORWARD', '-j', 'ACCEPT'], { check: true });
    await until('it to be forgotten', async () => (await coverage(d, 'web'))?.state === 'enforced');
  });

  it('br_netfilter off is said', async () => {
    await until('it to be said', async () => (await codes(d, null)).includes('br-netfilter-off:enforced'));
  });

  it('firewalld and ufw are known by what they lay', async () => {
    await lab.inHost(['nft', 'add', 'table', 'inet', 'firewalld'], { check: true });
    await lab.inHost(['iptables', '-N', 'ufw-user-input'], { check: true });
    await lab.inHost(['iptables', '-I', 'INPUT', '-j', 'ufw-user-input'], { check: true });
    await until('both to be said', async () => {
      const found = await codes(d, null);
      return found.includes('firewalld:enforced') && found.includes('ufw:enforced');
    });
  });
});

describe('an engine that lays no rules', () => {
  let lab: Lab;
  let d: Drawbridge;
  beforeAll(async () => {
    lab = await Lab.up({ daemon: { iptables: false, ip6tables: false } });
    d = lab.drawbridge({});
  });
  afterAll(() => lab?.down());

  it('control: without us a container gets out', async () => {
    const c = await lab.start({ name: 'before' });
    expect((await c.probe('tcp', FORBIDDEN, 80)).ok).toBe(true);
    await c.remove();
  });

  it('is said, and our rules hold in FORWARD itself', async () => {
    await d.ready(60_000);
    await until('it to be said', async () => (await codes(d, null)).includes('docker-iptables-off:enforced'));
    const labels = { 'drawbridge.allow': '93.184.1.1:80' };
    const c = await lab.start({ name: 'web', labels });
    await lab.sniffer.clear();
    expect((await c.probe('tcp', '93.184.1.1', 80)).ok).toBe(true);
    expect((await c.probe('tcp', FORBIDDEN, 80, '--timeout', 1500)).ok).toBe(false);
    expect(await lab.sniffer.count({ direction: 'out', dst: FORBIDDEN })).toBe(0);
    await until('its mounts to be read', async () => (await coverage(d, 'web'))?.state === 'enforced');
  });

  it('doctor says it too, and that packets of its own were held', async () => {
    const { checks } = JSON.parse((await d.cli(['doctor', '--json'])).stdout);
    expect(checks).toContainEqual(expect.objectContaining({ name: 'docker-iptables-off', ok: true }));
    expect(checks).toContainEqual(expect.objectContaining({ name: 'enforcement', ok: true }));
  });
});

describe('an engine that lays no rules for IPv6', () => {
  let lab: Lab;
  beforeAll(async () => {
    lab = await Lab.up({ daemon: { ip6tables: false } });
    await lab.docker('network', 'create', '--ipv6', 'six');
  });
  afterAll(() => lab?.down());

  it('is said, and our rules hold in FORWARD itself', async () => {
    const six = '2600:9000:1::1';
    const free = await lab.start({ name: 'before', network: 'six' });
    expect((await free.probe('tcp', six, 80)).ok).toBe(true);
    await free.remove();
    const d = lab.drawbridge({});
    await d.ready(60_000);
    await until('it to be said', async () =>
      (await codes(d, null)).includes('docker-ip6tables-off:enforced'),
    );
    const c = await lab.start({ network: 'six', labels: { 'drawbridge.allow': `[${six}]:8000` } });
    await lab.sniffer.clear();
    expect((await c.probe('tcp', six, 8000)).ok).toBe(true);
    expect((await c.probe('tcp', six, 80, '--timeout', 1500)).ok).toBe(false);
    expect(await lab.sniffer.count({ direction: 'out', dst: six, dport: 80 })).toBe(0);
  });
});
