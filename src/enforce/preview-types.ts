import type { Mode } from '../policy/policy.js';

/** How a destination is named in an entry: see `PreviewDestination.entry`. */
export type DestinationKind = 'name' | 'address' | 'neighbour' | 'host' | 'published';
/** A destination that was used while the container was observed, and that mode enforce would deny now. */
export interface PreviewDestination {
  /** Permits it, ready to paste; null: no entry can. */
  readonly entry: string | null;
  readonly kind: DestinationKind;
  /** The name that was resolved, the neighbour, or the container that publishes the port; null: none. */
  readonly name: string | null;
  /** Empty where a name was only resolved. */
  readonly address: string;
  readonly port: number;
  /** dns: a name that was only resolved. */
  readonly proto: string;
  readonly first: string;
  readonly last: string;
  /** New connections that were recorded, or questions to DNS. */
  readonly count: number;
  readonly verdict: 'would-deny';
}
/** A connection that is open now, and that mode enforce would end. */
export interface PreviewFlow {
  readonly proto: string;
  readonly address: string;
  readonly port: number;
  readonly name: string | null;
  readonly entry: string | null;
  /** New connections to it pass: it was opened before its name was resolved through Drawbridge, or past its rules. */
  readonly passesAgain: boolean;
}
export interface RecordingGap {
  readonly from: string;
  readonly to: string;
  readonly reason: string;
}
/** What mode enforce would deny, by what was recorded, and what was not recorded. */
export interface PreviewView {
  readonly container: string;
  /** The owner of the record: compose:PROJECT/SERVICE or name:NAME. */
  readonly owner: string;
  readonly mode: Mode;
  /** The mode that is previewed: enforce, unless another was asked for, in which nothing is denied. */
  readonly to: Mode;
  /** Recorded without interruption since then; null: it is not recorded now. */
  readonly recordingSince: string | null;
  /** Before that, oldest first: when the owner ran without being recorded. */
  readonly gaps: readonly RecordingGap[];
  /** Connections that were not recorded: more than the log takes in a second, or than the record keeps. */
  readonly dropped: number;
  /** Traffic that cannot be recorded, as sentences. */
  readonly notRecorded: readonly string[];
  /** The most recent first. */
  readonly destinations: readonly PreviewDestination[];
  readonly flows: readonly PreviewFlow[];
}
