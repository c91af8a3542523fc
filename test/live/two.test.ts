import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Container } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';

const labs: Lab[] = [];
const containers: Container[] = [];
const drawbridges: Drawbridge[] = [];
const own = (n: number): string => `93.184.1.${10 + n}`;

beforeAll(async () => {
  for (const n of [0, 1]) {
    const lab = await Lab.up({});
    labs.push(lab);
    const drawbridge = lab.drawbridge({});
    await drawbridge.ready();
    drawbridges.push(drawbridge);
    containers.push(await lab.start({ name: 'same-name', labels: { 'drawbridge.allow': `${own(n)}:8000` } }));
  }
});
afterAll(async () => {
  for (const lab of labs) await lab.down();
});

it('two instances in two network namespaces do not see each other', async () => {
  for (const [n, container] of containers.entries()) {
    expect((await container.probe('tcp', own(n), '8000')).ok).toBe(true);
    expect((await container.probe('tcp', own(1 - n), '8000')).code).toBe('ECONNREFUSED');
    expect(await labs[n]?.sniffer.count({ direction: 'out', dst: own(1 - n) })).toBe(0);
  }
  for (const [n, drawbridge] of drawbridges.entries()) {
    const { items } = JSON.parse((await drawbridge.get('/v1/containers')).body) as {
      items: { id: string }[];
    };
    expect(items.map((c) => c.id)).toEqual([containers[n]?.id]);
  }
  const before = await labs[1]?.snapshotKernel();
  await containers[0]?.remove();
  await labs[0]?.inHost(['iptables', '-F', 'DOCKER-USER']);
  const listed = await labs[0]?.inHost(['ipset', 'list', '-n']);
  expect(listed?.stdout).not.toContain(containers[1]?.id.slice(0, 12));
  expect(await labs[1]?.snapshotKernel()).toEqual(before);

  const done = await drawbridges[0]?.cli(['teardown']);
  expect(done?.code).toBe(0);
  expect((await labs[0]?.snapshotKernel())?.iptables).not.toContain('DB-');
  expect(await labs[1]?.snapshotKernel()).toEqual(before);
  expect((await containers[1]?.probe('tcp', own(1), '8000'))?.ok).toBe(true);
  expect((await containers[1]?.probe('tcp', own(0), '8000'))?.code).toBe('ECONNREFUSED');
});
