import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Container } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';

let lab: Lab;
let drawbridge: Drawbridge;
let enforced: Container;
let observed: Container;

/** Everything that we could have left: rules, sets, nft tables, addresses on lo, policy routes, the container's own namespace. */
async function everything(): Promise<unknown> {
  const addresses = (await lab.inHost(['ip', '-o', 'address', 'show', 'lo'])).stdout.replace(
    /valid_lft.*$/gm,
    '',
  );
  const inside = [];
  for (const c of [enforced, observed]) {
    const tables = ['nsenter', `--net=/proc/${await c.pid()}/ns/net`, '--', 'nft', 'list', 'tables'];
    inside.push((await lab.inHost(tables)).stdout);
  }
  const routing = [];
  for (const argv of [
    ['ip', 'rule'],
    ['ip', 'route', 'show', 'table', '56065'],
  ])
    routing.push((await lab.inHost(argv)).stdout);
  return { ...(await lab.snapshotKernel()), addresses, inside, routing };
}
/** By name and address, of both: the network as Docker gave it. */
async function freeNetwork(): Promise<void> {
  for (const c of [enforced, observed]) {
    expect(await c.probe('http', 'http://free.example.com/')).toMatchObject({ ok: true });
    expect(await c.probe('tcp', '93.184.9.9', 8000)).toMatchObject({ ok: true });
  }
}
const forbidden = async (): Promise<boolean> => (await enforced.probe('tcp', '93.184.9.9', '8000')).ok;

beforeAll(async () => {
  lab = await Lab.up({ dns: 'loopback' });
  await lab.docker('network', 'create', 'own');
  await lab.docker('network', 'create', '-o', 'com.docker.network.bridge.inhibit_ipv4=true', 'bare');
  // before the service, so that what was found has a container in it
  enforced = await lab.start({
    name: 'enforced',
    network: 'own',
    labels: { 'drawbridge.allow': '93.184.1.1:8000' },
  });
  observed = await lab.start({ name: 'observed', network: 'own' });
  await lab.dns.set({ 'free.example.com': { A: ['93.184.9.9'] } });
});
afterAll(() => lab?.down());

describe('teardown leaves the kernel as it was found', () => {
  let found: unknown;

  it('with the service up; what was enforced is free again', async () => {
    found = await everything();
    expect(await forbidden()).toBe(true);
    drawbridge = lab.drawbridge({});
    await drawbridge.ready();
    await waitFor('the container to be held', async () => !(await forbidden()), 20_000);
    expect((await enforced.probe('tcp', '93.184.1.1', '8000')).ok).toBe(true);
    expect(await everything()).not.toEqual(found);
    expect((await lab.inHost(['ip', 'rule'])).stdout).toContain('lookup 56065');
    const done = await drawbridge.cli(['teardown']);
    expect({ code: done.code, stderr: done.stderr }).toEqual({ code: 0, stderr: '' });
    await drawbridge.exited();
    expect(await everything()).toEqual(found);
    await freeNetwork();
  });

  it('asked by another configuration while the service runs, it says that the rules come back', async () => {
    drawbridge.start();
    await drawbridge.ready();
    await waitFor('the container to be held', async () => !(await forbidden()), 20_000);
    const other = lab.drawbridge({ instance: 'other' });
    const done = await other.cli(['teardown']);
    expect(done.code).toBe(1);
    expect(done.stderr).toContain('another Drawbridge with another configuration runs on this host');
    await waitFor('the container to be held again', async () => !(await forbidden()), 20_000);
    expect((await drawbridge.cli(['teardown'])).code).toBe(0);
    await drawbridge.exited();
    expect(await everything()).toEqual(found);
  });

  it('with the service killed, and again after a new start', async () => {
    drawbridge.start();
    await drawbridge.ready();
    await waitFor('the container to be held', async () => !(await forbidden()), 20_000);
    drawbridge.kill('SIGKILL');
    await drawbridge.exited();
    expect(await forbidden()).toBe(false);
    const done = await drawbridge.cli(['teardown']);
    expect({ code: done.code, stderr: done.stderr }).toEqual({ code: 0, stderr: '' });
    expect(await everything()).toEqual(found);
    await freeNetwork();
    const log = readFileSync(join(drawbridge.stateDir, 'audit-000000000001.log'), 'utf8');
    expect(JSON.parse(log.trim().split('\n').at(-1) ?? '')).toMatchObject({
      who: expect.stringMatching(/^local:/),
      action: 'teardown',
    });
    expect((await drawbridge.cli(['audit', 'verify'])).code).toBe(0);
  });
});

describe('teardown by a configuration that is refused', () => {
  it('as after a rollback to a version that lacks a key: removes all, of a prefix that cannot be read as well', async () => {
    const found = await everything();
    drawbridge.configure({ kernel: { prefix: 'XY' } });
    drawbridge.start();
    await drawbridge.ready();
    await waitFor('the container to be held', async () => !(await forbidden()), 20_000);
    await drawbridge.stop();
    drawbridge.configure({ bogus: true, kernel: { prefix: 'not a prefix' } });
    const notes = join(drawbridge.stateDir, 'host.json');
    writeFileSync(notes, JSON.stringify({ ...JSON.parse(readFileSync(notes, 'utf8')), prefix: '' }));
    const done = await drawbridge.cli(['teardown']);
    expect(done.stderr).toMatch(/unknown key "?bogus/);
    expect(done.stdout).toContain('nothing is enforced now');
    expect(done.code).toBe(0);
    expect(await everything()).toEqual(found);
    await freeNetwork();
    drawbridge.configure({});
  });
});

describe('what the commands say around it', () => {
  it('plan and status without a service: not running, what to do, and exit 1', async () => {
    for (const command of ['plan', 'status']) {
      const said = await drawbridge.cli([command]);
      expect(said.code).toBe(1);
      expect(said.stderr).toMatch(/the service is not running.*\n.*start it/);
    }
  });

  it('plan with everything in place: nothing to change', async () => {
    drawbridge.start();
    await drawbridge.ready();
    await waitFor('the container to be held', async () => !(await forbidden()), 20_000);
    const json = await drawbridge.cli(['plan', '--json', '--exit-code']);
    expect({ code: json.code, changes: JSON.parse(json.stdout) }).toEqual({ code: 0, changes: [] });
    expect((await drawbridge.cli(['plan'])).stderr).toContain('nothing to change');
  });

  it('doctor: 0 where it can enforce, 1 where it cannot, with the remedy', async () => {
    const well = await drawbridge.cli(['doctor', '--json']);
    expect(well.code, well.stdout).toBe(0);
    expect(JSON.parse(well.stdout)).toMatchObject({ canEnforce: true });
    drawbridge.configure({ docker: { socket: '/run/no-such.sock' } });
    const ill = await drawbridge.cli(['doctor']);
    expect(ill.code, ill.stdout).toBe(1);
    expect(ill.stdout).toMatch(/docker\s+FAILED.*no-such\.sock.*start Docker/);
  });
});
