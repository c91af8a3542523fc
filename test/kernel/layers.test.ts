/**
 * Three layers hold what an enforced container sends: filter, security and the backstop in nft. Each is tried alone, with
 * the other two emptied, by real packets; without all three they pass.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Dataplane } from '../../src/kernel/dataplane.js';
import { compile } from '../../src/ruleset/compile.js';
import type { DesiredInput, KernelConfig, Veth } from '../../src/ruleset/desired-state.js';
import {
  arp,
  type Bytes,
  ether,
  etherTypeOf,
  fragment,
  ICMP,
  icmp,
  ip,
  tcp,
  u8,
  u16,
  udp,
} from '../attacks/wire.js';
import { input, member, shape } from '../pure/ruleset/sample.js';
import { configure, type Host, makeHost } from './frames.js';

const BRIDGE = '02:42:00:00:00:01';
const NEXT_HOP = '02:42:00:00:99:09';
const OUTSIDE = { ip4: '198.51.100.9', ip6: '2001:db8:51::9' };
const GATEWAY = { ip4: '172.18.0.1', ip6: 'fd00:18::1' };
const at = (n: number) => ({
  bridge: 'br0',
  mac: `02:42:ac:12:00:0${n}`,
  ip4: `172.18.0.${n}`,
  ip6: `fd00:18::${n}`,
});
const VETHS = { own: at(2), observed: at(4), free: at(5), fresh: at(6) } as const;
const UPLINK = { mac: NEXT_HOP, addresses: ['198.51.100.1/24', '2001:db8:51::1/64'] };

let host: Host;
let compiled: DesiredInput;
beforeAll(() => {
  host = makeHost({
    bridges: { br0: { mac: BRIDGE, addresses: [`${GATEWAY.ip4}/16`, `${GATEWAY.ip6}/64`] } },
    veths: { ...VETHS, uplink: UPLINK },
    marker: { by: 'free', at: ['br0', 'own', 'observed', 'fresh'] },
  });
  const neighbour = (address: string, mac: string, dev: string): string =>
    `neigh add ${address} lladdr ${mac} dev ${dev} nud permanent`;
  configure(host.ns, [
    ...Object.values(OUTSIDE).map((address) => neighbour(address, NEXT_HOP, 'uplink')),
    ...Object.values(VETHS).flatMap(({ mac, ip4, ip6 }) => [
      neighbour(ip4, mac, 'br0'),
      neighbour(ip6, mac, 'br0'),
    ]),
  ]);
  host.ns.run('sysctl', '-qw', 'net.ipv4.icmp_ratelimit=0', 'net.ipv6.icmp.ratelimit=0');
  const port = (n: keyof typeof VETHS): Veth => ({ ...VETHS[n], ifindex: host.indexOf(n) });
  const members = [
    member(
      2,
      `${OUTSIDE.ip4}:80/udp, [${OUTSIDE.ip6}]:80/udp, ${OUTSIDE.ip4}:443, [${OUTSIDE.ip6}]:443, ${OUTSIDE.ip4}:8443, [${OUTSIDE.ip6}]:8443`,
      'enforce',
      [port('own')],
    ),
    member(4, '', 'observe', [port('observed')]),
    member(5, '', 'off', [port('free')]),
  ];
  compiled = {
    ...input(...members),
    bridges: [
      {
        name: 'br0',
        mac: BRIDGE,
        veths: (['own', 'observed', 'free'] as const).map(host.indexOf),
        subnets: ['172.18.0.0/16', 'fd00:18::/64'],
      },
    ],
  };
});
afterAll(() => host[Symbol.dispose]());

type Layer = 'filter' | 'security' | 'backstop';
const LAYERS: readonly Layer[] = ['filter', 'security', 'backstop'];
async function install(of: KernelConfig = shape, strips = false): Promise<void> {
  const hostNet = { ...compiled.hostNet, strips };
  await new Dataplane(host.ns.exec, of, host.indexOf).apply(compile({ ...compiled, shape: of, hostNet }));
}
/** Everything is installed, and all layers but these are emptied, as by others. */
async function only(...left: readonly Layer[]): Promise<void> {
  await install();
  for (const layer of LAYERS.filter((l) => !left.includes(l)))
    if (layer === 'backstop') host.ns.run('nft', 'flush', 'table', 'inet', 'drawbridge_backstop');
    else for (const tool of ['iptables', 'ip6tables']) host.ns.run(tool, '-t', layer, '-F');
}

