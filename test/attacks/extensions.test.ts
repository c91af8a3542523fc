/** IP options, extension headers, source routes and fragments: with what nothing permits behind them. */
import { ask } from './dns.js';
import { ends, raw, sendPackets, toTarget, where } from './raw.js';
import type { Family } from './report.js';
import { type Attempt, attackSuite, type How, seen } from './technique.js';
import {
  address,
  type Bytes,
  bytes,
  type Ends,
  fragment,
  fragments,
  ip,
  options6,
  routing6,
  tcp,
  u8,
  u16,
  udp,
} from './wire.js';

const BOTH: readonly Family[] = ['v4', 'v6'];
const CHAIN = "the container's chain: the rules evaluate the protocol behind the extension headers";
const NO_OPTIONS = 'packets of enforced veths with IP options are dropped';
const NO_EXTENSIONS = 'packets of enforced veths with extension headers are dropped';
const OWN_RESOLVER = "the flow is with Drawbridge's own resolver";
const WHOLE = 'fragments are reassembled before the rules evaluate them, or dropped';
const UDP = 17;
const TCP = 6;
const datagram = (e: Ends, a: Attempt, size = 0): Bytes => udp(e, 4000, 4001, a.tag.padEnd(size, '.'));
const syn = (e: Ends): Bytes => tcp(e, 4000, 443, { flags: 'S' });
const behind = (extensions: (e: Ends, a: Attempt) => Bytes, first: number) =>
  toTarget(['v6'], (e, a) => [
    ip(e, first, bytes(extensions(e, a), datagram(e, a))),
    ip(e, first, bytes(withNext(extensions(e, a), TCP), syn(e))),
  ]);
/** The same single header with another protocol behind it. */
const withNext = (header: Bytes, next: number): Bytes => bytes(u8(next), header.subarray(1));

/** A source route through the host itself, whose address is the packet's destination. */
const sourceRoute = (option: number): How => ({
  families: ['v4'],
  attack: async (a) => {
    const e = await ends(a);
    const host = { src: e.src, dst: (await where(a)).gateway4 };
    const options = bytes(u8(option, 7, 4), address(e.dst));
    await sendPackets(a, [ip(host, UDP, datagram(e, a), { options })]);
  },
  reached: (a) => seen(a),
});

/** Where our resolver listens: open to every managed port. */
const DNS = { v4: '169.254.53.53', v6: 'fd64:7262:7264::53', port: 5359 } as const;
const ASKING_PORT = 5300;
/** One question and its answer, so that the flow stands; then a packet of the same flow that is to go elsewhere. */
const throughDns = (family: Family, routed: (e: Ends, dns: string, data: Bytes) => Bytes): How => ({
  families: [family],
  attack: async (a) => {
    const dns = DNS[family];
    await ask(a, { server: dns, port: DNS.port, localPort: ASKING_PORT, name: 'nobody.attack.test' });
    const e = await ends(a);
    // the checksum of what conntrack sees first: a wrong one would be no packet of the flow
    await sendPackets(a, [routed(e, dns, udp({ ...e, dst: dns }, ASKING_PORT, DNS.port, a.tag))]);
  },
  reached: (a) => seen(a),
});

