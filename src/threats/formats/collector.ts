/** What parsers write to: ranges, names, and counts of the lines that gave none. */
import { NameTable } from '../name-table.js';
import { RangeBuilder } from '../ranges.js';

/** One line that was not taken. */
export interface Sample {
  /** Line, or item of a JSON document; 1-based. */
  readonly line: number;
  /** At most 80 characters of it. */
  readonly text: string;
  readonly reason: string;
}

const MAX_SAMPLES = 20;
const MAX_TEXT = 80;

/** Counts lines and keeps the first few. */
export class Tally {
  count = 0;
  readonly samples: Sample[] = [];

  add(line: number, text: string, reason: string): void {
    this.count += 1;
    if (this.samples.length >= MAX_SAMPLES) return;
    const shown = text.length > MAX_TEXT ? `${text.slice(0, MAX_TEXT)}…` : text;
    this.samples.push({ line, text: shown, reason });
  }
}

export class Collector {
  /** The line or item that is being read. */
  line = 0;
  /** Lines or items that gave a range or a name. */
  entries = 0;
  readonly v4 = new RangeBuilder(1);
  readonly v6 = new RangeBuilder(4);
  readonly names = new NameTable();
  /** Malformed. */
  readonly bad = new Tally();
  /** Well formed, but neither an address nor a name (URLs, hashes, cosmetic rules). */
  readonly unsupported = new Tally();
  /** Left out on purpose: below the score, expired, revoked. */
  readonly skipped = new Tally();
  /** Why the body is not complete, by its own trailer, count or metadata. */
  fault: string | undefined;

  refuse(text: string, reason: string): void {
    this.bad.add(this.line, text, reason);
  }
  cannot(text: string, reason: string): void {
    this.unsupported.add(this.line, text, reason);
  }
  skip(text: string, reason: string): void {
    this.skipped.add(this.line, text, reason);
  }
}

/** The settings of a feed's format. */
export interface FormatOptions {
  /** csv: the column's name, or its number from 1. ndjson: the field. Default: found by well-known names. */
  readonly column?: string | number;
  /** csv: one character. Default: a comma. */
  readonly delimiter?: string;
  /** ipsum: the fewest lists that must agree. Default 3. */
  readonly minScore?: number;
  /** Whether a name includes all names below it. Default: as the format defines it. */
  readonly subdomains?: boolean;
  /** zip: the file within. Default: the only one. */
  readonly member?: string;
  /** The time at which entries are expired or not; milliseconds since the epoch. */
  readonly now: number;
}

/** Reads a body in chunks; `end` is called once after the last chunk. Neither throws for anything in the body. */
export interface BodyParser {
  push(chunk: Uint8Array): void;
  end(): void;
}
