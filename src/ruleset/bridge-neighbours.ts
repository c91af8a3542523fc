import { formatAddress } from '../lib/ip.js';
import { NAMELESS_DISCOVERY } from './nameless.js';

/**
 * ARP and neighbour discovery (RFC 826, RFC 4861) of veths. The veth of an enforced container sends them from its own MAC,
 * about its own addresses and in the length of an honest message. Other veths may not claim an address of an enforced
 * container, and what they claim beyond their own addresses is rate-limited: the neighbour table of the host is one for all
 * links (net.ipv4.neigh.default.gc_thresh3: 1,024 entries) and removes no entry that is younger than five seconds.
 */
export const NEIGHBOUR_DECLARATIONS = `
  set ll6 { typeof meta iif . ip6 saddr; }
  set claiming { typeof meta iif; size 65535; flags dynamic,timeout; timeout 10s; }
  chain senders { }
  chain discovery { }
  chain claims { }`;

/** Entries of the neighbour table that a veth may make beyond its own addresses. */
const CLAIMING = 'update @claiming { iif limit rate over 10/second burst 50 packets } drop';

const ARP_LENGTH = 28;

export const SENDERS: readonly string[] = [
  'iif @strict iif . ether saddr != @macs drop',
  `iif @strict meta length > ${ARP_LENGTH} drop`,
  'iif @strict arp operation != { request, reply } drop',
  'meta mark set iif . arp saddr ether . arp saddr ip map @id4 meta mark set 0 accept',
  'iif @strict arp saddr ip 0.0.0.0 iif . arp saddr ether @macs accept', // an address probe (RFC 5227)
  'iif @strict drop',
  'arp saddr ip @enf4 drop',
  CLAIMING,
  'accept',
];

/** Lengths with the IPv6 header: no option, or one of eight bytes. */
const SOLICITS_ROUTER = '{ 48, 56 }';
const DISCOVERS = '{ 64, 72 }';
/** Type and length of an option: source and target link-layer address (RFC 4861 4.6.1), nonce (RFC 3971 5.3.2). */
const OPTION = { source: '0x0101', target: '0x0201', nonce: '0x0e01' } as const;
/**
 * nft compares no two fields of a packet. The link-layer address of the option is written over the Ethernet source, and the
 * frame is dropped unless that is then still the MAC of its veth.
 */
const takeAddress = (bit: number): string => `@ll,48,48 set @th,${bit},48`;

const OWN_SOURCE =
  'icmpv6 type { 133, 135 } meta mark set iif . ether saddr . ip6 saddr map @id6 meta mark set 0 accept';
const OWN_TARGET =
  'icmpv6 type 136 meta mark set iif . ether saddr . icmpv6 taddr map @id6 meta mark set 0 accept';
const OWN_LINK_LOCAL: readonly string[] = [
  'icmpv6 type { 133, 135 } iif . ip6 saddr @ll6 accept',
  'icmpv6 type 136 iif . icmpv6 taddr @ll6 accept',
];

/**
 * Solicitations and advertisements. Probes of a known neighbour come from the link-local address (net/ipv6/ndisc.c,
 * ndisc_send_ns): the one that Linux derives from the MAC is the veth's own. A router solicitation updates the host's
 * neighbour table as a neighbour solicitation does, and so obeys the same rules.
 */
export const DISCOVERY_CHAINS: readonly (readonly [string, readonly string[]])[] = [
  [
    'discovery',
    [
      'iif != @strict goto claims',
      'iif . ether saddr != @macs drop',
      'ip6 nexthdr != 58 drop',
      `icmpv6 type 133 meta length != ${SOLICITS_ROUTER} drop`,
      `icmpv6 type { 135, 136 } meta length != ${DISCOVERS} drop`,
      `icmpv6 type 133 meta length 56 @th,64,16 != ${OPTION.source} drop`,
      `icmpv6 type 135 meta length 72 @th,192,16 != { ${OPTION.source}, ${OPTION.nonce} } drop`,
      `icmpv6 type 136 meta length 72 @th,192,16 != ${OPTION.target} drop`,
      `icmpv6 type 133 meta length 56 ${takeAddress(80)}`,
      `icmpv6 type 135 meta length 72 @th,192,16 ${OPTION.source} ${takeAddress(208)}`,
      `icmpv6 type 136 meta length 72 ${takeAddress(208)}`,
      'iif . ether saddr != @macs drop',
      OWN_SOURCE,
      OWN_TARGET,
      ...OWN_LINK_LOCAL,
      'icmpv6 type { 133, 135 } ip6 saddr :: accept',
      'drop',
    ],
  ],
  [
    'claims',
    [
      OWN_SOURCE,
      OWN_TARGET,
      ...OWN_LINK_LOCAL,
      ...NAMELESS_DISCOVERY,
      'icmpv6 type { 133, 135 } ip6 saddr @enf6 drop',
      'icmpv6 type 136 icmpv6 taddr @enf6 drop',
      CLAIMING,
      'accept',
    ],
  ],
];

/** RFC 4291 appendix A: the MAC with fffe in its middle and the universal bit inverted. */
export function linkLocal(mac: string): string {
  const bytes = mac.split(':').map((b) => Number.parseInt(b, 16));
  const [first = 0, ...rest] = bytes;
  const id = [first ^ 2, ...rest.slice(0, 2), 0xff, 0xfe, ...rest.slice(2)];
  return formatAddress(
    6,
    id.reduce((sum, b) => (sum << 8n) | BigInt(b), 0xfe80n << 48n),
  );
}
