/** Network namespaces between their creation and the moment when their container is known, or their old rules are removed. */
import type { Logger } from '../lib/log.js';
import type { DockerView } from '../policy/container.js';
import type { ContainerNamespaces, PreparedNamespace } from './container-namespaces.js';

/** After this time without a container the namespace belongs to something else, such as a step of a build. */
const UNCLAIMED_MS = 10_000;

/** Network namespaces that were prepared before the Docker API reported their containers. */
export class UnclaimedNamespaces {
  readonly #namespaces: Pick<ContainerNamespaces, 'detach' | 'hasListedSince'>;
  readonly #onUnclaimed: (path: string) => void;
  readonly #prepared = new Map<string, { readonly prepared: PreparedNamespace; timer: NodeJS.Timeout }>();

  constructor(
    namespaces: Pick<ContainerNamespaces, 'detach' | 'hasListedSince'>,
    onUnclaimed: (path: string) => void,
  ) {
    this.#namespaces = namespaces;
    this.#onUnclaimed = onUnclaimed;
  }

  has(path: string): boolean {
    return this.#prepared.has(path);
  }
  paths(): readonly string[] {
    return [...this.#prepared.keys()];
  }

  add(path: string, prepared: PreparedNamespace): void {
    this.#prepared.set(path, { prepared, timer: this.#timer(path, performance.now()) });
  }

  #timer(path: string, began: number): NodeJS.Timeout {
    return setTimeout(() => {
      const found = this.#prepared.get(path);
      if (this.#namespaces.hasListedSince(began)) this.#onUnclaimed(path);
      else if (found) found.timer = this.#timer(path, began); // a new container gets no answer until Docker answers
    }, UNCLAIMED_MS);
  }

  /** Remove the namespace from this table: its container is known. */
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
    await this.#namespaces.detach(path).catch(() => undefined); // the namespace is gone with its container
    prepared?.drop();
  }
}

/** How many namespaces are cleaned at the same time. */
const AT_ONCE = 8;

/**
 * Containers without rules of an earlier run in their namespace. The sockets of that run were closed with it, so that its rules
 * would lead each query to a closed port where our resolver is not wanted.
 */
export class CleanedNamespaces {
  readonly #namespaces: Pick<ContainerNamespaces, 'pathOf' | 'detach'>;
  readonly #log: Logger;
  readonly #ids = new Set<string>();

  constructor(namespaces: Pick<ContainerNamespaces, 'pathOf' | 'detach'>, log: Logger) {
    this.#namespaces = namespaces;
    this.#log = log;
  }

  has(id: string): boolean {
    return this.#ids.has(id);
  }
  add(id: string): void {
    this.#ids.add(id);
  }

  /** Clean the namespaces of all containers of the view, except those of which `isSpared` is true. */
  async clean(
    { containers }: DockerView,
    isSpared: (id: string, path: string) => Promise<boolean>,
  ): Promise<void> {
    for (const id of this.#ids) if (!containers.has(id)) this.#ids.delete(id);
    const others = [...containers.values()]
      .filter((c) => c.networkMode !== 'host' && !this.#ids.has(c.id))
      .map((c) => c.id);
    for (let i = 0; i < others.length; i += AT_ONCE)
      await Promise.all(others.slice(i, i + AT_ONCE).map((id) => this.#clean(id, isSpared)));
  }

  async #clean(id: string, isSpared: (id: string, path: string) => Promise<boolean>): Promise<void> {
    const path = this.#namespaces.pathOf(id);
    if (path === undefined || (await isSpared(id, path))) return;
    await this.#namespaces.detach(path).then(
      () => this.#ids.add(id),
      (e: unknown) =>
        this.#log.debug({ container: id, err: String(e) }, 'cannot check this network namespace yet'),
    );
  }
}
