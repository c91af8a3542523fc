import type { Names } from './naming.js';
import { type Rule, rule } from './rules.js';
import type { KernelConfig, Subject } from './state.js';

/** Packets a second and source that may be logged, or be answered with an ICMP error. */
const LOG_LIMIT = { perSecond: 20, burst: 60 };
const REJECT_LIMIT = { perSecond: 50, burst: 100 };

/** What a logged packet's prefix says of it, behind ours and a colon. */
export type LogWord = 'deny' | 'would' | 'threat' | 'seen' | 'flood' | 'connections' | 'quota';

export const logRule = (shape: KernelConfig, names: Names, limit: string, word: LogWord): Rule =>
  rule([{ k: 'limit', name: `${names.prefix}-${limit}`, ...LOG_LIMIT }], {
    k: 'nflog',
    group: shape.logGroup,
    prefix: `${names.prefix}:${word}`,
  });

/** TCP by a reset, the rest by ICMP errors within a limit: the client hears it at once. */
export function refusal(shape: KernelConfig, limit: string): Rule[] {
  if (shape.deny === 'drop') return [rule([], { k: 'drop' })];
  return [
    rule([{ k: 'proto', proto: 'tcp' }], { k: 'reject', tcp: true }),
    rule([{ k: 'limit', name: limit, ...REJECT_LIMIT }], { k: 'reject', tcp: false }),
    rule([], { k: 'drop' }),
  ];
}

/** What nobody permits, or what a limit refuses: logged with its reason, and answered. */
export const denyChain = (shape: KernelConfig, names: Names, word: LogWord = 'deny'): Rule[] => [
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

/** In the container's own chain: an observed container may forge its addresses, so its share goes by its port. */
const observedLog = (shape: KernelConfig, names: Names): Rule =>
  rule([{ k: 'paced', ...LOG_LIMIT }], {
    k: 'nflog',
    group: shape.logGroup,
    prefix: `${names.prefix}:would`,
  });
