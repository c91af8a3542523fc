/** What a bridge learns and passes on for every port alike: the control is a host without Drawbridge. */
import type { Container } from '../lab/container.js';
import type { Lab } from '../lab/lab.js';
import { bridge, endCapture, type Scene, scene, steals } from './layer2.js';
import { ends, raw, sendFrames, sendPackets } from './raw.js';
import { type Attempt, attackSuite, type How, PROGRAMS, seen } from './technique.js';
import { arp, BROADCAST, type Bytes, bytes, type Ends, ether, icmp, ip, mac, u8, u16, u32 } from './wire.js';

const LEARNS_NOTHING = 'veths have static forwarding entries, and teach their bridge nothing';
const ITS_OWN_MAC = `frames that do not come from the veth's own MAC are dropped; ${LEARNS_NOTHING}`;
const NOT_ITS_OWN = "ARP and ND about addresses that are not the veth's own are dropped";
const CLAIMS = 'what a veth claims beyond its own addresses is rate-limited';
const UDP = 17;
const ARP = 0x0806;
const LLDP_GROUP = '01:80:c2:00:00:0e';

let observed: Container | undefined;
/** Observed, and before Drawbridge as every container is. */
function accomplice(): Container {
  if (observed === undefined) throw new Error('no accomplice');
  return observed;
}
async function prepare(l: Lab): Promise<void> {
  await bridge(l);
  const spec = raw({ name: 'accomplice', labels: { 'drawbridge.mode': 'observe' } });
  observed = await l.start({ ...spec, mounts: [...(spec.mounts ?? []), PROGRAMS] });
}

/** MACs that the bridge has learned, of those that begin so. */
async function learned(l: Lab, begin: string): Promise<number> {
  const { stdout } = await l.inHost(['bridge', 'fdb', 'show', 'br', 'docker0'], { check: true });
  return stdout.split('\n').filter((line) => line.startsWith(begin)).length;
}
const hex2 = (n: number): string => n.toString(16).padStart(2, '0');
/** 250 frames of IP, and as many of ARP that says nothing wrong: enough to see, and within what a queue takes. */
const flood = (begin: string, s: Scene, own: { readonly ip4: string; readonly mac: string }): Bytes[] =>
  Array.from({ length: FLOOD }, (_, i) => {
    const src = `${begin}:${hex2(i >> 8)}:${hex2(i & 255)}`;
    if (i % 2 === 0) return ether(s.bridgeMac, src, 0x0800, ip({ src: own.ip4, dst: s.gateway4 }, UDP, u8()));
    return ether(BROADCAST, src, ARP, arp({ op: 1, sha: own.mac, spa: own.ip4, tpa: s.gateway4 }));
  });
const FLOOD = 500;
const floods = (begin: string, by: (a: Attempt) => Container): How => {
  const of = (a: Attempt): string => `02:f1:${begin}:${a.side === 'control' ? 'c0' : '1d'}`;
  return {
    families: ['v4'],
    attack: async (a) => sendFrames(by(a), flood(of(a), await scene(a), await by(a).addresses())),
    reached: async (a) => (await learned(a.lab, of(a))) > FLOOD / 4,
  };
};

const CLAIMED = 400;
/** Addresses of invented neighbours in the host's table. */
const fills = (by: (a: Attempt) => Container, place: number): How => {
  const low = (a: Attempt): number => place + (a.side === 'control' ? 1 : 0);
  const source = (a: Attempt, i: number): string =>
    a.family === 'v4'
      ? `172.17.${low(a) + 2 * (i >> 8)}.${i & 255}`
      : `fe80::${low(a).toString(16)}:${i.toString(16)}`;
  return {
    families: ['v4', 'v6'],
    attack: async (a) => {
      const s = await scene(a);
      const { mac: own } = await by(a).addresses();
      const frames = Array.from({ length: CLAIMED }, (_, i) =>
        a.family === 'v4' ? request(own, source(a, i), s.gateway4) : solicitation(own, source(a, i)),
      );
      await sendFrames(by(a), frames);
    },
    reached: async (a) => {
      const family = a.family === 'v4' ? '-4' : '-6';
      const shown = await a.lab.inHost(['ip', family, 'neigh', 'show', 'dev', 'docker0'], { check: true });
      const known = new Set(shown.stdout.split('\n').map((line) => line.split(' ')[0]));
      // every namespace of the machine has its neighbours in one table (gc_thresh3: 1,024)
      await a.lab.inHost(['ip', family, 'neigh', 'flush', 'dev', 'docker0'], { check: true });
      return (
        Array.from({ length: CLAIMED }, (_, i) => known.has(source(a, i))).filter(Boolean).length >
        CLAIMED / 4
      );
    },
  };
};
const request = (own: string, spa: string, tpa: string): Bytes =>
  ether(BROADCAST, own, ARP, arp({ op: 1, sha: own, spa, tpa }));
