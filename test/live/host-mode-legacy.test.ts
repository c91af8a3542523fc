import { afterAll, beforeAll, expect, it } from 'vitest';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
import { inParallel } from './support.js';

const STARTS = 10;
const permitted = (n: number): string => `93.184.10.${n}`;
const forbidden = (n: number): string => `93.184.20.${n}`;
const script = (n: number): string =>
  `wget -q -T 1 -O /dev/null http://${forbidden(n)}/ & wget -q -T 5 -O /dev/null http://${permitted(n)}/ && echo reached; wait`;

let lab: Lab;
beforeAll(async () => {
  lab = await Lab.up({ iptables: 'legacy' });
});
afterAll(() => lab?.down());

const save = async (): Promise<string> => (await lab.inHost(['iptables-save'])).stdout;

it('iptables-legacy: held from the first instruction, and a cgroup that ended stops nobody’s rules', async () => {
  const drawbridge = lab.drawbridge({});
  await drawbridge.ready();
  await lab.start({ node: false });
  await waitFor(
    'the parent to be known',
    async () => (await save()).includes(`${lab.cgroupParent} `),
    20_000,
  );
  const numbers = Array.from({ length: STARTS }, (_, n) => n);
  const printed = await inParallel(4, numbers, (n) =>
    lab.run({
      network: 'host',
      node: false,
      labels: { 'drawbridge.allow': `${permitted(n)}:80` },
      cmd: ['sh', '-c', script(n)],
    }),
  );
  expect(await lab.sniffer.count({ direction: 'out', dst: numbers.map(forbidden) })).toBe(0);
  expect(printed.filter((p) => p.stdout.includes('reached')).length).toBe(STARTS);
  const c = await lab.start({ network: 'host', labels: { 'drawbridge.allow': `${permitted(1)}:80` } });
  await waitFor('its rule', async () => (await save()).includes(c.id), 10_000);
  drawbridge.kill('SIGKILL');
  await drawbridge.exited();
  await c.remove();
  expect(await save()).toContain(c.id); // its cgroup is gone, its rule stands
  for (const table of ['filter', 'nat', 'raw'])
    for (const tool of ['iptables', 'ip6tables'])
      await lab.inHost([tool, '-t', table, '-A', 'OUTPUT', '-p', '99', '-j', 'ACCEPT'], { check: true });
  drawbridge.start();
  await drawbridge.ready();
  expect(await save()).not.toContain(c.id);
  await lab.inHost(['iptables', '-t', 'mangle', '-A', 'OUTPUT', '-p', '99', '-j', 'ACCEPT'], { check: true });
});
