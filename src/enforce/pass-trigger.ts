import { reuses } from '../lib/memo.js';
import type { DockerView } from '../policy/container.js';
import { describeChange, type ViewChange } from '../policy/engine.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { DesiredState } from '../ruleset/desired-state.js';

/** Why a pass is wanted. `tampering`: what another process has changed. */
export type PassTrigger =
  | { readonly kind: 'docker'; readonly change: ViewChange }
  | { readonly kind: 'tampering'; readonly what: string }
  | { readonly kind: 'link'; readonly event: LinkEvent }
  | { readonly kind: SimpleKind };
type LinkEvent = 'veth' | 'link' | 'link gone' | 'links overran' | 'routing';
type SimpleKind = keyof typeof TEXTS;

/** A trigger that comes after a while (`later`). There are a fixed few, and none of them may be lost. */
export type DelayedTrigger =
  | { readonly kind: 'link'; readonly event: LinkEvent }
  | { readonly kind: DelayedKind };
type DelayedKind =
  | 'new veths'
  | 'newcomers'
  | 'departed'
  | 'recheck after repair'
  | 'recheck newly enforced'
  | 'zones';

/** Requests a pass in so many ms, so that it is shared with what usually comes right behind it. */
export type RequestLater = (trigger: DelayedTrigger, ms: number) => void;

/** One run over the rules, as the reconciler asks for it. */
export interface Pass {
  readonly triggers: readonly PassTrigger[];
  /** Read the kernel afresh before this pass. */
  readonly resync: boolean;
  readonly later: RequestLater;
}

const TEXTS = {
  start: 'the service has started',
  retry: 'the pass before has failed',
  waiter: 'a change waits to be in force',
  changes: 'a change through the API',
  'lists folder': 'the folder of lists has changed',
  store: 'the trust in the store has changed',
  resource: 'a resource had run out',
  quota: 'a quota is reached, or its period has ended',
  'bound veths': 'veths of known containers',
  'unknown bridge': 'a veth on an unknown bridge',
  'new veths': 'veths that were new',
  newcomers: 'containers that did not start',
  departed: 'departed containers',
  'recheck after repair': 'flows after a repair',
  'recheck newly enforced': 'flows of newly enforced containers',
  zones: 'conntrack zones for datagrams',
  others: 'others',
} as const;

/** The trigger as one text for logs and for `/readyz`. Triggers with the same text count as one. */
export function describeTrigger(trigger: PassTrigger): string {
  if (trigger.kind === 'docker') return `docker: ${describeChange(trigger.change)}`;
  if (trigger.kind === 'tampering') return `changed by another process: ${trigger.what}`;
  if (trigger.kind === 'link') return trigger.event;
  return TEXTS[trigger.kind];
}

export const isDue = (triggers: readonly PassTrigger[], kind: DelayedKind): boolean =>
  triggers.some((t) => t.kind === kind);

/** What a pass finds, beside what people decide. */
export interface Surroundings {
  /** As the pass has taken it, with the endpoints of veths that have gone. */
  readonly docker: DockerView;
  /** What the kernel had reported of links when the pass began. */
  readonly links: number;
  readonly state: AppliedState | undefined;
}

/**
 * True if nothing but what people decide can have changed: lists, grants, modes and the like. What a pass finds depends on the
 * view of Docker, on the links, on cgroups of the host's network, and on time. A change of each of the last two comes with a trigger
 * of its own; and the periodic check compares with everything found again. An answer of Docker that shows nothing new can still prove
 * what is bound to a veth: who has asked for it requests a pass.
 */
export const isOnlyChanges = (
  { triggers, resync }: Pick<Pass, 'triggers' | 'resync'>,
  before: Surroundings,
  now: Surroundings,
): boolean =>
  reuses() &&
  !resync &&
  triggers.length > 0 &&
  triggers.every((t) => t.kind === 'changes') &&
  before.docker.content === now.docker.content &&
  before.links === now.links &&
  before.state !== undefined &&
  before.state === now.state;

/** What passes have changed since a moment between two of them. */
export class PassTrace {
  /** The sets that they have changed. A change of rules shows in the kernel's count of changes of nf_tables. */
  readonly sets = new Set<string>();
  /** The state of the last of them. */
  #desired: DesiredState | undefined;
  /** Passes until then; undefined: one of them can have changed more than sets and chains of single containers. */
  #passes: number | undefined;

  constructor(desired: DesiredState | undefined, passes: number | undefined) {
    this.#desired = desired;
    this.#passes = passes;
  }

  get passes(): number | undefined {
    return this.#passes;
  }

  /** A pass has published this state. */
  note({ desired, delta }: Pick<AppliedState, 'desired' | 'delta'>): void {
    if (desired === this.#desired) return;
    const isPart = this.#passes !== undefined && delta !== undefined && delta.base === this.#desired;
    this.#passes = isPart ? (this.#passes ?? 0) + 1 : undefined;
    this.#desired = desired;
    for (const set of delta?.sets ?? []) this.sets.add(set);
  }

  /** A pass has come that was not noted, or that can have changed more. */
  isOvertaken({ reconciler, applied }: PassState): boolean {
    return (
      this.#passes === undefined ||
      reconciler.resting !== this.#passes ||
      applied.value?.desired !== this.#desired
    );
  }
}

interface PassState {
  readonly reconciler: { readonly resting: number | undefined };
  readonly applied: { readonly value: Pick<AppliedState, 'desired'> | undefined };
}

const POLLS = 50;
const POLL_MS = 5;
/** Resolves when no pass runs, or after a quarter of a second. */
export async function betweenPasses(reconciler: PassState['reconciler']): Promise<void> {
  for (let n = 0; n < POLLS && reconciler.resting === undefined; n++)
    await new Promise((resume) => setTimeout(resume, POLL_MS));
}
