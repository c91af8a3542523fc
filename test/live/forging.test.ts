/** Sending as somebody else: with another's address, another's MAC, and by lying to the neighbours. */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { shownHere } from '../attacks/report.js';
import type { Container } from '../lab/container.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
import { listener, visitors } from './inside.js';

const ALLOWED = '93.184.1.1';
const ALLOWED6 = '2600:9000:1::1';
const HOLD_QUEUE = 53;
const OTHER_MAC = '02:42:00:00:00:99';
const ALLOW = { 'drawbridge.allow': `container:db:5432, ${ALLOWED}:80, [${ALLOWED6}]:80` };
/** Given, so that a container can be made anew with the addresses it had. */
const SUBNETS = ['--subnet', '172.30.0.0/24', '--subnet', 'fd00:db:f::/64'];
const GATEWAY6 = 'fd00:db:f::1';
const PROGRAM = join(import.meta.dirname, 'inside.mjs');
interface Place {
  readonly ip4: string;
  readonly ip6: string;
  readonly mac: string;
}
const BY_PORT = 'the mark of the veth, assigned only to its own address and MAC';
const BOTH = ['v4', 'v6'] as const;
const shown = {
  address: shownHere({
    id: 'forged-address',
    title: "a neighbour's source address",
    families: BOTH,
    stoppedBy: BY_PORT,
  }),
  mac: shownHere({
    id: 'forged-mac',
    title: "a neighbour's address and MAC",
    families: BOTH,
    stoppedBy: BY_PORT,
  }),
  lies: shownHere({
    id: 'forged-neighbour',
    title: 'ARP announcements and neighbour advertisements for the address of another',
    families: BOTH,
    stoppedBy: "ARP and ND about addresses that are not the veth's own are dropped",
  }),
};

let lab: Lab;
let db: Container;
let app: Container;
let evil: Container;
let victim: Place;
let attacker: Place;

beforeAll(async () => {
  lab = await Lab.up({});
  await lab.docker('network', 'create', '--ipv6', ...SUBNETS, 'east');
  for (const table of ['iptables', 'ip6tables'])
    await lab.inHost(['sysctl', '-qw', `net.bridge.bridge-nf-call-${table}=0`], { check: true });
  db = await listener(lab, [5432], { network: 'east', name: 'db' });
  app = await lab.start({ network: 'east', name: 'app', labels: ALLOW });
  evil = await lab.start({ network: 'east', name: 'evil', labels: { 'drawbridge.allow': '93.184.1.9:80' } });
  victim = await app.addresses();
  attacker = await evil.addresses();
});
afterAll(() => lab?.down());

/** In the attacker's namespace with all of root's powers there: more than NET_RAW gives. */
async function asEvil(...argv: readonly string[]): Promise<string> {
  const r = await lab.inHost(['nsenter', `--net=/proc/${await evil.pid()}/ns/net`, '--', ...argv]);
  return r.stdout;
}
const sendFrom = async (source: string, target: string, port: number): Promise<string> =>
  (
    JSON.parse(await asEvil(process.execPath, PROGRAM, 'from', source, target, String(port))) as {
      outcome: string;
    }
  ).outcome;

/** The attacker gives its interface the victim's addresses. */
async function takeAddresses(take: boolean): Promise<void> {
  const verb = take ? 'add' : 'del';
  await asEvil('ip', 'address', verb, `${victim.ip4}/24`, 'dev', 'eth0');
  await asEvil('ip', 'address', verb, `${victim.ip6}/64`, 'dev', 'eth0', ...(take ? ['nodad'] : []));
}
const takeMac = (mac: string): Promise<string> => asEvil('ip', 'link', 'set', 'eth0', 'address', mac);

/** Tells everybody that the victim's addresses are here: ARP announcements, unsolicited neighbour advertisements. */
async function lie(): Promise<void> {
  for (const kind of ['-U', '-A'])
    await asEvil('busybox', 'arping', '-c', '2', kind, '-I', 'eth0', '-s', victim.ip4, victim.ip4);
  await asEvil('sysctl', '-qw', 'net.ipv6.conf.eth0.ndisc_notify=1');
  await takeMac(OTHER_MAC);
  await takeMac(attacker.mac); // advertises every address anew (net/ipv6/ndisc.c, ndisc_netdev_event)
}

