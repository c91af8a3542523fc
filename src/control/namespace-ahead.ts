/** A namespace in which questions for Docker's resolver wait in sockets of ours, before it is known whose it is. */
export interface Prepared {
  /** Answers from here on, as this container's resolver; disposing closes the sockets. */
  claim(container: string): Disposable;
  /**
   * Docker answers from here on: takes our rules out and passes on what has come to our sockets; disposing closes them.
   * Rejects with NetlinkError.
   */
  passOn(): Promise<Disposable>;
  /** Closes the sockets; the rules stay. */
  drop(): void;
}
export interface AheadOptions {
  /** Takes the rules out again. */
  readonly detach: (path: string) => Promise<void>;
  /** Docker is connected and answers: a container of its would be known by now. */
  readonly answers: () => boolean;
}
/** Nothing of Docker's has told an owner until then: the namespace is of something else, such as the step of a build. */
const UNCLAIMED_MS = 10_000;

/** Namespaces that were furnished before it was known whose they are. */
export class Ahead {
  readonly #o: AheadOptions;
  readonly #onUnclaimed: (path: string) => void;
  readonly #prepared = new Map<string, { readonly prepared: Prepared; timer: NodeJS.Timeout }>();

  constructor(options: AheadOptions, onUnclaimed: (path: string) => void) {
    this.#o = options;
    this.#onUnclaimed = onUnclaimed;
  }

  has(path: string): boolean {
    return this.#prepared.has(path);
  }
  paths(): readonly string[] {
    return [...this.#prepared.keys()];
  }

  begin(path: string, prepared: Prepared): void {
    this.#prepared.set(path, { prepared, timer: this.#timer(path) });
  }

  #timer(path: string): NodeJS.Timeout {
    return setTimeout(() => {
      const found = this.#prepared.get(path);
      if (this.#o.answers()) this.#onUnclaimed(path);
      else if (found) found.timer = this.#timer(path); // what is new gets nothing until Docker answers
    }, UNCLAIMED_MS);
  }

  /** It is known whose it is. */
  take(path: string): Prepared | undefined {
    const found = this.#prepared.get(path);
    clearTimeout(found?.timer);
    this.#prepared.delete(path);
    return found?.prepared;
  }

  async end(): Promise<void> {
    for (const path of [...this.#prepared.keys()]) await this.#discard(path);
  }

  async #discard(path: string): Promise<void> {
    const prepared = this.take(path);
    await this.#o.detach(path).catch(() => undefined); // gone with its container
    prepared?.drop();
  }
}
