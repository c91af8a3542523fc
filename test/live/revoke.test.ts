/** In force when the answer comes, and cut when it is taken away: live flows in both directions and families. */
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { shownHere } from '../attacks/report.js';
import type { Container } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { end, startDaemon, waitFor } from '../lab/process.js';
import { Flows } from './flows.js';

const PEER4 = '93.184.50.1';
const PEER6 = '2600:9000:50::1';
const PEERS = [PEER4, PEER6];
const OTHER4 = '93.184.51.1';
const OTHER6 = '2600:9000:51::1';
const ENFORCED = { 'drawbridge.allow': '93.184.1.1:80' };
/** Spec: within a second. */
const CUT_MS = 1_000;
/** How long stragglers get to pick a flow up again. */
const WATCH_MS = 4_000;

const shown = shownHere({
  id: 'established-after-revoke',
  title:
    'a flow that existed when its permission was revoked, in both directions, and its re-creation by late packets',
  families: ['v4', 'v6'],
  stoppedBy:
    'flows that are not permitted are deleted; their 5-tuples stay blocked while late packets arrive',
});

let lab: Lab;
let drawbridge: Drawbridge;
beforeAll(async () => {
  lab = await Lab.up({});
  const noMasquerade = ['-o', 'com.docker.network.bridge.enable_ip_masquerade=false'];
  await lab.docker('network', 'create', '--ipv6', ...noMasquerade, 'plain');
  await lab.docker('network', 'create', '--ipv6', 'user');
  const lists = {
    'file.yaml': `allow: [${PEER4}, "${PEER6}", ${OTHER4}]\n`,
    'shared.yaml': `allow: [${PEER4}, "${PEER6}"]\n`,
  };
  drawbridge = lab.drawbridge({ lists });
  await drawbridge.ready();
});
afterAll(() => lab?.down());

async function api(method: string, path: string, body?: unknown): Promise<{ id: string }> {
  const r = await drawbridge.request(method, path, body);
  if (r.status >= 300) throw new Error(`${method} ${path}: ${r.status} ${r.body}`);
  return (r.body === '' ? { id: '' } : JSON.parse(r.body)) as { id: string };
}
const grant = (name: string, entry: string, time?: string) =>
  api('POST', `/v1/containers/${name}/grants`, { entry, ...(time === undefined ? {} : { for: time }) });
async function cli(...args: string[]): Promise<string> {
  const r = await drawbridge.cli(args);
  if (r.code !== 0) throw new Error(`drawbridge ${args.join(' ')}: ${r.code} ${r.stdout}${r.stderr}`);
  return r.stdout;
}
const reach = (c: Container, host: string, port = 7777) => c.probe('tcp', host, port, '--timeout', 8000);

/** Takes away, and expects that within a second of `from` nothing moves, at either end, for as long as stragglers come. */
async function expectCut(flows: Flows, peers: readonly string[], takeAway: () => Promise<number>) {
  await flows.moving();
  const from = await takeAway();
  await delay(WATCH_MS);
  expect(await flows.movedAfter(from + CUT_MS)).toEqual([]);
  // the host itself answers stragglers with ICMP errors once it has no flow for them
  const proto = ['tcp', 'udp'];
  const out = await lab.sniffer.packets({ direction: 'out', proto, dst: peers, since: from + CUT_MS });
  expect(out.map((p) => `${p.proto} ${p.dport} ${p.flags ?? ''}`)).toEqual([]);
}
/** The time at which a change has been asked for. */
const timed = (change: () => Promise<unknown>) => async (): Promise<number> => {
  const asked = Date.now();
  await change();
  return asked;
};

