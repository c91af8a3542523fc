/** Containers of which the Docker API reports late: their DNS queries, and lists that claim them by name. */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PROGRAMS } from '../attacks/technique.js';
import { Random } from '../fuzz/random.js';
import { DockerProxy, type Fault, HEALTHY } from '../lab/docker-proxy.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
import { inParallel } from './support.js';

const ALLOWED = 'api.late.test';
const DENIED = 'denied.late.test';
const DENIED_ADDRESS = '93.184.1.2';
const LISTS = { 'claims.yaml': `match: { name: "claimed-*" }\nallow: [${ALLOWED}]\n` };
/** List and network are asked one after the other: what a start needs is known after twice that. */
const LATE: Fault = { answers: 250, events: 'pass' };
/** An event comes after the container has started. */
const EVENTS_LATE: Fault = { answers: 'pass', events: 700 };
/** The inspect of the container returns its namespace; the inspects of networks return later. */
const NETWORKS_LATE: Fault = { answers: 'pass', events: 'pass', networks: 700 };

/** What a start needs is known more than two seconds after its first packet. */
const VERY_LATE: Fault = { answers: 2_600, events: 'pass' };

let lab: Lab;
let proxy: DockerProxy;
let drawbridge: Drawbridge;
beforeAll(async () => {
  lab = await Lab.up({ dns: 'loopback' }); // names are asked in the container's own namespace
  await lab.dns.set({ [ALLOWED]: { A: ['93.184.1.1'] }, [DENIED]: { A: [DENIED_ADDRESS] } });
  await lab.docker('network', 'create', 'late');
  // Control: without Drawbridge Docker asks the name that is denied below.
  await lab.docker('run', '--rm', '--network', 'late', lab.images.busybox, 'nslookup', DENIED);
  expect(await lab.dns.queries(DENIED)).not.toEqual([]);
  proxy = await new DockerProxy(lab.socketPath, join(lab.dir, 'late.sock'), new Random(1)).start();
  await proxy.set(HEALTHY);
  const config = { docker: { socket: proxy.socketPath }, log: { level: 'debug' } };
  drawbridge = lab.drawbridge({ config, lists: LISTS });
  await drawbridge.ready();
  await lab.start({
    name: 'db',
    network: 'late',
    node: false,
    args: ['--network-alias', 'store.late.test'],
    cmd: ['httpd', '-f', '-p', '80', '-h', '/etc'],
  });
});
afterAll(async () => {
  await proxy?.[Symbol.asyncDispose]();
  await lab?.down();
});

/**
 * What a container writes that does this as its first instruction. It is known when it starts, as compose creates all of its
 * containers before it starts them, and only its networks are not.
 */
async function first(mode: 'enforce' | 'observe', fault: Fault, ...command: string[]): Promise<string> {
  const labels = [`drawbridge.mode=${mode}`, `drawbridge.allow=${ALLOWED}:80, container:db`];
  const args = ['--network', 'late', ...labels.flatMap((l) => ['--label', l])];
  await proxy.set(HEALTHY);
  const id = await lab.docker('create', ...args, lab.images.busybox, ...command);
  await waitFor('it to be known', async () => (await drawbridge.get(`/v1/containers/${id}`)).status === 200);
  await proxy.set(fault);
  const r = await lab.dockerResult(['start', '--attach', id], { check: false });
  await lab.docker('rm', id);
  return `${r.code} ${r.stdout}${r.stderr}`;
}
/** The same of a container that is created and started at once, so that nothing of it is known when its namespace is made. */
async function atOnce(mode: 'enforce' | 'observe', fault: Fault, ...command: string[]): Promise<string> {
  const labels = [`drawbridge.mode=${mode}`, `drawbridge.allow=${ALLOWED}:80, container:db`];
  const args = ['--rm', '--network', 'late', ...labels.flatMap((l) => ['--label', l])];
  await proxy.set(fault);
  const r = await lab.dockerResult(['run', ...args, lab.images.busybox, ...command], { check: false });
  return `${r.code} ${r.stdout}${r.stderr}`;
}
/** The failure shows whether the thread was too late that closes a new namespace to Docker's resolver. */
async function expectDenied(ask: () => Promise<string>): Promise<void> {
  await lab.dns.clearLog();
  const from = drawbridge.logs().length;
  const said = await ask();
  const queries = await lab.dns.queries(DENIED);
  const isLate = drawbridge.logs().slice(from).includes(ASKED_BEFORE);
  expect({ said, queries, isLate }).toEqual({
    said: expect.stringMatching(/NXDOMAIN/),
    queries: [],
    isLate: false,
  });
}
const ASKED_BEFORE = 'Docker received a query in a new network namespace before our rules';
const fetches = (host: string): readonly string[] => [
  'wget',
  '-q',
  '-T',
  '10',
  '-O',
  '/dev/null',
  `http://${host}/passwd`,
];

