import type { NameDecision } from '../dns/types.js';
import type { NameMatch } from '../lib/dns-name.js';
import type { Lockdown, Pause } from '../policy/emergency.js';
import type { DestEntry } from '../policy/entry.js';
import type { ThreatLook } from '../policy/threat.js';
import type { Verdict } from '../policy/verdict.js';
import type { Subject } from '../ruleset/desired-state.js';
import type { PolicyEvaluator } from '../ruleset/policy-evaluator.js';

export interface ExplainView {
  readonly container: string;
  readonly to: string;
  readonly verdict: Verdict;
  readonly reason: string;
  readonly entry: string | null;
  readonly list: string | null;
  readonly feed: string | null;
  readonly remedy: string | null;
  /** How to permit it for good: a label or a list entry. */
  readonly lasting: string | null;
  /** What permitting it would open beyond the destination. */
  readonly warning: string | null;
  /** Why a denial may not hold for this container; null: its coverage is full, or the verdict is allow. */
  readonly coverage: string | null;
  /** The rules a packet meets, in order, as rendered. */
  readonly trace: readonly string[];
}

export interface ExplainInput {
  readonly member: Subject;
  readonly name: string;
  readonly to: string;
  readonly dest: DestEntry;
  readonly judge: PolicyEvaluator;
  /** The same under mode enforce, for a member that is observed. */
  readonly enforced?: { readonly member: Subject; readonly judge: PolicyEvaluator };
  readonly threats: ThreatLook;
  readonly decide: (name: string) => NameDecision;
  /** Addresses that the container was told for names that fit, and that it may still use. */
  readonly told: (names: NameTarget) => readonly string[];
  readonly hostAddress: string | undefined;
  readonly neighbours: (name: string) => readonly string[];
  /** That of all containers, and the pause that holds longest for this one. */
  readonly emergency?: { readonly lockdown?: Lockdown | undefined; readonly pause?: Pause | undefined };
}

type NameTarget = { readonly match: NameMatch; readonly name: string };

export type View = Omit<ExplainView, 'container' | 'to' | 'feed' | 'lasting' | 'warning' | 'coverage'> &
  Partial<Pick<ExplainView, 'feed' | 'lasting' | 'warning'>>;
