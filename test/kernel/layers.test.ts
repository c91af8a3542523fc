/**
 * Three layers hold what an enforced container sends: filter, security and the backstop in nft. Each is tried alone, with
 * the other two emptied, by real packets; without all three they pass.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Dataplane } from '../../src/kernel/dataplane.js';
import { compile } from '../../src/ruleset/compile.js';
import type { DesiredInput, DesiredState, Veth } from '../../src/ruleset/desired-state.js';
import { type Bytes, ether, etherTypeOf, ip, udp } from '../attacks/wire.js';
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
let desired: DesiredState;
beforeAll(() => {
  host = makeHost({
    bridges: { br0: { mac: BRIDGE, addresses: [`${GATEWAY.ip4}/16`, `${GATEWAY.ip6}/64`] } },
    veths: { ...VETHS, uplink: UPLINK },
    marker: { by: 'free', at: ['br0', 'own', 'observed'] },
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
    member(2, `${OUTSIDE.ip4}:80/udp, [${OUTSIDE.ip6}]:80/udp`, 'enforce', [port('own')]),
    member(4, '', 'observe', [port('observed')]),
    member(5, '', 'off', [port('free')]),
  ];
  const from: DesiredInput = {
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
  desired = compile(from);
});
afterAll(() => host[Symbol.dispose]());

type Layer = 'filter' | 'security' | 'backstop';
const LAYERS: readonly Layer[] = ['filter', 'security', 'backstop'];
/** Everything is installed, and all layers but these are emptied, as by others. */
async function only(...left: readonly Layer[]): Promise<void> {
  await new Dataplane(host.ns.exec, shape, host.indexOf).apply(desired);
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
