import type { InForce } from '../control/enforcer.js';
import type { Fact } from '../dns/ledger.js';
import type { DnsService } from '../dns/service.js';
import type { Conntrack } from '../kernel/netlink/conntrack.js';
import type { Logger } from '../ports.js';

export interface InUseOptions {
  readonly dns: DnsService;
  readonly flows: Conntrack;
  readonly state: () => InForce | undefined;
  readonly log: Logger;
}
const EVERY_MS = 20_000;
const AHEAD_MS = 60_000;
const EXTENSION_MS = 120_000;

/** Addresses whose time runs out stay permitted while the container has a live flow to them. */
export class InUse implements AsyncDisposable {
  readonly #o: InUseOptions;
  readonly #timer: NodeJS.Timeout;
  #running: Promise<void> = Promise.resolve();

  constructor(options: InUseOptions) {
    this.#o = options;
    this.#timer = setInterval(() => {
      this.#running = this.look().catch((e: unknown) =>
        options.log.warn({ err: String(e) }, 'cannot tell which addresses are in use'),
      );
    }, EVERY_MS);
  }

  async look(): Promise<void> {
    const byContainer = new Map<string, Fact[]>();
    for (const f of this.#o.dns.expiring(AHEAD_MS))
      byContainer.set(f.container, [...(byContainer.get(f.container) ?? []), f]);
    for (const [container, facts] of byContainer) {
      const busy = await this.#destinations(container);
      for (const f of facts)
        if (busy.has(f.address)) await this.#o.dns.extend(container, f.address, Date.now() + EXTENSION_MS);
    }
  }

  async #destinations(container: string): Promise<ReadonlySet<string>> {
    const ports = this.#o.state()?.members.get(container)?.ports ?? [];
    const own = ports.flatMap((p) => [p.ip4, p.ip6]).filter((a) => a !== undefined);
    const found = new Set<string>();
    for (const src of own)
      for (const flow of await this.#o.flows.flows(src.includes(':') ? 6 : 4, { orig: { src } }))
        found.add(flow.reply.src);
    return found;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer);
    await this.#running;
  }
}
