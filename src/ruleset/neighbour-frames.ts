/** Frames by which neighbours find one another, and say which groups they listen to, in `table bridge drawbridge`. */

/** In chain discovery: what speaks for a container's address. */
const NAMELESS_DISCOVERY: readonly string[] = [
  'ip6 saddr @own6 meta mark set iif map @nameless drop',
  'icmpv6 type 136 icmpv6 taddr @own6 meta mark set iif map @nameless drop',
];

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
/** Of a veth that is observed, or off: what others send is no longer than an honest message. */
const LOOSE = 'meta mark set iif map @loose meta mark set 0 accept';

export const SENDERS: readonly string[] = [
  'iif @strict iif . ether saddr != @macs drop',
  `iif @strict meta length > ${ARP_LENGTH} drop`,
  'iif @strict arp operation != { request, reply } drop',
  'meta mark set iif . arp saddr ether . arp saddr ip map @id4 meta mark set 0 accept',
  // an address probe (RFC 5227), of an address of its own
  'arp saddr ip 0.0.0.0 meta mark set iif . arp saddr ether . arp daddr ip map @id4 meta mark set 0 accept',
  'iif @strict drop',
  'arp saddr ip @enf4 drop',
  CLAIMING,
  LOOSE,
  `meta length > ${ARP_LENGTH} drop`,
  'arp operation { request, reply } accept',
  'drop',
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
/**
 * Duplicate address detection (RFC 4862 5.4). Who has the address, or asks for it at the same time, as the host for that of a new bridge, takes
 * it out of use.
 */
const PROBE = 'icmpv6 type 135 ip6 saddr ::';
const OWN_PROBE: readonly string[] = [
  `${PROBE} iif . icmpv6 taddr @ll6 accept`,
  `${PROBE} meta mark set iif . ether saddr . icmpv6 taddr map @id6 meta mark set 0 accept`,
];
const OWN_LINK_LOCAL: readonly string[] = [
  'icmpv6 type { 133, 135 } iif . ip6 saddr @ll6 accept',
  'icmpv6 type 136 iif . icmpv6 taddr @ll6 accept',
];

const HONEST_LENGTH: readonly string[] = [
  'ip6 nexthdr != 58 drop',
  `icmpv6 type 133 meta length != ${SOLICITS_ROUTER} drop`,
  `icmpv6 type { 135, 136 } meta length != ${DISCOVERS} drop`,
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
      ...HONEST_LENGTH,
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
      'icmpv6 type 133 ip6 saddr :: accept',
      ...OWN_PROBE,
      'drop',
    ],
  ],
  [
    'claims',
    [
      OWN_SOURCE,
      OWN_TARGET,
      ...OWN_LINK_LOCAL,
      ...OWN_PROBE,
      ...NAMELESS_DISCOVERY,
      // of a veth that is not enforced; one that is not known yet gets no answer, as for an address that nobody has
      `${PROBE} icmpv6 taddr != @enf6 meta mark set iif map @loose meta mark set 0 accept`,
      `${PROBE} drop`,
      'icmpv6 type { 133, 135 } ip6 saddr @enf6 drop',
      'icmpv6 type 136 icmpv6 taddr @enf6 drop',
      CLAIMING,
      LOOSE,
      ...HONEST_LENGTH,
      'accept',
    ],
  ],
];

/** A listener report of sixteen groups is the longest that Linux sends. */
const LONGEST_REPORT = 376;
export const MEMBERSHIP: readonly string[] = [
  LOOSE,
  'icmpv6 type 143 ip6 daddr != ff02::16 drop', // RFC 3810 5.2.14
  `meta length > ${LONGEST_REPORT} drop`,
  'iif . ether saddr @macs accept',
  'iif @strict drop',
  CLAIMING,
  'accept',
];
