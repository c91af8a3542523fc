import type { ResolvedNames } from '../dns/ledger.js';
import type { Contact } from '../events/service-events.js';
import { keepFairly } from '../lib/fair-shares.js';
import { listOf, sourceText } from '../policy/deny-entries.js';
import { OWN_RESOLVER } from '../policy/finding.js';
import type { Subject } from '../ruleset/desired-state.js';
import { permitOf } from '../ruleset/policy-evaluator.js';
import type { PassedFlow } from './flow-tally.js';

/** The reason of what reached a neighbour without an entry: its address may be another container's by now. */
export const FREE_NEIGHBOUR = 'containers of its compose project reach each other (eastWest)';

/** What passed, or did not, as one part of the service has seen it. Times are ms since the epoch. */
export interface SeenFlow extends Contact {
  readonly time: number;
  /** Default: `time`. */
  readonly last?: number;
  /** The id of the container. */
  readonly id: string;
  readonly packets: number;
  readonly bytes: number;
  /** Connections, or queries for a name. 0: they are counted by another record. */
  readonly count: number;
}

/** A SeenFlow that is still being added to. */
export type WaitingFlow = { -readonly [K in keyof SeenFlow]: SeenFlow[K] } & { last: number };

/** Flows that are to be written, those with the same ends added up. The many of one container and kind push out none of another. */
export class WaitingFlows {
  readonly #most: number;
  readonly #flows = new Map<string, WaitingFlow>();
  readonly #lanes = new Map<string, number>();

  constructor(most: number) {
    this.#most = most;
  }

  /** Returns the number of connections that have no place any more. */
  add(flow: SeenFlow): number {
    const { id, verdict, proto, address, port, name, reason, last = flow.time } = flow;
    const key = `${id} ${verdict} ${proto} ${address} ${port} ${name} ${reason}`;
    const known = this.#flows.get(key);
    if (!known) return this.#put(key, { ...flow, last });
    known.last = Math.max(known.last, last);
    known.packets += flow.packets;
    known.bytes += flow.bytes;
    known.count += flow.count;
    return 0;
  }

