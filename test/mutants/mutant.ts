/** One text of the source, exchanged for another. */
interface Change {
  readonly file: string;
  /** Exact text that occurs once in the file. When the source changes, the entry must follow: the run fails loudly. */
  readonly from: string;
  readonly to: string;
}
/** One change of the source that takes a security rule out, and the test that must fail for it (scripts/mutants.ts). */
export interface Mutant extends Change {
  readonly id: string;
  /** What the change does: what a user would lose. */
  readonly what: string;
  /** Further changes made together with the first: the layers that would otherwise hold in its place. */
  readonly also?: readonly Change[];
  readonly killedBy: {
    readonly file: string;
    /** Part of the full name of a test that must fail: a failure anywhere else does not count. */
    readonly test: string;
    /** Run that test only: for files whose tests do not build on each other. */
    readonly only?: boolean;
  };
}
