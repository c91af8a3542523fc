/** Records an answer: ledger, journal, then every kernel set of the name. It may leave when the kernel has acknowledged all. */

import type { AnswerSets } from '../kernel/netlink/answer-sets.js';
import { familyOf } from '../lib/ip.js';
import type { Logger } from '../lib/log.js';
import { refusedAnswer } from './answer-filter.js';
import type { Journal } from './journal.js';
import type { AddressStamp, Fact, Ledger, SetsOf } from './ledger.js';
import type { LearnSets, NameDecision, QueryPolicy } from './names-policy.js';
import type { Resolvers } from './resolvers.js';
import { type ResourceRecord, recordAddress } from './wire.js';

export interface RecorderOptions {
  readonly policy: QueryPolicy;
  readonly resolvers: Resolvers;
  readonly ledger: Ledger;
  readonly journal: Journal;
  readonly sets: AnswerSets;
  readonly log: Logger;
  /** Seconds. */
  readonly minTtl: number;
  readonly maxTtl: number;
  readonly grace: number;
  /** ms since the epoch, by a clock that nothing sets. */
  now(): number;
}
/** An address that a live flow uses stays permitted for so long. */
const EXTENSION_MS = 120_000;
/** ipset's largest time-out, seconds (ip_set_timeout.h, IPSET_MAX_TIMEOUT). */
const maxTimeout = 2_147_483;

interface Resolved {
  readonly address: string;
  readonly ttl: number;
}

/** By set and address: until when the address is permitted (ms, by the clock `now`). */
export type Members = ReadonlyMap<string, ReadonlyMap<string, number>>;

/** What the ledger and the kernel have of an answer. */
export interface Permission {
  readonly members: Members;
  /** One for each address; undefined when there was no room for all of them. */
  readonly stamps: readonly AddressStamp[] | undefined;
  /** Until then (ms, by the clock `now`) the answer needs no longer record. */
  readonly freshUntil: number;
}
const NO_ADDRESSES: Permission = {
  members: new Map(),
  stamps: [],
  freshUntil: Number.POSITIVE_INFINITY,
};

/** Distinct addresses of an answer, each with its shortest TTL. */
function addressesOf(records: readonly ResourceRecord[]): readonly Resolved[] {
  const shortest = new Map<string, number>();
  for (const record of records) {
    const address = recordAddress(record);
    if (address !== undefined)
      shortest.set(address, Math.min(record.ttl, shortest.get(address) ?? record.ttl));
  }
  return [...shortest].map(([address, ttl]) => ({ address, ttl }));
}

/** Decides about names, by a policy that need not be the one that is applied. */
export type Decide = (name: string) => NameDecision;

export class Recorder {
  readonly #o: RecorderOptions;

  constructor(options: RecorderOptions) {
    this.#o = options;
  }

  /**
   * The sets that a resolved address belongs to under the current policy; none when the name is no longer allowed, or the
   * address is private and neither the entry nor the zone says `private`. `Ledger.members` takes this function.
   */
  setsOf(container: string, decide: Decide = (name) => this.#o.policy.decide(container, name)): SetsOf {
    const decisions = new Map<string, NameDecision>();
    return (name, address) => {
      const decision = decisions.get(name) ?? decide(name);
      decisions.set(name, decision);
      if (!decision.allow) return [];
      // an address entry lets the answer pass, on ports of its own: the name's ports are not opened there
      const rules = { ...this.rules(container, name, decision), covers: () => false };
      return refusedAnswer(address, rules) === undefined ? (decision.sets ?? []) : [];
    };
  }

  rules(container: string, name: string, decision: NameDecision) {
    const { policy, resolvers } = this.#o;
    return {
      allowPrivate: decision.allowPrivate || resolvers.route(name).private,
      covers: (address: string) => policy.coversAddress(container, address),
      hostAddresses: policy.hostAddresses(),
      inside: policy.inside(),
      nat64: policy.nat64,
      threats: policy.threats,
    };
  }

