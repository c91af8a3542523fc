/** From the boot on: nothing gets out before the service runs, nor while it takes over. */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseProbe } from '../lab/container.js';
import { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import type { Packet } from '../lab/pcap.js';
import { run, waitFor } from '../lab/process.js';

const FORBIDDEN = '203.0.113.66';
const FORBIDDEN6 = '2001:db8:100::66';
const PERMITTED = '93.184.1.1';
/** Tries for ever, both families, three protocols; says so each time. */
const RESTLESS = `while :; do
  wget -q -T 1 -O /dev/null http://${FORBIDDEN}/ &
  wget -q -T 1 -O /dev/null "http://[${FORBIDDEN6}]/" &
  ping -c 1 -W 1 ${FORBIDDEN} >/dev/null &
  echo x | nc -u -w 1 ${FORBIDDEN} 9999 &
  wget -q -T 1 -O /dev/null http://${PERMITTED}/ && echo reached
  wait
  echo tried
done`;
const TRIES = 2;

let lab: Lab;
let drawbridge: Drawbridge;
beforeAll(async () => {
  lab = await Lab.up({});
  const place = { dir: lab.dir, view: lab.view, dockerSocket: lab.socketPath };
  drawbridge = new Drawbridge(place, {});
  const label = `drawbridge.allow=${PERMITTED}:80`;
  const args = ['run', '-d', '--name', 'early', '--restart', 'always', '--label', label];
  await lab.docker(...args, lab.images.busybox, 'sh', '-c', RESTLESS);
  await tried('early');
});
afterAll(async () => {
  await drawbridge?.stop();
  await lab?.down();
});

const count = async (container: string, word: string): Promise<number> =>
  (await lab.docker('logs', container)).split(word).length - 1;
/** It has tried everything some more times. */
async function tried(container: string, times = TRIES): Promise<void> {
  const before = await count(container, 'tried');
  await waitFor(
    `${container} to try`,
    async () => (await count(container, 'tried')) >= before + times,
    90_000,
    200,
  );
}
/** No rule of anybody, as after a boot. */
async function boot(): Promise<void> {
  await lab.engine.stop();
  await lab.inHost(['nft', 'flush', 'ruleset'], { check: true });
  await lab.inHost(['ipset', 'destroy'], { check: true });
  await lab.sniffer.clear();
}
/** All that stands, without the service's sign of life. */
const kernel = async (): Promise<string[]> =>
  Object.values(await lab.snapshotKernel())
    .join('\n')
    .split('\n')
    .filter((l) => !l.startsWith('add DB-alive'));
/** The packets themselves: a failure shows what got out. */
const leaked = (): Promise<readonly Packet[]> =>
  lab.sniffer.packets({ direction: 'out', dst: [FORBIDDEN, FORBIDDEN6] });
const permitted = (): Promise<number> => lab.sniffer.count({ direction: 'out', dst: PERMITTED });

describe('guard', () => {
  it('control: without it, what Docker starts at boot gets out', async () => {
    await boot();
    await lab.engine.start();
    await tried('early');
    expect((await leaked()).length).toBeGreaterThan(0);
    expect(await lab.sniffer.count({ direction: 'out', dst: FORBIDDEN6 })).toBeGreaterThan(0);
  });

  it('before Docker: nothing gets out of what it starts, nor of new containers and networks', async () => {
    await boot();
    // flows from before the guard, which a ping with the same identifier continues
    await lab.inHost(['conntrack', '-U', '-p', 'icmp', '--orig-dst', FORBIDDEN, '-t', '600'], {
      check: true,
    });
    const laid = await drawbridge.cli(['guard', '--json']);
    expect([laid.code, JSON.parse(laid.stdout)]).toEqual([0, { outcome: 'laid', exempt: [] }]);
    await lab.engine.start();
    await tried('early');
    await lab.docker('network', 'create', '--ipv6', 'front');
    for (const network of ['bridge', 'front']) {
      const args = ['run', '-d', '--name', `new-${network}`, '--network', network];
      await lab.docker(...args, lab.images.busybox, 'sh', '-c', RESTLESS);
    }
    await tried('new-front');
    await lab.docker('rm', '-f', 'new-front', 'new-bridge');
    expect(await leaked()).toEqual([]);
    expect(await permitted()).toBe(0);
  });

  it('a second one changes nothing', async () => {
    const before = await kernel();
    const again = await drawbridge.cli(['guard', '--json']);
    expect(JSON.parse(again.stdout).outcome).toBe('stands');
    expect(await kernel()).toEqual(before);
  });

  it('the service takes over: what is permitted passes, nothing else did on the way', async () => {
    drawbridge.start();
    await drawbridge.ready(60_000);
    const before = await count('early', 'reached');
    await waitFor('the permitted', async () => (await count('early', 'reached')) > before, 30_000, 200);
    await tried('early');
    expect(await leaked()).toEqual([]);
    expect(await permitted()).toBeGreaterThan(0);
  });

  it('beside the running service, and after it was killed, nothing is touched', async () => {
    const before = await kernel();
    expect(JSON.parse((await drawbridge.cli(['guard', '--json'])).stdout).outcome).toBe('stands');
    drawbridge.kill('SIGKILL');
    await drawbridge.exited();
    expect(JSON.parse((await drawbridge.cli(['guard', '--json'])).stdout).outcome).toBe('stands');
    expect(await kernel()).toEqual(before);
    expect(await leaked()).toEqual([]);
  });

  it('what was flushed is laid again', async () => {
    await lab.inHost(['iptables', '-F', 'FORWARD'], { check: true });
    await lab.inHost(['iptables', '-F', 'DOCKER-USER'], { check: true });
    expect(JSON.parse((await drawbridge.cli(['guard', '--json'])).stdout).outcome).toBe('laid');
    const chain = await lab.inHost(['iptables', '-S', 'FORWARD'], { check: true });
    expect(chain.stdout).toContain('-j DB-FORWARD');
  });
});

describe("other tools' ports", () => {
  const name = `dbt-lxc-${process.pid}`;
  const reaches = async (address: string): Promise<boolean> => {
    const probe = [process.execPath, join(import.meta.dirname, '../lab/probe.cjs'), 'tcp', address, '80'];
    return parseProbe(await run(['nsenter', `--net=/run/netns/${name}`, '--', ...probe])).ok;
  };
  beforeAll(async () => {
    await boot();
    await run(['ip', 'netns', 'add', name], { check: true });
    const host = (...args: string[]) => lab.inHost(['ip', ...args], { check: true });
    await host('link', 'add', 'lxcbr0', 'type', 'bridge');
    await host('address', 'add', '172.31.250.1/24', 'dev', 'lxcbr0');
    await host('link', 'set', 'lxcbr0', 'up');
    await host('link', 'add', 'vethlxc', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', name);
    await host('link', 'set', 'vethlxc', 'master', 'lxcbr0', 'up');
    const inside = (...args: string[]) => run(['ip', '-n', name, ...args], { check: true });
    await inside('link', 'set', 'eth0', 'up');
    await inside('address', 'add', '172.31.250.2/24', 'dev', 'eth0');
    await inside('route', 'add', 'default', 'via', '172.31.250.1');
  });
  afterAll(() => run(['ip', 'netns', 'delete', name]));

  it('that stand before are left alone', async () => {
    const laid = await drawbridge.cli(['guard', '--json']);
    expect(JSON.parse(laid.stdout)).toEqual({ outcome: 'laid', exempt: ['vethlxc'] });
    expect(await reaches(FORBIDDEN)).toBe(true);
  });

  it('by the service too, from its first pass on', async () => {
    await lab.engine.start();
    // Docker's FORWARD drops what nobody accepted.
    await lab.inHost(['iptables', '-I', 'DOCKER-USER', '-i', 'lxcbr0', '-j', 'ACCEPT'], { check: true });
    await lab.inHost(['iptables', '-I', 'DOCKER-USER', '-o', 'lxcbr0', '-j', 'ACCEPT'], { check: true });
    drawbridge.start();
    await drawbridge.ready(60_000);
    expect(await reaches(FORBIDDEN)).toBe(true);
  });
});
