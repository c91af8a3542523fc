/** What a person may say about a feed's format. */
export interface FormatOptions {
  /** csv: the column's name, or its number from 1. ndjson: the field. Default: found by well-known names. */
  readonly column?: string | number;
  /** csv: one character. Default: a comma. */
  readonly delimiter?: string;
  /** ipsum: the fewest lists that must agree. Default 3. */
  readonly minScore?: number;
  /** Names stand for all below them too. Default: as the format itself means it. */
  readonly subdomains?: boolean;
  /** zip: the file within. Default: the only one. */
  readonly member?: string;
  /** What counts as expired; milliseconds since the epoch. */
  readonly now: number;
}
