import type { Family } from '../lib/ip.js';
import { type ContainerFacts, type DockerView, startNetwork } from '../policy/container.js';

/** How long a container that was created is expected to start. `docker compose up` starts some seconds after it creates. */
export const EXPECTED_MS = 30_000;

/**
 * Containers that Docker has created and not started yet. Their chains and sets are made before they start: Docker 28
 * attaches a network only after the container's process exists, so that too little time is left for them between the veth
 * and the first packet.
 */
export class Newcomers {
  /** By container: when it was first seen in state "created" (ms since the epoch). */
  readonly #since = new Map<string, number>();

  /** Those first seen at most `EXPECTED_MS` before `now`. */
  of(view: DockerView, now: number): ReadonlySet<string> {
    for (const id of this.#since.keys())
      if (view.containers.get(id)?.state !== 'created') this.#since.delete(id);
    for (const c of view.containers.values())
      if (c.state === 'created' && !this.#since.has(c.id)) this.#since.set(c.id, now);
    return new Set([...this.#since].filter(([, at]) => at + EXPECTED_MS > now).map(([id]) => id));
  }
}

/** Families of the addresses that a container will get on its network; empty: that network is not among `managed`. */
export function expectedFamilies(
  c: ContainerFacts,
  networks: DockerView['networks'],
  managed: ReadonlySet<string>,
): ReadonlySet<Family> {
  const network = startNetwork(c, networks);
  if (network === undefined || !managed.has(network.id)) return new Set();
  return new Set(network.subnets.map((s): Family => (s.includes(':') ? 6 : 4)));
}