describe.each([
  ['answers', LATE],
  ['answers about networks', NETWORKS_LATE],
] as const)("Docker's %s are late: names", (_, fault) => {
  it.each(['enforce', 'observe'] as const)('of neighbours are found: mode %s', async (mode) => {
    expect(await first(mode, fault, ...fetches('db'))).toBe('0 ');
    expect(await first(mode, fault, ...fetches('store.late.test'))).toBe('0 ');
  });

  it('that are permitted are found', async () => {
    expect(await first('enforce', fault, ...fetches(ALLOWED))).toBe('0 ');
  });

  it('that are not permitted are denied, and asked of nobody', async () => {
    await expectDenied(() => first('enforce', fault, 'nslookup', DENIED));
  });
});

it('a container that a list claims by its name is never observed, while the first list is older than its start', async () => {
  const runs = async (name: string, host = DENIED_ADDRESS): Promise<number> => {
    await proxy.set(LATE);
    const args = ['--rm', '--network', 'late', '--name', name, lab.images.busybox];
    return (await lab.dockerResult(['run', ...args, ...fetches(host)], { check: false })).code;
  };
  const reached = () => lab.sniffer.packets({ direction: 'out', dst: [DENIED_ADDRESS] });
  await lab.sniffer.clear();
  for (const n of [1, 2, 3]) expect(await runs(`claimed-${n}`)).toBe(1); // wget's own code: the container ran
  expect(await reached()).toEqual([]);
  // The control, one that no list claims, comes last: seconds after its end the host may still tell the server by ICMP that it is gone.
  expect(await runs('free')).toBe(0);
  expect(await reached()).not.toEqual([]);
  expect(await runs('claimed-4', ALLOWED)).toBe(0);
});

it('a container with resolvers of its own leaves the others as they are', async () => {
  const own = await lab.start({
    network: 'late',
    args: ['--dns', '198.51.100.53'],
    labels: { 'drawbridge.mode': 'enforce' },
  });
  await proxy.set(HEALTHY);
  await waitFor('its coverage', async () =>
    (await drawbridge.get(`/v1/containers/${own.id}`)).body.includes('"state":"enforced"'),
  );
  await expectDenied(() => atOnce('enforce', LATE, 'nslookup', DENIED));
  await own.remove();
});

describe.each([
  ['answers', LATE],
  ['events', EVENTS_LATE],
] as const)("Docker's %s are late: names of a container that is not known when it starts", (_, fault) => {
  it('are found, when they are permitted', async () => {
    expect(await atOnce('enforce', fault, ...fetches(ALLOWED))).toBe('0 ');
    expect(await atOnce('enforce', fault, ...fetches('db'))).toBe('0 ');
  });

  it('are denied, and asked of nobody, when they are not', async () => {
    await expectDenied(() => atOnce('enforce', fault, 'nslookup', DENIED));
  });

  it('are answered by Docker, when it is observed', async () => {
    await lab.dns.clearLog();
    // Within eight seconds: a namespace that no container is known for is left to Docker after ten.
    const soon = (host: string): string[] => ['sh', '-c', `timeout 8 ${fetches(host).join(' ')}; exit $?`];
    expect(await atOnce('observe', fault, ...soon(DENIED))).toBe('0 ');
    expect(await lab.dns.queries(DENIED)).not.toEqual([]);
    expect(await atOnce('observe', fault, ...soon('db'))).toBe('0 ');
  });
});

