/** No window at the start of a container. Nothing here is a bound of time (see timing.test.ts): it may run beside others. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { shownHere } from '../attacks/report.js';
import { Lab } from '../lab/lab.js';
import { firstPackets, permitted } from './first-packets.js';

/** `npm run soak -- all` starts more. */
const COUNT = Number(process.env.RACES ?? 20);
/** More than the slowest machine needs for all of them. */
const TIMEOUT_MS = Math.max(300_000, 2_500 * COUNT);

const V4 = ['v4'] as const;
const HELD = 'packets of unclassified veths are queued, then repeated once or dropped';
const shown = {
  start: shownHere({
    id: 'start-race',
    title: 'in the first instruction of a container, many starting at once',
    families: V4,
    stoppedBy: HELD,
  }),
  networks: shownHere({
    id: 'start-race-networks',
    title: 'the same while Docker makes and removes networks',
    families: V4,
    stoppedBy: HELD,
  }),
};

let lab: Lab;
beforeAll(async () => {
  lab = await Lab.up({});
});
afterAll(() => lab?.down());

describe('no window at the start of a container', () => {
  it('control: without Drawbridge the forbidden addresses are reached', async () => {
    const control = await firstPackets(lab, 1000, 4);
    expect(control.leaked).toBeGreaterThan(0);
    expect(control.notReached).toBe(0);
    for (const s of Object.values(shown)) s.control();
  });

  it(`${COUNT} containers in bursts: 0 packets to the forbidden, every permitted address is reached`, {
    timeout: TIMEOUT_MS,
  }, async () => {
    await lab.drawbridge({}).ready();
    expect(await firstPackets(lab, 0, COUNT)).toMatchObject({ leaked: 0, notReached: 0 });
    shown.start.held();
  });

  it('the same while networks are created and removed beside them', { timeout: TIMEOUT_MS }, async () => {
    let running = true;
    let made = 0;
    const churn = (async () => {
      for (let i = 0; i < 500 && running; i++) {
        await lab.docker('network', 'create', `churn${i}`);
        await lab.docker('network', 'rm', `churn${i}`);
        made += 1;
      }
    })();
    const count = Math.max(10, Math.ceil(COUNT / 4));
    const seen = await firstPackets(lab, 300, count).finally(() => {
      running = false;
    });
    await churn;
    expect(made).toBeGreaterThan(3);
    expect(seen).toMatchObject({ leaked: 0, notReached: 0 });
    shown.networks.held();
  });

  it('run --rm of different policies in a row on one address', async () => {
    const addresses = new Set<string>();
    for (let n = 600; n < 612; n++) {
      // every other container is permitted this address; the one after it, on the same address, is not
      const isPermitted = n % 2 === 0;
      const to = permitted(isPermitted ? n : n - 1);
      await lab.sniffer.clear();
      const label = `drawbridge.allow=${isPermitted ? `${to}:80` : '93.184.1.1:80'}`;
      const probe = `wget -q -T ${isPermitted ? 10 : 1} -O /dev/null http://${to}/ && echo reached; ip -4 -o addr show eth0`;
      const { stdout } = await lab.dockerResult(
        ['run', '--rm', '--label', label, lab.images.busybox, 'sh', '-c', probe],
        { timeoutMs: 60_000 },
      );
      addresses.add(/inet (\S+)/.exec(stdout)?.[1] ?? '');
      const out = await lab.sniffer.count({ direction: 'out', dst: to });
      expect({ n, reached: stdout.includes('reached'), out: out > 0 }).toEqual({
        n,
        reached: isPermitted,
        out: isPermitted,
      });
    }
    expect(addresses.size).toBeLessThan(3);
  });
});
