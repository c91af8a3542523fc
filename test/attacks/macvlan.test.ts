/** On a macvlan network nothing passes the host: what holds stands inside the attacker's own namespace. */
import { afterAll } from 'vitest';
import type { Container } from '../lab/container.js';
import { MACVLAN, makeMacvlan } from '../lab/macvlan.js';
import { Wire } from './neighbour.js';
import { raw, trySending, type Way } from './raw.js';
import { type Attempt, asked, attackSuite, type How, program, seen } from './technique.js';
import { address, type Bytes, bytes, type Ends, ether, etherTypeOf, ip, u16, udp } from './wire.js';

const RULES = 'rules in its own namespace, which it cannot change without NET_ADMIN';
const FRAMES = 'at the device, what no socket of IP made is dropped: it has no route';
const UDP = 17;
const PORT = 4501;
const BOTH = ['v4', 'v6'] as const;

let neighbour: Container;
let wire: Wire | undefined;
afterAll(() => wire?.stop());

const out = (a: Attempt): Promise<boolean> => seen(a, { direction: 'in', dst: a.target });
const at = async (c: Container): Promise<{ ip4: string; ip6: string; mac: string }> =>
  c.addresses(MACVLAN.name);
async function datagram(a: Attempt, forged?: string): Promise<Bytes> {
  const own = await at(a.attacker);
  const src = forged ?? (a.family === 'v4' ? own.ip4 : own.ip6);
  const e: Ends = { src, dst: a.target };
  return ip(e, UDP, udp(e, PORT, PORT, a.tag));
}
async function frame(a: Attempt): Promise<Bytes> {
  const packet = await datagram(a);
  return ether(MACVLAN.gatewayMac, (await at(a.attacker)).mac, etherTypeOf(packet), packet);
}
const sent = (make: (a: Attempt) => Promise<Bytes>, way?: Way): How => ({
  families: BOTH,
  attack: async (a) => trySending(a.attacker, [await make(a)], way),
  reached: out,
});
const probe = (proto: 'tcp' | 'udp', port: number): How => ({
  families: BOTH,
  attack: (a) =>
    a.attacker.probe(proto, a.target, port, ...(proto === 'udp' ? [a.tag] : []), '--timeout', 1500),
  reached: out,
});
const toNeighbour = (attack: (a: Attempt, to: { ip: string; mac: string }) => Promise<unknown>): How => ({
  families: BOTH,
  attack: async (a) => {
    const { ip4, ip6, mac } = await at(neighbour);
    return attack(a, { ip: a.family === 'v4' ? ip4 : ip6, mac });
  },
  reached: async (a) => (await wire?.saw((f) => f.includes(a.tag))) ?? false,
});
const question = (name: string): Bytes =>
  bytes(
    u16(0x5353, 0x0100, 1, 0, 0, 0),
    ...name.split('.').map((l) => bytes(Buffer.from([l.length]), l)),
    Buffer.from([0]),
    u16(1, 1),
  );

attackSuite(
  'macvlan',
  {
    attacker: raw({ network: MACVLAN.name }),
    prepare: async (lab) => {
      await makeMacvlan(lab);
      neighbour = await lab.start({ name: 'neighbour', network: MACVLAN.name });
    },
    enforced: async (lab) => {
      wire = await Wire.tap(lab, neighbour);
    },
  },
  [
    { id: 'macvlan-tcp', title: 'a connection past the host', stoppedBy: RULES, ...probe('tcp', 80) },
    { id: 'macvlan-udp', title: 'a datagram past the host', stoppedBy: RULES, ...probe('udp', PORT) },
    {
      id: 'macvlan-echo',
      title: 'an echo request past the host',
      stoppedBy: RULES,
      families: BOTH,
      attack: (a) => a.attacker.exec(['ping', '-c', '1', '-W', '1', a.target]),
      reached: out,
    },
    {
      id: 'macvlan-raw-ip',
      title: 'a packet of its own making, by a raw socket',
      stoppedBy: RULES,
      ...sent((a) => datagram(a), { way: 'ip' }),
    },
    {
      id: 'macvlan-forged',
      title: 'the same from an address that is not its own',
      stoppedBy: RULES,
      ...sent((a) => datagram(a, a.family === 'v4' ? '10.77.0.200' : 'fd00:77::200'), { way: 'ip' }),
    },
    { id: 'macvlan-packet', title: 'a frame, by a packet socket', stoppedBy: FRAMES, ...sent(frame) },
    {
      id: 'macvlan-packet-direct',
      title: 'a frame, by a packet socket that skips the queueing discipline',
      stoppedBy: FRAMES,
      ...sent(frame, { way: 'direct' }),
    },
    {
      id: 'macvlan-neighbour',
      title: 'a neighbour on the same parent',
      stoppedBy: RULES,
      ...toNeighbour((a, to) => a.attacker.probe('udp', to.ip, PORT, a.tag, '--timeout', 500)),
    },
    {
      id: 'macvlan-neighbour-frame',
      title: 'a neighbour on the same parent, by a frame',
      stoppedBy: FRAMES,
      ...toNeighbour(async (a, to) => {
        const own = await at(a.attacker);
        const e: Ends = { src: a.family === 'v4' ? own.ip4 : own.ip6, dst: to.ip };
        const packet = ip(e, UDP, udp(e, PORT, PORT, a.tag));
        return trySending(a.attacker, [ether(to.mac, own.mac, etherTypeOf(packet), packet)]);
      }),
    },
    {
      id: 'macvlan-group',
      title: 'a group on the link',
      stoppedBy: RULES,
      ...toNeighbour((a) =>
        a.attacker.probe(
          'udp',
          a.family === 'v4' ? '224.0.0.251' : 'ff02::fb%eth0',
          5353,
          a.tag,
          '--timeout',
          500,
        ),
      ),
    },
    {
      id: 'macvlan-dns',
      title: "a name, asked of Docker's resolver and of another",
      stoppedBy: 'inside its namespace port 53 leads to Drawbridge, whatever resolver is asked',
      families: ['v4'],
      attack: async (a) => {
        for (const server of ['127.0.0.11', '8.8.8.8'])
          await a.attacker.probe('dns', server, `${a.tag}.example.com`, 'A', '--timeout', 1500);
      },
      reached: asked,
    },
    {
      id: 'macvlan-dns-bound',
      title: 'a name, asked by a socket that is bound to the device',
      stoppedBy: 'what is redirected does not leave through the device',
      families: ['v4'],
      attack: (a) => {
        const to = { address: address('8.8.8.8').toString('hex'), port: 53 };
        return trySending(a.attacker, [question(`${a.tag}.example.com`)], { way: 'bound', to });
      },
      reached: async (a) => (await asked(a)) || (await seen(a, { payloadIncludes: a.tag })),
    },
    {
      id: 'macvlan-xdp',
      title: 'a frame, by an AF_XDP socket',
      stoppedBy: 'nothing in its namespace sees it',
      notStopped:
        'AF_XDP hands its frames to the device itself, past every hook of its namespace; it takes NET_RAW, and coverage says `partial` until that is dropped',
      families: BOTH,
      attack: async (a) => program(a, 'xdp.mjs', 'eth0', (await frame(a)).toString('hex')),
      reached: out,
    },
  ],
);
