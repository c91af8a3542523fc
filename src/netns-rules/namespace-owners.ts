import { setTimeout as delay } from 'node:timers/promises';
import type { Logger } from '../lib/log.js';
import type { Endpoint } from '../policy/container.js';
import type { LanEnd } from './one-namespace.js';

type Awaited = readonly {
  readonly id: string;
  readonly endpoints: readonly Endpoint[];
  readonly isEnforced: () => boolean;
}[];
export interface LanClaimsOptions {
  readonly kernel: {
    /** Nothing leaves until something is laid; what stands already stays. */
    close(path: string): void;
    remove(path: string): boolean;
    ends(path: string): Promise<readonly LanEnd[]>;
  };
  /** There is a macvlan or ipvlan network to be held. */
  readonly isNeeded: () => boolean;
  /** On a macvlan or ipvlan network, about to get a namespace. */
  readonly awaited: () => Awaited;
  /** Asks for this network once more: what is known of it is older than a namespace. */
  readonly askAgain: (networkId: string) => void;
  /** A namespace has been told by the addresses in it. */
  readonly onClaim: (container: string, path: string) => void;
  readonly log: Logger;
}

const POLL_MS = 5;
/** While no container is awaited. */
const IDLE_MS = 20;
/** A sandbox's file is mounted within milliseconds; its link comes some 50 ms later. */
const CLAIM_MS = 5_000;

/**
 * Namespaces that Docker has just made: closed at once, then told by the addresses that appear in them, some 80 ms before
 * the container's first instruction. Inspect would tell 160 ms after it.
 */
export class LanClaims {
  readonly #o: LanClaimsOptions;
  readonly #paths = new Map<string, string>();
  readonly #running = new Set<string>();
  #ended = false;

  constructor(options: LanClaimsOptions) {
    this.#o = options;
  }

  pathOf(container: string): string | undefined {
    return this.#paths.get(container);
  }
  forget(container: string): void {
    this.#paths.delete(container);
  }
  retain(isUp: (container: string) => boolean): void {
    for (const id of this.#paths.keys()) if (!isUp(id)) this.#paths.delete(id);
  }
  end(): void {
    this.#ended = true;
  }

  /**
   * It is not said for whom: closed where it may be one of those that are awaited. Engine 28 reports the endpoint of a
   * container some 100 ms after its namespace, Engine 26 before it.
   */
  appeared(path: string): void {
    if (this.#running.has(path) || !this.#o.isNeeded()) return;
    this.#running.add(path);
    void this.#claim(path).finally(() => this.#running.delete(path));
  }

  /**
   * Only what Docker was asked for after the namespace appeared says whose its addresses are: until then they may be those
   * of a container that has gone.
   */
  async #claim(path: string): Promise<void> {
    const appeared = performance.now();
    const end = appeared + CLAIM_MS;
    const asked = new Set<string>();
    let isClosed = false;
    while (!this.#ended && performance.now() < end) {
      const awaited = this.#o.awaited();
      if (awaited.length === 0) {
        isClosed = true; // by the thread; closed again here, a namespace that has been opened meanwhile would stay closed
        await delay(IDLE_MS);
        continue;
      }
      try {
        if (!isClosed && awaited.some((c) => c.isEnforced())) this.#o.kernel.close(path);
        isClosed = true;
        const found = ownerOf(await this.#o.kernel.ends(path), awaited, appeared);
        if (found?.isProven) return this.#told(found.owner, path);
        if (found && !asked.has(found.networkId)) this.#o.askAgain(found.networkId);
        if (found) asked.add(found.networkId);
      } catch (e) {
        const { code } = e as NodeJS.ErrnoException;
        if (code === 'ENOENT') return; // it was the file's end that was told
        if (code !== 'EINVAL')
          this.#o.log.debug({ path, err: String(e) }, 'a new namespace cannot be closed yet');
      }
      await delay(POLL_MS);
    }
  }

  #told({ id: container, isEnforced }: Awaited[number], path: string): void {
    if (!isEnforced()) return void this.#o.kernel.remove(path);
    this.#o.log.debug(
      { container, path },
      'the network namespace of the container was identified by its addresses, and closed',
    );
    this.#paths.set(container, path);
    this.#o.onClaim(container, path);
  }
}

interface Found {
  readonly owner: Awaited[number];
  readonly networkId: string;
  /** Docker was asked for the endpoint after the namespace appeared. */
  readonly isProven: boolean;
}

/** Whose link this is: its address, and its MAC where the network has such, are one awaited container's. */
function ownerOf(ends: readonly LanEnd[], awaited: Awaited, appeared: number): Found | undefined {
  const fits = (e: Endpoint): boolean =>
    ends.some(
      (end) =>
        (e.mac === '' || e.mac === end.mac) &&
        [e.ip4, e.ip6].some((a) => a !== undefined && end.addresses.includes(a)),
    );
  const found = awaited.flatMap((owner) =>
    owner.endpoints.filter(fits).map(
      (e): Found => ({
        owner,
        networkId: e.networkId,
        isProven: (e.askedAt ?? Number.NEGATIVE_INFINITY) > appeared,
      }),
    ),
  );
  return found.find((f) => f.isProven) ?? found[0];
}
