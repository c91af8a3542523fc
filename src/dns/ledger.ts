/** Which addresses were returned to which container, and until when: the source of learned set members and of names. Pure; ms. */

import { familyOf } from '../lib/ip.js';
import type { LearnSets } from './names-policy.js';

export interface Fact {
  readonly container: string;
  /** The name that was asked, lower case; not the names of its CNAME chain. */
  readonly name: string;
  readonly address: string;
  /** The address is permitted under this name until then (`steadyNow`, ms); 0 when another resolver answered. */
  readonly until: number;
  /** The address is shown under this name until then; never before `until`. */
  readonly shownUntil: number;
}
export interface LedgerBounds {
  readonly perName: number;
  readonly perContainer: number;
}
const defaultLimits: LedgerBounds = { perName: 1000, perContainer: 20_000 };
/**
 * A fact is counted for this long after its end (ms), because the kernel may still permit its address: the kernel's time-outs are whole
 * seconds, rounded up, and begin when the kernel processes the request. A fact that is not counted any more is not evicted, and no
 * eviction removes its address from the kernel's sets.
 */
const IN_KERNEL_MS = 60_000;

/** The names of an address, the longest lasting first. */
export interface ResolvedNames {
  /** Those for which Drawbridge's resolver, or one of its upstreams, returned the address; if there is none, those of `isOwn`. */
  readonly names: readonly string[];
  /** Only resolvers that the container has chosen returned the address: they can name any address as they like. */
  readonly isOwn: boolean;
}

/** The sets for `address` when it was returned for `name`, by the present policy; empty when it is no longer justified. */
export type SetsOf = (name: string, address: string) => readonly LearnSets[];

interface Validity {
  until: number;
  shownUntil: number;
}
const NEVER: Validity = { until: 0, shownUntil: 0 };
/** What is known of one address of one container. */
interface AddressFacts {
  readonly names: Set<string>;
  /** Counts the facts about the address that were added, extended and dropped. It never goes back. */
  changes: number;
}
/** Changes as soon as any fact about the address does. */
export type AddressStamp = Readonly<Pick<AddressFacts, 'changes'>>;
interface ContainerFacts {
  readonly names: Map<string, Map<string, Validity>>;
  readonly addresses: Map<string, AddressFacts>;
  count: number;
}
export interface Recorded {
  readonly fact: Fact;
  /** False when the ledger had this fact already: the journal needs no line. */
  readonly grown: boolean;
  /** Facts that made room, also those that have ended: their addresses have to leave the kernel's sets. */
  readonly evicted: readonly Fact[];
}

const setName = (sets: LearnSets, address: string): string => (familyOf(address) === 4 ? sets.v4 : sets.v6);

export class Ledger {
  readonly #containers = new Map<string, ContainerFacts>();
  readonly #limits: LedgerBounds;

  constructor(limits: LedgerBounds = defaultLimits) {
    this.#limits = limits;
  }

  /** Record a fact. Its end is never moved to an earlier time. */
  record(fact: Fact): Recorded {
    const resolved = this.#of(fact.container);
    const known = resolved.names.get(fact.name)?.get(fact.address);
    if (known !== undefined) {
      const result = this.#grow(fact, known);
      if (result.grown) noteChange(resolved, fact.address);
      return { ...result, evicted: [] };
    }
    const evicted = this.#makeRoom(fact.container, resolved, fact.name);
    this.#insert(resolved, fact);
    return { fact, grown: true, evicted };
  }

