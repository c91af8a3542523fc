import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { shownHere } from '../attacks/report.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';

const FORBIDDEN = '203.0.113.66';
const PERMITTED = '93.184.1.1';
const FIRST_WORDS = `wget -q -T 1 -O /dev/null http://${FORBIDDEN}/
until wget -q -T 5 -O /dev/null http://${PERMITTED}/; do sleep 1; done
echo reached
sleep 1000000`;

const shown = shownHere({
  id: 'boot',
  title: 'a container that Docker starts at boot, before it answers anybody',
  families: ['v4'],
  stoppedBy: 'the closed base stands before Docker does',
});

let lab: Lab;
beforeAll(async () => {
  lab = await Lab.up({});
  const label = `drawbridge.allow=${PERMITTED}:80`;
  const args = ['run', '-d', '--name', 'early', '--restart', 'always', '--label', label];
  await lab.docker(...args, lab.images.busybox, 'sh', '-c', FIRST_WORDS);
  await reached(1);
});
afterAll(() => lab?.down());

const reached = (times: number): Promise<unknown> =>
  waitFor(
    'the container to reach what it may',
    async () => (await lab.docker('logs', 'early')).split('reached').length - 1 >= times,
    60_000,
    200,
  );

/** No rule of Docker's, as after a boot. */
async function forgetRules(): Promise<void> {
  for (const tool of ['iptables', 'ip6tables'])
    for (const table of ['filter', 'nat'])
      for (const what of ['-F', '-X']) await lab.inHost([tool, '-t', table, what], { check: true });
}

const answers = (d: Drawbridge): Promise<unknown> =>
  waitFor(
    'the API to answer',
    () =>
      d.get('/v1/status').then(
        (a) => a.status === 200,
        () => false,
      ),
    40_000,
    100,
  );

/** Docker starts such containers before it answers anybody. */
describe('a container that Docker starts by itself at boot', () => {
  it('control: without Drawbridge it reaches what it may not', async () => {
    await lab.engine.stop();
    await forgetRules();
    await lab.sniffer.clear();
    await lab.engine.start();
    await reached(2);
    expect(await lab.sniffer.count({ direction: 'out', dst: FORBIDDEN })).toBeGreaterThan(0);
    shown.control();
  });

  it('with Drawbridge before Docker: nothing forbidden gets out, what is permitted does', async () => {
    await lab.engine.stop();
    await forgetRules();
    await lab.sniffer.clear();
    const drawbridge = lab.drawbridge({});
    await answers(drawbridge);
    await lab.engine.start();
    await reached(3);
    await drawbridge.ready();
    expect(await lab.sniffer.count({ direction: 'out', dst: FORBIDDEN })).toBe(0);
    expect(await lab.sniffer.count({ direction: 'out', dst: PERMITTED })).toBeGreaterThan(0);
    shown.held();
  });
});