let sent = 0;
const FAMILIES = ['ip4', 'ip6'] as const;
interface Packet {
  readonly by?: keyof typeof VETHS;
  readonly port?: number;
  readonly to?: { readonly ip4: string; readonly ip6: string };
}
/** Families in which a datagram arrives: at the uplink, or at a socket of the host. */
async function passes({ by = 'own', port = 9, to = OUTSIDE }: Packet = {}): Promise<string[]> {
  const frames = FAMILIES.map((v): Bytes => {
    sent += 1;
    const e = { src: VETHS[by][v], dst: to[v] };
    const packet = ip(e, 17, udp(e, 20_000 + sent, port, `${v} packet ${sent};`));
    return ether(BRIDGE, VETHS[by].mac, etherTypeOf(packet), packet);
  });
  const tags = frames.map((f) => f.subarray(-12));
  const seen = await host.send(frames.map((f) => ({ from: by, frames: [f] })));
  const isHost = to === GATEWAY;
  if (!isHost)
    return FAMILIES.filter((_, i) =>
      seen.flat().some((s) => s.at === 'uplink' && s.frame.includes(tags[i] ?? '')),
    );
  // no socket listens: the host says so to whom it has let in
  return FAMILIES.filter((v, i) =>
    seen[i]?.some((s) => s.at === by && isUnreachable(s.frame, v) && s.frame.includes(tags[i] ?? '')),
  );
}
/** A port is unreachable (3, 3 or 1, 4), from the host. */
function isUnreachable(frame: Buffer, v: (typeof FAMILIES)[number]): boolean {
  const [proto, type, code] =
    v === 'ip4' ? [frame[23], frame[34], frame[35]] : [frame[20], frame[54], frame[55]];
  return v === 'ip4' ? proto === 1 && type === 3 && code === 3 : proto === 58 && type === 1 && code === 4;
}

it('control: with all three emptied, what no entry permits passes', async () => {
  await only();
  expect(await passes()).toEqual([...FAMILIES]);
  expect(await passes({ by: 'fresh' })).toEqual([...FAMILIES]);
  expect(await passes({ to: GATEWAY })).toEqual([...FAMILIES]);
});

it('with all three installed, what an entry permits passes, and nothing else', async () => {
  await only(...LAYERS);
  expect(await passes({ port: 80 })).toEqual([...FAMILIES]);
  expect(await passes()).toEqual([]);
  expect(await passes({ by: 'fresh' })).toEqual([]);
  expect(await passes({ by: 'observed' })).toEqual([...FAMILIES]);
});

describe.each(LAYERS)('%s alone', (layer) => {
  beforeAll(() => only(layer));
  it('drops what no entry permits', async () => expect(await passes()).toEqual([]));
  it('drops what an unknown veth sends', async () => expect(await passes({ by: 'fresh' })).toEqual([]));
  it('drops what is for the host', async () => {
    expect(await passes({ to: GATEWAY })).toEqual([]);
    expect(await passes({ to: GATEWAY, by: 'fresh' })).toEqual([]);
  });
  it('lets an observed container pass', async () => {
    expect(await passes({ by: 'observed' })).toEqual([...FAMILIES]);
    expect(await passes({ by: 'observed', to: GATEWAY })).toEqual([...FAMILIES]);
  });
});

