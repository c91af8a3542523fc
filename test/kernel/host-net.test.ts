import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { planSteps } from '../../src/kernel/apply.js';
import { Cgroups, nftAbilities } from '../../src/kernel/cgroups.js';
import { Dataplane } from '../../src/kernel/dataplane.js';
import type { Exec } from '../../src/kernel/exec.js';
import { Conntrack } from '../../src/kernel/netlink/conntrack.js';
import { NftElements } from '../../src/kernel/netlink/nft-codec.js';
import { PacketQueue, type QueuedPacket } from '../../src/kernel/netlink/packet-queue.js';
import { withQueueRule } from '../../src/kernel/nft-text.js';
import { observe, readHostNetworkRules, readSenders } from '../../src/kernel/read-rules.js';
import { teardownRules } from '../../src/ops/teardown.js';
import { BACKSTOP_TABLE } from '../../src/ruleset/backstop-table.js';
import { compile } from '../../src/ruleset/compile.js';
import type { Cgroup, DesiredInput, HostNet, Subject } from '../../src/ruleset/desired-state.js';
import { IDENTITY_TABLE, unknownSender } from '../../src/ruleset/host-identity.js';
import { hostResolver } from '../../src/ruleset/host-net.js';
import { namesFor } from '../../src/ruleset/naming.js';
import { input, member, shape } from '../pure/ruleset/sample.js';
import { countLeaving, FROM_ANYWHERE, makeNetns, type Netns } from './in-netns.js';

const PARENT = `drawbridge-test-${process.pid}`;
const cgroups = new Cgroups();
const none = () => undefined;
const idOf = (n: number): string => member(n, '').id;
const pathOf = (n: number): string => `${PARENT}/${idOf(n)}`;

let ns: Netns;
let elements: NftElements;
beforeEach(async () => {
  ns = makeNetns();
  elements = new NftElements({ namespace: ns.path });
  expect(await cgroups.askNft(ns.exec)).toBe(true);
  ns.run('ip', 'link', 'set', 'lo', 'up');
  cgroups.make(PARENT);
});
afterEach(() => {
  for (const n of [2, 3]) cgroups.remove(pathOf(n));
  cgroups.remove(PARENT);
  elements.close();
  ns[Symbol.dispose]();
});

const standing = (path: string): Cgroup => cgroups.at(path) ?? { path, object: 'gone' };
const hosted = (n: number, allow: string, mode: Subject['policy']['mode'] = 'enforce'): Subject => ({
  ...member(n, allow, mode, []),
  host: { cgroups: [standing(pathOf(n))], zoned: true },
});
const missing = async (desired: ReturnType<typeof compile>): Promise<readonly unknown[]> =>
  planSteps(shape, desired, await observe(ns.exec, 'DB', none)).stages;
const planeOf = (): Dataplane =>
  new Dataplane(withQueueRule(ns.exec, elements), shape, none, (path) => cgroups.at(path) !== undefined);

/** Runs a command in the namespace, in a cgroup of its own making: what it opens belongs there. */
async function within(path: string, ...argv: string[]): Promise<number | null> {
  const script = 'read go; exec "$@"';
  const child = spawn('nsenter', [`--net=${ns.path}`, '--', 'sh', '-c', script, 'sh', ...argv], {
    stdio: ['pipe', 'ignore', 'ignore'],
  });
  writeFileSync(`${cgroups.folder(path)}/cgroup.procs`, String(child.pid));
  child.stdin.end('go\n');
  const [code] = (await once(child, 'exit')) as [number | null];
  return code;
}
const ping = ['busybox', 'ping', '-c', '1', '-W', '1'];

