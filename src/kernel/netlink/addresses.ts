/** Local addresses of one network namespace over rtnetlink. */

import { FLAG } from './codec.js';
import { isRefusal, NetlinkError } from './errors.js';
import { Links } from './links.js';
import {
  addressBody,
  addressDumpBody,
  decodeAddress,
  type LocalAddress,
  ROUTE_MESSAGE,
} from './route-codec.js';
import { NetlinkSocket } from './socket.js';

const EINVAL = 22;
const ENODEV = 19;

export class Addresses implements Disposable {
  readonly #requests: NetlinkSocket;
  readonly #dumps: NetlinkSocket;
  readonly #links: Links;

  constructor(options: { readonly namespace?: string | number } = {}) {
    this.#requests = new NetlinkSocket({ protocol: 'route', ...options });
    this.#dumps = new NetlinkSocket({ protocol: 'route', ...options });
    this.#links = new Links(options);
  }

  /** All local addresses of both families. Rejects with NetlinkError. */
  list(): Promise<readonly LocalAddress[]> {
    const out = { type: ROUTE_MESSAGE.getAddress, body: addressDumpBody() };
    return this.#dumps.dump('list addresses', out, (message) => {
      const address = decodeAddress(message.body);
      return address.ok ? address.value : undefined;
    });
  }

  /** Puts ADDRESS/PREFIX on an interface; false: it was there. Throws NetlinkError. */
  add(ifname: string, cidr: string): boolean {
    const operation = `add address ${cidr} to ${ifname}`;
    const out = { type: ROUTE_MESSAGE.newAddress, flags: FLAG.create | FLAG.exclusive };
    return this.#change(operation, ifname, cidr, out, ['EEXIST']);
  }

  /** Takes ADDRESS/PREFIX off an interface; false: it was not there. Throws NetlinkError. */
  remove(ifname: string, cidr: string): boolean {
    const operation = `remove address ${cidr} from ${ifname}`;
    return this.#change(operation, ifname, cidr, { type: ROUTE_MESSAGE.delAddress }, ['EADDRNOTAVAIL']);
  }

  close(): void {
    this.#requests.close();
    this.#dumps.close();
    this.#links.close();
  }
  [Symbol.dispose](): void {
    this.close();
  }

  #change(
    operation: string,
    ifname: string,
    cidr: string,
    out: { readonly type: number; readonly flags?: number },
    already: readonly string[],
  ): boolean {
    const link = this.#links.byName(ifname);
    if (link === undefined) throw new NetlinkError(operation, ENODEV, { reason: `no interface ${ifname}` });
    const body = addressBody(link.index, cidr);
    if (body === undefined) throw new NetlinkError(operation, EINVAL, { reason: 'not ADDRESS/PREFIX' });
    try {
      this.#requests.request(operation, { ...out, body });
      return true;
    } catch (error) {
      if (isRefusal(error, ...already)) return false;
      throw error;
    }
  }
}