  takeAll(): readonly WaitingFlow[] {
    const all = [...this.#flows.values()];
    this.#flows.clear();
    this.#lanes.clear();
    return all;
  }

  #put(key: string, flow: WaitingFlow): number {
    const own = this.#lanes.get(laneOf(flow)) ?? 0;
    const isFull = this.#flows.size >= this.#most;
    if (isFull && own >= Math.max(...this.#lanes.values())) return Math.max(1, flow.count);
    const lost = isFull ? this.#makeRoom() : 0;
    this.#flows.set(key, flow);
    this.#lanes.set(laneOf(flow), (this.#lanes.get(laneOf(flow)) ?? 0) + 1);
    return lost;
  }

  /** Some of those that have the most go for one that has less. */
  #makeRoom(): number {
    const all = [...this.#flows];
    const kept = keepFairly(all, ([, flow]) => laneOf(flow), this.#most * ROOM);
    this.takeAll();
    for (const [key, flow] of kept) this.#put(key, flow);
    const sum = (of: readonly (readonly [string, WaitingFlow])[]): number =>
      of.reduce((total, [, { count }]) => total + Math.max(1, count), 0);
    return sum(all) - sum(kept);
  }
}
/** So that there is room for more than the next one. */
const ROOM = 0.95;
const laneOf = ({ id, verdict, proto }: SeenFlow): string => `${id} ${verdict} ${proto === 'dns'}`;

/** The connections of one container to one destination within one minute. */
export interface FlowRecord extends Contact {
  /** RFC 3339, UTC. */
  readonly time: string;
  readonly last: string;
  readonly packets: number;
  readonly bytes: number;
  readonly count: number;
}

/** A destination of one container, since the first contact. Times are ms since the epoch. */
export interface SeenDestination extends Contact {
  readonly first: number;
  readonly last: number;
  readonly count: number;
  /** Starts of the container in which it was seen. */
  readonly starts: number;
  /** A person has marked it as known: it raises no alert. */
  readonly known: boolean;
}

/** A time in which nothing was recorded. */
export interface FlowGap {
  readonly from: number;
  readonly to: number;
  readonly reason: string;
}

/** All that is known of an owner. Times are ms since the epoch. */
export interface OwnerRecord {
  readonly owner: string;
  /** The first time at which it ran while flows were recorded. */
  readonly since: number;
  readonly gaps: readonly FlowGap[];
  /** Starts of its containers since then. */
  readonly starts: number;
  /** Records that were lost since then, of all owners together. */
  readonly dropped: number;
  readonly seen: readonly SeenDestination[];
  /** Addresses that only a resolver of its containers gave for a name; left out: there are none. */
  readonly own?: readonly OwnAddress[];
}

/** An address of a name by a resolver that the container has chosen. Times are ms since the epoch. */
export interface OwnAddress {
  readonly name: string;
  readonly address: string;
  readonly port: number;
  readonly proto: string;
  readonly count: number;
  readonly first: number;
  readonly last: number;
}

/** A container, or several of one name. */
export interface ContainerRun {
  readonly name: string;
  /** No flow of them is older (ms since the epoch); 0: not known. */
  readonly since: number;
  readonly containers: number;
}

/** Chooses records. All that is given must fit. */
export interface FlowQuery {
  /** The name of a container. */
  readonly container?: string;
  /** Owners of containers. */
  readonly owners?: readonly string[];
  readonly verdicts?: readonly string[];
  /** With * and ?, of the name or the address. */
  readonly name?: string;
  /** ms since the epoch; compared with `last`. */
  readonly since?: number;
  /** At most 10,000. */
  readonly limit: number;
  /** As `FlowPage.next` has it. */
  readonly before?: FlowPlace;
}
/** The place of a record among all, newest first. */
export interface FlowPlace {
  /** ms since the epoch. */
  readonly time: number;
  readonly id: number;
}
export interface FlowPage {
  /** Newest first, by `time`. */
  readonly items: readonly FlowRecord[];
  /** Where the next page begins; null: there is no other. */
  readonly next: FlowPlace | null;
}

/** What the store keeps and has lost. Times are ms since the epoch. */
export interface FlowFacts {
  /** The oldest time of which records are kept. */
  readonly since: number;
  /** Times since then in which nothing was recorded, oldest first. */
  readonly gaps: readonly FlowGap[];
  /** Flows that are in no record, and destinations that were forgotten because there were too many. */
  readonly dropped: number;
  /** Until then the owners with the most have lost rows for space, while the others kept theirs; undefined: none has. */
  readonly thinnedUntil: number | undefined;
  readonly rows: number;
  readonly destinations: number;
  readonly bytes: number;
}

export type Permit = Pick<Contact, 'name' | 'reason' | 'entry' | 'list' | 'verdict'>;

/** Why a flow has passed: the entry that permits it, or what else lets it pass. `isHost`: it was sent to an address of the host. */
export function findPermit(
  subject: Subject,
  { dst, dport, to = dst, toPort = dport }: PassedFlow,
  proto: string,
  { names, isOwn }: ResolvedNames,
  isHost: boolean,
): Permit {
  const hostPort = isHost ? { hostPort: dport } : {};
  const found = permitOf(subject, {
    names: isOwn ? [] : names,
    address: to,
    proto,
    port: toPort,
    ...hostPort,
  });
  const [name = null] = names;
  const without = { name, entry: null, list: null, verdict: 'allow' } as const;
  if (found === 'neighbour') return { ...without, reason: FREE_NEIGHBOUR };
  const { mode } = subject.policy;
  if (!found && mode === 'observe')
    return { ...without, reason: isOwn ? OWN_RESOLVER : OBSERVED, verdict: 'would-deny' };
  if (!found) return { ...without, reason: PASSED_BECAUSE[mode] };
  const { entry, source } = found.entry;
  return {
    name: found.name ?? name,
    reason: `an entry permits it (${sourceText(source)})`,
    entry: entry.canonical,
    list: listOf(source),
    verdict: 'allow',
  };
}

const OBSERVED = 'no entry permits it (observed, so it passed)';
const PASSED_BECAUSE = {
  enforce: 'it was permitted when it began; no entry permits it now',
  observe: OBSERVED,
  off: 'the container is in mode off: only threats are blocked',
} as const;
