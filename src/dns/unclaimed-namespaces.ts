import type { Logger } from '../lib/log.js';
import type { DockerView } from '../policy/container.js';

/** A namespace in which questions for Docker's resolver wait in sockets of ours until its container is known. */
export interface PreparedNamespace {
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

export interface UnclaimedNamespacesOptions {
  /** Takes the rules out again. */
  readonly detach: (path: string) => Promise<void>;
  /** Docker answers, and has listed its containers since `began` (ms, monotonic): one of them would be known by now. */
  readonly answers: (began: number) => boolean;
}

/** After this time without a container the namespace belongs to something else, such as the step of a build. */
const UNCLAIMED_MS = 10_000;

/** Network namespaces that were prepared before the Docker API reported their containers. */
export class UnclaimedNamespaces {
  readonly #o: UnclaimedNamespacesOptions;
  readonly #onUnclaimed: (path: string) => void;
  readonly #prepared = new Map<string, { readonly prepared: PreparedNamespace; timer: NodeJS.Timeout }>();

  constructor(options: UnclaimedNamespacesOptions, onUnclaimed: (path: string) => void) {
    this.#o = options;
    this.#onUnclaimed = onUnclaimed;
  }

  has(path: string): boolean {
    return this.#prepared.has(path);
  }
  paths(): readonly string[] {
    return [...this.#prepared.keys()];
  }

  begin(path: string, prepared: PreparedNamespace): void {
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
  take(path: string): PreparedNamespace | undefined {
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

export interface CleanedNamespacesOptions {
  /** Path of the container's namespace; undefined while it has none. */
  readonly pathOf: (container: string) => string | undefined;
  /** Takes what leads to a resolver of ours out of a namespace. */
  readonly detach: (path: string) => Promise<void>;
  readonly log: Logger;
}

/** How many namespaces are looked at side by side. */
const AT_ONCE = 8;

/**
 * Containers whose namespace holds nothing of an earlier service: its sockets died with it, and rules that it left where
 * none of ours are wanted would lead every question to nobody.
 */
export class CleanedNamespaces {
  readonly #o: CleanedNamespacesOptions;
  readonly #ids = new Set<string>();

  constructor(options: CleanedNamespacesOptions) {
    this.#o = options;
  }

  has(id: string): boolean {
    return this.#ids.has(id);
  }
  add(id: string): void {
    this.#ids.add(id);
  }

  /** All of the view that are not cleared yet; `isSpared`: ours stands there, will, or nobody can tell yet. */
  async look(
    { containers }: DockerView,
    isSpared: (id: string, path: string) => Promise<boolean>,
  ): Promise<void> {
    for (const id of this.#ids) if (!containers.has(id)) this.#ids.delete(id);
    const others = [...containers.values()]
      .filter((c) => c.networkMode !== 'host' && !this.#ids.has(c.id))
      .map((c) => c.id);
    for (let i = 0; i < others.length; i += AT_ONCE)
      await Promise.all(others.slice(i, i + AT_ONCE).map((id) => this.#clear(id, isSpared)));
  }

  async #clear(id: string, isSpared: (id: string, path: string) => Promise<boolean>): Promise<void> {
    const path = this.#o.pathOf(id);
    if (path === undefined || (await isSpared(id, path))) return;
    await this.#o.detach(path).then(
      () => this.#ids.add(id),
      (e: unknown) =>
        this.#o.log.debug({ container: id, err: String(e) }, 'this namespace cannot be looked at yet'),
    );
  }
}
