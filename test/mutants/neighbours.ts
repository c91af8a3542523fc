/** ARP and neighbour discovery. */
import type { Mutant } from './mutant.js';

const FILE = 'src/ruleset/neighbour-frames.ts';
const BUILDS = 'src/ruleset/bridge-table.ts';
const by = (test: string) => ({ file: 'test/kernel/bridge-rules.test.ts', test, only: true });
const ARP = by('ARP of an enforced veth');
const ARP_OTHERS = by('ARP of others: no address');
const ND = by('neighbour discovery of an enforced veth');
const ND_OTHERS = by('neighbour discovery of others: no address');
const line = (text: string): string => `  '${text}',\n`;
const CHECK_MAC = "      'iif . ether saddr != @macs drop',\n";
const option = (type: number, length: number, what: string): string =>
  `      \`icmpv6 type ${type} meta length ${length} ${what} drop\`,\n`;

export const NEIGHBOURS: readonly Mutant[] = [
  {
    id: 'arp-owner',
    what: 'ARP about the addresses of others passes',
    file: FILE,
    from: `${line('iif @strict drop')}${line('arp saddr ip @enf4 drop')}`,
    to: `${line('iif @strict accept')}${line('arp saddr ip @enf4 drop')}`,
    killedBy: ARP,
  },
  {
    id: 'arp-frame',
    what: 'ARP passes in a frame from the MAC of another',
    file: FILE,
    from: line('iif @strict iif . ether saddr != @macs drop'),
    to: '',
    killedBy: ARP,
  },
  {
    id: 'arp-length',
    what: 'data passes behind an honest ARP message',
    file: FILE,
    from: '  `iif @strict meta length > ${ARP_LENGTH} drop`,\n',
    to: '',
    killedBy: ARP,
  },
  {
    id: 'arp-operation',
    what: 'ARP of any operation passes',
    file: FILE,
    from: line('iif @strict arp operation != { request, reply } drop'),
    to: '',
    killedBy: ARP,
  },
  {
    id: 'arp-probe',
    what: 'an address probe passes for the address of another',
    file: FILE,
    from: 'arp saddr ip 0.0.0.0 meta mark set iif . arp saddr ether . arp daddr ip map @id4 meta mark set 0 accept',
    to: 'arp saddr ip 0.0.0.0 accept',
    killedBy: ARP,
  },
  {
    id: 'arp-claim',
    what: 'an observed container claims the address of an enforced one by ARP',
    file: FILE,
    from: line('arp saddr ip @enf4 drop'),
    to: '',
    killedBy: ARP_OTHERS,
  },
  {
    id: 'arp-claim-build',
    what: 'a build step claims the address of a container by ARP',
    file: BUILDS,
    from: "      'arp saddr ip @own4 drop',\n",
    to: '',
    killedBy: ARP_OTHERS,
  },
  {
    id: 'arp-claims-many',
    what: 'ARP of a container fills the neighbour table of the host',
    file: FILE,
    from: '  CLAIMING,\n  LOOSE,\n  `meta length',
    to: '  LOOSE,\n  `meta length',
    killedBy: by('ARP of others: entries'),
  },
  {
    id: 'nd-owner',
    what: 'neighbour discovery about the addresses of others passes',
    file: FILE,
    from: "      ...OWN_PROBE,\n      'drop',\n",
    to: "      ...OWN_PROBE,\n      'accept',\n",
    killedBy: ND,
  },
  {
    id: 'nd-router-source',
    what: 'a router solicitation passes from any address',
    file: FILE,
    from: 'icmpv6 type 133 ip6 saddr :: accept',
    to: 'icmpv6 type 133 accept',
    killedBy: ND,
  },
  {
    id: 'nd-probe',
    what: 'a container takes the address of another, or of its gateway, out of use by duplicate address detection',
    file: FILE,
    from: "      'icmpv6 type 133 ip6 saddr :: accept',\n",
    to: "      'icmpv6 type { 133, 135 } ip6 saddr :: accept',\n",
    killedBy: ND,
  },
  {
    id: 'nd-probe-unknown',
    what: 'the same by a veth that is not known yet',
    file: FILE,
    from: '      `${PROBE} drop`,\n',
    to: '',
    killedBy: ND_OTHERS,
  },
  {
    id: 'report-nodes',
    what: 'a container sends a third of a kilobyte to all neighbours, in listener reports',
    file: FILE,
    from: "  'icmpv6 type 143 ip6 daddr != ff02::16 drop', // RFC 3810 5.2.14\n",
    to: '',
    killedBy: { file: 'test/attacks/multicast.test.ts', test: 'multicast-mld6-nodes v6', only: true },
  },
  {
    id: 'nd-gateway',
    what: 'a container advertises the link-local address of its gateway',
    file: FILE,
    from: 'icmpv6 type 136 iif . icmpv6 taddr @ll6 accept',
    to: 'icmpv6 type 136 icmpv6 taddr fe80::/10 accept',
    killedBy: ND,
  },
  {
    id: 'nd-link-local',
    what: 'a container solicits from the link-local address of another',
    file: FILE,
    from: 'icmpv6 type { 133, 135 } iif . ip6 saddr @ll6 accept',
    to: 'icmpv6 type { 133, 135 } ip6 saddr fe80::/10 accept',
    killedBy: ND,
  },
  {
    id: 'nd-frame',
    what: 'neighbour discovery passes in a frame from the MAC of another, and with its MAC inside',
    file: FILE,
    from: `      'iif != @strict goto claims',\n${CHECK_MAC}`,
    to: "      'iif != @strict goto claims',\n",
    also: [{ file: FILE, from: `${CHECK_MAC}      OWN_SOURCE,`, to: '      OWN_SOURCE,' }],
    killedBy: ND,
  },
  {
    id: 'nd-option-mac',
    what: 'neighbour discovery about an own link-local address passes with the MAC of another inside',
    file: FILE,
    from: `${CHECK_MAC}      OWN_SOURCE,`,
    to: '      OWN_SOURCE,',
    killedBy: ND,
  },
  ...(
    [
      [133, '`icmpv6 type 133 meta length 56 ${takeAddress(80)}`'],
      [135, '`icmpv6 type 135 meta length 72 @th,192,16 ${OPTION.source} ${takeAddress(208)}`'],
      [136, '`icmpv6 type 136 meta length 72 ${takeAddress(208)}`'],
    ] as const
  ).map(([type, from]) => ({
    id: `nd-option-${type}`,
    what: `the link-layer address in messages of type ${type} is not looked at`,
    file: FILE,
    from: `      ${from},\n`,
    to: '',
    killedBy: ND,
  })),
  {
    id: 'nd-extension',
    what: 'neighbour discovery passes behind an extension header',
    file: FILE,
    from: "  'ip6 nexthdr != 58 drop',\n",
    to: '',
    killedBy: ND,
  },
  {
    id: 'nd-router-length',
    what: 'data passes behind a router solicitation',
    file: FILE,
    from: '  `icmpv6 type 133 meta length != ${SOLICITS_ROUTER} drop`,\n',
    to: '',
    killedBy: ND,
  },
  {
    id: 'nd-length',
    what: 'data passes behind solicitations and advertisements',
    file: FILE,
    from: '  `icmpv6 type { 135, 136 } meta length != ${DISCOVERS} drop`,\n',
    to: '',
    killedBy: ND,
  },
  ...(
    [
      [133, 56, '@th,64,16 != ${OPTION.source}'],
      [135, 72, '@th,192,16 != { ${OPTION.source}, ${OPTION.nonce} }'],
      [136, 72, '@th,192,16 != ${OPTION.target}'],
    ] as const
  ).map(([type, length, what]) => ({
    id: `nd-option-kind-${type}`,
    what: `eight bytes of data pass as an option of messages of type ${type}`,
    file: FILE,
    from: option(type, length, what),
    to: '',
    killedBy: ND,
  })),
  ...(
    [
      ['target', "      'icmpv6 type 136 icmpv6 taddr @enf6 drop',\n"],
      ['source', "      'icmpv6 type { 133, 135 } ip6 saddr @enf6 drop',\n"],
    ] as const
  ).map(([end, from]) => ({
    id: `nd-claim-${end}`,
    what: `an observed container claims the address of an enforced one by the ${end}`,
    file: FILE,
    from,
    to: '',
    killedBy: ND_OTHERS,
  })),
  ...(
    [
      ['target', "  'icmpv6 type 136 icmpv6 taddr @own6 meta mark set iif map @nameless drop',\n"],
      ['source', "  'ip6 saddr @own6 meta mark set iif map @nameless drop',\n"],
    ] as const
  ).map(([end, from]) => ({
    id: `nd-claim-build-${end}`,
    what: `a build step claims the address of a container by the ${end}`,
    file: FILE,
    from,
    to: '',
    killedBy: ND_OTHERS,
  })),
  {
    id: 'nd-claims-many',
    what: 'neighbour discovery of a container fills the neighbour table of the host',
    file: FILE,
    from: '      CLAIMING,\n      LOOSE,\n',
    to: '      LOOSE,\n',
    killedBy: by('neighbour discovery of others: entries'),
  },
];
