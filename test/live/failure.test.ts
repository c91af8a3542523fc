/** The controller away, stopped and killed; Docker away when it starts. What must hold holds, who is observed loses nothing. */
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { shownHere } from '../attacks/report.js';
import type { Container } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';

const OPEN = {
  v4: '93.184.1.1',
  v6: '2600:9000::1',
  name: 'open.fail.test',
  later: 'later.fail.test',
} as const;
const CLOSED = { v4: '93.184.9.9', v6: '2600:9000::99' } as const;
const ALLOW = { 'drawbridge.allow': `${OPEN.v4}, [${OPEN.v6}], ${OPEN.name}, ${OPEN.later}` };
const RESOLVER = '198.51.100.53';
/** The observed container connects to this port only, so that the last packets of its connections do not count as a leak. */
const OBSERVED_PORT = 8443;
/** A crash is noticed when the heartbeat ends, 3 s after the last; the machine may be busy. */
const NOTICED_MS = 15_000;

const shown = shownHere({
  id: 'service-crashed',
  title: 'while the service has ended or crashed, in the first instruction of a new container',
  families: ['v4', 'v6'],
  stoppedBy: '`failure: closed`: unclassified packets stay in the queue, which no process reads',
});

let lab: Lab;
beforeAll(async () => {
  lab = await Lab.up();
  await lab.docker('network', 'create', '--ipv6', 'fail');
  await lab.dns.set({
    [OPEN.name]: { A: ['93.184.1.2'], AAAA: ['2600:9000::2'] },
    [OPEN.later]: { A: ['93.184.1.3'] },
    'any.fail.test': { A: ['93.184.1.4'] },
  });
});
afterAll(() => lab?.down());
beforeEach(() => lab.sniffer.clear());

/** Each of these as the first instruction of a fresh container: what came of it. */
async function firstInstructions(labels: Readonly<Record<string, string>>): Promise<(string | null)[]> {
  const tries = [
    ['tcp', OPEN.v4, 443],
    ['tcp', OPEN.v6, 443],
    ['udp', OPEN.v4, 5000],
    ['tcp', CLOSED.v4, 443],
    ['tcp', CLOSED.v6, 443],
    ['dns', RESOLVER, OPEN.name, 'A'],
  ] as const;
  return Promise.all(
    tries.map(async (t) => (await lab.runProbe({ network: 'fail', labels }, ...t, '--timeout', 4_000)).code),
  );
}
/** Packets that left this host for an address that only the containers of these tests know, in words. */
async function seen(): Promise<string[]> {
  const dst = Object.values({ ...OPEN, ...CLOSED });
  const packets = await lab.sniffer.packets({ direction: 'out', dst });
  return packets
    .filter((p) => p.dport !== OBSERVED_PORT)
    .map((p) => `${p.proto} ${p.src}:${p.sport} > ${p.dst}:${p.dport} ${p.flags ?? ''}`);
}
/**
 * The number of IPv4 addresses that the rules reserve for enforced containers. Docker assigns the address of a removed container again; until the
 * service has removed it from the rules, they drop the ARP requests of its next holder.
 */
async function boundAddresses(): Promise<number> {
  const listed = await lab.inHost(['nft', '-j', 'list', 'set', 'bridge', 'drawbridge', 'enf4'], {
    check: true,
  });
  const parts = JSON.parse(listed.stdout).nftables as { set?: { elem?: unknown[] } }[];
  return parts.find((part) => part.set)?.set?.elem?.length ?? 0;
}
const asks = async (c: Container): Promise<boolean> =>
  (await c.probe('dns', RESOLVER, 'any.fail.test', 'A', '--timeout', 1_000)).ok;

