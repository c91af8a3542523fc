/**
 * Replies that were sent to a container, to be sent again for the same bytes: no step of a query is repeated as long as
 * nothing has changed that its reply depends on. Each reply depends on the following, and a change of any makes it invalid:
 *
 * - the container, by the present holder of the source address or by the socket (the caller passes it for every query);
 * - all bytes of the query but its ID: flags, spelling of the name, EDNS with its options;
 * - what the policy decides by: the applied state, the threats in force, the host's addresses (`QueryPolicy.revision`);
 * - the servers of names (`Resolvers.revision`);
 * - the answer of the upstream, as long as it is cached, and five minutes at most;
 * - the facts of the ledger about each of its addresses (`AddressStamp`), so that the kernel's time-outs are those that the
 *   reply needs, and a later one is recorded;
 * - the members of the kernel's sets, which are written or tested before each reply.
 */
import type { AnswerSets } from '../kernel/netlink/answer-sets.js';
import type { Received, ReplySpace } from '../kernel/netlink/datagram-socket.js';
import type { ReplyBasis, Revision } from './client-query.js';
import type { AddressStamp } from './ledger.js';
import type { NameEvent } from './names-policy.js';
import { ownBytes } from './wire.js';

/** ms. */
const MAX_AGE = 300_000;
/** Longer queries are answered by all steps: their options are likely to differ each time. */
const MAX_QUERY = 512;
const BOUNDS = { perContainer: 262_144, all: 33_554_432 };
/** Estimated bytes of an entry and of each of its addresses. */
const WEIGHT = { entry: 700, address: 300 };

type EnsuredMembers = NonNullable<ReturnType<AnswerSets['repeated']>>;

interface KeptReply {
  readonly bytes: Buffer;
  /** ms, monotonic. */
  readonly freshUntil: number;
  /** Wall clock, ms: see Permission. */
  readonly recordedUntil: number;
  readonly stamps: readonly AddressStamp[];
  readonly changes: number;
  readonly members: readonly EnsuredMembers[];
  readonly event: NameEvent;
  readonly weight: number;
}
interface ContainerReplies {
  readonly byQuery: Map<string, KeptReply>;
  weight: number;
}
/** The time of a query, on both clocks (ms). */
export interface QueryTime {
  readonly monotonic: number;
  readonly wall: number;
}

/** All bytes of a message but its ID. */
const queryKey = (message: Buffer, from: number, to: number): string =>
  message.toString('latin1', from + 2, to);

export class KeptReplies {
  readonly #sets: Pick<AnswerSets, 'repeated'>;
  readonly #byContainer = new Map<string, ContainerReplies>();
  #revision: Revision | undefined;
  #weight = 0;

  constructor(sets: Pick<AnswerSets, 'repeated'>) {
    this.#sets = sets;
  }

  /** Keep the bytes that answered `message`, if the revision that they are based on is the present one. */
  keep(
    container: string,
    message: Buffer,
    reply: { readonly bytes: Buffer; readonly basis: ReplyBasis },
    revision: Revision,
  ): void {
    const { basis, bytes } = reply;
    const { permission } = basis;
    if (revision !== basis.revision || message.length > MAX_QUERY || permission.stamps === undefined) return;
    const members = [...permission.members].map(([set, until]) => this.#sets.repeated(set, until));
    if (!members.every((m) => m !== undefined)) return;
    const weight = WEIGHT.entry + bytes.length + permission.stamps.length * WEIGHT.address;
    const kept: KeptReply = {
      bytes: ownBytes(bytes),
      freshUntil: Math.min(basis.freshUntil, basis.madeAt + MAX_AGE),
      recordedUntil: permission.freshUntil,
      stamps: permission.stamps,
      changes: changesOf(permission.stamps),
      members,
      event: basis.event,
      weight,
    };
    this.#put(container, queryKey(message, 0, message.length), kept, revision);
  }

  /**
   * Write the reply to the query in `from.subarray(start, end)` into `into`. Returns its event and its length, or undefined if
   * there is none that is valid now.
   */
  answer(
    container: string,
    query: Received,
    revision: Revision,
    now: QueryTime,
    into: ReplySpace,
  ): Pick<KeptReply, 'event' | 'bytes'> | undefined {
    if (revision !== this.#revision) {
      this.clear();
      return undefined;
    }
    const replies = this.#byContainer.get(container);
    if (replies === undefined || query.end - query.start > MAX_QUERY) return undefined;
    const key = queryKey(query.bytes, query.start, query.end);
    const kept = replies.byQuery.get(key);
    if (kept === undefined) return undefined;
    if (!isValid(kept, now) || !isInKernel(kept, now)) {
      this.#drop(replies, key, kept);
      return undefined;
    }
    kept.bytes.copy(into.bytes, into.at);
    query.bytes.copy(into.bytes, into.at, query.start, query.start + 2); // its ID
    return kept;
  }

  /** Delete expired replies. `now`: ms, monotonic. */
  purge(now: number): void {
    for (const replies of this.#byContainer.values())
      for (const [key, kept] of replies.byQuery) if (kept.freshUntil <= now) this.#drop(replies, key, kept);
  }

  /** The container is gone. */
  forget(container: string): void {
    this.#weight -= this.#byContainer.get(container)?.weight ?? 0;
    this.#byContainer.delete(container);
  }

  clear(): void {
    this.#byContainer.clear();
    this.#weight = 0;
    this.#revision = undefined;
  }

  #put(container: string, key: string, kept: KeptReply, revision: Revision): void {
    if (revision !== this.#revision) this.clear();
    this.#revision = revision;
    const replies = this.#byContainer.get(container) ?? { byQuery: new Map<string, KeptReply>(), weight: 0 };
    this.#byContainer.set(container, replies);
    const former = replies.byQuery.get(key);
    if (former !== undefined) this.#drop(replies, key, former);
    this.#makeRoom(replies, kept.weight);
    if (this.#weight + kept.weight > BOUNDS.all) return;
    replies.byQuery.set(key, kept);
    replies.weight += kept.weight;
    this.#weight += kept.weight;
  }

  /** A container gives up its own oldest replies only. */
  #makeRoom(replies: ContainerReplies, weight: number): void {
    for (const [key, kept] of replies.byQuery) {
      if (replies.weight + weight <= BOUNDS.perContainer && this.#weight + weight <= BOUNDS.all) return;
      this.#drop(replies, key, kept);
    }
  }

  #drop(replies: ContainerReplies, key: string, kept: KeptReply): void {
    if (!replies.byQuery.delete(key)) return;
    replies.weight -= kept.weight;
    this.#weight -= kept.weight;
  }
}

function changesOf(stamps: readonly AddressStamp[]): number {
  let sum = 0;
  // No stamp ever goes back: the sum is the same only if each of them is.
  for (const stamp of stamps) sum += stamp.changes;
  return sum;
}

function isValid(kept: KeptReply, now: QueryTime): boolean {
  return (
    now.monotonic < kept.freshUntil &&
    now.wall <= kept.recordedUntil &&
    changesOf(kept.stamps) === kept.changes
  );
}

function isInKernel(kept: KeptReply, { wall }: QueryTime): boolean {
  try {
    for (const members of kept.members) if (!members.ensure(wall)) return false;
    return true;
  } catch {
    // No acknowledgement: the query is answered by all steps, of which one reports it.
    return false;
  }
}
