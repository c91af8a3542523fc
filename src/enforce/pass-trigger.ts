import { describeChange, type ViewChange } from '../docker/docker-events.js';
import type { DockerView } from '../policy/container.js';
import type { AppliedState } from '../ruleset/applied-state.js';

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
 * of its own; and the periodic check compares with everything found again.
 */
export const isOnlyChanges = (
  { triggers, resync }: Pick<Pass, 'triggers' | 'resync'>,
  before: Surroundings,
  now: Surroundings,
): boolean =>
  !resync &&
  triggers.length > 0 &&
  triggers.every((t) => t.kind === 'changes') &&
  before.docker === now.docker &&
  before.links === now.links &&
  before.state !== undefined &&
  before.state === now.state;