  /** Resolves when every address is in the kernel sets; rejects when the kernel refuses one: then the answer must not leave. */
  async permit(container: string, name: string, records: readonly ResourceRecord[]): Promise<Permission> {
    const resolved = addressesOf(records);
    if (resolved.length === 0) return NO_ADDRESSES;
    const began = this.#o.now();
    const evicted = this.#record(container, name, resolved, true);
    const setsOf = this.setsOf(container);
    const addresses = resolved.map((r) => r.address);
    const stamps = this.#o.ledger.stamps(container, addresses);
    const members = this.#membersOf(container, addresses, setsOf);
    // The requests to the kernel are sent in this order: at no time does it have more addresses of a name than the ledger.
    await Promise.all([...evicted.map((fact) => this.#withdraw(fact, setsOf)), this.#insert(members)]);
    return { members, stamps, freshUntil: this.#recordedUntil(resolved, began) };
  }

  /** Until when the addresses are permitted for longer than a reply that is sent then says (query-pipeline.ts). */
  #recordedUntil(resolved: readonly Resolved[], began: number): number {
    const { minTtl, grace } = this.#o;
    return Math.min(...resolved.map(({ ttl }) => this.#until(ttl, began) - (minTtl + grace) * 1000));
  }

  /**
   * An observed container's answer: recorded for names, and for later if it came from one of our upstreams. The container chooses any other
   * resolver: none of its answers is permitted once the container is enforced, and none counts as permitted before.
   */
  observe(container: string, name: string, records: readonly ResourceRecord[], trusted: boolean): void {
    const resolved = addressesOf(records);
    const evicted = this.#record(container, name, resolved, trusted);
    const setsOf = this.setsOf(container);
    for (const fact of evicted) this.#hide(fact, setsOf);
    if (!trusted) return;
    for (const { address, ttl } of resolved)
      for (const sets of setsOf(name, address)) this.#show(setFor(sets, address), address, ttl);
  }

  #show(set: string, address: string, ttl: number): void {
    const until = this.#until(ttl, this.#o.now());
    this.#o.sets
      .add(set, address, timeout(until - this.#o.now()))
      .catch((err: unknown) =>
        this.#o.log.debug({ err, set, address }, 'not shown as permitted: observed only'),
      );
  }

  #hide(fact: Fact, setsOf: SetsOf): void {
    this.#withdraw(fact, setsOf).catch((err: unknown) =>
      this.#o.log.debug({ err, address: fact.address }, 'still shown as permitted: observed only'),
    );
  }

  /** The address is in use by a live flow: it stays permitted for EXTENSION_MS at least. */
  async extend(container: string, address: string): Promise<void> {
    const now = this.#o.now();
    const grown = this.#o.ledger.extend(container, address, now + EXTENSION_MS, now);
    if (grown.length === 0) return;
    this.#o.journal.append(grown);
    await this.#insert(this.#membersOf(container, [address], this.setsOf(container)));
  }

  /** No answer permits an address beyond this time, and no flow that uses it. */
  latest(): number {
    const now = this.#o.now();
    return Math.max(this.#until(this.#o.maxTtl, now), now + EXTENSION_MS);
  }

  #record(container: string, name: string, resolved: readonly Resolved[], trusted: boolean): readonly Fact[] {
    const now = this.#o.now();
    const results = resolved.map(({ address, ttl }) => {
      const shownUntil = this.#until(ttl, now);
      return this.#o.ledger.record({ container, name, address, until: trusted ? shownUntil : 0, shownUntil });
    });
    this.#o.journal.append(results.filter((r) => r.grown).map((r) => r.fact));
    const evicted = results.flatMap((r) => r.evicted);
    const valid = evicted.filter((fact) => fact.until > now).length;
    if (valid > 0) {
      this.#o.log.warn(
        { container, name, evicted: valid },
        'too many addresses resolved for this container: the oldest are forgotten',
      );
    }
    return evicted;
  }

  /** Rounded up in steps, so that a busy name is written down once a step and not with every answer. */
  #until(ttl: number, now: number): number {
    const { minTtl, maxTtl, grace } = this.#o;
    const valid = Math.min(Math.max(ttl, minTtl), maxTtl) + grace;
    const step = Math.max(1000, (grace * 1000) / 16);
    return Math.ceil((now + valid * 1000) / step) * step;
  }

  /** By set: what the ledger has of these addresses, until the end of the longest name that justifies each. */
  #membersOf(container: string, addresses: readonly string[], setsOf: SetsOf): Members {
    const now = this.#o.now();
    const members = new Map<string, Map<string, number>>();
    for (const address of addresses)
      for (const [set, until] of this.#o.ledger.membersAt(container, address, setsOf, now)) {
        const ofSet = members.get(set) ?? new Map<string, number>();
        members.set(set, ofSet.set(address, until));
      }
    return members;
  }

  async #insert(members: Members): Promise<void> {
    const now = this.#o.now();
    // The time-out comes from the ledger: adding the member with less would shorten the time-out in the kernel.
    const withTimeouts = (ofSet: ReadonlyMap<string, number>) =>
      [...ofSet].map(([address, until]) => [address, timeout(until - now)] as const);
    await Promise.all([...members].map(([set, ofSet]) => this.#o.sets.addAll(set, withTimeouts(ofSet))));
  }

  async #withdraw(fact: Fact, setsOf: SetsOf): Promise<void> {
    const still = this.#o.ledger.membersAt(fact.container, fact.address, setsOf, this.#o.now());
    const gone = setsOf(fact.name, fact.address)
      .map((s) => setFor(s, fact.address))
      .filter((s) => !still.has(s));
    await Promise.all(gone.map((set) => this.#o.sets.remove(set, fact.address)));
  }
}

const setFor = (sets: LearnSets, address: string): string => (familyOf(address) === 4 ? sets.v4 : sets.v6);

/** Milliseconds left as a kernel time-out in seconds; never 0, which would mean no time-out. */
function timeout(ms: number): number {
  return Math.min(Math.max(Math.ceil(ms / 1000), 1), maxTimeout);
}
