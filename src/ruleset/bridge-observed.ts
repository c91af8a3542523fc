import { hex } from './marks.js';
import type { KernelConfig } from './state.js';

/**
 * Neighbours of one bridge that are not enforced speak past FORWARD. What observed ones open to each other is logged here, once
 * a minute for a source, a destination and a port; nothing is dropped. Connection tracking of bridges is not used for it: it
 * would track every frame of the host. An element of `met` stands for the flows that its source opens, so that an answer is
 * known by the element of the other side.
 */
const SECONDS = 60;
export const OBSERVED_DECLARATIONS = `
  set met4 { typeof ip saddr . ip daddr . meta l4proto . th dport; size 65535; flags dynamic,timeout; timeout ${SECONDS}s; }
  set met6 { typeof ip6 saddr . ip6 daddr . meta l4proto . th dport; size 65535; flags dynamic,timeout; timeout ${SECONDS}s; }
  set meeting { typeof meta iif; size 65535; flags dynamic,timeout; timeout 10s; }
  chain met4 { }
  chain met6 { }`;

/** Above the ports that Linux gives to clients (net.ipv4.ip_local_port_range). */
const EPHEMERAL = 32_768;
/** As for packets that pass FORWARD, by veth. */
const RATE = 'limit rate over 20/second burst 60 packets';

/** At the end of `lift`: what is left goes to a neighbour that is not enforced. */
export const MEETS: readonly string[] = [
  'tcp flags & (syn | ack) != syn accept',
  `udp sport < ${EPHEMERAL} udp dport >= ${EPHEMERAL} accept`,
  'ether type ip ip daddr @own4 goto met4',
  'ether type ip6 ip6 daddr @own6 goto met6',
  'accept',
];

export const meetingChains = ({
  marks,
  prefix,
  logGroup,
}: KernelConfig): (readonly [string, readonly string[]])[] => {
  const log = `log prefix "${prefix}:near" group ${logGroup} snaplen 128`;
  const isObserved = `meta mark & ${hex(marks.redirect)} == ${hex(marks.redirect)}`;
  const chain = (ip: 'ip' | 'ip6', icmp: string, set: string): string[] => {
    const opened = `${ip} saddr . ${ip} daddr . meta l4proto . th dport`;
    return [
      `meta l4proto { tcp, udp } ${opened} @${set} accept`,
      `meta l4proto { tcp, udp } ${ip} daddr . ${ip} saddr . meta l4proto . th sport @${set} accept`,
      `update @meeting { iif ${RATE} } accept`,
      `${isObserved} meta l4proto { tcp, udp } add @${set} { ${opened} } ${log} accept`,
      `meta l4proto { tcp, udp } add @${set} { ${opened} } accept`,
      `${isObserved} ${icmp} type echo-request ${log}`,
      'accept',
    ];
  };
  return [
    ['met4', chain('ip', 'icmp', 'met4')],
    ['met6', chain('ip6', 'icmpv6', 'met6')],
  ];
};
