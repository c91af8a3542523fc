/** East-west: containers of one bridge reach each other by policy, whether or not bridged packets pass iptables. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { shownHere } from '../attacks/report.js';
import type { Container } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { engineOfRun } from '../lab/packaged-engine.js';
import { waitFor } from '../lab/process.js';
import { listener, visitors, withInside } from './inside.js';

const FAST_MS = 5_000;
const PORTS = [5432, 5433];
const project = (name: string, service: string) => ({
  'com.docker.compose.project': name,
  'com.docker.compose.service': service,
});
/** Enforced, with nothing that a neighbour could be. */
const ENFORCED = { 'drawbridge.allow': '93.184.1.1:80' };

const shown = shownHere({
  id: 'neighbour-bridge',
  title: 'a neighbour on the same bridge, with and without br_netfilter',
  families: ['v4', 'v6'],
  stoppedBy: 'what passes between neighbours is lifted into FORWARD and meets the same policy',
});

const shownBare = shownHere({
  id: 'neighbour-no-gateway',
  title: 'a neighbour without an entry, on a bridge without an address',
  families: ['v4'],
  stoppedBy: 'what passes between neighbours is lifted into FORWARD and meets the same policy',
});

const BARE = 'bare0';
const isIsolating = engineOfRun() === '28';

let lab: Lab;
let drawbridge: Drawbridge;
beforeAll(async () => {
  lab = await Lab.up({});
  for (const n of ['east', 'west', 'open-1', 'closed-1']) await lab.docker('network', 'create', '--ipv6', n);
  await lab.docker('network', 'create', '--ipv6', '--internal', 'inner');
  const name = ['-o', `com.docker.network.bridge.name=${BARE}`];
  await lab.docker('network', 'create', '-o', 'com.docker.network.bridge.inhibit_ipv4=true', ...name, 'bare');
  const isolated = [4, 6].flatMap((f) => ['-o', `com.docker.network.bridge.gateway_mode_ipv${f}=isolated`]);
  if (isIsolating) await lab.docker('network', 'create', '--internal', '--ipv6', ...isolated, 'sealed');
});
afterAll(() => lab?.down());

/** One attempt: "ok", or the code with "slow" when it took a time-out's time. */
async function attempt(c: Container, host: string, port: number): Promise<string> {
  const r = await c.probe('tcp', host, port, '--timeout', 12_000);
  const outcome = r.ok ? 'ok' : String(r.code);
  return r.ms < FAST_MS ? outcome : `${outcome}, slow`;
}
const server = (network: string, name: string, labels: Readonly<Record<string, string>> = {}) =>
  listener(lab, PORTS, { network, name, labels });
const client = (network: string, name: string, labels: Readonly<Record<string, string>> = {}) =>
  lab.start({ network, name, labels });
const removeAll = async (): Promise<void> => {
  const ids = (await lab.docker('ps', '-aq')).split('\n').filter((l) => l !== '');
  if (ids.length > 0) await lab.docker('rm', '-f', ...ids);
};
const TABLE = '56065';
/** Drawbridge's policy routes, in an order that does not depend on when each was added. */
async function routing(): Promise<string> {
  const rules = (await lab.inHost(['ip', 'rule'])).stdout.split('\n').filter((l) => /^4[12]:/.test(l));
  return [...rules.sort(), (await lab.inHost(['ip', 'route', 'show', 'table', TABLE])).stdout].join('\n');
}
/** Packets from or about these containers that left the host, whatever their source was translated to. */
async function strayed(containers: readonly Container[]): Promise<unknown[]> {
  const own = await Promise.all(containers.map(async (c) => (await c.addresses()).ip4));
  const to = await lab.sniffer.packets({ direction: 'out', dst: own });
  return [...to, ...(await lab.sniffer.packets({ direction: 'out', src: own }))];
}
async function bridgeNetfilter(on: 0 | 1): Promise<void> {
  for (const table of ['iptables', 'ip6tables', 'arptables'])
    await lab.inHost(['sysctl', '-qw', `net.bridge.bridge-nf-call-${table}=${on}`], { check: true });
}

describe('control, without Drawbridge', () => {
  afterAll(removeAll);
  it('neighbours reach each other', async () => {
    const db = await server('east', 'db');
    const c = await client('east', 'stranger');
    const { ip4, ip6 } = await db.addresses();
    expect([await attempt(c, ip4, 5432), await attempt(c, ip6, 5432)]).toEqual(['ok', 'ok']);
    shown.control();
  });
  it('on a bridge without an address, too', async () => {
    const vault = await server('bare', 'vault');
    const c = await client('bare', 'stranger-bare');
    expect(await attempt(c, (await vault.addresses()).ip4, 5432)).toBe('ok');
    shownBare.control();
  });
});

