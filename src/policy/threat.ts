/** The result of threat feeds: which feed lists what, and the members of kernel sets. */

/** One feed that lists what was asked for. */
export interface ThreatHit {
  readonly feed: string;
  /** The range or name as it is listed, canonical. */
  readonly listed: string;
  readonly line: number;
  /** What `line` counts: lines of the body or items of its JSON document. */
  readonly positions: 'line' | 'item';
  /** Milliseconds since the epoch: listed without a break since then. */
  readonly since: number;
  /** Why it does not count all the same; null: it does. */
  readonly spared: string | null;
}

/** The flows that a feed evaluates: those to listed addresses, those from them, or both. */
export type Direction = 'outbound' | 'inbound' | 'both';
export const DIRECTIONS: readonly Direction[] = ['both', 'outbound', 'inbound'];
/** The end of a new flow that is looked up: the destination of a container, or the client of one. */
export type FlowEnd = 'dst' | 'src';
/** The feeds that evaluate it. */
export const DIRECTIONS_BY_END: Readonly<Record<FlowEnd, readonly Direction[]>> = {
  dst: ['both', 'outbound'],
  src: ['both', 'inbound'],
};

/** Pure look-ups in one published version, which does not change any more. Names are lower case, without a final dot. */
export interface ThreatLook {
  /** The first feed by which no container may reach it, or a name above it; undefined: none. */
  blockedName(name: string): ThreatHit | undefined;
  /** The first feed with action observe that lists it. */
  observedName(name: string): ThreatHit | undefined;
  /** As a destination. */
  blockedAddress(text: string): ThreatHit | undefined;
  observedAddress(text: string): ThreatHit | undefined;
  /** As the source of what comes in to a container. */
  blockedSource(text: string): ThreatHit | undefined;
  observedSource(text: string): ThreatHit | undefined;
}

/** Lookups in the version that is in force at the time of each call. */
export interface CurrentThreats extends ThreatLook {
  /** Another value as soon as another version is in force. */
  readonly version: unknown;
}

/**
 * Members of one family in columns, ascending: `words` numbers an address, most significant first (1: IPv4, 4: IPv6).
 * What is in them is disjoint.
 */
export interface SetColumns {
  readonly words: 1 | 4;
  readonly singles: Uint32Array;
  /** Networks wider than one address; `prefixes[i]` is the length of network `i`. */
  readonly nets: Uint32Array;
  readonly prefixes: Uint8Array;
}
export type ThreatAction = 'block' | 'observe';
export interface FamilyColumns {
  readonly v4: SetColumns;
  readonly v6: SetColumns;
}
/** The addresses that feeds of each direction list; one that is in feeds of two is in two. */
export type DirectedColumns = Readonly<Record<Direction, FamilyColumns>>;
/** For each action what the kernel should hold, protected space and exceptions taken out already. */
export type ThreatMembers = Readonly<Record<ThreatAction, DirectedColumns>>;

/** One version of all feeds together. */
export interface ThreatVersion {
  readonly look: ThreatLook;
  readonly members: ThreatMembers;
  /** Members that repeat what is listed of IPv4, as translators write it; none when left out. No limit counts them. */
  readonly translated?: number;
  /** Feeds that have a version in force, and the names that they list: for people. */
  readonly feeds: number;
  readonly names: number;
}

export const NO_THREATS: CurrentThreats = {
  version: undefined,
  blockedName: () => undefined,
  observedName: () => undefined,
  blockedAddress: () => undefined,
  observedAddress: () => undefined,
  blockedSource: () => undefined,
  observedSource: () => undefined,
};

/** For logs, DNS and `explain`: which feed lists it, and where. */
export const hitText = (hit: ThreatHit): string =>
  `threat feed ${hit.feed} lists ${hit.listed} (${hit.positions} ${hit.line}, since ${dayOf(hit.since)})`;
const dayOf = (ms: number): string => new Date(ms).toISOString().replace('.000Z', 'Z');

export const noColumns = (words: 1 | 4): SetColumns => ({
  words,
  singles: new Uint32Array(0),
  nets: new Uint32Array(0),
  prefixes: new Uint8Array(0),
});

export const columnCount = ({ words, singles, prefixes }: SetColumns): number =>
  singles.length / words + prefixes.length;