attackSuite(
  'options, extension headers, fragments',
  {
    attacker: raw(),
    prepare: async (lab) => {
      // source routes are off on most hosts: here the host itself would follow them
      const on = ['all', 'docker0'].flatMap((d) => [
        `net.ipv4.conf.${d}.accept_source_route=1`,
        `net.ipv6.conf.${d}.seg6_enabled=1`,
      ]);
      await lab.inHost(['sysctl', '-qw', ...on], { check: true });
    },
  },
  [
    {
      id: 'ext-hop-by-hop',
      title: 'TCP and UDP behind hop-by-hop options',
      stoppedBy: CHAIN,
      ...behind((_, a) => options6(UDP, a.tag), 0),
    },
    {
      id: 'ext-destination',
      title: 'TCP and UDP behind destination options',
      stoppedBy: CHAIN,
      ...behind((_, a) => options6(UDP, a.tag), 60),
    },
    {
      id: 'ext-routing',
      title: 'TCP and UDP behind a routing header of type 0',
      stoppedBy: CHAIN,
      ...behind((e) => routing6(UDP, 0, 0, [e.dst]), 43),
    },
    {
      id: 'ext-many',
      title: 'UDP behind a dozen extension headers',
      stoppedBy: CHAIN,
      ...toTarget(['v6'], (e, a) => {
        const more = Array.from({ length: 12 }, (_, i) => options6(i === 11 ? UDP : 60, a.tag));
        return [ip(e, 60, bytes(...more, datagram(e, a)))];
      }),
    },
    {
      id: 'ext-ah',
      title: 'UDP behind an authentication header',
      stoppedBy: CHAIN,
      ...toTarget(['v6'], (e, a) => [
        ip(e, 51, bytes(u8(UDP, 4, 0, 0), u16(0, 1, 0, 1), Buffer.alloc(12), datagram(e, a))),
      ]),
    },
    {
      id: 'ext-first-without-l4',
      title: 'a first fragment that ends before the transport header (RFC 7112)',
      stoppedBy: WHOLE,
      ...toTarget(['v6'], (e, a) => {
        const chain = Array.from({ length: 3 }, (_, i) => options6(i === 2 ? UDP : 60, a.tag));
        const payload = bytes(...chain, datagram(e, a, 64));
        return fragments(e, 60, payload, [chain[0]?.length ?? 8]);
      }),
    },
    {
      id: 'ext-segments-through-host',
      title: 'a segment routing header that the host would follow',
      stoppedBy: "a container's packets to the host by host entries only",
      ...toTarget(['v6'], (e, a) => [
        ip(
          { src: e.src, dst: 'fd00:db:1::1' },
          43,
          bytes(routing6(UDP, 4, 1, [e.dst, 'fd00:db:1::1']), datagram(e, a)),
        ),
      ]),
    },
    {
      id: 'ext-segments-through-dns',
      title: 'the same, by the way that is open to our resolver',
      controlOff: OWN_RESOLVER,
      stoppedBy: NO_EXTENSIONS,
      ...throughDns('v6', (e, dns, data) =>
        ip({ src: e.src, dst: dns }, 43, bytes(routing6(UDP, 4, 1, [e.dst, dns]), data)),
      ),
    },
    {
      id: 'ext-segments-behind-fragment',
      title: 'the same behind the header of a fragment that is whole (RFC 6946)',
      controlOff: OWN_RESOLVER,
      stoppedBy: NO_EXTENSIONS,
      ...throughDns('v6', (e, dns, data) =>
        ip(
          { src: e.src, dst: dns },
          44,
          bytes(u8(43, 0, 0, 0, 0, 0, 0, 0x42), routing6(UDP, 4, 1, [e.dst, dns]), data),
        ),
      ),
    },
    {
      id: 'option-record-route',
      title: 'a packet with a record-route option',
      stoppedBy: CHAIN,
      ...toTarget(['v4'], (e, a) => [
        ip(e, UDP, datagram(e, a), { options: bytes(u8(7, 39, 4), Buffer.alloc(36)) }),
      ]),
    },
    {
      id: 'option-timestamp',
      title: 'data in a timestamp option',
      stoppedBy: CHAIN,
      ...toTarget(['v4'], (e, a) => [
        ip(e, UDP, datagram(e, a), { options: bytes(u8(68, 36, 5, 0), a.tag.padEnd(32, '.')) }),
      ]),
    },
    {
      id: 'option-loose-route',
      title: 'a loose source route through the host',
      stoppedBy: NO_OPTIONS,
      ...sourceRoute(131),
    },
    {
      id: 'option-route-through-dns',
      title: 'a source route in a conversation with our resolver',
      controlOff: OWN_RESOLVER,
      stoppedBy: NO_OPTIONS,
      ...throughDns('v4', (e, dns, data) =>
        ip({ src: e.src, dst: dns }, UDP, data, { options: bytes(u8(131, 7, 4), address(e.dst)) }),
      ),
    },
    {
      id: 'fragments-ports-first',
      title: 'a datagram in fragments, of which the first has the ports alone',
      stoppedBy: WHOLE,
      ...toTarget(BOTH, (e, a) => fragments(e, UDP, datagram(e, a, 200), [8])),
    },
    {
      id: 'fragments-tiny',
      title: 'TCP in fragments of eight bytes: the flags are in the second (RFC 1858)',
      stoppedBy: WHOLE,
      ...toTarget(BOTH, (e) => fragments(e, TCP, syn(e), [8, 16])),
    },
    {
      id: 'fragments-ports-last',
      title: 'fragments in the wrong order: the ports come last',
      stoppedBy: WHOLE,
      ...toTarget(BOTH, (e, a) => fragments(e, UDP, datagram(e, a, 200), [8, 96]).reverse()),
    },
    {
      id: 'fragments-twice',
      title: 'fragments that cover what another has brought',
      stoppedBy: WHOLE,
      ...toTarget(['v4'], (e, a) => {
        const whole = datagram(e, a, 200);
        const [first, ...others] = fragments(e, UDP, whole, [64]);
        return [first ?? u8(), fragment(e, UDP, whole, 0, 64), ...others];
      }),
    },
    {
      id: 'fragments-atomic',
      title: 'a whole datagram that calls itself a fragment (RFC 6946)',
      stoppedBy: WHOLE,
      ...toTarget(['v6'], (e, a) => {
        const whole = datagram(e, a);
        return [fragment(e, UDP, whole, 0, whole.length)];
      }),
    },
    {
      id: 'fragments-big',
      title: 'a datagram of 60,000 bytes',
      stoppedBy: WHOLE,
      ...toTarget(BOTH, (e, a) => {
        const whole = datagram(e, a, 60_000);
        return fragments(
          e,
          UDP,
          whole,
          Array.from({ length: 41 }, (_, i) => 1448 * (i + 1)),
        );
      }),
    },
  ],
);
