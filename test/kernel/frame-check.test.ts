/**
 * What the kernel is still to do with a packet behind the last rule: where it writes a checksum, and how it cuts segments. Frames that ask for
 * something else than the sockets of a container do not pass the checks; without these they arrive with other bytes than the rules have read.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { FrameChecks, releaseFrameChecks } from '../../src/kernel/frame-checks.js';
import { withNamespace } from '../../src/kernel/netlink/namespace.js';
import {
  type Bytes,
  bytes,
  ether,
  etherTypeOf,
  fragment,
  ICMP,
  icmp,
  ip,
  tcp,
  u16,
  udp,
} from '../attacks/wire.js';
import { shape } from '../pure/ruleset/sample.js';
import { configure, type Host, makeHost, SEGMENTS, type Virtio } from './frames.js';

const BRIDGE = '02:42:00:00:00:01';
const NEXT_HOP = '02:42:00:00:99:09';
const OWN = { mac: '02:42:ac:12:00:02', v4: '172.18.0.2', v6: 'fd00:18::2' } as const;
const OTHER = { mac: '02:42:ac:12:00:03' } as const;
const OUTSIDE = { v4: '198.51.100.9', v6: '2001:db8:51::9' } as const;
const FAMILIES = ['v4', 'v6'] as const;
type V = (typeof FAMILIES)[number];
const ETHER = 14;
const HEADER = { v4: 20, v6: 40 } as const;
const { enforced } = shape.marks;

/** SIOCETHTOOL with ETHTOOL_STXCSUM. */
const WITHOUT_OFFLOAD = `
import array, fcntl, socket, struct, sys
value = array.array('B', struct.pack('II', 0x17, 0))
request = struct.pack('16sP', sys.argv[1].encode(), value.buffer_info()[0])
fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x8946, request)
`;

let host: Host;
beforeAll(() => {
  host = makeHost({
    bridges: { br0: { mac: BRIDGE, addresses: ['172.18.0.1/16', 'fd00:18::1/64'] } },
    veths: {
      own: { bridge: 'br0', mac: OWN.mac },
      other: { bridge: 'br0', mac: OTHER.mac },
      uplink: { mac: NEXT_HOP, addresses: ['198.51.100.1/24', '2001:db8:51::1/64'] },
    },
    marker: { by: 'other', at: ['br0', 'own'] },
  });
  configure(
    host.ns,
    Object.values(OUTSIDE).map((a) => `neigh add ${a} lladdr ${NEXT_HOP} dev uplink nud permanent`),
  );
  // the uplink writes checksums and cuts segments in software, as a driver without these features does
  host.ns.run('python3', '-c', WITHOUT_OFFLOAD, 'uplink');
  const mark = `iifname "own" meta mark set ${enforced}`;
  host.ns.run(
    'nft',
    `table bridge marks { chain ports { type filter hook prerouting priority -300; ${mark}; }; }`,
  );
});
afterAll(() => host[Symbol.dispose]());

let checks: FrameChecks | undefined;
const begin = (folder?: string): FrameChecks => {
  checks = new FrameChecks(folder);
  withNamespace(host.ns.path, () => checks?.begin(enforced));
  return checks;
};
afterEach(() => {
  checks?.close();
  checks = undefined;
});

const ends = (v: V) => ({ src: OWN[v], dst: OUTSIDE[v] });
const framed = (packet: Bytes, by = OWN.mac): Bytes => ether(BRIDGE, by, etherTypeOf(packet), packet);
const TEXT = 'content of the packet, which is even.';
const datagram = (v: V, text = TEXT): Bytes => framed(ip(ends(v), 17, udp(ends(v), 40_000, 7_000, text)));
const segment = (v: V, text = TEXT): Bytes =>
  framed(ip(ends(v), 6, tcp(ends(v), 40_000, 7_000, { flags: 'PA' }, text)));

/** Packets at the uplink, from their IP headers on. */
async function arrived(frame: Bytes, virtio?: Virtio, from = 'own'): Promise<readonly Bytes[]> {
  const [seen = []] = await host.send([{ from, frames: [frame], ...(virtio ? { virtio } : {}) }]);
  return seen.filter((s) => s.at === 'uplink').map((s) => s.frame.subarray(ETHER));
}

interface Case {
  readonly frame: (v: V) => Bytes;
  readonly virtio?: (v: V) => Virtio;
}
const upper = (v: V): number => ETHER + HEADER[v];
const sum = (start: number, offset: number): Virtio => ({ checksum: { start, offset } });
const tcpSegments = (v: V) => (v === 'v4' ? SEGMENTS.tcp4 : SEGMENTS.tcp6);
const LONG = 'a segment of 500 bytes '.padEnd(1_500, '.');

