/** Ends parts in the reverse order of their making; each gets its chance. */
export class DisposalStack {
  readonly #ends: (() => Promise<void>)[] = [];
  add(end: () => Promise<void>): void {
    this.#ends.push(end);
  }
  async end(): Promise<void> {
    const errors: unknown[] = [];
    for (const end of this.#ends.splice(0).reverse()) await end().catch((e: unknown) => errors.push(e));
    if (errors.length > 0) throw new AggregateError(errors, 'not everything ended cleanly');
  }
}
