import type { Range } from '../lib/ip.js';
import { clipped, type Parsed, type Problem } from '../lib/problem.js';

export type Proto = 'tcp' | 'udp' | 'tcp+udp' | 'icmp' | 'sctp' | 'gre' | 'esp' | `ip-${number}`;
export interface PortRange {
  readonly lo: number;
  readonly hi: number;
}
export type Target =
  | { readonly kind: 'address'; readonly range: Range }
  /** exact: the name itself; below: one or more labels below it ("*.x"); both: ".x". name is A-labels, lower case, no trailing dot. */
  | { readonly kind: 'name'; readonly match: 'exact' | 'below' | 'both'; readonly name: string }
  | { readonly kind: 'container'; readonly name: string }
  | { readonly kind: 'host' }
  | { readonly kind: 'any' };
export type Flag = 'private' | 'broad' | 'tls=off' | 'tls=verify' | 'quic=deny' | 'ech=allow' | 'dns=direct';

/** One destination of a policy (docs/lists.md). `canonical` identifies it: two entries with the same canonical text are the same. */
export interface DestEntry {
  readonly kind: 'dest';
  readonly canonical: string;
  readonly target: Target;
  /** Empty: the default of its kind (address, container, host, any: all of tcp, udp and icmp echo; name: 80/tcp, 443/tcp, 443/udp). */
  readonly ports: readonly PortRange[];
  /** When it is undefined: tcp where ports are given, else the default of its kind. */
  readonly proto?: Proto;
  readonly flags: readonly Flag[];
  /** A deny entry ("!" before it): it denies what it covers. Without ports and protocol it covers all of them. It has no flags. */
  readonly deny?: true;
  readonly comment?: string;
  /** RFC 3339 UTC. */
  readonly expires?: string;
}
export interface ListRef {
  readonly kind: 'list';
  readonly canonical: string;
  readonly list: string;
}
export type Entry = DestEntry | ListRef;

/** An entry with its remedy; a name has up to 253 characters. */
const MAX_TEXT = 400;

/** A refusal while an entry is read; `at` is the offset in the text. Never leaves the parser (see `attempt`). */
class EntryFault extends Error {
  readonly remedy: string;
  readonly at: number;
  constructor(detail: string, remedy: string, at = 0) {
    super(detail);
    this.remedy = remedy;
    this.at = at;
  }
}

export function refuse(detail: string, remedy: string, at = 0): never {
  throw new EntryFault(detail, remedy, at);
}

/** Runs a parser; its fault becomes a problem with the column (1-based) of `offset` + `at`. */
export function attempt<T>(parse: () => T, offset = 0): Parsed<T> {
  try {
    return { ok: true, value: parse() };
  } catch (error) {
    if (!(error instanceof EntryFault)) throw error;
    const problem: Problem = {
      detail: clipped(error.message, MAX_TEXT),
      remedy: clipped(error.remedy, MAX_TEXT),
      column: offset + error.at + 1,
    };
    return { ok: false, problems: [problem] };
  }
}
