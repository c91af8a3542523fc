import type { Family } from '../lib/ip.js';
import type { KernelConfig, Subject } from './desired-state.js';
import { type CheckWord, logPrefix, type RuleWord } from './log-words.js';
import { checkedLimitChain, errorsChain, limitChain, type Names, sharedSet } from './naming.js';
import { type Match, type Rule, rule, type Target } from './rules.js';

/** Packets a second and source that may be logged, or be answered with an ICMP error. */
const LOG_LIMIT = { perSecond: 20, burst: 60 };
const REJECT_LIMIT = { perSecond: 50, burst: 100 };

export const logRule = (shape: KernelConfig, names: Names, limit: string, word: RuleWord): Rule =>
  rule([{ k: 'limit', name: `${names.prefix}-${limit}`, ...LOG_LIMIT }], {
    k: 'nflog',
    group: shape.logGroup,
    prefix: logPrefix(names.prefix, word),
  });

/** Reject TCP with a reset and other protocols with rate-limited ICMP errors, so that the client fails at once. */
export function refusal(shape: KernelConfig, limit: string): Rule[] {
  if (shape.deny === 'drop') return [rule([], { k: 'drop' })];
  return [
    rule([{ k: 'proto', proto: 'tcp' }], { k: 'reject', tcp: true }),
    rule([{ k: 'limit', name: limit, ...REJECT_LIMIT }], { k: 'reject', tcp: false }),
    rule([], { k: 'drop' }),
  ];
}

/** Log a packet that no rule permits or that a limit refuses, with the reason, and reject it. */
export const denyChain = (shape: KernelConfig, names: Names, word: RuleWord = 'deny'): Rule[] => [
  logRule(shape, names, 'log', word),
  ...refusal(shape, `${names.prefix}-rej`),
];

/** The end of a member's own chains: a packet that no rule of them permits. */
export const unpermitted = (
  { policy }: Pick<Subject, 'policy'>,
  names: Names,
  shape: KernelConfig,
): Rule[] =>
  policy.mode === 'observe'
    ? [observedLog(shape, names), rule([], { k: 'goto', chain: names.observe })]
    : [rule([], { k: 'goto', chain: names.no })];

/**
 * Queue the first packet of a flow before the end of the chain of a container that asks a person. It comes again with the redirect bit, and then
 * goes the way that the rules have for it now. The bit is one that no packet of an enforced container has otherwise.
 */
export const asking = (m: Pick<Subject, 'policy'>, names: Names, { marks }: KernelConfig): Rule[] =>
  m.policy.mode === 'enforce' && m.policy.askMs !== undefined
    ? [
        rule(
          [
            { k: 'mark', value: 0, mask: marks.redirect },
            { k: 'ct', states: ['NEW'] },
          ],
          { k: 'jump', chain: names.ask },
        ),
      ]
    : [];

/** The mark of a packet about which a person was asked, from the one with which it was queued. */
export const askedMark = (mark: number, { marks }: Pick<KernelConfig, 'marks'>): number =>
  // without the bit of packets that were queued: both together are those of a packet that the check of names refuses
  ((mark & ~marks.held) | marks.redirect) >>> 0;

/** Packets a second and source address about which a person may be asked; a client repeats a SYN after 1, 3 and 7 seconds. */
const ASK_LIMIT = { perSecond: 20, burst: 100 };

/** Queues TCP and UDP within the limit; all others return, and are denied. Without a listener, and with a full queue, packets are dropped. */
export const askChain = (shape: KernelConfig, names: Names): Rule[] => {
  const queued = (...when: Match[]): Rule =>
    rule([...when, { k: 'limit', name: `${names.prefix}-asked`, ...ASK_LIMIT }], {
      k: 'queue',
      queue: shape.askQueue,
    });
  return [queued({ k: 'proto', proto: 'tcp' }, { k: 'syn' }), queued({ k: 'proto', proto: 'udp' })];
};

const pacedLog = ({ logGroup }: KernelConfig, { prefix }: Names, word: RuleWord): Rule =>
  rule([{ k: 'paced', ...LOG_LIMIT }], { k: 'nflog', group: logGroup, prefix: logPrefix(prefix, word) });

/** One limit for all: each forged source would have a limit of its own. */
export const forgedLog = (shape: KernelConfig, names: Names): Rule => pacedLog(shape, names, 'deny');

/** In the container's own chain: an observed container may forge its addresses, so the rate is limited per chain. */
const observedLog = (shape: KernelConfig, names: Names): Rule => pacedLog(shape, names, 'would');

/**
 * New connections of one enforced container, by its address, which the bridge table vouches for: a second, and open at
 * one time. What is closed rests two minutes in the connection table: 1,000 a second fill less than half of its usual
 * 262,144 places. Half-open and open ones are bounded by their number.
 */
