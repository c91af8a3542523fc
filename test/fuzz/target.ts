/** What can be fuzzed: where inputs come from, and what must hold for each of them. */
import { deepStrictEqual } from 'node:assert';
import type { Random } from './random.js';

export interface Target {
  readonly name: string;
  readonly corpus: readonly Buffer[];
  /** Words of the format, for the mutations. */
  readonly words: readonly Buffer[];
  /** Bytes. */
  readonly maxLength: number;
  /** Structured inputs beside the mutated ones: one in three. */
  generate?(random: Random): Buffer;
  /** Throws when something that must hold does not. */
  check(input: Buffer): void | Promise<void>;
}

export const bytes = (...texts: readonly string[]): Buffer[] => texts.map((text) => Buffer.from(text));

export function must(holds: boolean, what: string): asserts holds {
  if (!holds) throw new Error(what);
}

export function mustEqual(actual: unknown, expected: unknown, what: string): void {
  try {
    deepStrictEqual(actual, expected);
  } catch (error) {
    throw new Error(what, { cause: error });
  }
}