describe('answers to a container', () => {
  const COUNTED = 'inet counted';
  /** Packets by chain of Drawbridge, and those that still have a mark when all chains of FORWARD have passed them. */
  const counts = (): { filter: number; security: number; marked: number } => {
    const saved = ['iptables', 'ip6tables'].map((tool) => host.ns.run(`${tool}-save`, '-c')).join('\n');
    const jumps = [...saved.matchAll(/^\[(\d+):\d+\] -A \S+ .*-j (DB-FORWARD|DB-BACKSTOP)$/gm)];
    const of = (chain: string): number =>
      jumps.filter((j) => j[2] === chain).reduce((sum, j) => sum + Number(j[1]), 0);
    const marked = /packets (\d+)/.exec(host.ns.run('nft', 'list', 'table', ...COUNTED.split(' ')))?.[1];
    return { filter: of('DB-FORWARD'), security: of('DB-BACKSTOP'), marked: Number(marked) };
  };
  const port = { permitted: 80, ours: 31_000 };
  const outward = FAMILIES.map((v): Bytes => {
    const ends = { src: VETHS.own[v], dst: OUTSIDE[v] };
    const packet = ip(ends, 17, udp(ends, port.ours, port.permitted, 'question'));
    return ether(BRIDGE, VETHS.own.mac, etherTypeOf(packet), packet);
  });
  const inward = (uplink: string): Bytes[] =>
    FAMILIES.map((v) => {
      const ends = { src: OUTSIDE[v], dst: VETHS.own[v] };
      const packet = ip(ends, 17, udp(ends, port.permitted, port.ours, 'answer'));
      return ether(uplink, NEXT_HOP, etherTypeOf(packet), packet);
    });
  const answersSeen = (seen: Awaited<ReturnType<Host['send']>>): number =>
    seen.flat().filter((s) => s.at === 'own' && s.frame.includes('answer')).length;

  it('meet no chain, and leave without a mark; without `early` they pass the chains', async () => {
    await only(...LAYERS);
    host.ns.run(
      'nft',
      `table ${COUNTED} { chain after { type filter hook forward priority 300; oif "br0" meta mark != 0 counter; }; }`,
    );
    const [link] = JSON.parse(host.ns.run('ip', '-j', 'link', 'show', 'uplink')) as { address: string }[];
    await host.send([{ from: 'own', frames: outward }]);
    const before = counts();
    const answers = inward(link?.address ?? '');
    expect(answersSeen(await host.send([{ from: 'uplink', frames: answers }]))).toBe(2);
    expect(counts()).toEqual({ ...before, marked: 0 });
    host.ns.run('nft', 'flush', 'chain', 'inet', 'drawbridge_backstop', 'early');
    expect(answersSeen(await host.send([{ from: 'uplink', frames: answers }]))).toBe(2);
    expect(counts()).toEqual({ filter: before.filter + 2, security: before.security + 2, marked: 0 });
    host.ns.run('nft', 'delete', 'table', ...COUNTED.split(' '));
  });
});

it('with filter emptied, the two behind it hold without one another, and together', async () => {
  await only('security', 'backstop');
  expect(await passes()).toEqual([]);
  expect(await passes({ by: 'fresh' })).toEqual([]);
  expect(await passes({ to: GATEWAY })).toEqual([]);
});

describe('an error of the host', () => {
  const FORGED = { ip4: '198.51.100.77', ip6: '2001:db8:51::77' };
  const uplinkMtu = (mtu: string): unknown => host.ns.run('ip', 'link', 'set', 'uplink', 'mtu', mtu);
  type Make = (e: { src: string; dst: string }, datagram: Bytes) => Bytes;
  /** Families in which the host sends an error to the forged source, with the beginning of the packet. */
  async function told(by: keyof typeof VETHS, make: Make, to = OUTSIDE, restMs = 0): Promise<string[]> {
    const frames = FAMILIES.map((v): Bytes => {
      sent += 1;
      const e = { src: FORGED[v], dst: to[v] };
      const packet = make(e, udp(e, 30_000 + sent, 80, `told ${sent};`.padEnd(40)));
      return ether(BRIDGE, VETHS[by].mac, etherTypeOf(packet), packet);
    });
    const seen = await host.send(frames.map((f) => ({ from: by, frames: [f], restMs })));
    return FAMILIES.filter((_, i) =>
      seen
        .slice(i)
        .some((step) => step.some((s) => s.at === 'uplink' && s.frame.includes(`told ${sent - 1 + i};`))),
    );
  }
  beforeAll(async () => {
    await install();
    configure(
      host.ns,
      Object.values(FORGED).map((a) => `neigh replace ${a} lladdr ${NEXT_HOP} dev uplink nud permanent`),
    );
    uplinkMtu('1280');
    const times = ['ipv4.ipfrag_time', 'ipv6.ip6frag_time', 'netfilter.nf_conntrack_frag6_timeout'];
    for (const name of times) host.ns.run('sysctl', '-qw', `net.${name}=1`);
  });
  afterAll(() => uplinkMtu('1500'));

  it.each<readonly [string, Make, typeof OUTSIDE, number]>([
    ['no hop is left', (e, d) => ip(e, 17, d, { ttl: 1 }), OUTSIDE, 0],
    [
      'the packet is too large',
      (e, d) => ip(e, 17, Buffer.concat([d, Buffer.alloc(1_300)]), { fragment: 0x4000 }),
      OUTSIDE,
      0,
    ],
    ['a fragment without the others', (e, d) => fragment(e, 17, d, 0, 32), GATEWAY, 2_500],
  ])('goes to no source that a veth has chosen which is not known yet: %s', async (_, make, to, restMs) => {
    expect(await told('observed', make, to, restMs)).toEqual([...FAMILIES]);
    expect(await told('fresh', make, to, restMs)).toEqual([]);
    expect(await told('own', make, to, restMs)).toEqual([]);
  });
});

