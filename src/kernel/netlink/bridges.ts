/** What a bridge learns from the frames of its ports, over rtnetlink. */
import { isRefusal } from './errors.js';
import {
  decodeLearning,
  type Learning,
  learningBody,
  linkByIndexBody,
  ROUTE_MESSAGE,
} from './route-codec.js';
import { NetlinkSocket } from './socket.js';

/** An earlier version bounded what a bridge learns to this number: where it is found, it is ours to take away. */
const FORMER_BOUND = 2_053;
const UNBOUND = 0;

export class Bridges implements Disposable {
  readonly #requests: NetlinkSocket;

  constructor(options: { readonly namespace?: string | number } = {}) {
    this.#requests = new NetlinkSocket({ protocol: 'route', ...options });
  }

  /** Takes the settings of an earlier version away; false: there are none. Throws NetlinkError. */
  release(index: number): boolean {
    return this.#change(index, ({ bound, linkLocal }) =>
      bound === FORMER_BOUND ? { bound: UNBOUND, ...(linkLocal === false ? { linkLocal: true } : {}) } : {},
    );
  }

  close(): void {
    this.#requests.close();
  }
  [Symbol.dispose](): void {
    this.close();
  }

  /** False: nothing to change, or the bridge is gone. */
  #change(index: number, wanted: (now: Learning) => Learning): boolean {
    try {
      const read = { type: ROUTE_MESSAGE.getLink, body: linkByIndexBody(index) };
      const link = this.#requests.request(`read how bridge ${index} learns`, read)[0];
      const now = link && decodeLearning(link.body);
      const to = now && wanted(now);
      if (to === undefined || Object.keys(to).length === 0) return false;
      const write = { type: ROUTE_MESSAGE.newLink, body: learningBody(index, to) };
      this.#requests.request(`change how bridge ${index} learns`, write);
      return true;
    } catch (error) {
      if (isRefusal(error, 'ENODEV')) return false; // it went meanwhile
      throw error;
    }
  }
}
