import type { Problem } from '../lib/problem.js';
import type { DestEntry, Entry } from './entry.js';
import type { Limits } from './limits.js';

export type Mode = 'enforce' | 'observe' | 'off';

/** An allowlist (spec 4), from the folder or the store. */
export interface List {
  readonly name: string;
  readonly source: 'folder' | 'store';
  /** The file it came from (folder) */
  readonly file?: string;
  readonly description?: string;
  /** Globs of the hosts (`node`) where it counts; absent: at all. */
  readonly hosts?: readonly string[];
  readonly match?: ListMatch;
  readonly mode?: Mode;
  readonly allow: readonly Entry[];
}
export interface ListMatch {
  readonly name?: string;
  readonly image?: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly network?: string;
}
/** Where an entry of a policy came from, for explain and for revoke's hint. */
export type EntrySource =
  | { readonly from: 'label' }
  | { readonly from: 'list'; readonly list: string }
  | { readonly from: 'claim'; readonly list: string }
  | { readonly from: 'baseline'; readonly list: string }
  | { readonly from: 'grant'; readonly grant: string };
export interface PolicyEntry {
  readonly entry: DestEntry;
  readonly source: EntrySource;
}
/** A grant by API or CLI. Open-ended ones belong to `owner`; timed ones to one container id. */
export interface Grant {
  readonly id: string;
  readonly entry: string;
  /** Owner key: "compose:PROJECT/SERVICE" or "name:NAME" (open-ended), "id:CONTAINER" (timed). */
  readonly owner: string;
  /** The host of the container (timed); absent in what older versions wrote. */
  readonly node?: string;
  readonly created: string;
  /** RFC 3339 UTC */
  readonly expires?: string;
}
export interface Policy {
  readonly mode: Mode;
  /** What set the mode: "api", "label", "claim:LIST", "has entries", "default", "broken label". */
  readonly modeFrom: string;
  readonly entries: readonly PolicyEntry[];
  readonly lists: readonly string[];
  /** From its own label. They hold while it is enforced. */
  readonly limits?: Limits;
  /** Reasons that belong in coverage: broken labels, missing lists, ignored image labels. */
  readonly notes: readonly PolicyNote[];
}
/** `code` marks the notes that are counted in the status; other notes have none. */
export interface PolicyNote extends Problem {
  readonly code?: typeof BROKEN_LABEL | typeof MISSING_LIST;
}
/** A drawbridge.* label does not parse, or is unknown: the container is enforced with an empty policy. */
export const BROKEN_LABEL = 'broken-label';
/** A list that a label, another list or the baseline names does not exist. */
export const MISSING_LIST = 'missing-list';
