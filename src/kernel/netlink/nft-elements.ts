/** Elements of sets and maps of nf_tables over netlink; the tables themselves are the apply step's. */
import { batchBegin, batchEnd, changeElements, type RawElement } from './nft-codec.js';
import { NetlinkSocket } from './socket.js';

export interface ElementChange {
  readonly verb: 'add' | 'delete';
  readonly set: string;
  readonly elements: readonly RawElement[];
}

/** The sets of nf_tables of one network namespace. */
export class NftElements implements Disposable {
  readonly #socket: NetlinkSocket;

  constructor(options: { readonly namespace?: string | number } = {}) {
    this.#socket = new NetlinkSocket({ protocol: 'netfilter', ...options });
  }

  /** Changes of a table of the family bridge, all or none, in their order. Throws NetlinkError with the first refusal. */
  change(table: string, changes: readonly ElementChange[]): void {
    const messages = changes.map(({ verb, set, elements }) =>
      changeElements(verb, { family: 'bridge', table, set }, elements),
    );
    this.#socket.transaction(`change elements of table bridge ${table}`, [
      batchBegin(),
      ...messages,
      batchEnd(),
    ]);
  }

  close(): void {
    this.#socket.close();
  }
  [Symbol.dispose](): void {
    this.close();
  }
}
