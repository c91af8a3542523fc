import type { Family } from '../lib/ip.js';
import { TUNNELS } from '../lib/special-use.js';
import { DIRECTIONS, DIRECTIONS_BY_END, type FlowEnd, type ThreatAction } from '../policy/threat.js';
import type { KernelConfig, SetDesired, SetKind } from './desired-state.js';
import { type Names, sharedSet, THREAT_KINDS, type ThreatKind, threatSet } from './naming.js';
import { type Match, type Rule, rule, type Target } from './rules.js';
import { logRule, refusal } from './verdict-chains.js';

/** Marks the rules of threats for `explain`. */
export const THREAT_WHY = 'threat';

export const THREAT_MEMBERS = { ip: 'address', net: 'net' } as const satisfies Record<ThreatKind, SetKind>;
const ACTIONS: readonly ThreatAction[] = ['block', 'observe'];

export const threatSets = (prefix: string, family: Family): SetDesired[] =>
  ACTIONS.flatMap((action) =>
    DIRECTIONS.flatMap((direction) =>
      THREAT_KINDS.map((kind) => ({
        name: threatSet(prefix, action, direction, kind, family),
        of: THREAT_MEMBERS[kind],
        family,
        timed: false,
        members: [],
        isThreats: true as const,
      })),
    ),
  );

/**
 * Chains for packets that open a flow, whatever the policy. Packets of a container are evaluated by their destination, packets to a
 * container by their source. A container that is not enforced may forge a listed source: the reply would go to the threat as part of
 * an established flow. Packets without a listed address return.
 */
export const threatChains = (shape: KernelConfig, names: Names, family: Family): Map<string, Rule[]> =>
  new Map([
    ...lookups(shape, names, family, (action) =>
      action === 'block' ? { k: 'goto', chain: names.threatNo } : { k: 'goto', chain: names.threatSeen },
    ),
    [names.threatForged, forgedSources(shape, names, family, { k: 'goto', chain: names.threatDrop })],
    // an answer would go to the listed address
    [names.threatDrop, [logRule(shape, names, 'thr', 'threat'), rule([], { k: 'drop' })]],
    [names.threatNo, [logRule(shape, names, 'thr', 'threat'), ...refusal(shape, `${names.prefix}-thrr`)]],
    [names.threatSeen, [logRule(shape, names, 'see', 'seen')]],
  ]);

/** In `backstop`, behind what others accepted or flushed. REJECT is not to be had there. */
export const threatBackstop = (shape: KernelConfig, names: Names, family: Family): Map<string, Rule[]> =>
  new Map([
    ...lookups(shape, names, family, (action) => (action === 'block' ? ({ k: 'drop' } as const) : undefined)),
    [names.threatForged, forgedSources(shape, names, family, { k: 'drop' })],
  ]);

/** A source that no endpoint of a container has: it may be forged. Asked for packets that come through a container's veth. */
const foreignSource = (names: Names, family: Family): Match => ({
  k: 'set',
  set: sharedSet(names.prefix, 'own', family),
  by: 'src',
  not: true,
});

/** Packets that open a flow pass the chains of threats: two to eight lookups (1 to 2 µs), and none where no feed can fill the sets. */
export const toThreats = ({ withoutFeeds }: KernelConfig, names: Names): Rule[] =>
  withoutFeeds ? [] : [rule([], { k: 'jump', chain: names.threat })];

/** Check the source of new packets of a container to the host, because its services would reply to a forged source. */
export const forgedToHost = ({ withoutFeeds }: KernelConfig, names: Names, family: Family): Rule[] =>
  withoutFeeds
    ? []
    : [
        rule([{ k: 'ct', states: ['NEW'] }, foreignSource(names, family)], {
          k: 'jump',
          chain: names.threatForged,
        }),
      ];

/** Feeds of every direction: the answer would go there. */
const forgedSources = (shape: KernelConfig, names: Names, family: Family, then: Target): Rule[] => [
  ...tunnels(shape, family, 'src', then),
  ...DIRECTIONS.flatMap((direction) =>
    THREAT_KINDS.map((kind) => {
      const set = threatSet(names.prefix, 'block', direction, kind, family);
      return rule([{ k: 'set', set, by: 'src' }], then, [THREAT_WHY]);
    }),
  ),
];

/** Tunnel addresses carry an IPv4 address that a set cannot compare with the feeds, because sets know prefixes only. */
const tunnels = (
  { tunnels: closed = [] }: KernelConfig,
  family: Family,
  end: FlowEnd,
  then: Target,
): Rule[] =>
  family === 4
    ? []
    : closed.map((name) => rule([{ k: 'within', end, net: TUNNELS[name] }], then, [THREAT_WHY]));

function lookups(
  shape: KernelConfig,
  names: Names,
  family: Family,
  then: (action: ThreatAction) => Target | undefined,
): [string, Rule[]][] {
  const lookupsBy = (by: FlowEnd): Rule[] =>
    ACTIONS.flatMap((action) => {
      const target = then(action);
      if (!target) return [];
      return DIRECTIONS_BY_END[by].flatMap((direction) =>
        THREAT_KINDS.map((kind) => {
          const set = threatSet(names.prefix, action, direction, kind, family);
          return rule([{ k: 'set', set, by }], target, [THREAT_WHY]);
        }),
      );
    });
  const block = then('block');
  const unmarked: Match = { k: 'mark', value: 0, mask: shape.marks.identity };
  const own = sharedSet(names.prefix, 'own', family);
  return [
    [
      names.threat,
      [
        rule([unmarked], { k: 'goto', chain: names.threatIn }),
        rule([foreignSource(names, family)], { k: 'jump', chain: names.threatForged }),
        ...(block ? tunnels(shape, family, 'dst', block) : []),
        ...lookupsBy('dst'),
      ],
    ],
    [
      names.threatIn,
      [rule([{ k: 'set', set: own, by: 'dst', not: true }], { k: 'return' }), ...lookupsBy('src')],
    ],
  ];
}
