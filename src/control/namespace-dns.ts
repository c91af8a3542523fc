import type { Logger } from '../ports.js';
import type { InForce } from './enforcer.js';

export interface NamespaceDnsOptions {
  /** Whether Docker's resolver would ask for this container from the host's namespace. */
  readonly needs: (container: string) => Promise<boolean>;
  /** Path of the container's namespace; undefined while it has none. */
  readonly pathOf: (container: string) => string | undefined;
  /** Opens our sockets inside and lays the rules that lead to them; disposing closes the sockets. */
  readonly attach: (container: string, path: string) => Promise<Disposable>;
  /** Takes the rules out again. */
  readonly detach: (path: string) => Promise<void>;
  readonly log: Logger;
}

/** Keeps one resolver inside the namespace of each enforced container whose names Docker would ask from the host. */
export class NamespaceDns {
  readonly #o: NamespaceDnsOptions;
  readonly #attached = new Map<string, { path: string; sockets: Disposable }>();
  readonly #failed = new Map<string, string>();
  #chain: Promise<void> = Promise.resolve();

  constructor(options: NamespaceDnsOptions) {
    this.#o = options;
  }

  /** Containers whose names we cannot hold inside, with why. */
  get failed(): ReadonlyMap<string, string> {
    return this.#failed;
  }
  isAttached(container: string): boolean {
    return this.#attached.has(container);
  }

  /** After every pass. Serial; errors are kept for coverage and tried again with the next pass. */
  applied(state: InForce): void {
    this.#chain = this.#chain.then(() => this.#sync(state));
  }

  async close(): Promise<void> {
    await this.#chain;
    for (const { sockets } of this.#attached.values()) sockets[Symbol.dispose]();
    this.#attached.clear();
  }

  /** Takes our rules out of every namespace (teardown). */
  async detachAll(): Promise<void> {
    await this.#chain;
    for (const [id, { path, sockets }] of this.#attached) {
      sockets[Symbol.dispose]();
      await this.#o
        .detach(path)
        .catch((e: unknown) =>
          this.#o.log.warn(
            { container: id, err: String(e) },
            'rules in a namespace stay: it is probably gone',
          ),
        );
    }
    this.#attached.clear();
  }

  async #sync(state: InForce): Promise<void> {
    for (const [id, held] of this.#attached)
      if (!this.#wants(state, id) || this.#o.pathOf(id) !== held.path) await this.#drop(state, id);
    for (const id of this.#failed.keys()) if (!state.members.has(id)) this.#failed.delete(id);
    for (const id of state.members.keys())
      if (this.#wants(state, id) && !this.#attached.has(id)) await this.#attach(id);
  }

  #wants(state: InForce, id: string): boolean {
    return state.members.get(id)?.policy.mode === 'enforce';
  }

  async #drop(state: InForce, id: string): Promise<void> {
    const held = this.#attached.get(id);
    this.#attached.delete(id);
    held?.sockets[Symbol.dispose]();
    if (held && state.members.has(id)) await this.#o.detach(held.path).catch(() => undefined);
  }

  async #attach(id: string): Promise<void> {
    const path = this.#o.pathOf(id);
    if (path === undefined) return;
    try {
      if (!(await this.#o.needs(id))) return;
      this.#attached.set(id, { path, sockets: await this.#o.attach(id, path) });
      this.#failed.delete(id);
    } catch (e) {
      const why = e instanceof Error ? e.message : String(e);
      if (this.#failed.get(id) !== why)
        this.#o.log.warn({ container: id, err: why }, 'no resolver inside this namespace yet');
      this.#failed.set(id, why);
    }
  }
}
