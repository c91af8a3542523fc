import type { Conntrack } from '../kernel/netlink/conntrack.js';
import type { Logger } from '../lib/log.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { Flow } from '../ruleset/flow.js';
import type { Marks } from '../ruleset/marks.js';
import type { DnsService } from './dns-service.js';

export interface TtlExtenderOptions {
  readonly dns: DnsService;
  readonly flows: Conntrack;
  readonly marks: Marks;
  readonly state: () => AppliedState | undefined;
  readonly log: Logger;
}
const EVERY_MS = 20_000;
const AHEAD_MS = 60_000;
const EXTENSION_MS = 120_000;

/** Keeps an address permitted beyond its TTL while the container has a live flow to it. */
export class TtlExtender implements AsyncDisposable {
  readonly #o: TtlExtenderOptions;
  readonly #timer: NodeJS.Timeout;
  #running: Promise<void> = Promise.resolve();

  constructor(options: TtlExtenderOptions) {
    this.#o = options;
    this.#timer = setInterval(() => {
      this.#running = this.extendInUse().catch((e: unknown) =>
        options.log.warn({ err: String(e) }, 'cannot list which resolved addresses are in use'),
      );
    }, EVERY_MS);
  }

  async extendInUse(): Promise<void> {
    const facts = this.#o.dns.expiring(AHEAD_MS);
    if (facts.length === 0) return;
    const busy = await this.#busy();
    for (const f of facts)
      if (busy.has(`${f.container} ${f.address}`))
        await this.#o.dns.extend(f.container, f.address, Date.now() + EXTENSION_MS);
  }

  /** "CONTAINER ADDRESS" of every live flow: one dump a family, whatever the number of containers. */
  async #busy(): Promise<ReadonlySet<string>> {
    const { flows, state } = this.#o;
    const owners = new Map<string, string>();
    for (const b of state()?.vethMap.bindings.values() ?? [])
      for (const a of [b.ip4, b.ip6]) if (a !== undefined) owners.set(a, b.container);
    const all = [...(await flows.flows(4)), ...(await flows.flows(6))];
    const hosted = this.#hosted();
    const ownerOf = (f: Flow): string | undefined =>
      hosted.get((f.mark & this.#o.marks.identity) >>> this.#o.marks.shift) ?? owners.get(f.orig.src);
    return new Set(all.map((f) => `${ownerOf(f)} ${f.reply.src}`));
  }

  /** Containers in the host's network, by the identity that marks their flows. */
  #hosted(): ReadonlyMap<number, string> {
    const members = [...(this.#o.state()?.subjects.values() ?? [])];
    return new Map(members.filter((m) => m.host).map((m) => [m.identity, m.id]));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer);
    await this.#running;
  }
}
