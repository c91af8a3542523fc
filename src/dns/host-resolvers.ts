import type { Addresses } from '../kernel/netlink/addresses.js';
import type { Logger } from '../lib/log.js';
import { errorText } from '../lib/problem.js';
import type { DesiredInput, Subject } from '../ruleset/desired-state.js';
import { hostResolver } from '../ruleset/host-net.js';
import type { DnsService } from './dns-service.js';

export interface HostResolversOptions {
  readonly dns: DnsService;
  readonly port: number;
  readonly addresses: Addresses;
  readonly log: Logger;
}
interface Open {
  readonly identity: number;
  readonly sockets: readonly Disposable[];
}

/** Our resolver on an address of its own for each enforced container in the host's network. */
export class HostResolvers implements Disposable {
  readonly #o: HostResolversOptions;
  readonly #open = new Map<string, Open>();
  /** Containers without a working resolver, with the reason. */
  readonly failed = new Map<string, string>();

  constructor(options: HostResolversOptions) {
    this.#o = options;
  }

  /** Open the resolvers that are missing and close the others. A failure is logged: the queries of that container get no answer. */
  async sync(input: DesiredInput): Promise<void> {
    const wanted = new Map(
      input.subjects.filter((m) => m.host && m.policy.mode === 'enforce').map((m) => [m.id, m]),
    );
    for (const [id, open] of this.#open)
      if (wanted.get(id)?.identity !== open.identity) this.#close(id, open);
    for (const id of this.failed.keys()) if (!wanted.has(id)) this.failed.delete(id);
    for (const [id, member] of wanted) if (!this.#open.has(id)) await this.#listen(id, member);
  }

  /** The addresses stay, as the rules do that lead to them. */
  [Symbol.dispose](): void {
    for (const { sockets } of this.#open.values()) for (const s of sockets) s[Symbol.dispose]();
    this.#open.clear();
  }

  async #listen(id: string, { identity }: Subject): Promise<void> {
    const sockets: Disposable[] = [];
    try {
      this.#o.addresses.add('lo', `${hostResolver(identity, 6)}/128`);
      for (const family of [4, 6] as const)
        sockets.push(await this.#o.dns.listen(hostResolver(identity, family), this.#o.port, id));
      this.#open.set(id, { identity, sockets });
      this.failed.delete(id);
    } catch (e) {
      for (const s of sockets) s[Symbol.dispose]();
      const why = errorText(e);
      if (this.failed.get(id) !== why)
        this.#o.log.warn(
          { container: id, err: why },
          'cannot open the resolver of this container in the host network: its DNS queries get no answer',
        );
      this.failed.set(id, why);
    }
  }

  #close(id: string, { identity, sockets }: Open): void {
    for (const s of sockets) s[Symbol.dispose]();
    this.#open.delete(id);
    this.#o.addresses.remove('lo', `${hostResolver(identity, 6)}/128`);
  }
}
