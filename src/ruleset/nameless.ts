/**
 * veths of unattributed senders (build steps) while their mode is enforce. No facts say which addresses are theirs, and
 * their policy goes by the veth. Without a bound they could use a container's address, and so go on with its flows: such a
 * veth keeps the first address that it speaks from, and none that is bound to a container or outside of managed networks.
 */
import { type Family, networkOf } from '../lib/ip.js';
import type { BridgeDesired, DesiredInput } from './state.js';

export function namelessSets(
  input: Pick<DesiredInput, 'unattributed' | 'unattributedMode' | 'bridges'>,
): Pick<BridgeDesired, 'net4' | 'net6'> {
  const isUsed = input.unattributedMode === 'enforce' && input.unattributed.length > 0;
  const subnets = isUsed ? input.bridges.flatMap((b) => b.subnets ?? []) : [];
  return {
    net4: outermost(subnets, 4),
    net6: outermost(subnets, 6),
  };
}

/** nft refuses a network inside another one. A network of one address has no length in its listing. */
function outermost(subnets: readonly string[], family: Family): ReadonlySet<string> {
  const nets = subnets.flatMap((s) => networkOf(s) ?? []).filter((n) => n.family === family);
  const bits = family === 4 ? 32 : 128;
  const isInside = (inner: (typeof nets)[number]): boolean =>
    nets.some(
      (n) =>
        n.prefix < inner.prefix &&
        n.base >> BigInt(bits - n.prefix) === inner.base >> BigInt(bits - n.prefix),
    );
  return new Set(
    nets.filter((n) => !isInside(n)).map((n) => (n.prefix === bits ? n.text.replace(/\/.*/, '') : n.text)),
  );
}

/** Longer than a build step is silent. */
const KEPT = 'size 65535; flags dynamic,timeout; timeout 1d;';
export const NAMELESS_DECLARATIONS = `
  map nameless { typeof meta iif : meta mark; }
  set net4 { typeof ip saddr; flags interval; }
  set net6 { typeof ip6 saddr; flags interval; }
  set spoke4 { typeof meta iif; ${KEPT} }
  set spoke6 { typeof meta iif; ${KEPT} }
  set said4 { typeof meta iif . ip saddr; ${KEPT} }
  set said6 { typeof meta iif . ip6 saddr; ${KEPT} }`;

const first = (ip: 'ip' | 'ip6', n: Family): readonly string[] => {
  const keep = `update @spoke${n} { iif } update @said${n} { iif . ${ip} saddr } goto lift`;
  return [
    `${ip} saddr @own${n} drop`,
    `${ip} saddr != @net${n} drop`,
    `iif . ${ip} saddr @said${n} ${keep}`,
    `iif @spoke${n} drop`,
    keep,
  ];
};
export const NAMELESS: readonly (readonly [string, readonly string[]])[] = [
  [
    'nameless',
    [
      'ether type ip goto nameless4',
      'ether type ip6 goto nameless6',
      'arp saddr ip @own4 drop',
      'ether type arp goto senders',
      'drop',
    ],
  ],
  ['nameless4', first('ip', 4)],
  ['nameless6', first('ip6', 6)],
];
/** In chain discovery: what speaks for a container's address. */
export const NAMELESS_DISCOVERY: readonly string[] = [
  'ip6 saddr @own6 meta mark set iif map @nameless drop',
  'icmpv6 type 136 icmpv6 taddr @own6 meta mark set iif map @nameless drop',
];
