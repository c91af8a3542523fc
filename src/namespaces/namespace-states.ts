import type { PreparedNamespace } from './container-namespaces.js';

/** The states of Drawbridge's resolver in one network namespace, with their meaning. docs/kernel.md has the same tables. */
export const NAMESPACE_STATES = {
  unknown: 'nothing is known of it; an earlier run may have left rules in it',
  clean: 'no resolver rules are in it',
  waiting:
    'it is prepared before it is known which resolver answers: its queries wait in the sockets of Drawbridge',
  passed: 'it is left to Docker: queries that still reach the sockets are passed on',
  attaching: 'sockets and rules are being prepared for its container',
  attached: 'Drawbridge answers its container',
  failed: 'it could not be prepared',
  gone: 'it is forgotten',
} as const;
export type NamespaceState = keyof typeof NAMESPACE_STATES;

interface Transition {
  readonly when: string;
  /** In any other state the event changes nothing. */
  readonly from: readonly NamespaceState[];
  readonly to: NamespaceState;
  /** What is done then. */
  readonly does: string;
}

export const NAMESPACE_EVENTS = {
  bare: {
    when: 'the start finds no rules in it, or a veth or an address shows that it is new',
    from: ['unknown'],
    to: 'clean',
    does: 'it is not entered',
  },
  prepared: {
    when: 'the thread has prepared it right after Docker has made it',
    from: ['unknown', 'clean', 'failed'],
    to: 'waiting',
    does: 'its queries wait',
  },
  wanted: {
    when: 'its container is enforced, and Docker would ask from the host',
    from: ['unknown', 'clean', 'waiting', 'passed', 'failed'],
    to: 'attaching',
    does: 'passing on ends; sockets are opened and rules installed, unless it is prepared',
  },
  answering: {
    when: 'its sockets are served',
    from: ['attaching'],
    to: 'attached',
    does: 'the rules of macvlan and ipvlan networks get the port',
  },
  refused: {
    when: 'the kernel refuses the sockets or the rules, or the file is missing',
    from: ['attaching'],
    to: 'failed',
    does: 'coverage reports it, and the next pass tries again',
  },
  left: {
    when: 'Docker answers its container, or no container is known for ten seconds',
    from: ['waiting'],
    to: 'passed',
    does: 'the rules are removed, and the queries in the sockets passed on',
  },
  kept: {
    when: 'the rules could not be removed',
    from: ['passed'],
    to: 'waiting',
    does: 'its queries wait, and the next report of Docker tries again',
  },
  released: {
    when: 'its container is in no rules',
    from: ['failed'],
    to: 'unknown',
    does: 'coverage reports no failure',
  },
  cleaned: {
    when: 'its rules are removed: they are not wanted now, or those of an earlier run',
    from: ['unknown', 'attached', 'failed'],
    to: 'clean',
    does: 'the sockets are closed',
  },
  ended: {
    when: 'it or its container is gone, or the service ends',
    from: ['unknown', 'clean', 'waiting', 'passed', 'attached', 'failed'],
    to: 'gone',
    does: 'the sockets are closed; of a namespace whose queries wait, the rules are removed',
  },
} as const satisfies Readonly<Record<string, Transition>>;
export type NamespaceEvent = keyof typeof NAMESPACE_EVENTS;

/** The state after the event; undefined: the event changes nothing. */
export function nextState(state: NamespaceState, event: NamespaceEvent): NamespaceState | undefined {
  const { from, to }: Transition = NAMESPACE_EVENTS[event];
  return from.includes(state) ? to : undefined;
}

/** What is known of one network namespace. */
export interface Namespace {
  readonly path: string;
  state: NamespaceState;
  container?: string;
  /** Its sockets while they are not served. */
  prepared?: PreparedNamespace | undefined;
  timer?: NodeJS.Timeout;
  /** The sockets with which we answer or, while its queries are passed on to Docker, this work. */
  sockets?: Disposable | undefined;
  passing?: Promise<Disposable> | undefined;
  attaching?: Promise<void>;
  /** The port at 127.0.0.11 to which its rules lead. */
  port?: number | undefined;
  /** Docker would send the queries from the host; undefined while it is not known. */
  hostAsked?: boolean | undefined;
  /** The same, read once in a cycle. */
  need?: Promise<boolean> | undefined;
  /** Docker's resolver received a query before our rules were installed. */
  isLate?: boolean;
  /** Why it could not be prepared, until it is. */
  failure?: string | undefined;
  /** How often it was missing. The file is removed with the container, before Docker reports the end. */
  misses?: number;
}

/** Neither sockets of ours nor rules of this run are in it. */
export const isIdle = ({ state }: Namespace): boolean =>
  state === 'unknown' || state === 'clean' || state === 'failed';