const HONEST: Readonly<Record<string, Case>> = {
  'a datagram with its checksum': { frame: (v) => datagram(v) },
  'a datagram without': { frame: (v) => datagram(v), virtio: (v) => sum(upper(v), 6) },
  'a segment with its checksum': { frame: (v) => segment(v) },
  'a segment without': { frame: (v) => segment(v), virtio: (v) => sum(upper(v), 16) },
  'segments of TCP': {
    frame: (v) => segment(v, LONG),
    virtio: (v) => ({
      ...sum(upper(v), 16),
      segments: { type: tcpSegments(v), size: 500, header: upper(v) + 20 },
    }),
  },
  'datagrams in one': {
    frame: (v) => datagram(v, LONG),
    virtio: (v) => ({
      ...sum(upper(v), 6),
      segments: { type: SEGMENTS.udp, size: 500, header: upper(v) + 8 },
    }),
  },
};
const LIES: Readonly<Record<string, Case>> = {
  'a checksum in the destination': {
    frame: (v) => datagram(v),
    virtio: (v) => (v === 'v4' ? sum(ETHER + 6, 11) : sum(ETHER + 24, 14)),
  },
  'a checksum in the port': { frame: (v) => datagram(v), virtio: (v) => sum(upper(v), 2) },
  'a checksum in the content': { frame: (v) => datagram(v), virtio: (v) => sum(upper(v), 20) },
  'the place of TCP in a datagram': { frame: (v) => datagram(v), virtio: (v) => sum(upper(v), 16) },
  'the place of UDP in a segment': { frame: (v) => segment(v), virtio: (v) => sum(upper(v), 6) },
  'a checksum that begins before the upper header': {
    frame: (v) => segment(v),
    virtio: (v) => sum(upper(v) - 2, 18),
  },
  'a checksum of other bytes, at the same distance': {
    frame: (v) => segment(v),
    virtio: (v) => sum(upper(v) - 12, 16),
  },
  'a checksum of a protocol that has none': {
    frame: (v) => framed(ip(ends(v), 253, bytes(TEXT))),
    virtio: (v) => sum(upper(v), 6),
  },
  'a checksum in a fragment': {
    frame: (v) => framed(fragment(ends(v), 17, udp(ends(v), 40_000, 7_000, TEXT.repeat(4)), 0, 64)),
    virtio: (v) => sum(upper(v), 6),
  },
};
const all = (cases: Readonly<Record<string, Case>>) =>
  Object.entries(cases).flatMap(([name, of]) => FAMILIES.map((v) => [name, v, of] as const));

describe('with the checks', () => {
  it.each(all(HONEST))('%s passes (%s)', async (_, v, { frame, virtio }) => {
    expect(begin().state).toMatchObject({ isOn: true });
    expect((await arrived(frame(v), virtio?.(v))).length).toBeGreaterThan(0);
  });
  it.each(all(LIES))('%s does not (%s)', async (_, v, { frame, virtio }) => {
    begin();
    expect(await arrived(frame(v), virtio?.(v))).toEqual([]);
    expect((await arrived(datagram(v))).length).toBe(1);
  });
});
it('the checks begin beside a hook of others with the same priority', async () => {
  const hook = 'type filter hook prerouting priority -460; policy accept;';
  host.ns.run('nft', `table inet others { chain first { ${hook} }; }`);
  expect(begin().state).toMatchObject({ isOn: true });
  expect(await arrived(datagram('v4'), sum(upper('v4'), 2))).toEqual([]);
  host.ns.run('nft', 'delete', 'table', 'inet', 'others');
});
describe('control, without them', () => {
  it.each(all(LIES))('%s changes what arrives (%s)', async (_, v, { frame, virtio }) => {
    const sent = frame(v).subarray(ETHER);
    const [seen, ...others] = await arrived(frame(v), virtio?.(v));
    expect(others).toEqual([]);
    expect(seen?.length).toBe(sent.length);
    expect(unhopped(seen ?? sent).equals(unhopped(sent))).toBe(false);
    expect(
      unhopped((await arrived(datagram(v)))[0] ?? sent).equals(unhopped(datagram(v).subarray(ETHER))),
    ).toBe(true);
  });
});
/** Without what a router changes: the hops left, and with them the checksum of IPv4. */
function unhopped(packet: Bytes): Bytes {
  const same = Buffer.from(packet);
  if (etherTypeOf(same) === 0x0800) same.fill(0, 8, 9).fill(0, 10, 12);
  else same.fill(0, 7, 8);
  return same;
}

