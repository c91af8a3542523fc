import type { ContainerFacts, DockerView } from '../policy/container.js';
import type { Binding } from '../ruleset/applied-state.js';

type Bindings = ReadonlyMap<number, Binding>;

const keyOf = (container: string, networkId: string): string => `${container} ${networkId}`;

/**
 * Endpoints of deleted veths. Docker can assign their addresses to another container before Drawbridge receives the event:
 * until Docker has answered a new request, no entry for the container leads to them and no name resolves to them.
 */
export class DepartedEndpoints {
  readonly #clock: () => number;
  /** When the veth was found gone (ms, monotonic), by container and network. */
  readonly #gone = new Map<string, number>();

  constructor(clock: () => number) {
    this.#clock = clock;
  }

  /** The view without them. */
  without(view: DockerView, before: Bindings, now: Bindings): DockerView {
    const bound = new Set([...now.values()].map((b) => keyOf(b.container, b.networkId)));
    for (const b of before.values()) {
      const key = keyOf(b.container, b.networkId);
      if (!bound.has(key) && !this.#gone.has(key)) this.#gone.set(key, this.#clock());
    }
    for (const key of this.#gone.keys()) if (bound.has(key)) this.#gone.delete(key);
    return this.#gone.size === 0 ? view : this.#strip(view);
  }

  #strip(view: DockerView): DockerView {
    const left = new Set<string>();
    const containers = new Map<string, ContainerFacts>();
    for (const [id, c] of view.containers) {
      const endpoints = c.endpoints.filter((e) => {
        const key = keyOf(id, e.networkId);
        const at = this.#gone.get(key);
        const isGone = at !== undefined && (e.askedAt ?? Number.NEGATIVE_INFINITY) <= at;
        if (isGone) left.add(key);
        return !isGone;
      });
      containers.set(id, endpoints.length === c.endpoints.length ? c : { ...c, endpoints });
    }
    for (const key of this.#gone.keys()) if (!left.has(key)) this.#gone.delete(key);
    return { ...view, containers };
  }
}
