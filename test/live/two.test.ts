import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Container } from '../lab/container.js';
import { Lab } from '../lab/lab.js';

const labs: Lab[] = [];
const containers: Container[] = [];
const own = (n: number): string => `93.184.1.${10 + n}`;

beforeAll(async () => {
  for (const n of [0, 1]) {
    const lab = await Lab.up({});
    labs.push(lab);
    await lab.drawbridge({}).ready();
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
  const before = await labs[1]?.snapshotKernel();
  await containers[0]?.remove();
  await labs[0]?.inHost(['iptables', '-F', 'DOCKER-USER']);
  const listed = await labs[0]?.inHost(['ipset', 'list', '-n']);
  expect(listed?.stdout).not.toContain(containers[1]?.id.slice(0, 12));
  expect(await labs[1]?.snapshotKernel()).toEqual(before);
});