describe.each(['bridge', 'user', 'plain'])('grants on network %s', (network) => {
  it('by the API: in force when it returns, cut when it is revoked', async () => {
    const name = `api-${network}`;
    const c = await lab.start({ network, name, labels: ENFORCED });
    expect(await reach(c, PEER4)).toMatchObject({ code: 'ECONNREFUSED' });
    const [four, six] = [await grant(name, PEER4), await grant(name, PEER6)];
    expect([(await reach(c, PEER4)).ok, (await reach(c, PEER6)).ok]).toEqual([true, true]);
    await c.remove();
    // the grants belong to the name: they are there when it comes again
    const flows = await Flows.start(lab, { network, name, labels: ENFORCED }, PEERS);
    await expectCut(
      flows,
      PEERS,
      timed(() =>
        Promise.all([four, six].map((g) => api('DELETE', `/v1/containers/${name}/grants/${g.id}`))),
      ),
    );
    expect(await reach(flows.container, PEER4)).toMatchObject({ code: 'ECONNREFUSED' });
    expect(await reach(flows.container, PEER6)).toMatchObject({ code: 'ECONNREFUSED' });
    shown.held();
    await flows.container.remove();
  });
});

describe('other ways to take away', () => {
  it('by the command line', async () => {
    const name = 'by-hand';
    await lab.start({ name, labels: ENFORCED });
    expect(await cli('allow', name, PEER4, PEER6)).toContain(`${name} may reach ${PEER4}`);
    await lab.docker('rm', '-f', name);
    const flows = await Flows.start(lab, { name, labels: ENFORCED }, PEERS);
    expect(await cli('ps')).toMatch(new RegExp(`${name}.*enforce`));
    await flows.moving();
    await expectCut(flows, PEERS, async () => {
      await cli('revoke', name, PEER4, PEER6);
      return Date.now(); // starting the command takes its time on a busy machine
    });
    const refused = await drawbridge.cli(['revoke', name, '93.184.1.1:80']);
    expect(refused.code).toBe(1);
    expect(refused.stderr).toMatch(/drawbridge\.allow/);
    await flows.container.remove();
  });

  it('a list file that is edited', async () => {
    const labels = { 'drawbridge.lists': 'file' };
    const flows = await Flows.start(lab, { name: 'by-file', labels }, PEERS);
    await expectCut(
      flows,
      PEERS,
      timed(async () => drawbridge.writeList('file.yaml', `allow: [${OTHER4}]\n`)),
    );
    expect((await reach(flows.container, OTHER4)).ok).toBe(true);
    const written = Date.now();
    drawbridge.writeList('file.yaml', `allow: [${OTHER4}, ${PEER4}]\n`);
    let ok = false;
    while (!ok && Date.now() < written + 5_000) ok = (await reach(flows.container, PEER4)).ok;
    expect(ok).toBe(true);
    await flows.container.remove();
  });

  it('an entry of a list that two share; a third has it by its own label', async () => {
    await api('PUT', '/v1/lists/both', { allow: PEERS });
    const labels = { 'drawbridge.lists': 'both' };
    const one = await Flows.start(lab, { name: 'one', labels }, PEERS);
    const two = await Flows.start(lab, { name: 'two', network: 'plain', labels }, PEERS);
    const third = await Flows.start(
      lab,
      { name: 'third', labels: { 'drawbridge.allow': `${PEER4}, ${PEER6}` } },
      PEERS,
    );
    for (const f of [one, two, third]) await f.moving();
    const asked = Date.now();
    await api('DELETE', `/v1/lists/both/entries/${encodeURIComponent(PEER4)}`);
    await delay(WATCH_MS);
    for (const f of [one, two])
      expect((await f.movedAfter(asked + CUT_MS)).every((flow) => flow.startsWith('six'))).toBe(true);
    for (const f of [one, two]) expect(await f.movedAfter(asked + CUT_MS)).toHaveLength(4);
    await third.moving(); // it lost nothing: its flows go on as those of the others would have
    shown.control();
    for (const f of [one, two, third]) await f.container.remove();
  });

  it('a mode that becomes enforce cuts what is not permitted, and auto gives it back', async () => {
    const name = 'watched';
    const labels = { 'drawbridge.mode': 'observe', 'drawbridge.allow': `${PEER4}, ${PEER6}` };
    const flows = await Flows.start(lab, { name, labels }, [...PEERS]);
    const others = await Flows.start(
      lab,
      { name: 'watched-too', labels: { 'drawbridge.mode': 'observe', ...ENFORCED } },
      [OTHER4, OTHER6],
    );
    await flows.moving();
    await expectCut(
      others,
      [OTHER4, OTHER6],
      timed(async () => {
        await api('PUT', '/v1/containers/watched-too/mode', { mode: 'enforce' });
        await api('PUT', `/v1/containers/${name}/mode`, { mode: 'enforce' });
      }),
    );
    await flows.moving();
    expect(await reach(flows.container, OTHER4)).toMatchObject({ code: 'ECONNREFUSED' });
    await cli('mode', name, 'auto');
    expect((await reach(flows.container, OTHER4)).ok).toBe(true);
    for (const f of [flows, others]) await f.container.remove();
  });

  it('a grant for a time ends with it', async () => {
    const name = 'for-a-time';
    const flows = await Flows.start(lab, { name, labels: { 'drawbridge.mode': 'observe' } }, PEERS);
    await flows.moving();
    const [first] = (await Promise.all(PEERS.map((p) => grant(name, p, '6s')))) as unknown as {
      expires: string;
    }[];
    await api('PUT', `/v1/containers/${name}/mode`, { mode: 'enforce' });
    await flows.moving();
    const end = Date.parse(first?.expires ?? '');
    await delay(end - Date.now() + 300);
    await delay(WATCH_MS);
    expect(await flows.movedAfter(end + CUT_MS + 300)).toEqual([]);
    expect(await reach(flows.container, PEER4)).toMatchObject({ code: 'ECONNREFUSED' });
    await flows.container.remove();
  });
});