describe('a segment whose header of IP tells no length, which the kernel takes from the buffer', () => {
  const frame = (): Bytes => {
    const packet = segment('v4', LONG);
    packet.writeUInt16BE(0, ETHER + 2);
    packet.writeUInt16BE(packet.readUInt16BE(ETHER + 10) + HEADER.v4 + 20 + LONG.length, ETHER + 10);
    return packet;
  };
  const virtio: Virtio = {
    ...sum(upper('v4'), 16),
    segments: { type: SEGMENTS.tcp4, size: 500, header: upper('v4') + 20 },
  };
  it('does not pass', async () => {
    begin();
    expect(await arrived(frame(), virtio)).toEqual([]);
  });
  it('control: it arrives in segments', async () => {
    expect((await arrived(frame(), virtio)).length).toBeGreaterThan(1);
  });
});

/** IEEE 802.1D: bridges do not forward these, and give some of them to the host at the port. */
const GROUPS = ['01:80:c2:00:00:02', '01:80:c2:00:00:03', '01:80:c2:00:00:0e', '01:80:c2:00:00:0f'];
describe.each(['own', 'other'] as const)('frames of %s to reserved groups', (by) => {
  const GATEWAY = { v4: '172.18.0.1', v6: 'fd00:18::1' } as const;
  /** An echo request to the host, whose answer goes to what it has as its source. */
  const asked = async (v: V, to: string): Promise<number> => {
    const e = { src: OUTSIDE[v], dst: GATEWAY[v] };
    const echo = ip(e, ICMP[v], icmp(e, v === 'v4' ? 8 : 128, 0, u16(1, 1), TEXT));
    const from = by === 'own' ? OWN.mac : OTHER.mac;
    return (await arrived(ether(to, from, etherTypeOf(echo), echo), undefined, by)).length;
  };
  beforeAll(() => {
    const settings = ['all', 'own', 'other'].map((dev) => `net.ipv4.conf.${dev}.rp_filter=0`);
    host.ns.run('sysctl', '-qw', 'net.ipv4.icmp_ratelimit=0', 'net.ipv6.icmp.ratelimit=0', ...settings);
  });
  it.each(FAMILIES)('do not reach the host (%s)', async (v) => {
    begin();
    for (const group of GROUPS) expect(await asked(v, group)).toBe(0);
    expect(await asked(v, BRIDGE)).toBe(1); // what comes from the bridge is for other rules
  });
  it.each(FAMILIES)('control: it answers them (%s)', async (v) => {
    for (const group of GROUPS) expect(await asked(v, group)).toBe(1);
  });
});

describe('the checks stay', () => {
  let folder = '';
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'drawbridge-bpf-'));
    execFileSync('mount', ['-t', 'bpf', 'drawbridge-test', folder]);
  });
  afterEach(() => {
    execFileSync('umount', [folder]);
    rmSync(folder, { recursive: true });
  });
  const passes = async (): Promise<boolean> =>
    (await arrived(datagram('v4'), sum(upper('v4'), 2))).length > 0;
  const names = (): readonly string[] => readdirSync(folder).filter((name) => name.startsWith('drawbridge-'));

  it('when the process ends, are taken over by the next, and end with a teardown', async () => {
    const first = begin(folder);
    expect(first.state).toEqual({ isOn: true, isKept: true });
    const kept = names();
    expect(kept).toHaveLength(2);
    first.close();
    expect(await passes()).toBe(false);
    expect(begin(folder).state).toEqual({ isOn: true, isKept: true });
    expect(names()).toEqual(kept);
    checks?.close();
    expect(withNamespace(host.ns.path, () => releaseFrameChecks(folder))).toHaveLength(1);
    expect(names()).toEqual([]);
    expect(await passes()).toBe(true);
    expect(withNamespace(host.ns.path, () => releaseFrameChecks(folder))).toEqual([]);
  });
  it('without the file system they last as long as the process, and say so', async () => {
    const checking = begin(join(folder, 'absent'));
    expect(checking.state).toMatchObject({
      isOn: true,
      isKept: false,
      why: expect.stringMatching(/mount -t bpf/),
    });
    expect(await passes()).toBe(false);
    checking.close();
    expect(await passes()).toBe(true);
  });
});
