import type { Family } from '../lib/ip.js';
import { ESTABLISHED, ND } from './constant-chains.js';
import { type Names, sharedSet } from './naming.js';
import { type Match, type Rule, rule } from './rules.js';
import type { DesiredInput, KernelConfig } from './state.js';

/** What iptables takes as one interface, by its name alone: a final "+" would stand for many. */
const PLAIN_NAME = /^[\w.@-]{1,15}$/;

/**
 * The same two chains in `filter` and `security`, for packets without an identity: what comes in from a managed bridge
 * has one, unless the bridge table was emptied or deleted. It is dropped without an answer, so that a sender's second try
 * finds the table repaired. On a bridge with other ports than veths (the host's own uplink, a VM) nobody could tell
 * whose it is: only the bridge table holds there.
 */
export function bridgeChains(
  input: Pick<DesiredInput, 'bridges' | 'shape'>,
  names: Names,
  family: Family,
): Map<string, Rule[]> {
  const closed = input.bridges.filter((b) => !b.mixed && PLAIN_NAME.test(b.name));
  const from = closed.map((b) => rule([{ k: 'in', device: b.name }], { k: 'goto', chain: names.unmarked }));
  return new Map([
    [names.from, [rule([ESTABLISHED], { k: 'return' }), ...from]],
    [names.unmarked, unmarkedChain(input.shape, names, family)],
  ]);
}

function unmarkedChain(shape: KernelConfig, names: Names, family: Family): Rule[] {
  const dead: Match = { k: 'set', set: sharedSet(names.prefix, 'alive', family), dir: 'src', not: true };
  return [
    ...(family === 4 ? HOST_ECHO : LINK_SCOPE),
    ...(shape.failure === 'open' ? [rule([dead], { k: 'return' })] : []),
    rule([], { k: 'drop' }),
  ];
}

/** The host hears its own multicasts and broadcasts on the bridge; the kernel takes its address from nobody else. */
const HOST_ECHO: readonly Rule[] = [rule([{ k: 'srcLocal' }], { k: 'return' })];

/** Marks are not set on neighbour and listener discovery; neither leaves its link (RFC 4291 2.7, RFC 4861 11.2). */
const LINK_SCOPE: readonly Rule[] = [
  rule([{ k: 'dst', address: 'ff02::/16' }], { k: 'return' }),
  ...ND.map((type) =>
    rule([{ k: 'proto', proto: 'icmp' }, { k: 'icmpType', type }, { k: 'unrouted' }], { k: 'return' }),
  ),
];
