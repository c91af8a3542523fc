/** On a macvlan network nothing passes the host: what holds stands inside the attacker's own namespace. */
import { afterAll } from 'vitest';
import type { Container } from '../lab/container.js';
import { MACVLAN, makeMacvlan } from '../lab/macvlan.js';
import { Wire } from './neighbour.js';
import { raw, trySending, type Way } from './raw.js';
import type { Family } from './report.js';
import { type Attempt, asked, attackSuite, type How, PERMITTED, program, seen } from './technique.js';
import {
  address,
  type Bytes,
  bytes,
  type Ends,
  ether,
  etherTypeOf,
  ip,
  options6,
  routing6,
  u16,
  udp,
} from './wire.js';

const RULES = 'rules in its own namespace, which it cannot change without NET_ADMIN';
const FRAMES = 'at the device, what no socket of IP made is dropped: it has no route';
const NO_EXTENSIONS = 'rules in its own namespace: no IP options, no IPv6 extension headers';
const UDP = 17;
const PORT = 4501;
/** Permitted on PORT/udp: only the rule in question can stop what is sent there. */
const OPEN = { v4: '93.184.2.1', v6: '2600:9000:2::1' } as const;
const ALLOW = [PERMITTED.v4, `[${PERMITTED.v6}]`]
  .map((at) => `${at}:${PERMITTED.port}`)
  .concat(`${OPEN.v4}:${PORT}/udp`, `[${OPEN.v6}]:${PORT}/udp`);
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
/** Packets with a datagram to where datagrams are permitted. */
const toOpen = (
  families: readonly Family[],
  make: (e: Ends, data: Bytes, a: Attempt) => readonly Bytes[],
  from?: Readonly<Record<Family, string>>,
): How => ({
  families,
  attack: async (a) => {
    const { ip4, ip6 } = await at(a.attacker);
    // the router's MAC is known then: a packet that waits for it might be missed
    await a.attacker.probe('tcp', PERMITTED[a.family], PERMITTED.port);
    const e: Ends = { src: from?.[a.family] ?? (a.family === 'v4' ? ip4 : ip6), dst: OPEN[a.family] };
    await trySending(a.attacker, make(e, udp(e, PORT, PORT, a.tag), a), { way: 'ip' });
  },
  reached: (a) => seen(a, { direction: 'in', dst: OPEN[a.family], payloadIncludes: a.tag }),
});
/** One extension header, and the datagram behind it. */
const extended = (first: number, header: (e: Ends) => Bytes): How =>
  toOpen(['v6'], (e, data) => [ip(e, first, bytes(header(e), data))]);
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
    attacker: raw({ network: MACVLAN.name, labels: { 'drawbridge.allow': ALLOW.join(', ') } }),
    prepare: async (lab) => {
      await makeMacvlan(lab);
      neighbour = await lab.start({ name: 'neighbour', network: MACVLAN.name });
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
    {
      id: 'macvlan-forged-refused',
      title: 'from an address of the internet, to which the refusal would go',
      stoppedBy: 'rules in its own namespace: a source that is not local is dropped before anything answers',
      families: BOTH,
      attack: async (a) => {
        // the router's MAC is known then: a packet that waits for it might be missed
        await a.attacker.probe('tcp', PERMITTED[a.family], PERMITTED.port);
        const from = { v4: '93.184.250.9', v6: '2600:9000:f09::9' };
        return trySending(a.attacker, [await datagram(a, from[a.family])], { way: 'ip' });
      },
      reached: (a) => seen(a, { direction: 'in', payloadIncludes: a.tag }),
    },
    {
      id: 'macvlan-forged-permitted',
      title: 'from an address that is not its own, to where it may send',
      stoppedBy: 'rules in its own namespace: a source that is not local is dropped before anything answers',
      ...toOpen(BOTH, (e, data) => [ip(e, UDP, data)], { v4: '10.77.0.200', v6: 'fd00:77::200' }),
    },
    {
      id: 'macvlan-options',
      title: 'a record-route option, to where it may send',
      stoppedBy: NO_EXTENSIONS,
      ...toOpen(['v4'], (e, data) => [
        ip(e, UDP, data, { options: bytes(Buffer.from([7, 39, 4]), Buffer.alloc(36)) }),
      ]),
    },
    {
      id: 'macvlan-hop-by-hop',
      title: 'hop-by-hop options, to where it may send',
      stoppedBy: NO_EXTENSIONS,
      ...extended(0, () => options6(UDP)),
    },
    {
      id: 'macvlan-destination',
      title: 'destination options, to where it may send',
      stoppedBy: NO_EXTENSIONS,
      ...extended(60, () => options6(UDP)),
    },
    {
      id: 'macvlan-routing',
      title: 'a routing header, to where it may send',
      stoppedBy: NO_EXTENSIONS,
      ...extended(43, (e) => routing6(UDP, 4, 0, [e.dst])),
    },
    {
      id: 'macvlan-ah',
      title: 'an authentication header, to where it may send',
      stoppedBy: `${RULES}: a protocol of its own to nft, which no entry names`,
      ...extended(51, () => bytes(Buffer.from([UDP, 4, 0, 0]), u16(0, 1, 0, 1), Buffer.alloc(12))),
    },
    {
      id: 'macvlan-behind-fragment',
      title: 'destination options behind the header of a fragment that is whole (RFC 6946)',
      stoppedBy: NO_EXTENSIONS,
      ...extended(44, () => bytes(Buffer.from([60, 0, 0, 0, 0, 0, 0, 66]), options6(UDP))),
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
      stoppedBy: 'inside its namespace port 53 leads to Drawbridge, whatever the resolver',
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
        'AF_XDP hands its frames to the device itself, past every hook of its namespace; it takes NET_RAW, and coverage is `partial` until that capability is dropped',
      families: BOTH,
      attack: async (a) => program(a, 'xdp.mjs', 'eth0', (await frame(a)).toString('hex')),
      reached: out,
    },
  ],
);
