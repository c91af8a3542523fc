/** Big sets of one network namespace: made, filled in slices, exchanged. Nothing but netlink, and no text of members. */
import type { SetColumns } from '../../policy/threat.js';
import { FLAG } from './codec.js';
import { isRefusal, NetlinkError } from './errors.js';
import {
  addBodies,
  type BigSet,
  BULK_COMMAND,
  createBody,
  destroyBody,
  pairBody,
} from './ipset-bulk-codec.js';
import { decodeHeader, IPSET_COMMAND, listBody, type SetHeader } from './ipset-codec.js';
import { NetlinkSocket } from './socket.js';

const SLICE_MS = 5;
/** IPSET_ERR_EXIST_SETNAME2: there is no second set. */
const NO_SECOND = 4101;

export class BulkSets implements Disposable {
  readonly #requests: NetlinkSocket;
  readonly #dumps: NetlinkSocket;

  constructor(options: { readonly namespace?: string | number } = {}) {
    this.#requests = new NetlinkSocket({ protocol: 'netfilter', ...options });
    this.#dumps = new NetlinkSocket({ protocol: 'netfilter', ...options });
  }

  /** Throws NetlinkError when one of that name stands. */
  create(set: BigSet): void {
    this.#do(`make set ${set.name}`, BULK_COMMAND.create, createBody(set), FLAG.create | FLAG.exclusive);
  }

  /** Adds all singles (hash:ip) or networks (hash:net), in slices between which the event loop breathes. */
  async fill(set: string, type: BigSet['type'], columns: SetColumns): Promise<void> {
    let sliceEnds = performance.now() + SLICE_MS;
    for (const body of addBodies(set, type, columns)) {
      this.#do(`fill set ${set}`, IPSET_COMMAND.add, body);
      if (performance.now() < sliceEnds) continue;
      await new Promise<void>((resume) => setImmediate(resume));
      sliceEnds = performance.now() + SLICE_MS;
    }
  }

  /** Undefined: there is no such set. */
  async header(set: string): Promise<SetHeader | undefined> {
    const out = { type: IPSET_COMMAND.list, body: listBody(set, true) };
    try {
      const [found] = await this.#dumps.dump(`look at set ${set}`, out, ({ body }) => {
        const header = decodeHeader(body);
        return header.ok ? header.value : undefined;
      });
      return found;
    } catch (error) {
      if (isRefusal(error, 'ENOENT')) return undefined;
      throw error;
    }
  }

  /**
   * What rules see under `set` is the fresh one's from now on, and what was there is under the fresh one's name. False:
   * there was none of that name, so that there is no fresh one any more.
   */
  exchange(fresh: string, set: string): boolean {
    if (this.#swap(fresh, set)) return true;
    try {
      this.#do(`rename set ${fresh} to ${set}`, BULK_COMMAND.rename, pairBody(fresh, set));
      return false;
    } catch (error) {
      if (this.#swap(fresh, set)) return true; // somebody has made it meanwhile
      throw error;
    }
  }

  #swap(a: string, b: string): boolean {
    try {
      this.#do(`swap sets ${a} and ${b}`, BULK_COMMAND.swap, pairBody(a, b));
      return true;
    } catch (error) {
      if (error instanceof NetlinkError && error.errno === NO_SECOND) return false;
      throw error;
    }
  }

  /** False: there was none. */
  destroy(set: string): boolean {
    try {
      this.#do(`destroy set ${set}`, BULK_COMMAND.destroy, destroyBody(set));
      return true;
    } catch (error) {
      if (isRefusal(error, 'ENOENT')) return false;
      throw error;
    }
  }

  close(): void {
    this.#requests.close();
    this.#dumps.close();
  }
  [Symbol.dispose](): void {
    this.close();
  }

  #do(operation: string, type: number, body: Buffer, flags = 0): void {
    this.#requests.request(operation, { type, body, flags });
  }
}
