/** The ipsets that have the addresses of DNS answers, and requests about them that are repeated without allocations. */
import { AF_INET } from './netlink-codec.js';
import type { NetlinkSocket } from './netlink-socket.js';

/** Addresses of one family with their time-outs, seconds. */
export type TimedMembers = readonly (readonly [address: string, timeoutSeconds: number])[];

/** Adds and removes addresses; resolves when the kernel has acknowledged. */
export interface AnswerSets {
  add(set: string, address: string, timeoutSeconds: number): Promise<void>;
  addAll(set: string, members: TimedMembers): Promise<void>;
  remove(set: string, address: string): Promise<void>;
  /** Prepares what is done before each reply that is sent again; undefined if it cannot be. `until`: wall clock, ms. */
  repeated(
    set: string,
    until: ReadonlyMap<string, number>,
  ): { /** See RepeatedMembers. */ ensure(now: number): boolean } | undefined;
}

/** Longest time-out the kernel keeps, in seconds (ip_set_timeout.h, IPSET_MAX_TIMEOUT). */
export const MAX_TIMEOUT = 2_147_483;
/** So many members are added by each call. */
const FEW = 16;
/** More are added so often, ms; in between, each call tests another one of them. An add of 80 takes 27 µs, a test 5 µs. */
const ADD_EVERY_MS = 100;
/** From the end of one member's time-out to that of the next one in a message of adds: 24 bytes for IPv4, 36 for IPv6. */
const MEMBER_LENGTH = { 4: 24, 6: 36 } as const;
/** Of struct nfgenmsg, behind the header of a message. */
const FAMILY_AT = 16;

/** Whole messages, with the flags `request` and `ack`. */
interface RepeatedRequests {
  /** Adds all members, in the order of `tests`, each with a time-out as its last attribute. */
  readonly add: Buffer;
  readonly tests: readonly Buffer[];
  /** Of each member; wall clock, ms. */
  readonly until: Float64Array;
}

/** Members of one set that must be there whenever a reply leaves which has been sent before. */
export class RepeatedMembers {
  readonly #socket: NetlinkSocket;
  readonly #operation: string;
  readonly #until: Float64Array;
  readonly #add: Buffer;
  readonly #tests: readonly Buffer[];
  readonly #memberLength: number;
  #addedAt = Number.NEGATIVE_INFINITY;
  #next = 0;

  constructor(socket: NetlinkSocket, operation: string, { add, tests, until }: RepeatedRequests) {
    this.#socket = socket;
    this.#operation = operation;
    this.#until = until;
    this.#add = add;
    this.#tests = tests;
    this.#memberLength = MEMBER_LENGTH[add[FAMILY_AT] === AF_INET ? 4 : 6];
  }

  /**
   * Returns false when the kernel does not have the members: the set is gone, or has lost the one that was tested. A set that
   * another process flushed, destroyed or replaced has lost each of them. Of many members, a single one that another process
   * removed is added again by the next add of all. The time-outs are those that were given: a caller for which one has become
   * longer needs a new object, because an add with less would shorten it in the kernel. `now`: wall clock, ms.
   */
  ensure(now: number): boolean {
    const sinceAdd = now - this.#addedAt;
    const isTested = this.#tests.length > FEW && sinceAdd >= 0 && sinceAdd < ADD_EVERY_MS;
    return isTested ? this.#test() : this.#addAgain(now);
  }

  #test(): boolean {
    this.#next = (this.#next + 1) % this.#tests.length;
    return this.#socket.repeat(this.#operation, this.#tests[this.#next] as Buffer) === 0;
  }

  #addAgain(now: number): boolean {
    const count = this.#until.length;
    const first = this.#add.length - (count - 1) * this.#memberLength - 4;
    for (let i = 0; i < count; i++) {
      const left = Math.ceil(((this.#until[i] as number) - now) / 1000);
      if (left < 1) return false;
      this.#add.writeUInt32BE(Math.min(left, MAX_TIMEOUT), first + i * this.#memberLength);
    }
    if (this.#socket.repeat(this.#operation, this.#add) !== 0) return false;
    this.#addedAt = now;
    return true;
  }
}
