import { clipped, type Parsed, type Problem } from '../lib/problem.js';

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
