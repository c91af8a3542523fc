/** The controller goes and comes back: what is permitted goes on, what is not stays out, names are told again. */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { shownHere } from '../attacks/report.js';
import { PROGRAMS } from '../attacks/technique.js';
import { Random } from '../fuzz/random.js';
import type { Container } from '../lab/container.js';
import { DockerProxy, HEALTHY } from '../lab/docker-proxy.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
import { Flows } from './flows.js';

const FORBIDDEN = ['93.184.61.9', '2600:9000:61::9'];
const ALLOW = {
  'drawbridge.allow': 'live.sur.test:19,7777/tcp+udp, live.sur.test:80, fresh.sur.test, 93.184.60.2',
};

const shown = shownHere({
  id: 'service-away',
  title: 'the service stopped or crashed: new connections of a container that it knew',
  families: ['v4', 'v6'],
  stoppedBy: 'rules and sets stay installed without it, and are closed by themselves',
});

describe.each(['direct', 'loopback'] as const)('names asked the %s way', (dns) => {
  let lab: Lab;
  let drawbridge: Drawbridge;
  let flows: Flows;
  beforeAll(async () => {
    lab = await Lab.up({ dns });
    await lab.docker('network', 'create', '--ipv6', 'user');
    await lab.dns.set({
      'live.sur.test': { A: ['93.184.60.1'], ttl: 1 },
      'fresh.sur.test': { A: ['93.184.60.3'], ttl: 1 },
      'hidden.sur.test': { A: ['93.184.60.4'] },
    });
    drawbridge = lab.drawbridge({});
    await drawbridge.ready();
    flows = await Flows.start(lab, { network: 'user', name: 'downloader', labels: ALLOW }, []);
    await inside(flows.container.name);
    await flows.container.remove();
  });
  afterAll(() => lab?.down());

  /** Until names of the container are ours to answer, which coverage tells where Docker asks from the host. */
  async function inside(name: string): Promise<void> {
    if (dns === 'direct') return;
    const told = async (): Promise<boolean> =>
      (await drawbridge.get(`/v1/containers/${name}`)).body.includes('first milliseconds');
    await waitFor('a resolver inside', told);
  }
  const tryForbidden = async (): Promise<void> => {
    for (const host of FORBIDDEN) expect((await flows.container.probe('tcp', host, 80)).ok).toBe(false);
  };
  /** How often the kernel did not hold what was told of live.sur.test, looked at over and over. */
  async function missedUntil(ready: Promise<void>): Promise<number> {
    let isOver = false;
    const over = ready.finally(() => {
      isOver = true;
    });
    const isHeld = async (): Promise<boolean> =>
      (await lab.inHost(['ipset', 'save'])).stdout.includes(' 93.184.60.1 timeout');
    expect(await isHeld()).toBe(true);
    let missed = 0;
    while (!isOver) missed += (await isHeld()) ? 0 : 1; // `ready` is bounded
    await over;
    return missed;
  }
  const leaked = () => lab.sniffer.count({ direction: 'out', dst: FORBIDDEN });

  it('control: the forbidden is reached by a container in mode off', async () => {
    const free = await lab.start({ network: 'user', labels: { 'drawbridge.mode': 'off' } });
    for (const host of FORBIDDEN) expect(await free.probe('tcp', host, 80)).toMatchObject({ ok: true });
    expect(await leaked()).toBeGreaterThan(0);
    shown.control();
    await free.remove();
  });

  it.each(['SIGTERM', 'SIGKILL'] as const)('after %s', async (signal) => {
    const watched = await lab.start({ network: 'user', name: 'watched' });
    const c = await lab.start({ network: 'user', name: 'user', labels: ALLOW });
    await inside('user');
    expect(await c.probe('http', 'http://live.sur.test/')).toMatchObject({ ok: true });
    await c.remove();
    flows = await Flows.start(lab, { network: 'user', name: 'downloader', labels: ALLOW }, ['93.184.60.2']);
    await inside('downloader');
    expect(await flows.container.probe('http', 'http://live.sur.test/')).toMatchObject({ ok: true });
    await flows.moving();
    await lab.sniffer.clear();
    await lab.dns.clearLog();

    drawbridge.kill(signal);
    await drawbridge.exited();
    await flows.moving();
    // what has been told stays good, nothing new is told, nothing forbidden opens
    expect(await flows.container.probe('tcp', '93.184.60.1', 7777)).toMatchObject({ ok: true });
    expect(await flows.container.probe('http', 'http://fresh.sur.test/')).toMatchObject({ ok: false });
    expect(await lab.dns.queries('fresh.sur.test')).toEqual([]);
    await tryForbidden();
    expect(await watched.probe('tcp', FORBIDDEN[0] as string, 81)).toMatchObject({ ok: true });
    const resolves = async (): Promise<boolean> => (await watched.probe('http', 'http://fresh.sur.test/')).ok;
    await waitFor('names of the observed container', resolves, 15_000);

    drawbridge.start();
    const returning = drawbridge.ready();
    expect(await missedUntil(returning)).toBe(0);
    await flows.moving();
    expect(await flows.container.probe('tcp', '93.184.60.1', 7777)).toMatchObject({ ok: true });
    await inside('downloader');
    const fresh = await flows.container.probe('http', 'http://fresh.sur.test/');
    expect(fresh, `${drawbridge.logs().slice(-2000)}`).toMatchObject({ ok: true });
    expect(await flows.container.probe('http', 'http://live.sur.test/')).toMatchObject({ ok: true });
    expect(await flows.container.probe('http', 'http://hidden.sur.test/')).toMatchObject({
      code: 'ENOTFOUND',
    });
    expect(await lab.dns.queries('hidden.sur.test')).toEqual([]);
    await tryForbidden();
    const seen = await lab.sniffer.packets({ direction: 'out', dst: FORBIDDEN });
    expect(seen.filter((p) => p.dport !== 81)).toEqual([]);
    shown.held();
    for (const each of [flows.container, watched]) await each.remove();
  });
});

