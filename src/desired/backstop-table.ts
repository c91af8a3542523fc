import { hex, type Marks } from './marks.js';
import type { NftProgram } from './nft-program.js';
import type { Shape } from './state.js';

export const BACKSTOP_TABLE = 'inet drawbridge_backstop';

/**
 * What the `security` chains say of marked packets, once more in a table that no iptables command reaches: whoever flushes
 * every table of iptables (a firewalld reload with its iptables backend, a full iptables-restore) leaves it standing.
 */
export function backstopProgram({ marks }: Shape): NftProgram {
  return {
    table: BACKSTOP_TABLE,
    // behind `security` (50), before conntrack confirms
    declarations: `
  chain forward { type filter hook forward priority 200; policy accept; }
  chain input { type filter hook input priority 200; policy accept; }`,
    rules: new Map([
      ['forward', chain(marks, [])],
      ['input', chain(marks, ['icmpv6 type { 133, 135, 136 } accept'])],
    ]),
  };
}

function chain(marks: Marks, first: readonly string[]): string[] {
  const unjudged = (bit: number): string =>
    `meta mark & ${hex((bit | marks.judged) >>> 0)} == ${hex(bit)} drop`;
  return [
    `meta mark & ${hex(marks.enforced)} == 0 accept`,
    ...first,
    unjudged(marks.unknown),
    'ct state established accept',
    'meta l4proto { icmp, ipv6-icmp } ct state related accept',
    unjudged(marks.enforced),
  ];
}