describe('failure: closed', () => {
  let drawbridge: Drawbridge;
  let enforced: Container;
  let observed: Container;
  beforeAll(async () => {
    drawbridge = lab.drawbridge();
    await drawbridge.ready();
    enforced = await lab.start({ network: 'fail', labels: ALLOW });
    observed = await lab.start({ network: 'fail' });
    await waitFor('names', async () => (await enforced.probe('http', `http://${OPEN.name}/`)).ok);
    await waitFor('names of the observed', () => asks(observed));
  });
  afterAll(async () => {
    for (const c of [enforced, observed]) await c?.remove();
    await drawbridge?.cli(['teardown']);
  });

  it.each(['SIGTERM', 'SIGKILL'] as const)('the controller ended by %s', async (signal) => {
    await waitFor('the rules of removed containers to go', async () => (await boundAddresses()) === 1);
    drawbridge.kill(signal);
    await drawbridge.exited();
    const began = performance.now();
    if (signal === 'SIGTERM') expect(await asks(observed)).toBe(true);
    await waitFor('names of the observed', () => asks(observed), NOTICED_MS);
    console.log(`${signal}: an observed container's names after ${Math.round(performance.now() - began)} ms`);
    for (const to of [CLOSED.v4, CLOSED.v6])
      expect(await observed.probe('tcp', to, OBSERVED_PORT)).toMatchObject({ ok: true });
    shown.control(); // for whom nothing is enforced
    // a query that waited while the service was away is answered after its next start
    await Promise.all([lab.sniffer.clear(), lab.dns.clearLog()]);

    const came = await firstInstructions(ALLOW);
    expect(
      came.every((code) => code === 'TIMEOUT'),
      came.join(),
    ).toBe(true);
    expect(await seen()).toEqual([]);
    expect((await enforced.probe('tcp', OPEN.v4, 443)).ok).toBe(true);
    expect((await enforced.probe('tcp', '93.184.1.2', 80)).ok).toBe(true); // told before
    expect((await enforced.probe('http', `http://${OPEN.later}/`)).ok).toBe(false);
    expect((await enforced.probe('tcp', CLOSED.v6, 443)).ok).toBe(false);
    expect(await lab.dns.queries(OPEN.later)).toEqual([]);

    drawbridge.start();
    await drawbridge.ready();
    expect((await enforced.probe('http', `http://${OPEN.name}/`)).ok).toBe(true);
    expect(await firstInstructions(ALLOW)).toEqual([null, null, null, 'ECONNREFUSED', 'ECONNREFUSED', null]);
    expect((await enforced.probe('tcp', CLOSED.v4, 443)).ok).toBe(false);
    shown.held();
  });
});

it('failure: open: a new container passes while the controller is away, one that is known does not', async () => {
  const drawbridge = lab.drawbridge({ config: { failure: 'open' }, instance: 'open' });
  await drawbridge.ready();
  const enforced = await lab.start({ network: 'fail', labels: ALLOW });
  await waitFor('the policy', async () => (await enforced.probe('tcp', OPEN.v4, 443)).ok);
  expect((await firstInstructions(ALLOW)).slice(3, 5)).toEqual(['ECONNREFUSED', 'ECONNREFUSED']);
  const coverage = await waitFor('its mounts to be read', async () => {
    const shown = JSON.parse((await drawbridge.get(`/v1/containers/${enforced.id}`)).body);
    return !shown.coverage.reasons.join().includes('not been read') && shown.coverage;
  });
  expect(coverage).toMatchObject({ state: 'partial', reasons: [expect.stringContaining('failure: open')] });
  await waitFor('its line in the log', () => drawbridge.logs().includes('failure: open'));
  drawbridge.kill('SIGKILL');
  await drawbridge.exited();
  const fresh = async (): Promise<boolean> =>
    (await lab.runProbe({ network: 'fail', labels: ALLOW }, 'tcp', CLOSED.v4, 443, '--timeout', 1_000)).ok;
  await waitFor('the end of the heartbeat', fresh, NOTICED_MS);
  expect((await enforced.probe('tcp', CLOSED.v4, 443)).ok).toBe(false);
  expect((await enforced.probe('tcp', OPEN.v4, 443)).ok).toBe(true);
  drawbridge.start();
  await drawbridge.ready();
  expect((await firstInstructions(ALLOW)).slice(3, 5)).toEqual(['ECONNREFUSED', 'ECONNREFUSED']);
  await enforced.remove();
  await drawbridge.cli(['teardown']);
});

it('Docker away when the controller starts: it says so, and holds what comes with Docker', async () => {
  const label = `drawbridge.allow=${OPEN.v4}:80`;
  const script = `wget -q -T 1 -O /dev/null http://${CLOSED.v4}/; for i in 1 2 3 4 5 6 7 8 9; do wget -q -T 5 -O /dev/null http://${OPEN.v4}/ && echo reached && break; echo refused; sleep 1; done; sleep 600`;
  const spec = ['--name', 'early', '--restart=always', '--network', 'fail', '--label', label];
  await lab.docker('run', '-d', ...spec, lab.images.busybox, 'sh', '-c', script);
  const times = async (): Promise<number> => (await lab.docker('logs', 'early')).split('reached').length - 1;
  await waitFor('the early container before the engine stops', async () => (await times()) === 1);
  await lab.engine.stop();
  await lab.sniffer.clear();
  const drawbridge = lab.drawbridge({ instance: 'alone' });
  await waitFor('the word about Docker', () => drawbridge.logs().includes('Docker does not answer'), 60_000);
  const answer = await drawbridge.get('/readyz').catch(() => ({ status: 0 }));
  expect(answer.status).not.toBe(200);
  await lab.engine.start();
  await drawbridge.ready(60_000);
  await waitFor('the early container', async () => (await times()) >= 2, 60_000).catch(
    async (cause: unknown) => {
      const said = await lab.docker('logs', '--timestamps', 'early');
      throw new Error(`${said}\n${drawbridge.logs().slice(-20_000)}`, { cause });
    },
  );
  expect(await lab.sniffer.count({ direction: 'out', dst: CLOSED.v4 })).toBe(0);
  await lab.docker('rm', '-f', 'early');
});