it('a container whose first question reached Docker before our rules is named, with what it means', async () => {
  await proxy.set(HEALTHY);
  await lab.dns.clearLog();
  const start = async (name: string): Promise<void> => {
    const asks = ['sh', '-c', `nslookup ${DENIED}; exec sleep 300`];
    await lab.docker(
      'run',
      '-d',
      '--name',
      name,
      '--network',
      'late',
      '--label',
      'drawbridge.mode=enforce',
      lab.images.busybox,
      ...asks,
    );
  };
  const coverage = async (name: string): Promise<string> =>
    (await drawbridge.get(`/v1/containers/${name}`)).body;
  // Stopped, the service is later than any thread of it can be on a busy host.
  process.kill(drawbridge.pid, 'SIGSTOP');
  try {
    await start('late-one');
    await waitFor('its name to be asked', async () => (await lab.dns.queries(DENIED)).length > 0);
  } finally {
    process.kill(drawbridge.pid, 'SIGCONT');
  }
  await waitFor('its coverage', async () =>
    /received some before Drawbridge's resolver/.test(await coverage('late-one')),
  );
  await waitFor('its line in the log', () =>
    drawbridge.logs().includes('Docker received queries of this container before our resolver'),
  );
  await lab.dns.clearLog();
  await lab.dockerResult(['exec', 'late-one', 'nslookup', DENIED], { check: false });
  expect(await lab.dns.queries(DENIED)).toEqual([]); // the next question is ours

  await start('timely');
  await waitFor('its coverage', async () => /"state":"partial"/.test(await coverage('timely')));
  expect(await coverage('timely')).not.toMatch(/received some before/);
  await lab.docker('rm', '-f', 'late-one', 'timely');
});

it('many that start at once while Docker is late do not lose their first packet, and nothing denied gets out', async () => {
  await proxy.set(VERY_LATE);
  await lab.sniffer.clear();
  const denied = '203.0.113.77';
  const starts = Array.from({ length: 12 }, (_, n) => n);
  const codes = await inParallel(12, starts, async (n) => {
    const to = n % 4 === 3 ? denied : `93.184.40.${n}`;
    const label = `drawbridge.allow=93.184.40.${n}/icmp`;
    const ping = ['ping', '-c', '1', '-W', '12', to]; // one packet, as the first instruction
    return (
      await lab.dockerResult(['run', '--rm', '--label', label, lab.images.busybox, ...ping], { check: false })
    ).code;
  });
  expect(codes.map((code) => code === 0)).toEqual(starts.map((n) => n % 4 !== 3));
  expect(await lab.sniffer.count({ direction: 'out', dst: [denied] })).toBe(0);
  await proxy.set(HEALTHY);
});

it('a container that is started again before the end of its former life is reported loses nothing by that report', async () => {
  await proxy.set({ answers: 400, events: 2_500 });
  await lab.start({
    name: 'again',
    network: 'late',
    labels: { 'drawbridge.allow': `93.184.1.3, ${ALLOWED}:80 tls=off` },
    mounts: [PROGRAMS],
    cmd: ['node', '/attacks/client.mjs', '5', 'http://93.184.1.3/', `http://${ALLOWED}/`],
  });
  const asked = async (): Promise<{ asked: number; answered: number; failed: readonly string[] }> => {
    const { stdout } = await lab.dockerResult(['logs', '--tail', '1', 'again']);
    return stdout.startsWith('{') ? JSON.parse(stdout) : { asked: 0, answered: 0, failed: [] };
  };
  const bytes = async (): Promise<number> =>
    Number(/"bytes":(\d+)\D*$/.exec((await lab.exec('again', ['cat', '/stream'])).stdout)?.[1] ?? 0);
  await waitFor('its first life', async () => (await asked()).answered > 0);
  await lab.docker('restart', '--time', '0', 'again');
  await lab.docker('exec', '-d', 'again', 'sh', '-c', 'node /probe.cjs hold 93.184.1.3 19 > /stream');
  await waitFor('the stream', async () => (await bytes()) > 0);
  const events = proxy.waiting;
  expect(events).toBeGreaterThan(0);
  await waitFor('all events', () => proxy.waiting === 0);
  const then = { ...(await asked()), bytes: await bytes() };
  await waitFor('work after them', async () => {
    const now = await asked();
    return now.asked > then.asked + 400 && (await bytes()) > then.bytes;
  });
  expect((await asked()).failed).toEqual([]);
  await proxy.set(HEALTHY);
});
