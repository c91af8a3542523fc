import type { AppliedState } from './applied-state.js';
import { compile } from './compile.js';
import { PolicyEvaluator } from './policy-evaluator.js';
import type { DesiredState, KernelConfig, Subject } from './state.js';

/** A member as it would be in mode enforce now, and the rules that would evaluate it. */
export interface AsEnforced {
  readonly member: Subject;
  readonly desired: DesiredState;
  readonly judge: PolicyEvaluator;
}
interface Parts {
  readonly shape: KernelConfig;
  readonly hostAddresses: ReadonlySet<string>;
  /** Members of learned sets and of threat sets. */
  readonly learned: (desired: DesiredState, set: string, address: string) => boolean;
}

/**
 * Compile the rules of one member in mode enforce with its entries, neighbours, limits and closed places as they are now.
 * Other members are left out: no rule about them decides what this one may open.
 */
export function asEnforced(state: Pick<AppliedState, 'input'>, member: Subject, parts: Parts): AsEnforced {
  const enforced: Subject = { ...member, policy: { ...member.policy, mode: 'enforce' } };
  const desired = compile({ ...state.input, subjects: [enforced] });
  const { shape, hostAddresses, learned } = parts;
  const has = (set: string, address: string): boolean => learned(desired, set, address);
  return { member: enforced, desired, judge: new PolicyEvaluator(shape, desired, has, hostAddresses) };
}
