import type { Range } from '../lib/ip.js';
import type { Mode, PolicyEntry } from '../policy/policy.js';
import type { ThreatLook } from '../policy/threat.js';
import type { Verdict } from '../policy/verdict.js';

/** Numbers of the IANA registries "Domain Name System (DNS) Parameters". */
export const type = {
  A: 1,
  NS: 2,
  CNAME: 5,
  SOA: 6,
  PTR: 12,
  MX: 15,
  TXT: 16,
  AAAA: 28,
  SRV: 33,
  NAPTR: 35,
  DS: 43,
  DNAME: 39,
  OPT: 41,
  RRSIG: 46,
  DNSKEY: 48,
  SVCB: 64,
  HTTPS: 65,
  IXFR: 251,
  AXFR: 252,
  ANY: 255,
} as const;

export const rcode = {
  NOERROR: 0,
  FORMERR: 1,
  SERVFAIL: 2,
  NXDOMAIN: 3,
  NOTIMP: 4,
  REFUSED: 5,
  /** Extended (RFC 6891): its low four bits are zero. */
  BADVERS: 16,
} as const;

/** Extended DNS errors (RFC 8914 section 4). */
export const extendedError = { OTHER: 0, NOT_READY: 14, PROHIBITED: 18, NO_REACHABLE_AUTHORITY: 22 } as const;

export const classIn = 1;

const names = new Map<number, string>(Object.entries(type).map(([name, number]) => [number, name]));

/** The mnemonic, or "TYPE65280" (RFC 3597 section 5). */
export function typeName(number: number): string {
  return names.get(number) ?? `TYPE${number}`;
}

/** Bytes of rdata before its names, how many names, and bytes behind them. */
export interface NameLayout {
  readonly skip: number;
  readonly names: number;
  readonly rest: number;
}

/**
 * Where rdata holds names that a sender may have compressed (RFC 1035, RFC 3597 section 4). What is longer or shorter
 * than its type says is malformed.
 */
export const nameLayout: ReadonlyMap<number, NameLayout> = new Map(
  [
    [type.NS, 0, 1],
    [3, 0, 1],
    [4, 0, 1],
    [type.CNAME, 0, 1],
    [type.SOA, 0, 2],
    [7, 0, 1],
    [8, 0, 1],
    [9, 0, 1],
    [type.PTR, 0, 1],
    [14, 0, 2],
    [type.MX, 2, 1],
    [17, 0, 2],
    [18, 2, 1],
    [21, 2, 1],
    [26, 2, 2],
    [type.SRV, 6, 1],
    [36, 2, 1],
    [type.DNAME, 0, 1],
  ].map(([number = 0, skip = 0, names = 0]) => [number, { skip, names, rest: number === type.SOA ? 20 : 0 }]),
);

/** The two sets (one a family) that hold the learned addresses of one port class of one container. */
export interface LearnSets {
  readonly v4: string;
  readonly v6: string;
}

export interface NameDecision {
  readonly allow: boolean;
  /** Why not, when it is not for want of an entry. */
  readonly reason?: string;
  /** The entries that allow it, most specific first. */
  readonly entries: readonly PolicyEntry[];
  /** Where answers go; empty when not allowed. */
  readonly sets: readonly LearnSets[];
  /** Of an observed container: sets for addresses from other resolvers than ours. They permit nothing once it is enforced. */
  readonly shown?: readonly LearnSets[];
  /** Answers in private space are good (entry flag; zones and address entries are judged by `privateAllowed`). */
  readonly allowPrivate: boolean;
}

/** What DNS asks of the rest: who asks, what they may ask. Container keys are full ids of the namespace's owner. */
export interface DnsPolicy {
  /** The container that holds this source address now; undefined: nobody known. */
  whoIs(address: string): string | undefined;
  /** The same, waiting until it is known; undefined after `ms`. */
  awaitAsker(address: string, ms: number): Promise<string | undefined>;
  /** Waits until the container's policy stands in the kernel; false after `ms`. */
  awaitContainer(container: string, ms: number): Promise<boolean>;
  /** Waits until all networks of the container are known, and so the names of its neighbours; false after `ms`. */
  awaitNetworks(container: string, ms: number): Promise<boolean>;
  mode(container: string): Mode;
  decide(container: string, name: string): NameDecision;
  /** An address entry of this container covers the address (then a private answer is no rebinding). */
  coversAddress(container: string, address: string): boolean;
  /** Tells resolvers that the container may ask itself (dns=direct); undefined: it may none. */
  directResolvers(
    container: string,
  ):
    | ((at: { readonly address: string; readonly port: number; readonly proto: 'udp' | 'tcp' }) => boolean)
    | undefined;
  /** Names of the neighbours on the container's networks: addresses, or undefined when it is no such name. */
  localName(container: string, name: string): readonly string[] | undefined;
  /** The reverse: name of a neighbour's address. */
  localAddress(container: string, address: string): string | undefined;
  /** Addresses of the host itself, any interface. */
  hostAddresses(): ReadonlySet<string>;
  /** Public address space that Docker networks use: answers with such an address are rebinding, too. */
  inside(): readonly Range[];
  /** Prefixes of NAT64 translators; the well-known one alone when left out. */
  readonly nat64?: readonly Range[] | undefined;
  /** Search domains in force for the container (its resolv.conf), lower case. */
  searchDomains(container: string): readonly string[];
  /** What no container may reach, and what is only watched. */
  readonly threats: ThreatLook;
}

/** Told of each name denied or allowed, for counts and the event stream. */
export interface NameEvent {
  readonly container: string;
  readonly name: string;
  readonly type: string;
  /** would-deny: observed only, enforce would have denied it. */
  readonly verdict: Verdict | 'would-deny' | 'error';
  readonly reason: string;
}
