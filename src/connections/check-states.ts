import { type FlowState, NO_PACKET, type Outcome } from './flow-check.js';

interface StateRow {
  readonly means: string;
  /** The state of the flow in its connmark (ruleset/marks.ts), by which the rules of the kernel decide; `none`: the entry is deleted. */
  readonly kernel: readonly (FlowState | 'none')[];
  /** What the rules then hand to the service; everything else of the flow passes, or is refused, in the kernel. */
  readonly waits: string;
}
/** The states of a check of names, which the service and the rules of the kernel keep together. docs/kernel.md has the same tables. */
export const CHECK_STATES = {
  unseen: {
    means: 'TCP whose SYN was not read: where its bytes begin is not known',
    kernel: ['open', 'requests'],
    waits: 'segments with content, each of which is refused',
  },
  begun: {
    means: 'its SYN was read, or its first datagram has come',
    kernel: ['open'],
    waits: 'segments with content of both sides, or the first datagram',
  },
  reading: {
    means: 'a hello, or the head of a first request, has come in part',
    kernel: ['open', 'requests'],
    waits: 'segments with content of both sides (port 80: of the client); all datagrams',
  },
  permitted: {
    means: 'a name was permitted, and another one may follow',
    kernel: ['open', 'requests'],
    waits:
      'TLS: what is no ServerHello; port 80: what the client sends; QUIC: all until the client has ended its handshake, and then long headers',
  },
  verified: {
    means: 'the server has read the permitted hello, or has agreed to WebSocket',
    kernel: ['verified'],
    waits: 'nothing',
  },
  refused: {
    means: 'both sides of TCP are reset, and the entry in conntrack is deleted',
    kernel: ['none'],
    waits: 'what was queued before; it is dropped or refused',
  },
} as const satisfies Readonly<Record<string, StateRow>>;
export type CheckState = keyof typeof CHECK_STATES;

interface EventRow {
  readonly when: string;
  readonly from: readonly CheckState[];
  readonly to: CheckState;
  readonly does: string;
}
/** What leads from one state to another. From every state, a flow that is silent for long is forgotten: of TCP, it is `unseen` then. */
export const CHECK_EVENTS = {
  came: {
    when: 'content has come that does not decide',
    from: ['begun'],
    to: 'reading',
    does: 'it waits for what is missing, 3 s at most',
  },
  allowed: {
    when: 'the policy permits the name of a whole hello, or of a request',
    from: ['begun', 'reading', 'permitted'],
    to: 'permitted',
    does: 'the name is noted and reported; its packets are released with the state of the flow',
  },
  answered: {
    when: 'the server has sent a ServerHello that asks for no other hello, or the status 101',
    from: ['permitted'],
    to: 'verified',
    does: 'all that waits is released; the kernel does the same without the service, as far as it reads the answer itself',
  },
  refusal: {
    when: 'the policy refuses a name, bytes may be read in two ways, a beginning was not seen, or 3 s are over',
    from: ['unseen', 'begun', 'reading', 'permitted', 'verified', 'refused'],
    to: 'refused',
    does: 'one packet is refused by the rules, others are dropped; both sides are reset, the entry is deleted, the refusal reported',
  },
} as const satisfies Readonly<Record<string, EventRow>>;
type CheckEvent = keyof typeof CHECK_EVENTS;

/** The event of an outcome; undefined: the state stays. */
export function eventOf(state: CheckState, outcome: Outcome): CheckEvent | undefined {
  if (outcome.refusal) return 'refusal';
  // only a packet that goes on tells the kernel that the flow is verified
  const isHanded = outcome.state === 'verified' && outcome.release.some((id) => id !== NO_PACKET);
  if (isHanded && state !== 'verified') return 'answered';
  if (outcome.allowed?.length) return 'allowed';
  return state === 'begun' ? 'came' : undefined;
}

/** Throws where the table has no such step: the packet that led to it stays closed. */
export function stateAfter(state: CheckState, outcome: Outcome): CheckState {
  const event = eventOf(state, outcome);
  if (event === undefined) return state;
  const { from, to }: EventRow = CHECK_EVENTS[event];
  if (!from.includes(state)) throw new Error(`a check of names in state ${state} has met ${event}`);
  return to;
}

/** Nothing is decided any more: what still comes was queued before. */
export const isOver = (state: CheckState): boolean => state === 'verified' || state === 'refused';
/** No name was permitted yet. */
export const isNameless = (state: CheckState): boolean =>
  state === 'unseen' || state === 'begun' || state === 'reading';