describe('a source that was exchanged between the bridge table and IP', () => {
  const FORGED = { ip4: '172.18.0.77', ip6: 'fd00:18::77' };
  /** The bridge table gives the mark to another source, too: what it compares is not what IP reads. */
  const exchange = (verb: 'add' | 'delete'): void => {
    for (const [map, v] of [
      ['id4', 'ip4'],
      ['id6', 'ip6'],
    ] as const) {
      const mark = compile(compiled).bridge[map].get(
        `${host.indexOf('own')} . ${VETHS.own.mac} . ${VETHS.own[v]}`,
      );
      const element = `"own" . ${VETHS.own.mac} . ${FORGED[v]}${verb === 'add' ? ` : ${mark}` : ''}`;
      host.ns.run('nft', verb, 'element', 'bridge', 'drawbridge', map, `{ ${element} }`);
    }
    // what the host refuses would come back
    const by = verb === 'add' ? 'replace' : 'del';
    configure(
      host.ns,
      Object.values(FORGED).map((a) => `neigh ${by} ${a} lladdr ${VETHS.own.mac} dev br0 nud permanent`),
    );
  };
  let number = 0;
  /** Families in which a packet leaves, and in which the host answers it: a datagram, or an echo request of so many bytes. */
  async function sent(
    port: number,
    bytes = 0,
    to = OUTSIDE,
  ): Promise<{ left: string[]; answered: string[] }> {
    const frames = FAMILIES.map((v): Bytes => {
      number += 1;
      const e = { src: FORGED[v], dst: to[v] };
      const echo = icmp(e, v === 'ip4' ? 8 : 128, 0, u16(1, 1), `exchanged ${number};`.padEnd(bytes));
      const datagram = udp(e, 21_000 + number, port, `exchanged ${number};`);
      const packet = bytes > 0 ? ip(e, v === 'ip4' ? ICMP.v4 : ICMP.v6, echo) : ip(e, 17, datagram);
      return ether(BRIDGE, VETHS.own.mac, etherTypeOf(packet), packet);
    });
    const seen = await host.send(frames.map((f) => ({ from: 'own', frames: [f] })));
    const at = (device: string): string[] =>
      FAMILIES.filter((_, i) => seen[i]?.some((s) => s.at === device && s.frame.includes('exchanged')));
    return { left: at('uplink'), answered: at('own') };
  }
  beforeAll(async () => {
    await only('filter');
    exchange('add');
  });
  afterAll(() => exchange('delete'));

  it('leaves nowhere, and no refusal goes there', async () => {
    expect(await sent(80)).toEqual({ left: [], answered: [] });
    expect(await sent(9)).toEqual({ left: [], answered: [] });
    expect(await sent(9, 300)).toEqual({ left: [], answered: [] });
    expect(await sent(9, 0, GATEWAY)).toEqual({ left: [], answered: [] });
  });

  it('control: it leaves, and is refused, if the set of addresses has it', async () => {
    for (const [set, address] of [
      ['DB-own4', FORGED.ip4],
      ['DB-own6', FORGED.ip6],
    ] as const)
      host.ns.run('ipset', 'add', set, address);
    expect(await sent(80)).toMatchObject({ left: [...FAMILIES] });
    expect(await sent(9)).toEqual({ left: [], answered: [...FAMILIES] });
    expect(await sent(9, 300)).toEqual({ left: [], answered: [...FAMILIES] });
    expect(await sent(9, 0, GATEWAY)).toEqual({ left: [], answered: [...FAMILIES] });
  });
});

