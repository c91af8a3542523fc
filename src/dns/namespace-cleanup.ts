import type { Logger } from '../lib/log.js';
import type { DockerView } from '../policy/container.js';

export interface ClearedOptions {
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
export class Cleared {
  readonly #o: ClearedOptions;
  readonly #ids = new Set<string>();

  constructor(options: ClearedOptions) {
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