export const BOUNDS = { newPerSecond: 1_000, burst: 16_000, open: 16_384 } as const;
/**
 * Open connections are counted by a sample. The kernel looks up every counted connection of a source again (nf_conncount.c), so that the
 * count of all would cost a new connection the more, the more are open: 6 µs next to few, milliseconds next to 16,384. With one flow in
 * sixteen, 896 in the sample are 14,336 open ones; the deviation of that number is 460, so that 16,384 are not reached by chance.
 */
const SAMPLE = { oneIn: 16, open: 896 } as const;
/**
 * A source with too many is in a set for this long after its last attempt. While it is there, each of its new flows is counted and
 * refused; the first one that finds fewer removes it from the set, and passes. One that pauses for so long opens some fifteen more each
 * time: 22,000 in the five days for which an established connection may be idle (nf_conntrack_tcp_timeout_established).
 */
const FULL_SECONDS = 300;
/** Conntrack entries of DNS queries last half a minute. */
const NAMES_BOUND = { perSecond: 1_000, burst: 4_000 } as const;

/** Marks the rule of a spent quota for `explain`. */
export const QUOTA_WHY = 'quota';

/** Where a permit of this member leads: through what bounds it. Senders of the host's network share its addresses. */
export function permitChain(m: Pick<Subject, 'id' | 'policy' | 'limits' | 'host'>, names: Names): string {
  if (m.policy.mode !== 'enforce') return names.ok;
  if (m.limits?.connections !== undefined) return limitChain(names.prefix, m.id);
  return m.host ? names.ok : names.bound;
}

/** Where a permit leads whose connection must name what it goes to. Only enforced members are checked. */
export function checkedChain(m: Pick<Subject, 'id' | 'policy' | 'limits' | 'host'>, names: Names): string {
  if (m.policy.mode !== 'enforce') return names.ok;
  if (m.limits?.connections !== undefined) return checkedLimitChain(names.prefix, m.id);
  return m.host ? names.hostChecked : names.checked;
}

/**
 * New flows that only a name permits. The service gets a copy of each SYN, because its sequence number shows where the client's bytes begin. The connmark of a TCP connection lets its later packets be queued (`checking`), in
 * both directions until the service has released one. A datagram is queued at once, and comes again with the next state of its flow in its mark. A connection
 * whose beginning was not seen cannot be checked.
 */
function checkedRules(shape: KernelConfig, names: Names, next: string): Rule[] {
  const { check } = shape.marks;
  const tcp: Match = { k: 'proto', proto: 'tcp' };
  const begun = (word: CheckWord): Target => ({
    k: 'nflog',
    group: shape.checkQueue,
    prefix: logPrefix(names.prefix, word),
  });
  if (!check) return [rule([], { k: 'goto', chain: next })];
  return [
    rule([{ k: 'ct', states: ['INVALID'] }], { k: 'goto', chain: names.no }),
    rule([tcp, { k: 'syn', not: true }], { k: 'goto', chain: names.no }),
    rule([tcp, { k: 'connmark', value: 0, mask: check.mask }], begun('syn')),
    rule([tcp, { k: 'connmark', value: 0, mask: check.mask, not: true }], begun('again')),
    rule([tcp], { k: 'connMark', bits: check.open }),
    rule([tcp], { k: 'goto', chain: next }),
    ...wasQueued(shape).flatMap((when) => [
      rule(when, { k: 'saveMark', mask: check.mask }),
      rule(when, { k: 'goto', chain: next }),
    ]),
    rule([], { k: 'goto', chain: names.inspect }),
  ];
}

/** Packets that the service has released: their marks have the next state of the flow. One that it refuses may have a state, too. */
const wasQueued = ({ marks }: KernelConfig): Match[][] =>
  marks.check
    ? [
        [
          { k: 'mark', value: marks.held, mask: refusedBits({ marks }) },
          { k: 'mark', value: 0, mask: marks.check.mask, not: true },
        ],
      ]
    : [];

/** Of a packet that the service refuses. No enforced container has the second bit, and no answer has either. */
export const refusedBits = ({ marks }: Pick<KernelConfig, 'marks'>): number =>
  (marks.held | marks.redirect) >>> 0;

/** Packets a second and source address that may be queued for the check. */
const INSPECT_LIMIT = { perSecond: 20_000, burst: 20_000 };

