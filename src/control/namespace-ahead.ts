import type { Logger } from '../ports.js';

/** A namespace that leads to us, before it is known whose it is. */
export interface Prepared {
  /** Answers from here on, as this container's resolver; disposing closes the sockets. */
  claim(container: string): Disposable;
  /** Closes the sockets; the rules stay. */
  drop(): void;
}
export interface AheadOptions {
  /** Opens our sockets inside and lays the rules that lead to them. */
  readonly prepare: (path: string) => Promise<Prepared>;
  /** Takes the rules out again. */
  readonly detach: (path: string) => Promise<void>;
  readonly log: Logger;
}
const UNCLAIMED_MS = 10_000;

/** Namespaces that were furnished before anybody could tell whose they are. */
export class Ahead {
  readonly #o: AheadOptions;
  readonly #prepared = new Map<
    string,
    { readonly ready: Promise<Prepared>; readonly timer: NodeJS.Timeout }
  >();

  constructor(options: AheadOptions) {
    this.#o = options;
  }

  has(path: string): boolean {
    return this.#prepared.has(path);
  }

  begin(path: string): void {
    const ready = this.#o.prepare(path);
    const timer = setTimeout(() => void this.#discard(path), UNCLAIMED_MS);
    this.#prepared.set(path, { ready, timer });
    ready.catch((e: unknown) => {
      this.#o.log.debug({ path, err: String(e) }, 'a new namespace could not be furnished ahead');
      void this.#discard(path);
    });
  }

  /** It is somebody's now. */
  take(path: string): Promise<Prepared> | undefined {
    const found = this.#prepared.get(path);
    clearTimeout(found?.timer);
    this.#prepared.delete(path);
    return found?.ready;
  }

  async end(): Promise<void> {
    for (const path of [...this.#prepared.keys()]) await this.#discard(path);
  }

  /** Nobody's after all. */
  async #discard(path: string): Promise<void> {
    const prepared = await this.take(path)?.catch(() => undefined);
    if (!prepared) return;
    prepared.drop();
    await this.#o.detach(path).catch(() => undefined); // gone with its container
  }
}
