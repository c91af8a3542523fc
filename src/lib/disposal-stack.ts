/** Ends parts in the reverse order of their making; each gets its chance. */
export class DisposalStack {
  readonly #ends: (() => Promise<void>)[] = [];
  add(end: () => Promise<void>): void {
    this.#ends.push(end);
  }
  /** Adds a part that ends itself, and returns it. */
  use<T extends Disposable | AsyncDisposable>(part: T): T {
    this.add(async () => {
      if (Symbol.asyncDispose in part) await part[Symbol.asyncDispose]();
      else part[Symbol.dispose]();
    });
    return part;
  }
  async end(): Promise<void> {
    const errors: unknown[] = [];
    for (const end of this.#ends.splice(0).reverse()) await end().catch((e: unknown) => errors.push(e));
    if (errors.length > 0) throw new AggregateError(errors, 'not everything ended cleanly');
  }
}