describe.each([
  ['without', 0],
  ['with', 1],
] as const)('%s br_netfilter', (_, on) => {
  let db: Container;
  let watched: Container;
  let at: { readonly ip4: string; readonly ip6: string };
  beforeAll(async () => {
    await bridgeNetfilter(on);
    if (drawbridge === undefined) {
      drawbridge = lab.drawbridge({ config: { eastWest: { 'open-*': 'allow', 'closed-*': 'policy' } } });
      await drawbridge.ready();
    }
    db = await server('east', 'db', { ...ENFORCED, ...project('shop', 'store') });
    watched = await server('east', 'watched');
    at = await db.addresses();
  });
  afterAll(removeAll);

  it('a stranger is refused at once, in both families, by observed neighbours too', async () => {
    const c = await client('east', 'stranger', ENFORCED);
    const there = await watched.addresses();
    const all = [at.ip4, at.ip6, there.ip4, there.ip6];
    const outcomes: string[] = [];
    for (const host of all) outcomes.push(await attempt(c, host, 5432));
    expect(outcomes).toEqual(all.map(() => 'ECONNREFUSED'));
    // over IPv4 the kernel's own redirect, sent first, uses up its allowance of ICMP errors to this host
    expect(await c.probe('udp', at.ip4, 5432)).toMatchObject({ ok: false });
    expect(await c.probe('udp', at.ip6, 5432)).toMatchObject({ code: 'EACCES' });
    expect([await visitors(db, 5432), await visitors(watched, 5432)]).toEqual([0, 0]);
    shown.held();
  });

  it('container:NAME and container:SERVICE open those ports and no others', async () => {
    const app = await client('east', 'app', { 'drawbridge.allow': 'container:db:5432' });
    const other = await client('east', 'other', { 'drawbridge.allow': 'container:store:5433/tcp+udp' });
    expect([
      await attempt(app, 'db', 5432),
      await attempt(app, at.ip4, 5432),
      await attempt(app, at.ip6, 5432),
      await attempt(app, at.ip4, 5433),
      await attempt(app, at.ip6, 5433),
    ]).toEqual(['ok', 'ok', 'ok', 'ECONNREFUSED', 'ECONNREFUSED']);
    expect([await attempt(other, 'db', 5433), await attempt(other, at.ip6, 5432)]).toEqual([
      'ok',
      'ECONNREFUSED',
    ]);
    expect(await other.probe('udp', at.ip4, 5433)).toMatchObject({ ok: true });
    // 443: with no ports of its own a container entry is as an address entry, here none fits
    expect(await attempt(app, 'watched', 5432)).toBe('ECONNREFUSED');
  });

  it('one compose project is one neighbourhood, another is not', async () => {
    const mate = await client('east', 'mate', { ...ENFORCED, ...project('shop', 'web') });
    const foreign = await client('east', 'foreign', { ...ENFORCED, ...project('bank', 'web') });
    for (const port of PORTS)
      expect([await attempt(mate, at.ip4, port), await attempt(mate, at.ip6, port)]).toEqual(['ok', 'ok']);
    expect([await attempt(foreign, at.ip4, 5432), await attempt(foreign, at.ip6, 5433)]).toEqual([
      'ECONNREFUSED',
      'ECONNREFUSED',
    ]);
  });

  it('who opens a connection is judged: observed containers reach enforced ones and each other', async () => {
    const c = await client('east', 'observer');
    const outcomes: string[] = [];
    for (const host of ['db', at.ip4, at.ip6, 'watched'])
      for (const port of PORTS) outcomes.push(await attempt(c, host, port));
    expect(outcomes).toEqual(outcomes.map(() => 'ok'));
    expect(await c.probe('udp', at.ip4, 5432)).toMatchObject({ ok: true });
    expect(await c.probe('udp', at.ip6, 5432)).toMatchObject({ ok: true });
  });

  it('eastWest: allow opens a network, policy closes it to its own project', async () => {
    const open = await server('open-1', 'open', ENFORCED);
    const guest = await client('open-1', 'guest', ENFORCED);
    const { ip4, ip6 } = await open.addresses();
    expect([await attempt(guest, ip4, 5432), await attempt(guest, ip6, 5433)]).toEqual(['ok', 'ok']);
    const closed = await server('closed-1', 'closed', { ...ENFORCED, ...project('shop', 'store') });
    const mate = await client('closed-1', 'closed-mate', { ...ENFORCED, ...project('shop', 'web') });
    expect(await attempt(mate, (await closed.addresses()).ip4, 5432)).toBe('ECONNREFUSED');
    expect(await attempt(mate, (await closed.addresses()).ip6, 5432)).toBe('ECONNREFUSED');
  });

  it('an internal network', async () => {
    const inside = await server('inner', 'vault', ENFORCED);
    const { ip4, ip6 } = await inside.addresses();
    const app = await client('inner', 'inner-app', { 'drawbridge.allow': 'container:vault:5432' });
    expect([
      await attempt(app, 'vault', 5432),
      await attempt(app, ip6, 5432),
      await attempt(app, ip4, 5433),
      await attempt(app, ip6, 5433),
    ]).toEqual(['ok', 'ok', 'ECONNREFUSED', 'ECONNREFUSED']);
    const stranger = await client('inner', 'inner-stranger', ENFORCED);
    expect(await attempt(stranger, ip4, 5432)).toBe('ECONNREFUSED');
  });

  it.each([
    ['inhibit_ipv4', 'bare'],
    ...(isIsolating ? [['gateway mode isolated', 'sealed'] as const] : []),
  ] as const)('a bridge without an address: %s', async (_mode, network) => {
    const vault = await server(network, `${network}-vault`, ENFORCED);
    const seen = await server(network, `${network}-seen`);
    const app = await client(network, `${network}-app`, {
      'drawbridge.allow': `container:${network}-vault:5432/tcp+udp`,
    });
    const guest = await client(network, `${network}-guest`, ENFORCED);
    const observer = await client(network, `${network}-observer`);
    const [to, toSeen] = [(await vault.addresses()).ip4, (await seen.addresses()).ip4];
    await lab.sniffer.clear();
    for (const mode of [1, 2, 0]) {
      await lab.inHost(['sysctl', '-qw', `net.ipv4.conf.all.rp_filter=${mode}`], { check: true });
      expect([
        await attempt(app, to, 5432),
        await attempt(observer, to, 5433),
        await attempt(observer, toSeen, 5432),
        await attempt(app, to, 5433),
        await attempt(guest, to, 5432),
        await attempt(guest, toSeen, 5432),
      ]).toEqual(['ok', 'ok', 'ok', 'ECONNREFUSED', 'ECONNREFUSED', 'ECONNREFUSED']);
    }
    expect(await app.probe('udp', to, 5432)).toMatchObject({ ok: true });
    expect((await guest.probe('udp', to, 5432, '--timeout', 1_000)).ok).toBe(false);
    expect([await visitors(vault, 5432), await visitors(seen, 5432)]).toEqual([4, 3]);
    expect(await strayed([app, guest, observer, vault, seen])).toEqual([]);
    if (network === 'bare') shownBare.held();
  });

  it('several networks, and one that comes and goes while the container runs', async () => {
    const far = await server('west', 'far', ENFORCED);
    const app = await lab.start(
      withInside({
        network: 'west',
        name: 'roamer',
        labels: { 'drawbridge.allow': 'container:db:5432, container:far:5432, 93.184.1.1:80' },
      }),
    );
    const farAt = await far.addresses();
    expect([await attempt(app, 'far', 5432), await attempt(app, farAt.ip6, 5433)]).toEqual([
      'ok',
      'ECONNREFUSED',
    ]);
    expect(await attempt(app, at.ip4, 5432)).not.toBe('ok');
    await lab.sniffer.clear();
    await app.exec(['sh', '-c', 'while :; do echo x | nc -u -w 1 93.184.9.9 999; done >/dev/null 2>&1 &']);
    for (let i = 0; i < 3; i++) {
      await lab.docker('network', 'connect', 'east', 'roamer');
      await waitFor('db to be reached', async () => (await attempt(app, at.ip4, 5432)) === 'ok', 20_000);
      expect([await attempt(app, 'far', 5432), await attempt(app, at.ip6, 5433)]).toEqual([
        'ok',
        'ECONNREFUSED',
      ]);
      expect(await attempt(app, 'db', 5432)).toBe('ok');
      expect(await attempt(app, '93.184.1.1', 80)).toBe('ok');
      await lab.docker('network', 'disconnect', 'east', 'roamer');
      expect(await attempt(app, at.ip4, 5432)).not.toBe('ok');
    }
    expect(await lab.sniffer.count({ direction: 'out', dst: '93.184.9.9' })).toBe(0);
    expect(await lab.sniffer.count({ direction: 'out', dst: '93.184.1.1' })).toBeGreaterThan(0);
  });
});