/** A namespace inside of that of a container, which masquerades it, with a stream from $1. */
const NESTED = `
set -e
setpriv --pdeathsig KILL unshare -n sleep 600 & pid=$!
trap "kill $pid" EXIT
own=$(readlink /proc/self/ns/net)
for i in $(seq 100); do [ "$(readlink /proc/$pid/ns/net)" != "$own" ] && break; sleep 0.05; done
ip link add nested0 type veth peer name eth0 netns $pid
ip address add 10.99.0.1/24 dev nested0
ip link set nested0 up
sysctl -qw net.ipv4.ip_forward=1
nft 'table ip nested { chain post { type nat hook postrouting priority 100; ip saddr 10.99.0.2 masquerade; }; }'
in="nsenter --net=/proc/$pid/ns/net --"
$in ip link set lo up
$in ip address add 10.99.0.2/24 dev eth0
$in ip link set eth0 up
$in ip route add default via 10.99.0.1
$in setpriv --pdeathsig KILL bash -c "exec 3<>/dev/tcp/$1/19; cat <&3 >/dev/null"`;

it('a TCP connection whose socket cannot be reset: the other side goes on, and no packet leaves', async () => {
  const at = '93.184.52.1';
  const c = await lab.start({ name: 'nested', network: 'plain', labels: ENFORCED });
  const { id } = await grant('nested', `${at}:19`);
  const inside = ['nsenter', `--net=/proc/${await c.pid()}/ns/net`, '--'];
  const log = join(lab.dir, 'nested.log');
  const client = startDaemon([...inside, 'bash', '-c', NESTED, 'nested', at], log, process.env);
  try {
    const arrives = async (): Promise<number> => lab.sniffer.count({ direction: 'in', src: at });
    await waitFor('the stream to run', async () => (await arrives()) > 5, 30_000);
    expect(await lab.sniffer.count({ direction: 'out', dst: at })).toBeGreaterThan(0);
    await api('DELETE', `/v1/containers/nested/grants/${id}`);
    await lab.sniffer.clear();
    // it sends every 100 ms, and repeats what is not acknowledged
    await waitFor('the other side to go on', async () => (await arrives()) >= 3, 30_000);
    expect(await lab.sniffer.count({ direction: 'out', dst: at })).toBe(0);
  } finally {
    await end(client, 2_000);
  }
});