describe('what a port gives to the host, and not to its bridge (IEEE 802.1D)', () => {
  const GROUPS = ['01:80:c2:00:00:02', '01:80:c2:00:00:03', '01:80:c2:00:00:0e', '01:80:c2:00:00:0f'];
  const SENDERS = ['own', 'observed', 'fresh'] as const;
  type By = (typeof SENDERS)[number];
  const nft = (...words: readonly string[]): unknown => host.ns.run('nft', ...words);
  /** Echo requests to the host, whose answers go to what they have as their source: families that are answered. */
  async function answered(by: By): Promise<string[]> {
    const asked = FAMILIES.flatMap((v) =>
      GROUPS.map((group): Bytes => {
        const e = { src: OUTSIDE[v], dst: GATEWAY[v] };
        const of = v === 'ip4' ? ICMP.v4 : ICMP.v6;
        const echo = ip(e, of, icmp(e, v === 'ip4' ? 8 : 128, 0, u16(1, 1), 'echo'));
        return ether(group, VETHS[by].mac, etherTypeOf(echo), echo);
      }),
    );
    const seen = await host.send(asked.map((frame) => ({ from: by, frames: [frame] })));
    const replies = seen.flat().filter((s) => s.at === 'uplink' && s.frame.includes('echo'));
    return FAMILIES.flatMap((v) =>
      replies.filter((s) => (etherTypeOf(s.frame.subarray(14)) === 0x0800) === (v === 'ip4')).map(() => v),
    );
  }
  async function resolved(by: By): Promise<number> {
    const ask = arp({ op: 1, sha: VETHS[by].mac, spa: VETHS[by].ip4, tpa: GATEWAY.ip4 });
    const frames = GROUPS.map((group) => ether(group, VETHS[by].mac, 0x0806, ask));
    const seen = await host.send(frames.map((frame) => ({ from: by, frames: [frame] })));
    return seen.flat().filter((s) => s.at === by && s.frame.readUInt16BE(12) === 0x0806).length;
  }
  beforeAll(() => {
    const of = ['all', ...SENDERS].map((dev) => `net.ipv4.conf.${dev}.rp_filter=0`);
    host.ns.run('sysctl', '-qw', ...of);
  });
  const each = [...GROUPS.map(() => 'ip4'), ...GROUPS.map(() => 'ip6')];

  it.each(SENDERS)(
    'control: the host answers what %s sends there, if both layers are emptied',
    async (by) => {
      await only();
      nft('flush', 'table', 'arp', 'drawbridge');
      expect(await answered(by)).toEqual(each);
      expect(await resolved(by)).toBe(GROUPS.length);
    },
  );
  it.each(SENDERS)('is dropped before all rules (%s)', async (by) => {
    await only('backstop');
    nft('flush', 'chain', 'inet', 'drawbridge_backstop', 'input');
    expect(await answered(by)).toEqual([]);
    expect(await resolved(by)).toBe(0);
  });
  it.each(SENDERS)('is dropped on its way into the host, too (%s)', async (by) => {
    await only('backstop');
    nft('flush', 'chain', 'inet', 'drawbridge_backstop', 'first');
    expect(await answered(by)).toEqual([]);
  });
});