describe('policy routes to neighbours', () => {
  it('come back when they were removed, and nothing leaves by another route meanwhile', async () => {
    const vault = await server('bare', 'route-vault', ENFORCED);
    const app = await client('bare', 'route-app', { 'drawbridge.allow': 'container:route-vault:5432' });
    const { ip4 } = await vault.addresses();
    const isReached = async (): Promise<boolean> => (await attempt(app, ip4, 5432)) === 'ok';
    const routes = await routing();
    expect(routes).toContain(`iif ${BARE}`);
    const rule =
      (await lab.inHost(['ip', 'rule'])).stdout.match(/41:\s+(from \S+ to \S+ iif bare0)/)?.[1] ?? '';
    await lab.sniffer.clear();
    const comeBack = async (what: string): Promise<void> => {
      await waitFor(`routes after ${what}`, async () => (await routing()) === routes, 40_000);
      await waitFor('the neighbour to be reached', isReached, 20_000);
    };
    // Frozen, so that it cannot repair before the attempt: any change of rules, Docker's too, makes it look.
    drawbridge.kill('SIGSTOP');
    await lab.inHost(['ip', 'route', 'flush', 'table', TABLE], { check: true });
    const meanwhile = await app.probe('tcp', ip4, 5432, '--timeout', 300);
    drawbridge.kill('SIGCONT');
    expect(meanwhile.ok).toBe(false);
    for (const change of ['-I', '-D']) // whatever is changed, everything is looked at soon
      await lab.inHost(['iptables', '-w', change, 'DOCKER-USER', '-j', 'RETURN'], { check: true });
    await comeBack('a flush of the table');
    for (const loss of [
      ['del', 'pref', '41', ...rule.split(' ')],
      ['flush', 'table', TABLE],
    ]) {
      await lab.inHost(['ip', 'rule', ...loss], { check: true });
      await app.probe('tcp', ip4, 5432, '--timeout', 300);
      await comeBack(`ip rule ${loss.join(' ')}`);
    }
    await lab.inHost(['ip', 'link', 'set', BARE, 'down'], { check: true });
    await lab.inHost(['ip', 'link', 'set', BARE, 'up'], { check: true });
    await comeBack('the bridge was down');
    expect(await strayed([app, vault])).toEqual([]);
    await removeAll();
  });

  it('stay where the bridge gets an address: nothing leaves when it loses that while the service is away', async () => {
    const vault = await server('bare', 'own-vault', ENFORCED);
    const app = await client('bare', 'own-app', { 'drawbridge.allow': 'container:own-vault:5432' });
    const { ip4 } = await vault.addresses();
    expect(await attempt(app, ip4, 5432)).toBe('ok');
    const routes = await routing();
    const address = (change: 'add' | 'del') =>
      lab.inHost(['ip', 'address', change, `${ip4.replace(/\d+$/, '250')}/24`, 'dev', BARE], { check: true });
    await address('add');
    expect(await attempt(app, ip4, 5432)).toBe('ok');
    await lab.inHost(['bash', '-c', `exec 3<>/dev/tcp/${ip4}/5432`], { check: true });
    await lab.sniffer.clear();
    drawbridge.kill('SIGSTOP');
    try {
      await address('del'); // with it, the kernel removes every route of the bridge
      expect((await app.probe('tcp', ip4, 5432, '--timeout', 1_200)).ok).toBe(false);
      expect(await strayed([app, vault])).toEqual([]);
      // Control: without the rules, the same attempt leaves by the default route.
      for (const pref of ['41', '41', '41', '42'])
        await lab.inHost(['ip', 'rule', 'del', 'pref', pref], { check: true });
      await app.probe('tcp', ip4, 5432, '--timeout', 300);
      expect(await strayed([app, vault])).not.toEqual([]);
    } finally {
      drawbridge.kill('SIGCONT');
    }
    await waitFor('the rules to be repaired', async () => (await routing()) === routes, 40_000);
    for (let n = 1; n <= 3; n++) {
      await address('add');
      await address('del'); // what looks at the routes every 20 s would come too late
      await waitFor(`the route to be back, ${n}`, async () => (await routing()) === routes, 5_000);
    }
    expect(await attempt(app, ip4, 5432)).toBe('ok');
    await removeAll();
  });

  it('go with their network', async () => {
    expect(await routing()).toContain(`iif ${BARE}`);
    await lab.docker('network', 'rm', 'bare', ...(isIsolating ? ['sealed'] : []));
    await waitFor('the rules to be removed', async () => (await routing()).trim() === '', 20_000);
  });

  it("leave the host's own packets to another interface that has an address in the subnet", async () => {
    const bare = ['-o', 'com.docker.network.bridge.inhibit_ipv4=true', '--subnet', '10.99.1.0/24'];
    const name = ['-o', `com.docker.network.bridge.name=${BARE}`];
    await lab.docker('network', 'create', ...bare, ...name, 'bare');
    await waitFor('the rules', async () => /ipproto icmp/.test(await routing()), 20_000);
    const address = (change: 'add' | 'del', link: string) =>
      lab.inHost(['ip', 'address', change, '10.99.1.9/24', 'dev', link], { check: true });
    await address('add', 'eth0');
    await waitFor("the host's own packets to stay", async () => !/iif lo/.test(await routing()), 20_000);
    expect(await routing()).toContain(`iif ${BARE}`);
    await address('del', 'eth0');
    await waitFor('the rules', async () => /ipproto icmp/.test(await routing()), 20_000);
  });
});
