import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Container } from '../lab/container.js';
import type { KernelSnapshot } from '../lab/kernel-snapshot.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
import { Compose } from './compose-support.js';

const ALLOWED = '93.184.1.1';
const DENIED = '93.184.1.2';
const HEALTH = ['inspect', '-f', '{{.State.Health.Status}}'];

let lab: Lab;
let compose: Compose;
let before: KernelSnapshot;
let front: Container;

const listed = async (): Promise<
  { name: string; mode: string; coverage: { state: string; reasons: string[] } }[]
> => JSON.parse((await compose.drawbridge('ps', '--json')).stdout);
const one = async (name: string) => (await listed()).find((c) => c.name === name);
/** Once its mounts have been read. */
const read = (name: string) =>
  waitFor(`the mounts of ${name} to be read`, async () => {
    const c = await one(name);
    return c?.coverage.reasons.some((r) => r.includes('not been read')) === false && c;
  });
const healthy = (name: string): Promise<unknown> =>
  waitFor(`${name} to be healthy`, async () => (await lab.docker(...HEALTH, name)) === 'healthy', 60_000);

beforeAll(async () => {
  lab = await Lab.up({ dns: 'loopback' }); // names need a socket of ours in the container's own namespace
  await lab.dns.set({ 'api.example.com': { A: [ALLOWED] }, 'other.example.com': { A: [DENIED] } });
  compose = await Compose.prepare(lab);
  before = await lab.snapshotKernel();
  await compose.run(['up', '-d', '--build']);
  await Promise.all(['drawbridge', 'drawbridge-redis'].map(healthy));
  await lab.docker('network', 'create', 'front');
  front = await lab.start({
    name: 'front',
    network: 'front',
    labels: { 'drawbridge.allow': 'api.example.com' },
  });
}, 300_000);
afterAll(() => lab?.down());

describe('docker compose up', () => {
  it('observes a container without labels: it goes where it likes', async () => {
    const plain = await lab.start({ name: 'plain' });
    expect(await plain.probe('tcp', DENIED, 443)).toMatchObject({ ok: true });
    expect(await read('plain')).toMatchObject({ mode: 'observe', coverage: { state: 'enforced' } });
    await plain.remove();
  });

  it('enforces the labels of another, from its first instruction, and by name', async () => {
    await lab.sniffer.clear();
    const spec = { network: 'front', labels: { 'drawbridge.allow': `${ALLOWED}:443` } };
    const [may, mayNot] = await Promise.all([
      lab.runProbe(spec, 'tcp', ALLOWED, 443),
      lab.runProbe(spec, 'tcp', DENIED, 443),
    ]);
    expect([may.ok, mayNot.code]).toEqual([true, 'ECONNREFUSED']);
    expect(await front.probe('http', 'http://api.example.com/')).toMatchObject({ ok: true, status: 200 });
    expect(await front.probe('tcp', 'other.example.com', 443)).toMatchObject({ code: 'ENOTFOUND' });
    expect(await lab.sniffer.count({ dst: DENIED })).toBe(0);
    expect(await lab.dns.queries('other.example.com')).toEqual([]);
  });

  it('says what it is itself, and reads what Docker wrote for others', async () => {
    const direct = await lab.start({
      name: 'direct',
      network: 'front',
      labels: { 'drawbridge.mode': 'enforce' },
      args: ['--dns', '198.51.100.53'],
    });
    expect(await one('drawbridge')).toMatchObject({ coverage: { state: 'unenforced' } });
    expect((await one('drawbridge'))?.coverage.reasons).toEqual([
      expect.stringMatching(/^this container is Drawbridge itself/),
    ]);
    expect(await read('direct')).toMatchObject({ coverage: { state: 'enforced', reasons: [] } });
    expect((await read('front')).coverage.reasons).toEqual([
      expect.stringMatching(/before Drawbridge's resolver was installed inside it/),
    ]);
    await direct.remove();
  });

  it('keeps what is changed in Redis, which no network reaches', async () => {
    const added = await compose.drawbridge('allow', 'front', `${DENIED}:443`);
    expect([added.code, added.stderr]).toEqual([0, '']);
    await lab.docker('restart', 'drawbridge');
    await healthy('drawbridge');
    expect(await front.probe('tcp', DENIED, 443)).toMatchObject({ ok: true });
    const store = JSON.parse((await compose.drawbridge('status', '--json')).stdout).store;
    expect(store).toMatchObject({ kind: 'redis', ok: true });
    expect(await lab.docker('inspect', '-f', '{{.HostConfig.NetworkMode}}', 'drawbridge-redis')).toBe('none');
    const tcp = await lab.exec('drawbridge-redis', ['redis-cli', '-h', '127.0.0.1', 'ping']);
    expect(tcp.stderr).toMatch(/Connection refused/);
    expect((await lab.inHost(['ss', '-Hltn'], { check: true })).stdout).not.toContain(':6379');
  });
});

describe('its capabilities', () => {
  const PLACE = '--read-only --tmpfs /run --network host --pid host --cgroupns host --cap-drop ALL'.split(
    ' ',
  );
  const doctor = async (capabilities: readonly string[], ...image: string[]) => {
    const socket = ['-v', `${lab.socketPath}:/var/run/docker.sock`];
    const caps = capabilities.map((c) => `--cap-add=${c}`);
    return lab.dockerResult(['run', '--rm', ...PLACE, ...socket, ...caps, ...image], { check: false });
  };
  const given = async (): Promise<string[]> =>
    JSON.parse(await lab.docker('inspect', '-f', '{{json .HostConfig.CapAdd}}', 'drawbridge'));

  it('are enough', async () => {
    const { code, stdout } = await compose.drawbridge('doctor', '--json');
    const failed = JSON.parse(stdout).checks.filter((c: { ok: boolean }) => !c.ok);
    expect([code, failed.map((c: { name: string }) => c.name)]).toEqual([0, ['DNS at startup']]);
    expect(await lab.docker('logs', 'drawbridge')).not.toMatch(
      /cannot raise|Operation not permitted|EPERM|EACCES/,
    );
  });

  it('are all needed', async () => {
    const all = await given();
    expect(all.length).toBe(4);
    const withOut = (name: string): string[] => all.filter((c) => c.replace(/^CAP_/, '') !== name);
    for (const name of ['NET_ADMIN', 'NET_RAW', 'SYS_ADMIN']) {
      const { code, stderr } = await doctor(withOut(name), 'drawbridge:local', 'doctor');
      expect([name, code, /CANNOT enforce/.test(stderr)]).toEqual([name, 1, true]);
    }
    const nice = ['--entrypoint', 'node', 'drawbridge:local', '-e', 'os.setPriority(-10)'];
    expect((await doctor(all, ...nice)).code).toBe(0);
    expect((await doctor(withOut('SYS_NICE'), ...nice)).stderr).toMatch(/EACCES/);
  });
});

it('goes without a trace: stop, teardown, down', async () => {
  await front.remove();
  await lab.docker('network', 'rm', 'front');
  await compose.run(['stop', 'drawbridge']);
  expect((await compose.run(['run', '--rm', 'drawbridge', 'teardown'])).stdout).toMatch(
    /nothing is enforced now/,
  );
  await compose.run(['down', '--volumes']);
  expect(await lab.snapshotKernel()).toEqual(before);
  expect(await lab.docker('ps', '-aq')).toBe('');
});