describe.each(['ip4', 'ip6'] as const)('a SYN to a port where names are checked, %s', (v) => {
  const options = { mptcp: u8(30, 4, 0, 1), fastopen: u8(34, 2, 1, 1), others: u8(2, 4, 5, 0xb4) };
  /** Its options when it leaves. */
  async function leaving(port: number): Promise<Bytes | undefined> {
    const e = { src: VETHS.own[v], dst: OUTSIDE[v] };
    const { mptcp, fastopen, others } = options;
    const packet = ip(
      e,
      6,
      tcp(e, 20_000 + ++sent, port, { flags: 'S', options: Buffer.concat([mptcp, fastopen, others]) }),
    );
    const seen = await host.send([
      { from: 'own', frames: [ether(BRIDGE, VETHS.own.mac, etherTypeOf(packet), packet)] },
    ]);
    const frame = seen.flat().find((s) => s.at === 'uplink' && s.frame.length === packet.length + 14)?.frame;
    return frame?.subarray(-12);
  }
  const { mptcp, fastopen, others } = options;
  const NOTHING = u8(1, 1, 1, 1);
  it('leaves without Multipath TCP and Fast Open, where nft can take options out', async () => {
    await install({ ...shape, names: { verify: true, quic: 'verify', ports: [443] } }, true);
    expect(await leaving(443)).toEqual(Buffer.concat([NOTHING, NOTHING, others]));
    expect(await leaving(8443)).toEqual(Buffer.concat([mptcp, fastopen, others]));
  });
  it('control: otherwise with them', async () => {
    await only(...LAYERS);
    expect(await leaving(443)).toEqual(Buffer.concat([mptcp, fastopen, others]));
  });
});

describe('before the host puts fragments together, and reads options', () => {
  const INCOMPLETE = 200;
  /** What the bridge leaves for the host: fragments, and packets with options. */
  async function found(
    frames: readonly Bytes[],
    by: By = 'own',
  ): Promise<{ fragments: number; options: number }> {
    const count = [
      'ip frag-off & 0x3fff != 0 counter',
      'ip6 nexthdr 44 counter',
      'ip hdrlength != 5 counter',
      'ip6 nexthdr { 0, 43, 60 } counter',
    ].map((rule) => `iif "br0" ${rule};`);
    const hook = 'type filter hook prerouting priority -440;';
    host.ns.run('nft', `table inet counted { chain after { ${hook} ${count.join(' ')} }; }`);
    await host.send([{ from: by, frames }]);
    const counted = host.ns.run('nft', 'list', 'table', 'inet', 'counted');
    host.ns.run('nft', 'delete', 'table', 'inet', 'counted');
    const [v4 = 0, v6 = 0, options4 = 0, options6 = 0] = [...counted.matchAll(/packets (\d+)/g)].map((m) =>
      Number(m[1]),
    );
    return { fragments: v4 + v6, options: options4 + options6 };
  }
  type By = keyof typeof VETHS;
  const framed = (packet: Bytes, by: By): Bytes => ether(BRIDGE, VETHS[by].mac, etherTypeOf(packet), packet);
  const ends = (v: (typeof FAMILIES)[number], by: By) => ({ src: VETHS[by][v], dst: OUTSIDE[v] });
  /** First fragments without their rest, which the kernel would keep for 30 s. */
  const incomplete = (by: By): Bytes[] =>
    FAMILIES.flatMap((v) =>
      Array.from({ length: INCOMPLETE }, (_, n) => {
        const e = ends(v, by);
        return framed(fragment(e, 17, udp(e, 40_000, 9, 'x'.repeat(160)), 0, 64, 1_000 + n), by);
      }),
    );
  const alert = (by: By): Bytes[] =>
    FAMILIES.map((v) => {
      const e = ends(v, by);
      const datagram = udp(e, 40_000, 9, 'alert');
      return framed(
        v === 'ip4'
          ? ip(e, 17, datagram, { options: u8(148, 4, 0, 0) })
          : ip(e, 0, Buffer.concat([u8(17, 0, 5, 2, 0, 0, 1, 0), datagram])),
        by,
      );
    });
  beforeAll(() => only());

  it('fragments of an enforced container are bounded, and options are dropped', async () => {
    const { fragments } = await found(incomplete('own'));
    expect(fragments).toBeGreaterThanOrEqual(60); // a datagram of 64 KB
    expect(fragments).toBeLessThan(100);
    expect(await found(alert('own'))).toEqual({ fragments: 0, options: 0 });
  });
  it('those of a veth that is not known, too', async () => {
    expect((await found(incomplete('fresh'), 'fresh')).fragments).toBeLessThan(100);
    expect(await found(alert('fresh'), 'fresh')).toEqual({ fragments: 0, options: 0 });
  });
  it('control: those of an observed one come to the host', async () => {
    const all = { fragments: 2 * INCOMPLETE, options: 0 };
    expect(await found(incomplete('observed'), 'observed')).toEqual(all);
    expect(await found(alert('observed'), 'observed')).toEqual({ fragments: 0, options: 2 });
  });
});