/** MACs that the host and the neighbour believe to be behind the victim's addresses. */
async function believed(): Promise<string[]> {
  const inDb = ['nsenter', `--net=/proc/${await db.pid()}/ns/net`, '--'];
  const macs: string[] = [];
  for (const where of [[], inDb])
    for (const ip of [victim.ip4, victim.ip6]) {
      const { stdout } = await lab.inHost([...where, 'ip', 'neigh', 'show', 'to', ip]);
      macs.push(/lladdr (\S+)/.exec(stdout)?.[1] ?? 'unknown');
    }
  return macs;
}
/** The victim talks to host and neighbour, so that both know it. */
async function talk(): Promise<boolean> {
  const d = await db.addresses();
  for (const host of [ALLOWED, ALLOWED6, d.ip4, d.ip6])
    if (!(await app.probe('tcp', host, host.startsWith('93.') || host.startsWith('2600') ? 80 : 5432)).ok)
      return false;
  return true;
}
/** The attacker need not ask for its neighbours' MACs: requests from another's address are dropped, and nothing would be sent. */
async function knowMacs(): Promise<void> {
  const d = await db.addresses();
  const { gateway } = await evil.addresses();
  const shown = await lab.inHost(['ip', '-j', 'address', 'show', 'to', gateway], { check: true });
  const [bridge] = JSON.parse(shown.stdout) as { ifname: string }[];
  const link = await lab.inHost(['ip', '-j', 'link', 'show', bridge?.ifname ?? ''], { check: true });
  const mac = (JSON.parse(link.stdout) as { address: string }[])[0]?.address ?? '';
  const known = [
    [gateway, mac],
    [GATEWAY6, mac],
    [d.ip4, d.mac],
    [d.ip6, d.mac],
  ];
  for (const [ip = '', lladdr = ''] of known)
    await asEvil('ip', 'neigh', 'replace', ip, 'lladdr', lladdr, 'nud', 'permanent', 'dev', 'eth0');
}
async function attempts(): Promise<string[]> {
  await knowMacs();
  const d = await db.addresses();
  const aims = [
    [victim.ip4, ALLOWED, 80],
    [victim.ip6, ALLOWED6, 80],
    [victim.ip4, d.ip4, 5432],
    [victim.ip6, d.ip6, 5432],
  ] as const;
  const outcomes: string[] = [];
  for (const [source, host, port] of aims) outcomes.push(await sendFrom(source, host, port));
  return outcomes;
}
const got = async () => ({ outside: await packetsOut(), db: await visitors(db, 5432) });
/** Each packet that left for the permitted addresses, so that a failure shows the one that is too many. */
const packetsOut = async (): Promise<string[]> =>
  (await lab.sniffer.packets({ direction: 'out', dst: [ALLOWED, ALLOWED6] })).map((p) => JSON.stringify(p));

/** Nothing more leaves for the permitted addresses: on a busy host the last segment of a connection is sent again after a second. */
async function isQuiet(): Promise<boolean> {
  const { outside } = await got();
  await new Promise((done) => setTimeout(done, 2_000));
  return (await got()).outside.length === outside.length;
}

it('control: without Drawbridge the lies are believed, and what is sent arrives', async () => {
  expect(await talk()).toBe(true);
  await lab.sniffer.clear();
  await takeAddresses(true);
  await lie();
  expect(await believed()).toEqual([attacker.mac, attacker.mac, attacker.mac, attacker.mac]);
  const before = await got();
  await attempts();
  const after = await got();
  expect(after.outside.length).toBeGreaterThan(before.outside.length);
  expect(after.db).toBeGreaterThan(before.db);
  await takeMac(victim.mac);
  await attempts();
  const asVictim = await got();
  expect(asVictim.outside.length).toBeGreaterThan(after.outside.length);
  expect(asVictim.db).toBeGreaterThan(after.db);
  await takeMac(attacker.mac);
  await takeAddresses(false);
  await app.remove();
  app = await lab.start({
    network: 'east',
    name: 'app',
    labels: ALLOW,
    args: ['--ip', victim.ip4, '--ip6', victim.ip6],
  });
  expect(await app.addresses()).toMatchObject(victim);
  // The server repeats its SYN-ACK to forged connections; the victim or the host answers with a RST to a permitted address.
  await lab.inNet(['ss', '-Kt', 'state', 'connected'], { check: true });
  for (const s of Object.values(shown)) s.control();
});

/** Packets that were ever handed to the hold (the last number but one of the queue's line). */
async function held(): Promise<number> {
  const { stdout } = await lab.inHost(['cat', '/proc/net/netfilter/nfnetlink_queue'], { check: true });
  const line = stdout.split('\n').find((l) => l.trim().startsWith(`${HOLD_QUEUE} `));
  if (line === undefined) throw new Error(`no queue ${HOLD_QUEUE}: ${stdout}`);
  return Number(line.trim().split(/\s+/).at(-2));
}

describe('with Drawbridge', () => {
  beforeAll(async () => {
    await lab.drawbridge({}).ready();
    for (const ip of [victim.ip4, victim.ip6]) await lab.inHost(['ip', 'neigh', 'flush', 'to', ip]);
    expect(await talk()).toBe(true);
  });
  const truth = () => [victim.mac, victim.mac, victim.mac, victim.mac];

  it("another's address reaches nobody, and is dropped at its veth: nothing of it is held", async () => {
    await takeAddresses(true);
    await waitFor('the last packets of earlier connections', isQuiet);
    const before = await got();
    const heldBefore = await held();
    expect(new Set(await attempts())).not.toContain('ok');
    expect(await got()).toEqual(before);
    expect(await held()).toBe(heldBefore);
    await takeAddresses(false);
    expect(await talk()).toBe(true);
    shown.address.held();
  });

  it("another's address and MAC reach nobody, and take nothing away from their owner", async () => {
    await takeMac(victim.mac);
    await takeAddresses(true);
    const before = await got();
    expect(new Set(await attempts())).not.toContain('ok');
    expect(await got()).toEqual(before);
    expect(await talk()).toBe(true);
    await takeAddresses(false);
    await takeMac(attacker.mac);
    shown.mac.held();
  });

  it('lies about who holds an address are not heard', async () => {
    expect(await talk()).toBe(true);
    expect(await believed()).toEqual(truth());
    await takeAddresses(true);
    await lie();
    await attempts();
    expect(await believed()).toEqual(truth());
    await takeAddresses(false);
    expect(await talk()).toBe(true);
    shown.lies.held();
  });

  it('with its own address and MAC again, its own policy holds', async () => {
    expect(await evil.probe('tcp', '93.184.1.9', 80)).toMatchObject({ ok: true });
    expect(await evil.probe('tcp', ALLOWED, 80)).toMatchObject({ code: 'ECONNREFUSED' });
  });
});
