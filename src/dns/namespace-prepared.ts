/** A namespace in which questions for Docker's resolver wait in sockets of ours until its container is known. */
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
  /** Docker answers, and has listed its containers since `began` (ms, monotonic): one of them would be known by now. */
  readonly answers: (began: number) => boolean;
}
/** After this time without a container the namespace belongs to something else, such as the step of a build. */
const UNCLAIMED_MS = 10_000;

/** Network namespaces that were prepared before the Docker API reported their containers. */
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
    this.#prepared.set(path, { prepared, timer: this.#timer(path, performance.now()) });
  }

  #timer(path: string, began: number): NodeJS.Timeout {
    return setTimeout(() => {
      const found = this.#prepared.get(path);
      if (this.#o.answers(began)) this.#onUnclaimed(path);
      else if (found) found.timer = this.#timer(path, began); // what is new gets nothing until Docker answers
    }, UNCLAIMED_MS);
  }

  /** Its container is known. */
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
