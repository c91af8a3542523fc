/** The revision of the store up to which its changes are applied to the kernel. */
export class AppliedRevision {
  readonly #revision: () => number;
  /** Newest revision that needed a pass, newest that a pass has read, newest that a pass has brought into force. */
  #needed = 0;
  #read = 0;
  #applied = 0;

  /** @param revision of the store now */
  constructor(revision: () => number) {
    this.#revision = revision;
  }

  /** Something that the kernel depends on has changed in the store. */
  changed(): void {
    this.#needed = this.#revision();
  }

  /** A pass reads the store at its current revision. */
  read(): void {
    this.#read = this.#revision();
  }

  /** The pass was applied. */
  applied(): void {
    this.#applied = this.#read;
  }

  /** Revisions that are newer and need no pass are included. */
  get value(): number {
    return this.#applied >= this.#needed ? this.#revision() : this.#applied;
  }
}
