import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Container } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';

let lab: Lab;
let drawbridge: Drawbridge;
let enforced: Container;

/** Everything that we could have left: rules, sets, nft tables, addresses on lo, the container's own namespace. */
async function everything(): Promise<unknown> {
  const addresses = (await lab.inHost(['ip', '-o', 'address', 'show', 'lo'])).stdout.replace(
    /valid_lft.*$/gm,
    '',
  );
  const inside = await lab.inHost([
    'nsenter',
    `--net=/proc/${await enforced.pid()}/ns/net`,
    '--',
    'nft',
    'list',
    'tables',
  ]);
  return { ...(await lab.snapshotKernel()), addresses, inside: inside.stdout };
}
const forbidden = async (): Promise<boolean> => (await enforced.probe('tcp', '93.184.9.9', '8000')).ok;

beforeAll(async () => {
  lab = await Lab.up({ dns: 'loopback' });
  await lab.docker('network', 'create', 'own');
  // before the service, so that what was found has a container in it
  enforced = await lab.start({
    name: 'enforced',
    network: 'own',
    labels: { 'drawbridge.allow': '93.184.1.1:8000' },
  });
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
    const done = await drawbridge.cli(['teardown']);
    expect({ code: done.code, stderr: done.stderr }).toEqual({ code: 0, stderr: '' });
    await drawbridge.exited();
    expect(await everything()).toEqual(found);
    expect(await forbidden()).toBe(true);
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
    expect(await forbidden()).toBe(true);
    const now = await everything();
    expect(now).toEqual(found);
  });
});
