/** Tasks of a swarm: what leaves it goes through docker_gwbridge, and is held there by the labels of the task's container. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { Container } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';

const PERMITTED = '93.184.76.1';
const FORBIDDEN = ['93.184.76.9', '2600:9000:76::9'] as const;
const PORT = 8400;

let lab: Lab;
let d: Drawbridge;
beforeAll(async () => {
  lab = await Lab.up();
  await lab.docker('swarm', 'init', '--advertise-addr', lab.addresses.host4);
  await lab.docker('network', 'create', '--driver', 'overlay', '--attachable', 'over');
});
afterAll(async () => {
  await lab?.docker('swarm', 'leave', '--force');
  await lab?.down();
});

/** Its task tries all of them in its first instructions, tells whom it reached, and serves a port. */
async function service(name: string, ...options: string[]): Promise<string> {
  const tries = [...FORBIDDEN, PERMITTED].map(
    (a) => `nc -w 4 ${a} 80 </dev/null 2>/dev/null && echo reached ${a}`,
  );
  const program = `${tries.join('; ')}; echo done; exec httpd -f -p 80 -h /etc`;
  // without a virtual address: that would need IPVS
  const fixed = ['--detach', '--no-resolve-image', '--endpoint-mode=dnsrr', '--network=over', '--name', name];
  await lab.docker('service', 'create', ...fixed, ...options, 'busybox:lab', 'sh', '-c', program);
  const filter = ['--filter', `label=com.docker.swarm.service.name=${name}`];
  return waitFor(
    `the task of ${name} to have tried`,
    async () => {
      const id = await lab.docker('ps', '-q', ...filter);
      return id !== '' && (await lab.docker('logs', id)).includes('done') && id;
    },
    60_000,
  );
}
const reached = async (task: string): Promise<string[]> =>
  [...(await lab.docker('logs', task)).matchAll(/reached (\S+)/g)].map((m) => m[1] ?? '');
const reasons = async (task: string): Promise<{ state: string; reasons: string[] }> =>
  JSON.parse((await d.get(`/v1/containers/${task}`)).body).coverage;

it('control: without Drawbridge a task reaches all of them', async () => {
  const task = await service('free');
  expect((await reached(task)).sort()).toEqual([PERMITTED, FORBIDDEN[0]].sort());
  await lab.docker('service', 'rm', 'free');
});

it('with it, from the first instruction, only what its label names; its port is served', async () => {
  d = lab.drawbridge();
  await d.ready();
  await lab.sniffer.clear();
  const label = `--container-label=drawbridge.allow=${PERMITTED}:80`;
  const task = await service('crew', label, `--publish=mode=host,target=80,published=${PORT}`);
  expect(await reached(task)).toEqual([PERMITTED]);
  expect(await lab.sniffer.count({ direction: 'out', dst: [...FORBIDDEN] })).toBe(0);
  const page = await lab.probeFromNet('http', `http://${lab.addresses.host4}:${PORT}/passwd`);
  expect(page).toMatchObject({ ok: true, status: 200 });
});

it('coverage says what of an overlay is not held, and it is not', async () => {
  const task = await lab.docker('ps', '-q', '--filter', 'label=com.docker.swarm.service.name=crew');
  const coverage = await waitFor('coverage of the task', async () => {
    const told = await reasons(task);
    return told.reasons.some((r) => r.includes('overlay')) && told;
  });
  expect(coverage.state).toBe('partial');
  expect(coverage.reasons.join('\n')).toContain(
    'endpoints of it, on any host of the swarm, are reached without',
  );
  const mate = await lab.start({ network: 'over', name: 'mate', labels: { 'drawbridge.mode': 'enforce' } });
  const { ip4 } = await new Container(lab.engine, task, 'crew').addresses('over');
  const outcomes = [ip4, 'crew', 'tasks.crew'].map((host) => mate.probe('http', `http://${host}/passwd`));
  for (const o of await Promise.all(outcomes)) expect(o).toMatchObject({ ok: true, status: 200 });
  expect(await mate.probe('tcp', FORBIDDEN[0], 80)).toMatchObject({ ok: false });
  expect(await lab.sniffer.count({ direction: 'out', dst: [...FORBIDDEN] })).toBe(0);
});
