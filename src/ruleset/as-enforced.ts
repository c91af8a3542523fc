import type { InForce } from './applied-state.js';
import { compile } from './compile.js';
import { Judge } from './policy-evaluator.js';
import type { DesiredState, Member, Shape } from './state.js';

/** A member as it would be in mode enforce now, and the rules that would evaluate it. */
export interface AsEnforced {
  readonly member: Member;
  readonly desired: DesiredState;
  readonly judge: Judge;
}
interface Parts {
  readonly shape: Shape;
  readonly hostAddresses: ReadonlySet<string>;
  /** Members of learned sets and of threat sets. */
  readonly learned: (desired: DesiredState, set: string, address: string) => boolean;
}

/**
 * Compile the rules of one member in mode enforce with its entries, neighbours, limits and closed places as they are now.
 * Other members are left out: no rule about them decides what this one may open.
 */
export function asEnforced(state: Pick<InForce, 'input'>, member: Member, parts: Parts): AsEnforced {
  const enforced: Member = { ...member, policy: { ...member.policy, mode: 'enforce' } };
  const desired = compile({ ...state.input, members: [enforced] });
  const { shape, hostAddresses, learned } = parts;
  const has = (set: string, address: string): boolean => learned(desired, set, address);
  return { member: enforced, desired, judge: new Judge(shape, desired, has, hostAddresses) };
}