function solicitation(own: string, src: string): Bytes {
  const e: Ends = { src, dst: 'ff02::2' };
  return ether(
    '33:33:00:00:00:02',
    own,
    0x86dd,
    ip(e, 58, icmp(e, 133, 0, u32(0), bytes(u8(1, 1), mac(own))), { ttl: 255 }),
  );
}

/** What says nothing wrong, in a frame from the victim's MAC. */
const byIp = (s: Scene): Bytes =>
  ether(s.bridgeMac, s.victim.mac, 0x0800, ip({ src: s.victim.ip4, dst: s.neighbour.ip4 }, UDP, u8()));
const byArp = (s: Scene, _: Attempt, own: Ends & { readonly mac: string }): Bytes =>
  ether(BROADCAST, s.victim.mac, ARP, arp({ op: 1, sha: own.mac, spa: own.src, tpa: own.dst }));
const byDiscovery = (s: Scene): Bytes => {
  const e: Ends = { src: '::', dst: 'ff02::2' };
  return ether(
    '33:33:00:00:00:02',
    s.victim.mac,
    0x86dd,
    ip(e, 58, icmp(e, 133, 0, u32(0), ''), { ttl: 255 }),
  );
};
const byLinkLocal = (s: Scene, a: Attempt): Bytes =>
  ether(LLDP_GROUP, s.victim.mac, 0x88cc, bytes(a.tag.padEnd(46, '.')));
/** With an address of the victim's network that nobody has: what an observed container may send. */
const byEtherType = (s: Scene, a: Attempt): Bytes =>
  ether(s.bridgeMac, s.victim.mac, 0x88b5, bytes(u16(1), a.tag.padEnd(46, '.')));

endCapture();
attackSuite('bridges', { attacker: raw(), control: 'before', prepare }, [
  {
    id: 'fdb-steal',
    title: "a frame from the victim's MAC: what is sent to the victim comes here",
    stoppedBy: ITS_OWN_MAC,
    ...steals(byIp),
  },
  {
    id: 'fdb-steal-arp',
    title: "the same by an honest ARP request in a frame from the victim's MAC",
    stoppedBy: ITS_OWN_MAC,
    ...steals(byArp),
  },
  {
    id: 'fdb-steal-nd',
    title: 'the same by an honest router solicitation',
    stoppedBy: ITS_OWN_MAC,
    ...steals(byDiscovery),
    families: ['v6'],
  },
  {
    id: 'fdb-steal-link-local',
    title: 'the same by a frame that no bridge passes on (01-80-C2-00-00-0E)',
    stoppedBy: LEARNS_NOTHING,
    ...steals(byLinkLocal),
  },
  {
    id: 'fdb-steal-observed',
    title: 'the same by a container that is only observed',
    stoppedBy: LEARNS_NOTHING,
    ...steals(byEtherType, accomplice),
  },
  {
    id: 'mac-flood',
    title: 'hundreds of MACs, so that the bridge floods what it should send to one',
    stoppedBy: ITS_OWN_MAC,
    alone: true,
    ...floods('00', (a) => a.attacker),
  },
  {
    id: 'mac-flood-observed',
    title: 'the same by a container that is only observed',
    stoppedBy: LEARNS_NOTHING,
    alone: true,
    ...floods('01', accomplice),
  },
  {
    id: 'neighbour-flood',
    title: "ARP requests and router solicitations of invented neighbours fill the host's table",
    stoppedBy: NOT_ITS_OWN,
    alone: true,
    ...fills((a) => a.attacker, 200),
  },
  {
    id: 'neighbour-flood-observed',
    title: 'the same by a container that is only observed',
    stoppedBy: CLAIMS,
    alone: true,
    ...fills(accomplice, 210),
  },
  {
    id: 'nd-abroad',
    title: 'neighbour discovery, sent to an address of the internet',
    stoppedBy: 'neighbour discovery is not routed',
    families: ['v6'],
    attack: async (a) => {
      const e = await ends(a);
      const types = [133, 135, 136];
      await sendPackets(
        a,
        types.map((t) =>
          ip(e, 58, icmp(e, t, 0, u32(0), bytes(Buffer.alloc(16, 0x20), a.tag)), { ttl: 255 }),
        ),
      );
    },
    reached: (a) => seen(a),
  },
]);
