import type { Addresses } from './netlink/addresses.js';

/** The host's own addresses, all interfaces, kept current by whoever hears of changes. */
export class HostAddresses {
  readonly #source: Addresses;
  #now: ReadonlySet<string> = new Set();

  constructor(source: Addresses) {
    this.#source = source;
  }

  get all(): ReadonlySet<string> {
    return this.#now;
  }

  async refresh(): Promise<void> {
    this.#now = new Set((await this.#source.list()).map((a) => a.address));
  }
}