describe('Docker does not say soon which labels came with an image', () => {
  const URLS = ['http://93.184.60.2/', 'http://[2600:9000:60::2]/'];
  const NEVER_MS = 600_000;
  let lab: Lab;
  let docker: DockerProxy;
  let drawbridge: Drawbridge;
  let customer: Container;
  beforeAll(async () => {
    lab = await Lab.up();
    docker = await new DockerProxy(lab.socketPath, join(lab.dir, 'slow.sock'), new Random(1)).start();
    await docker.set(HEALTHY);
    drawbridge = lab.drawbridge({ config: { docker: { socket: docker.socketPath } } });
    await drawbridge.ready();
    await lab.docker('network', 'create', '--ipv6', 'user');
    customer = await lab.start({
      name: 'customer',
      network: 'user',
      labels: { 'drawbridge.allow': '93.184.60.2:80, [2600:9000:60::2]:80' },
      mounts: [PROGRAMS],
      cmd: ['node', '/attacks/client.mjs', '10', ...URLS],
    });
    await goesOn();
  });
  afterAll(async () => {
    await lab?.down();
    await docker?.[Symbol.asyncDispose]();
  });

  interface Asked {
    readonly answered: number;
    readonly failed: readonly string[];
  }
  async function asked(): Promise<Asked> {
    const { stdout } = await lab.dockerResult(['logs', '--tail', '1', 'customer']);
    return stdout.startsWith('{') ? JSON.parse(stdout) : { answered: 0, failed: [] };
  }
  async function goesOn(): Promise<void> {
    const { answered } = await asked();
    await waitFor('further answers', async () => (await asked()).answered > answered + 10);
  }
  const restartWith = async (images: number): Promise<void> => {
    drawbridge.kill('SIGKILL');
    await drawbridge.exited();
    await docker.set({ ...HEALTHY, images });
    drawbridge.start();
  };

  it('answered after 2.5 s: what was permitted goes on all the time', async () => {
    await restartWith(2_500);
    await drawbridge.ready();
    await goesOn();
    expect((await asked()).failed).toEqual([]);
  });

  it('the connection ends while the labels are awaited: the same', async () => {
    const { images } = docker;
    await restartWith(NEVER_MS);
    await waitFor('the request', () => docker.images > images);
    await docker.set(HEALTHY);
    await drawbridge.ready();
    await goesOn();
    expect((await asked()).failed).toEqual([]);
  });

  it('never answered: the labels permit nothing, which is shown, until they are known', async () => {
    await restartWith(NEVER_MS);
    await drawbridge.ready();
    const connect = () => customer.probe('tcp', '93.184.60.2', 80);
    await waitFor('a refusal', async () => (await connect()).code === 'ECONNREFUSED');
    const shownNow = await drawbridge.get('/v1/containers/customer');
    expect(shownNow.body).toContain('own labels are not known yet');
    await docker.set(HEALTHY);
    await waitFor('the labels to count', async () => (await connect()).ok);
  });
});
