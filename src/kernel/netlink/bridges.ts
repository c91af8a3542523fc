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

/**
 * More than Docker puts on a bridge (1,023 ports), and a number that nobody chooses: where it stands, it is ours to take
 * away. Beyond it the bridge forwards, but learns no more (Linux >= 6.7).
 */
export const LEARNED_BOUND = 2_053;
const UNBOUND = 0;

export class Bridges implements Disposable {
  readonly #requests: NetlinkSocket;

  constructor(options: { readonly namespace?: string | number } = {}) {
    this.#requests = new NetlinkSocket({ protocol: 'route', ...options });
  }

  /**
   * Bounds what a bridge learns, where nobody else has, and has it learn nothing from link-local frames: those pass no
   * hook, so whoever writes a neighbour's MAC there would get what is sent to the neighbour. Throws NetlinkError.
   */
  hold(index: number): void {
    this.#change(index, (now) => ({
      ...(now.bound === UNBOUND ? { bound: LEARNED_BOUND } : {}),
      ...(now.linkLocal === true ? { linkLocal: false } : {}),
    }));
  }

  /** As it was; false: there is nothing of ours. Throws NetlinkError. */
  release(index: number): boolean {
    return this.#change(index, ({ bound, linkLocal }) => {
      const isOurs = bound === undefined || bound === LEARNED_BOUND;
      return {
        ...(bound === LEARNED_BOUND ? { bound: UNBOUND } : {}),
        ...(isOurs && linkLocal === false ? { linkLocal: true } : {}),
      };
    });
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
