/** What a bridge learns and passes on for every port alike: the control is a host without Drawbridge. */
import type { Lab } from '../lab/lab.js';
import { bridge, endCapture, type Scene, scene, steals } from './layer2.js';
import { ends, raw, sendFrames, sendPackets } from './raw.js';
import { type Attempt, attackSuite, seen } from './technique.js';
import { type Bytes, bytes, ether, icmp, ip, u8, u32 } from './wire.js';

const ITS_OWN_MAC =
  "frames that do not come from the port's own MAC are dropped before the bridge learns of them";
const UDP = 17;
const LLDP_GROUP = '01:80:c2:00:00:0e';
/** MACs that the bridge has learned, of those that begin so. */
async function learned(l: Lab, begin: string): Promise<number> {
  const { stdout } = await l.inHost(['bridge', 'fdb', 'show', 'br', 'docker0'], { check: true });
  return stdout.split('\n').filter((line) => line.startsWith(begin)).length;
}
const flood = (begin: string, count: number, s: Scene): Bytes[] =>
  Array.from({ length: count }, (_, i) => {
    const src = `${begin}:${(i >> 8).toString(16).padStart(2, '0')}:${(i & 255).toString(16).padStart(2, '0')}`;
    return ether(s.bridgeMac, src, 0x0800, ip({ src: s.own.ip4, dst: s.gateway4 }, UDP, u8()));
  });
const floodOf = (a: Attempt): string => (a.side === 'control' ? '02:f1:00:c0' : '02:f1:00:1d');

endCapture();
attackSuite('bridges', { attacker: raw(), control: 'before', prepare: bridge }, [
  {
    id: 'fdb-steal-link-local',
    title: 'the same by a frame that no bridge passes on (01-80-C2-00-00-0E)',
    stoppedBy: 'managed bridges learn nothing from such frames',
    ...steals(0x88cc, LLDP_GROUP),
  },
  {
    id: 'mac-flood',
    title: 'a thousand MACs, so that the bridge floods what it should send to one',
    stoppedBy: ITS_OWN_MAC,
    alone: true,
    families: ['v4'],
    attack: async (a) => sendFrames(a.attacker, flood(floodOf(a), 1000, await scene(a))),
    reached: async (a) => (await learned(a.lab, floodOf(a))) > 500,
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
