import type { SetColumns } from '../policy/threat.js';
import type { AnswerSets, TimedMembers } from './netlink/answer-sets.js';

export interface SetHeader {
  readonly name: string;
  /** What the backend calls the kind of its members. */
  readonly type: string;
  readonly family: 4 | 6;
  /** Members now; expired ones may still be counted. */
  readonly entries: number;
  /** Rules and list sets that use it. */
  readonly references: number;
  readonly maxEntries?: number;
  /** Default time-out in seconds. Undefined for a set without time-outs. */
  readonly timeout?: number;
}
export interface SetMember {
  readonly address: string;
  /** Prefix length. Undefined for a single address. */
  readonly prefix?: number;
  /** Remaining seconds. 0 for a permanent member; undefined in a set without time-outs. */
  readonly timeout?: number;
  /** An exception within a set of networks. */
  readonly nomatch: boolean;
  readonly comment?: string;
}
export interface BigSet {
  readonly name: string;
  readonly of: 'address' | 'net';
  readonly words: 1 | 4;
  /** Buckets: a power of two. */
  readonly hashSize: number;
  readonly maxElements: number;
}

/** The sets of one network namespace. Sets of rules are created and destroyed with the rules (kernel/apply.ts). */
export interface SetStore extends AnswerSets {
  /**
   * Adds ADDRESS or ADDRESS/PREFIX, or changes the time-out of an existing member. Seconds are rounded up, at most
   * 2,147,483; with 0 the member is permanent, in sets with and without time-outs. Undefined: the set has no time-outs; one that has
   * them gives the member its own. Rejects with NetlinkError (ENOENT for an unknown set, a full set, the wrong family), and with
   * RangeError for a bad time-out.
   */
  add(set: string, address: string, timeoutSeconds: number | undefined): Promise<void>;
  /**
   * Adds single addresses with time-outs, or changes the time-outs of existing members: up to 1,000 in one message. Rejects as
   * `add` does; some members may have been added then.
   */
  addAll(set: string, members: TimedMembers): Promise<void>;
  /** Prepares adds that are repeated together: a call of the result allocates nothing, and throws what the first refused `add` rejects with. */
  repeatedAdds(members: readonly (readonly [set: string, address: string])[], seconds: number): () => void;
  headers(): Promise<readonly SetHeader[]>;
  header(set: string): Promise<SetHeader | undefined>;
  /** The number of members of one set, expired ones included; undefined when there is no such set. Throws NetlinkError. */
  entries(set: string): number | undefined;
  /**
   * The number of members of every set of the kernel, expired ones included, by one listing. The kernel counts the members of a hash in
   * each listing: large sets of other programs make it slow. Throws NetlinkError.
   */
  allEntries(): ReadonlyMap<string, number>;
  /**
   * A hash of all that a set holds, which differs when a member without time-out was added or removed; undefined: no such set. It does not
   * yield, and allocates little: it is requested for all sets again and again. Throws NetlinkError.
   */
  digest(set: string): string | undefined;
  /**
   * As `digest`, of each of these sets, by one listing of all members. Sets that do not exist are left out. Undefined: the last
   * `allEntries` had too many members, or there was none. Rejects with NetlinkError.
   */
  digests(sets: readonly string[]): Promise<ReadonlyMap<string, string> | undefined>;
  /** The members of one set; undefined when there is no such set. */
  members(set: string): Promise<readonly SetMember[] | undefined>;
  /** Throws NetlinkError when a set of that name exists. */
  create(set: BigSet): void;
  /** Adds all single addresses or networks, in slices between which the event loop breathes. */
  fill(set: string, of: BigSet['of'], columns: SetColumns): Promise<void>;
  /**
   * Swaps the contents of two sets: rules then see the members of `fresh` under the name `set`. Returns false when there was
   * no set of that name: then `fresh` was renamed, and does not exist any more.
   */
  exchange(fresh: string, set: string): boolean;
  /** Returns false when there was no such set. */
  destroy(set: string): boolean;
  close(): void;
}