/** The chains of the check of names. */
export function checkChains(shape: KernelConfig, names: Names): Map<string, Rule[]> {
  const { marks, checkQueue, datagramQueue } = shape;
  const { check } = marks;
  if (!check) return new Map();
  const refused = refusedBits(shape);
  const answer: Match = { k: 'answer' };
  const beyond: Match = { k: 'connmark', value: check.requests, mask: check.mask };
  return new Map([
    [names.checked, checkedRules(shape, names, names.bound)],
    [names.hostChecked, checkedRules(shape, names, names.ok)],
    [
      names.checking,
      [
        ...wasQueued(shape).map((when) => rule(when, { k: 'goto', chain: names.released })),
        // until then the service reads whether the server is one of QUIC
        rule([answer, { k: 'proto', proto: 'udp' }, beyond], { k: 'return' }),
        rule([], { k: 'goto', chain: names.inspect }),
      ],
    ],
    [
      names.released,
      [
        // the answer of the server may have verified the flow while this packet was in the queue
        rule([{ k: 'connmark', value: check.verified, mask: check.mask, not: true }], {
          k: 'saveMark',
          mask: check.mask,
        }),
        rule([], {
          k: 'setMark',
          value: marks.evaluated,
          mask: (marks.evaluated | marks.held | check.mask) >>> 0,
        }),
        rule([], { k: 'return' }),
      ],
    ],
    [
      names.inspect,
      [
        rule([{ k: 'mark', value: refused, mask: refused }], { k: 'goto', chain: names.refused }),
        ...(
          [
            [[{ k: 'proto', proto: 'udp' }], datagramQueue],
            [[{ k: 'proto', proto: 'tcp' }], checkQueue],
          ] as const
        ).map(([of, queue]) =>
          rule([...of, { k: 'limit', name: `${names.prefix}-chk`, ...INSPECT_LIMIT }], { k: 'queue', queue }),
        ),
        rule([], { k: 'drop' }),
      ],
    ],
    [names.refused, refusal(shape, `${names.prefix}-rej`)],
  ]);
}

/**
 * Packets of a flow that is being checked, before established ones leave: `verdict` lets pass what the service has released, and queues the
 * others. Those without content do not come here (backstop-table.ts).
 */
export const checkingFlow = ({ marks }: KernelConfig, names: Names): Rule[] =>
  marks.check
    ? [
        rule(
          [
            { k: 'connmark', value: marks.check.queued, mask: marks.check.queued },
            { k: 'ct', states: ['ESTABLISHED'] },
          ],
          { k: 'goto', chain: names.checking },
        ),
      ]
    : [];

/**
 * The bound of one subject on open connections. It is in a chain of its own because the rule keeps the count, and a change of the
 * policy must not reset it. Each family counts separately.
 */
function limitChainRules(m: Subject, names: Names): Rule[] | undefined {
  const most = m.limits?.connections;
  if (m.policy.mode !== 'enforce' || most === undefined) return undefined;
  return [
    rule([{ k: 'connections', above: most, of: 'rule' }], { k: 'goto', chain: names.many }),
    rule([], { k: 'goto', chain: m.host ? names.ok : names.bound }),
  ];
}

/** Chains that all subjects share: the bounds on flows, and rejections with their reason in the log. */
export function boundChains(shape: KernelConfig, names: Names, family: Family): Map<string, Rule[]> {
  const { newPerSecond: perSecond, burst } = BOUNDS;
  const set = sharedSet(names.prefix, 'full', family);
  const isFull: Match = { k: 'set', set, by: 'src' };
  return new Map([
    [
      names.bound,
      [
        rule([{ k: 'above', name: `${names.prefix}-new`, perSecond, burst }], {
          k: 'goto',
          chain: names.flood,
        }),
        rule([isFull], { k: 'goto', chain: names.count }),
        rule([{ k: 'sampled', oneIn: SAMPLE.oneIn }], { k: 'goto', chain: names.count }),
        rule([], { k: 'goto', chain: names.ok }),
      ],
    ],
    [
      names.count,
      [
        rule([{ k: 'connections', above: SAMPLE.open, of: 'address' }], { k: 'goto', chain: names.overfull }),
        rule([isFull], { k: 'removeSource', set }),
        rule([], { k: 'goto', chain: names.ok }),
      ],
    ],
    [
      names.overfull,
      [rule([], { k: 'addSource', set, seconds: FULL_SECONDS }), rule([], { k: 'goto', chain: names.flood })],
    ],
    [names.flood, denyChain(shape, names, 'flood')],
    [names.many, denyChain(shape, names, 'connections')],
    [names.quota, denyChain(shape, names, 'quota')],
  ]);
}

/** Rate limit for DNS queries of one source. */
export const namesBound = (names: Names): Rule =>
  rule(
    [
      { k: 'ct', states: ['NEW'] },
      { k: 'above', name: `${names.prefix}-ask`, ...NAMES_BOUND },
    ],
    { k: 'drop' },
  );

/** Limit chains of these members, and what leads to them after the check of names has begun. */
export function limitChains(
  members: readonly Subject[],
  names: Names,
  shape: KernelConfig,
): Map<string, Rule[]> {
  const chains = new Map<string, Rule[]>();
  for (const m of members) {
    const rules = limitChainRules(m, names);
    if (!rules) continue;
    const chain = limitChain(names.prefix, m.id);
    chains.set(chain, rules);
    if (m.denied?.checked || m.classes.some((c) => c.isChecked))
      chains.set(checkedLimitChain(names.prefix, m.id), checkedRules(shape, names, chain));
  }
  return chains;
}

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