  #grow(fact: Fact, known: Validity): Omit<Recorded, 'evicted'> {
    const grown = fact.until > known.until || fact.shownUntil > known.shownUntil;
    known.until = Math.max(known.until, fact.until);
    known.shownUntil = Math.max(known.shownUntil, fact.shownUntil);
    return { fact: { ...fact, ...known }, grown };
  }

  #of(container: string): ContainerFacts {
    let resolved = this.#containers.get(container);
    if (resolved === undefined) {
      resolved = { names: new Map(), addresses: new Map(), count: 0 };
      this.#containers.set(container, resolved);
    }
    return resolved;
  }

  #insert(resolved: ContainerFacts, fact: Fact): void {
    const addresses = resolved.names.get(fact.name) ?? new Map<string, Validity>();
    resolved.names.set(
      fact.name,
      addresses.set(fact.address, { until: fact.until, shownUntil: fact.shownUntil }),
    );
    const known = resolved.addresses.get(fact.address) ?? { names: new Set<string>(), changes: 0 };
    known.names.add(fact.name);
    known.changes++;
    resolved.addresses.set(fact.address, known);
    resolved.count++;
  }

  #drop(resolved: ContainerFacts, name: string, address: string): void {
    const addresses = resolved.names.get(name);
    if (!addresses?.delete(address)) return;
    resolved.count--;
    if (addresses.size === 0) resolved.names.delete(name);
    noteChange(resolved, address);
    const known = resolved.addresses.get(address);
    known?.names.delete(name);
    if (known?.names.size === 0) resolved.addresses.delete(address);
  }

  /** Room for one more fact: what ends soonest goes. A full container gives up a tenth, so that this stays rare. */
  #makeRoom(container: string, resolved: ContainerFacts, name: string): Fact[] {
    const ofName = resolved.names.get(name);
    const victims: Fact[] = [];
    if (ofName !== undefined && ofName.size >= this.#limits.perName) {
      victims.push(...soonest(factsOfName(container, name, ofName), 1 + ofName.size - this.#limits.perName));
    }
    if (resolved.count - victims.length >= this.#limits.perContainer) {
      victims.push(...soonest(facts(container, resolved), Math.ceil(this.#limits.perContainer / 10)));
    }
    for (const v of victims) this.#drop(resolved, v.name, v.address);
    return victims.filter((v) => v.until > 0);
  }

  /** Every member of the container's learned sets: set name → address → until. */
  members(container: string, setsOf: SetsOf, now: number): Map<string, Map<string, number>> {
    const members = new Map<string, Map<string, number>>();
    const resolved = this.#containers.get(container);
    if (resolved === undefined) return members;
    for (const fact of facts(container, resolved)) {
      if (fact.until <= now) continue;
      for (const sets of setsOf(fact.name, fact.address)) {
        const name = setName(sets, fact.address);
        const set = members.get(name) ?? new Map<string, number>();
        members.set(name, set.set(fact.address, Math.max(set.get(fact.address) ?? 0, fact.until)));
      }
    }
    return members;
  }

  /** The same for one address: the set's member must last as long as the longest name that justifies it. */
  membersAt(container: string, address: string, setsOf: SetsOf, now: number): Map<string, number> {
    const members = new Map<string, number>();
    const resolved = this.#containers.get(container);
    for (const name of resolved?.addresses.get(address)?.names ?? []) {
      const until = resolved?.names.get(name)?.get(address)?.until ?? 0;
      if (until <= now) continue;
      for (const sets of setsOf(name, address)) {
        const set = setName(sets, address);
        members.set(set, Math.max(members.get(set) ?? 0, until));
      }
    }
    return members;
  }

  /** Reads the names for which an address was returned to the container, also after it is forgotten: its connections are reported later. */
  namesReader(container: string): (address: string, now: number) => ResolvedNames {
    const resolved = this.#containers.get(container);
    return (address, now) => {
      const of = (name: string): Validity => resolved?.names.get(name)?.get(address) ?? NEVER;
      const names = [...(resolved?.addresses.get(address)?.names ?? [])]
        .filter((name) => of(name).shownUntil > now)
        .sort((a, b) => of(b).shownUntil - of(a).shownUntil);
      const trusted = names.filter((name) => of(name).until > now);
      return trusted.length > 0 ? { names: trusted, isOwn: false } : { names, isOwn: names.length > 0 };
    };
  }

  /** Names that were permitted when this address was returned for them, by answers that are still valid. */
  learnedNames(container: string, address: string, now: number): readonly string[] {
    const resolved = this.#containers.get(container);
    const until = (name: string): number => resolved?.names.get(name)?.get(address)?.until ?? 0;
    return [...(resolved?.addresses.get(address)?.names ?? [])].filter((n) => until(n) > now);
  }

  /** Addresses that were returned for names that match, and that are still permitted. */
  addressesFor(container: string, fits: (name: string) => boolean, now: number): readonly string[] {
    const resolved = this.#containers.get(container);
    if (resolved === undefined) return [];
    return [
      ...new Set(
        [...facts(container, resolved)].filter((f) => f.until > now && fits(f.name)).map((f) => f.address),
      ),
    ];
  }

  /** An address in use stays permitted, under each name that permits it now. Gives the facts that grew. */
  extend(container: string, address: string, until: number, now: number): readonly Fact[] {
    const resolved = this.#containers.get(container);
    const grown: Fact[] = [];
    for (const name of resolved?.addresses.get(address)?.names ?? []) {
      const known = resolved?.names.get(name)?.get(address);
      if (known === undefined || known.until <= now || known.until >= until) continue;
      known.until = until;
      known.shownUntil = Math.max(known.shownUntil, until);
      if (resolved !== undefined) noteChange(resolved, address);
      grown.push({ container, name, address, ...known });
    }
    return grown;
  }

  /** Facts that permit an address now and expire before `before`. */
  expiring(before: number, now: number): readonly Fact[] {
    return [...this.snapshot()].filter((f) => f.until > now && f.until < before);
  }

  /** Remove facts that ended so long ago that the kernel cannot have their addresses any more. */
  purge(now: number): void {
    for (const [container, resolved] of this.#containers) {
      for (const f of facts(container, resolved))
        if (f.shownUntil <= now - IN_KERNEL_MS) this.#drop(resolved, f.name, f.address);
      if (resolved.count === 0) this.#containers.delete(container);
    }
  }

  /** A stamp for each address; undefined if the ledger has no fact about one of them. */
  stamps(container: string, addresses: Iterable<string>): readonly AddressStamp[] | undefined {
    const known = this.#containers.get(container)?.addresses;
    const stamps: AddressStamp[] = [];
    for (const address of addresses) {
      const stamp = known?.get(address);
      if (stamp === undefined) return undefined;
      stamps.push(stamp);
    }
    return stamps;
  }

  forget(container: string): void {
    for (const known of this.#containers.get(container)?.addresses.values() ?? []) known.changes++;
    this.#containers.delete(container);
  }

  containers(): readonly string[] {
    return [...this.#containers.keys()];
  }

  *snapshot(): Generator<Fact> {
    for (const [container, resolved] of this.#containers) yield* facts(container, resolved);
  }

  /** Record facts of an earlier process, none for longer than until `latest`: its clock may have been ahead. */
  restore(all: Iterable<Fact>, now: number, latest: number): void {
    for (const { until, shownUntil, ...of } of all)
      if (shownUntil > now)
        this.record({ ...of, until: Math.min(until, latest), shownUntil: Math.min(shownUntil, latest) });
  }
}

function noteChange(resolved: ContainerFacts, address: string): void {
  const known = resolved.addresses.get(address);
  if (known !== undefined) known.changes++;
}

function* factsOfName(
  container: string,
  name: string,
  addresses: ReadonlyMap<string, Validity>,
): Generator<Fact> {
  for (const [address, v] of addresses)
    yield { container, name, address, until: v.until, shownUntil: v.shownUntil };
}

function* facts(container: string, resolved: ContainerFacts): Generator<Fact> {
  for (const [name, addresses] of resolved.names) yield* factsOfName(container, name, addresses);
}

function soonest(all: Iterable<Fact>, count: number): Fact[] {
  const rank = (f: Fact): number => Math.max(f.until, f.shownUntil);
  if (count === 1) {
    let first: Fact | undefined;
    for (const f of all) if (first === undefined || rank(f) < rank(first)) first = f;
    return first === undefined ? [] : [first];
  }
  return [...all].sort((a, b) => rank(a) - rank(b)).slice(0, count);
}