const AWAY = {
  own4: '198.51.100.1',
  own6: '2001:db8:51::1',
  permitted4: '203.0.113.9',
  permitted6: '2001:db8:52::9',
  forged4: '192.0.2.77',
  forged6: '2001:db8:53::77',
  counted: {
    own4: 'ip saddr 198.51.100.1 udp dport 7000',
    own6: 'ip6 saddr 2001:db8:51::1 udp dport 7000',
    group6: 'ip6 saddr fe80::/10 ip6 daddr ff02::fb udp dport 7000',
    forged4: 'ip saddr 192.0.2.77',
    forged6: 'ip6 saddr 2001:db8:53::77',
    refusal4: 'ip daddr 192.0.2.77',
    refusal6: 'ip6 daddr 2001:db8:53::77',
  },
} as const;
/** Python: a question over either family, from sockets that are bound to a device if one is named. */
const ASK = `
import socket, sys
for family, target in zip((socket.AF_INET, socket.AF_INET6), sys.argv[2:]):
    s = socket.socket(family, socket.SOCK_DGRAM)
    if sys.argv[1]: s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, sys.argv[1].encode())
    try: s.sendto(bytes(12), (target, 53))
    except OSError as e: print(e, file=sys.stderr)
`;

const BEYOND = '02:00:00:00:00:99';
function addDeviceAway(): void {
  ns.run('sysctl', '-qw', 'net.ipv6.conf.default.accept_dad=0');
  for (const words of [
    ['link', 'add', 'away', 'type', 'veth', 'peer', 'name', 'beyond'],
    ['link', 'set', 'away', 'up'],
    ['link', 'set', 'beyond', 'up'],
    ['address', 'add', `${AWAY.own4}/24`, 'dev', 'away'],
    ['address', 'add', `${AWAY.own6}/64`, 'dev', 'away', 'nodad'],
    ['route', 'add', 'default', 'dev', 'away'],
    ['-6', 'route', 'add', 'default', 'dev', 'away'],
    // a neighbour that is not found would have the kernel tell the sender, some seconds later
    ['neigh', 'add', AWAY.permitted4, 'lladdr', BEYOND, 'dev', 'away', 'nud', 'permanent'],
    ['neigh', 'add', AWAY.permitted6, 'lladdr', BEYOND, 'dev', 'away', 'nud', 'permanent'],
  ])
    ns.run('ip', ...words);
}
describe.each([
  ['iptables', false, false],
  ['nft, queue in raw', true, false],
  ['nft', true, true],
])('the kernel tells senders in the host network by their cgroups: %s', (_, native, queues) => {
  const net = (gates: Cgroup[], exempt: Cgroup[] = []): HostNet => ({
    gates,
    exempt,
    builds: [],
    zones: true,
    native,
    queues,
  });
  const world = (...members: Subject[]): DesiredInput => ({
    ...input(...members),
    hostNet: net([standing(PARENT)]),
  });

  it('takes the rules and gives them back; another object at the path is laid anew; gone, it leaves', async () => {
    cgroups.make(pathOf(2));
    const plane = planeOf();
    const first = compile(world(hosted(2, '10.1.0.0/16:5432, a.org, host:80')));
    expect((await plane.apply(first)).changed).toBe(true);
    expect(await missing(first)).toEqual([]);
    const { tables, identity } = await observe(ns.exec, 'DB', none);
    const senders = readSenders(identity, (name) => cgroups.pathOf(name));
    expect(senders !== undefined).toBe(queues);
    expect(senders ?? readHostNetworkRules(tables.get(4), namesFor('DB'))).toEqual({
      hostMarks: new Map([[pathOf(2), 0x20000002]]),
      hostGates: [{ path: PARENT }],
      hostZones: new Set([pathOf(2)]),
    });
    cgroups.remove(pathOf(2));
    cgroups.make(pathOf(2));
    const again = compile(world(hosted(2, '10.1.0.0/16:5432, a.org, host:80')));
    expect(await missing(again)).not.toEqual([]);
    await plane.apply(again);
    expect(await missing(again)).toEqual([]);
    const empty = compile(world());
    await plane.apply(empty);
    expect(await missing(empty)).toEqual([]);
    expect(ns.run('iptables-save') + ns.run('nft', 'list', 'ruleset')).not.toContain(idOf(2));
  });

  it('a cgroup that ended before its rule was laid keeps out no other', async () => {
    cgroups.make(pathOf(2));
    cgroups.make(pathOf(3));
    const desired = compile(world(hosted(2, '127.0.0.1'), hosted(3, 'host')));
    cgroups.remove(pathOf(2));
    const plane = planeOf();
    await plane.apply(desired);
    const listings = queues
      ? [ns.run('nft', 'list', 'table', ...IDENTITY_TABLE.split(' '))]
      : ['iptables-save', 'ip6tables-save'].map((tool) => ns.run(tool));
    for (const listed of listings) {
      expect(listed).toContain(pathOf(3));
      expect(listed).not.toContain(pathOf(2));
    }
    plane.invalidate();
    expect(await plane.apply(desired)).toMatchObject({ repaired: false });
    plane.invalidate();
    ns.run('iptables', '-t', 'security', '-F', 'DB-BACKSTOP-HN');
    expect(await plane.apply(desired)).toMatchObject({ repaired: true });
    const now = compile(world(hosted(3, 'host')));
    expect(await plane.apply(now)).toMatchObject({ changed: true, repaired: false });
    expect(await missing(now)).toEqual([]);
  });

  it('judges each by its own policy, holds the unknown, lets the host alone; flows bear their number', async () => {
    for (const n of [2, 3]) cgroups.make(pathOf(n));
    const plane = planeOf();
    await plane.apply(compile(world(hosted(2, 'host/icmp'), hosted(3, ''))));
    expect(await within(pathOf(2), ...ping, '127.0.0.1')).toBe(0);
    expect(await within(pathOf(3), ...ping, '127.0.0.1')).not.toBe(0);
    expect(await within(pathOf(3), ...ping, '::1')).not.toBe(0);
    expect(await within('', ...ping, '127.0.0.1')).toBe(0);
    using table = new Conntrack({ namespace: ns.path });
    const flows = await table.flows(4, { mark: { value: 2, mask: shape.marks.identity } });
    const identityOf = (mark: number): number => (mark & shape.marks.identity) >>> 0;
    expect(flows.map((f) => [f.orig.dst, f.proto, identityOf(f.mark)])).toEqual([['127.0.0.1', 1, 2]]);
    await plane.apply(compile(world(hosted(3, 'host/icmp'))));
    expect(await within(pathOf(2), ...ping, '127.0.0.1')).not.toBe(0); // nobody answers for it: no queue listens
    expect(await within(pathOf(3), ...ping, '127.0.0.1')).toBe(0);
    expect(await within(pathOf(3), ...ping, '::1')).toBe(0);
  });

  it('with all of iptables flushed the backstop holds who is behind a gate, and nobody else', async () => {
    for (const n of [2, 3]) cgroups.make(pathOf(n));
    const own = compile({
      ...world(hosted(2, 'host/icmp')),
      hostNet: net([standing(PARENT)], [standing(pathOf(3))]),
    });
    await planeOf().apply(own);
    expect(await missing(own)).toEqual([]);
    const pings = (n: number, at = '127.0.0.1'): Promise<number | null> => within(pathOf(n), ...ping, at);
    expect([await pings(2), await pings(3)]).toEqual([0, 0]);
    const tables = ['raw', 'filter', 'nat', 'mangle', 'security'];
    for (const tool of ['iptables', 'ip6tables']) for (const t of tables) ns.run(tool, '-t', t, '-F');
    expect(await pings(2)).not.toBe(0);
    expect(await pings(2, '::1')).not.toBe(0);
    expect([await pings(3), await pings(3, '::1')]).toEqual([0, 0]);
    expect(await within('', ...ping, '127.0.0.1')).toBe(0);
    await planeOf().apply(own);
    expect(await pings(2)).toBe(0);
  });

  it.runIf(native)(
    'what an enforced sender may not send, `filter` and the backstop each drop alone',
    async () => {
      cgroups.make(pathOf(2));
      const own = compile(world(hosted(2, '')));
      const plane = planeOf();
      const passes = async (): Promise<boolean> => (await within(pathOf(2), ...ping, '127.0.0.1')) === 0;
      const flush = {
        filter: (): unknown => ns.run('iptables', '-F'),
        backstop: (): unknown => ns.run('nft', 'flush', 'table', ...BACKSTOP_TABLE.split(' ')),
        // its INPUT drops the packet where it arrives, on the loopback device
        security: (): unknown => ns.run('iptables', '-t', 'security', '-F'),
      };
      await plane.apply(own);
      expect(await passes()).toBe(false);
      for (const other of [flush.filter, flush.backstop]) {
        for (const empty of [flush.security, other]) empty();
        expect(await passes()).toBe(false);
        plane.invalidate();
        expect(await plane.apply(own)).toMatchObject({ repaired: true });
      }
      for (const empty of Object.values(flush)) empty();
      expect(await passes()).toBe(true);
    },
  );

  it('from an address that is not local nothing leaves, and no refusal goes there', async () => {
    cgroups.make(pathOf(2));
    const own = compile(
      world(hosted(2, `${AWAY.permitted4}:7000/udp, [${AWAY.permitted6}]:7000/udp, [ff02::fb]:7000/udp`)),
    );
    const plane = planeOf();
    await plane.apply(own);
    addDeviceAway();
    const left = countLeaving(ns, AWAY.counted);
    const send = async (forged: boolean, port: number): Promise<Record<string, number>> => {
      const ends = forged
        ? [AWAY.forged4, AWAY.permitted4, AWAY.forged6, AWAY.permitted6]
        : [AWAY.own4, AWAY.permitted4, AWAY.own6, AWAY.permitted6];
      await within(pathOf(2), 'python3', '-c', FROM_ANYWHERE, `${port}`, ...ends);
      return left();
    };
    expect(await send(false, 7000)).toEqual({ own4: 1, own6: 1 });
    // the kernel takes the link-local address of the device
    await within(pathOf(2), 'python3', '-c', FROM_ANYWHERE, '7000', '::', 'ff02::fb%away');
    expect(left()).toEqual({ group6: 1 });
    expect(await send(true, 7000)).toEqual({});
    expect(await send(true, 7001)).toEqual({});
    if (!queues) return;
    const flush = {
      filter: (): void => {
        for (const tool of ['iptables', 'ip6tables']) {
          const rule = ns
            .run(tool, '-S', 'DB-OUTPUT')
            .split('\n')
            .find((line) => line.includes('-g DB-FORGED'));
          ns.run(tool, ...(rule?.replace('-A', '-D').replaceAll('"', '') ?? '').split(' '));
        }
      },
      own: (): unknown => ns.run('nft', 'flush', 'chain', ...IDENTITY_TABLE.split(' '), 'own'),
    };
    flush.own();
    expect(await send(true, 7000)).toEqual({});
    expect(await send(true, 7001)).toEqual({});
    plane.invalidate();
    expect(await plane.apply(own)).toMatchObject({ repaired: true });
    flush.filter();
    expect(await send(true, 7000)).toEqual({});
    expect(await send(true, 7001)).toEqual({});
    flush.own();
    expect(await send(true, 7000)).toEqual({ forged4: 1, forged6: 1 });
    expect(await send(true, 7001)).toEqual({ refusal4: 1, refusal6: 1 });
  });

  it('a question that is redirected to the resolver stays in the host, also from a socket that is bound to a device', async () => {
    cgroups.make(pathOf(2));
    await planeOf().apply(compile(world(hosted(2, ''))));
    addDeviceAway();
    const resolvers = ([4, 6] as const).map((family) => hostResolver(2, family));
    for (const each of resolvers) ns.run('ip', 'address', 'replace', each, 'dev', 'lo');
    const [v4 = '', v6 = ''] = resolvers;
    const left = countLeaving(ns, {
      lo4: `oifname lo ip daddr ${v4} udp dport ${shape.dns.port}`,
      lo6: `oifname lo ip6 daddr ${v6} udp dport ${shape.dns.port}`,
      away: 'oifname away meta l4proto udp',
    });
    const ask = async (device: string): Promise<Readonly<Record<string, number>>> => {
      await within(pathOf(2), 'python3', '-c', ASK, device, AWAY.permitted4, AWAY.permitted6);
      return left();
    };
    expect(await ask('')).toEqual({ lo4: 1, lo6: 1 });
    expect(await ask('away')).toEqual({});
    ns.run('nft', 'flush', 'chain', ...BACKSTOP_TABLE.split(' '), 'outward');
    expect(await ask('away')).toEqual({ away: 2 });
  });

  it.runIf(native)('without the table of nft nothing of a container leaves, and it is repaired', async () => {
    cgroups.make(pathOf(2));
    const own = compile(world(hosted(2, 'host/icmp')));
    const plane = planeOf();
    await plane.apply(own);
    expect(await within(pathOf(2), ...ping, '127.0.0.1')).toBe(0);
    for (const way of ['flush', 'delete']) {
      ns.run('nft', way, 'table', ...IDENTITY_TABLE.split(' '));
      expect(await within(pathOf(2), ...ping, '127.0.0.1')).not.toBe(0);
      expect(await within(pathOf(2), ...ping, '::1')).not.toBe(0);
      expect(await within('', ...ping, '127.0.0.1')).toBe(0);
      plane.invalidate();
      expect(await plane.apply(own)).toMatchObject({ repaired: true });
      expect(await within(pathOf(2), ...ping, '127.0.0.1')).toBe(0);
    }
  });

  it.runIf(native)(
    'a packet waits until its sender is known; on its second visit it is dropped',
    async () => {
      for (const n of [2, 3]) cgroups.make(pathOf(n));
      const plane = planeOf();
      await plane.apply(compile(world()));
      const waiting: QueuedPacket[] = [];
      using queue = new PacketQueue({ queue: shape.holdQueue, namespace: ns.path }, (p) => waiting.push(p));
      const repeat = async (count: number): Promise<void> => {
        await vi.waitFor(() => expect(waiting).toHaveLength(count), 20_000);
        const { id, mark, hook } = waiting[count - 1] as QueuedPacket;
        expect([mark, hook]).toEqual([unknownSender(shape), 3]);
        if (count === 1) await plane.apply(compile(world(hosted(2, 'host/icmp'))));
        queue.verdict(id, 'repeat', mark | shape.marks.held);
      };
      const known = within(pathOf(2), 'busybox', 'ping', '-c', '1', '-W', '30', '127.0.0.1');
      await repeat(1);
      expect(await known).toBe(0);
      const unknown = within(pathOf(3), ...ping, '::1');
      await repeat(2);
      expect(await unknown).not.toBe(0);
      expect(waiting).toHaveLength(2);
    },
  );

  it('a gate that is made anew is another; one that ended before its rules were laid keeps out no other', async () => {
    for (const n of [2, 3]) cgroups.make(pathOf(n));
    const gated = (...n: number[]): ReturnType<typeof compile> =>
      compile({
        ...world(...n.map((each) => hosted(each, 'host/icmp'))),
        hostNet: net(n.map((each) => standing(pathOf(each)))),
      });
    await planeOf().apply(gated(2, 3));
    cgroups.remove(pathOf(2));
    cgroups.make(pathOf(2));
    const again = gated(2, 3);
    expect(JSON.stringify(await missing(again))).toContain('drawbridge_backstop');
    cgroups.remove(pathOf(2));
    await planeOf().apply(again);
    const listed = ns.run('nft', 'list', 'table', 'inet', 'drawbridge_backstop');
    expect(listed.match(/socket cgroupv2/g)).toHaveLength(1);
    expect(listed).toContain(pathOf(3));
  });

  it('teardown takes all of it', async () => {
    cgroups.make(pathOf(2));
    await planeOf().apply(compile(world(hosted(2, 'a.org'))));
    await teardownRules(ns.exec, 'DB', undefined);
    expect(ns.run('iptables-save') + ns.run('ip6tables-save') + ns.run('ipset', 'list', '-n')).not.toContain(
      'DB-',
    );
    expect(ns.run('nft', 'list', 'tables')).not.toContain('drawbridge');
  });
});

it('a datagram with the mark and zone of its cgroup arrives: nft identifies senders here', async () => {
  expect(await nftAbilities(ns.exec, cgroups)).toEqual({ identifies: true, queues: true, strips: true });
});

it('the namespace in which that is tried has no name: a service that is killed meanwhile leaves none', async () => {
  const ofThisProcess = (): string[] =>
    ns
      .run('ip', 'netns', 'list')
      .split('\n')
      .filter((line) => line.includes(String(process.pid)));
  const before = ofThisProcess();
  const during: string[][] = [];
  const run: Exec = (file, args, options) => {
    during.push(ofThisProcess());
    return ns.exec(file, args, options);
  };
  expect(await nftAbilities(run, cgroups)).toEqual({ identifies: true, queues: true, strips: true });
  expect(during).toContainEqual(before);
  expect(during.filter((names) => names.length !== before.length)).toEqual([]);
});
