import type { Family } from '../lib/ip.js';
import { errorsChain, type Names } from './naming.js';
import { unpermitted } from './refusal.js';
import { type Match, type Rule, rule } from './rules.js';
import type { KernelConfig, Subject } from './state.js';

/**
 * An ICMP error that quotes a packet of a conntrack entry. The kernel asks only whether the error goes to one end of that
 * entry (nf_conntrack_inet_error), not whether its sender is the other end: any process that knows the 5-tuple of any
 * flow of the host can make a packet RELATED.
 */
export const RELATED_ERROR: readonly Match[] = [
  { k: 'proto', proto: 'icmp' },
  { k: 'ct', states: ['RELATED'] },
];

/** What Linux sends at most: RFC 1812 4.3.2.3, RFC 4443 2.4 (c). */
export const LONGEST_ERROR: Readonly<Record<Family, number>> = { 4: 576, 6: 1280 };
/** Packets a second and source address. Linux itself sends one a second to each destination, after a burst of six. */
export const ERROR_RATE = { perSecond: 50, burst: 100 };

/** Errors of routers and other hosts, which have no identity mark, pass; those of a managed bridge without one do not. */
export const foreignErrors = (shape: KernelConfig, names: Names): Rule =>
  rule([{ k: 'mark', value: 0, mask: shape.marks.identity }, ...RELATED_ERROR], {
    k: 'goto',
    chain: names.from,
  });

/**
 * Where the member's ICMP errors are permitted: in a chain of their own, because its rules name addresses, which come and
 * go, and rules that are laid again count from zero.
 */
export const ownErrors = (member: Subject, names: Names): Rule[] =>
  hasErrors(member) ? [rule(RELATED_ERROR, { k: 'goto', chain: errorsChain(names.prefix, member.id) })] : [];

/** Before it has an address, too: its first packet would wait for these rules. */
const hasErrors = ({ policy, host }: Subject): boolean => policy.mode !== 'off' && host === undefined;

/**
 * Those chains, by name: permits for ICMP errors about a flow that has one of the member's addresses as an end, before or
 * after NAT. New ports have none yet. Entered and left by goto.
 */
export function ownErrorChains(
  members: readonly Subject[],
  family: Family,
  names: Names,
  shape: KernelConfig,
): Map<string, readonly Rule[]> {
  return new Map(
    members
      .filter(hasErrors)
      .map((m) => [
        errorsChain(names.prefix, m.id),
        [...errorPermits(m, family, names), ...unpermitted(m, names, shape)],
      ]),
  );
}

function errorPermits(member: Subject, family: Family, names: Names): Rule[] {
  const chain = member.policy.mode === 'enforce' ? names.error : names.ok;
  const bound = member.veths.filter((p) => !p.isNew);
  const own = new Set(bound.flatMap((p) => (family === 4 ? p.ip4 : p.ip6) ?? []));
  return [...own].flatMap((address) =>
    (['orig', 'reply'] as const).map((direction) =>
      rule([{ k: 'flowSource', direction, address }], { k: 'goto', chain }),
    ),
  );
}

/** Bound the length and the rate of ICMP errors that an enforced container sends about its own flows. */
export const errorChain = (names: Names, family: Family): Rule[] => [
  rule([{ k: 'longer', than: LONGEST_ERROR[family] }], { k: 'goto', chain: names.no }),
  rule([{ k: 'above', name: `${names.prefix}-err`, ...ERROR_RATE }], { k: 'goto', chain: names.no }),
  rule([], { k: 'goto', chain: names.ok }),
];
