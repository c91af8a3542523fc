import { limitChain, type Names } from './naming.js';
import { denyChain } from './refusal.js';
import { type Rule, rule } from './rules.js';
import type { KernelConfig, Subject } from './state.js';

/**
 * New connections of one enforced container, by its address, which the bridge table vouches for: a second, and open at
 * one time. What is closed rests two minutes in the connection table: 1,000 a second fill less than half of its usual
 * 262,144 places. Half-open and open ones are bounded by their number.
 */
export const BOUNDS = { newPerSecond: 1_000, burst: 16_000, open: 16_384 } as const;
/** Flows of questions rest half a minute in the connection table. */
const NAMES_BOUND = { perSecond: 1_000, burst: 4_000 } as const;

/** What `explain` knows a spent quota by. */
export const QUOTA_WHY = 'quota';

/** Where a permit of this member leads: through what bounds it. Senders of the host's network share its addresses. */
export function permitChain(m: Pick<Subject, 'id' | 'policy' | 'limits' | 'host'>, names: Names): string {
  if (m.policy.mode !== 'enforce') return names.ok;
  if (m.limits?.connections !== undefined) return limitChain(names.prefix, m.id);
  return m.host ? names.ok : names.bound;
}

/**
 * A member's own bound on open connections. A chain of its own: its count is the rule's, and a change of the policy must
 * not begin it anew. Each family counts for itself.
 */
function limitChainRules(m: Subject, names: Names): Rule[] | undefined {
  const most = m.limits?.connections;
  if (m.policy.mode !== 'enforce' || most === undefined) return undefined;
  return [
    rule([{ k: 'connections', above: most, of: 'rule' }], { k: 'goto', chain: names.many }),
    rule([], { k: 'goto', chain: m.host ? names.ok : names.bound }),
  ];
}

/** Shared by all: the bounds, and refusals that say why. */
export function boundChains(shape: KernelConfig, names: Names): Map<string, Rule[]> {
  const { newPerSecond: perSecond, burst, open: above } = BOUNDS;
  return new Map([
    [
      names.bound,
      [
        rule([{ k: 'above', name: `${names.prefix}-new`, perSecond, burst }], {
          k: 'goto',
          chain: names.flood,
        }),
        rule([{ k: 'connections', above, of: 'address' }], { k: 'goto', chain: names.flood }),
        rule([], { k: 'goto', chain: names.ok }),
      ],
    ],
    [names.flood, denyChain(shape, names, 'flood')],
    [names.many, denyChain(shape, names, 'connections')],
    [names.quota, denyChain(shape, names, 'quota')],
  ]);
}

/** Before a question is let in. */
export const namesBound = (names: Names): Rule =>
  rule(
    [
      { k: 'ct', states: ['NEW'] },
      { k: 'above', name: `${names.prefix}-ask`, ...NAMES_BOUND },
    ],
    { k: 'drop' },
  );

/** Limit chains of these members. */
export function limitChains(members: readonly Subject[], names: Names): Map<string, Rule[]> {
  const chains = new Map<string, Rule[]>();
  for (const m of members) {
    const rules = limitChainRules(m, names);
    if (rules) chains.set(limitChain(names.prefix, m.id), rules);
  }
  return chains;
}
