/** Changes of links, local addresses and policy routing rules as the kernel announces them. */
import type { NeighbourRule } from '../../ruleset/neighbour-routes.js';
import type { NetlinkMessage } from './codec.js';
import { decodeAddress, decodeLink, type Link, type LocalAddress, ROUTE_MESSAGE } from './route-codec.js';
import { decodeRule, RULE_MESSAGE } from './rule-codec.js';
import { NetlinkSocket } from './socket.js';

/** enum rtnetlink_groups. */
const GROUP = { link: 1, ipv4Address: 5, ipv4Rule: 8, ipv6Address: 9 } as const;

export interface RouteListener {
  /** A link is new or has changed. */
  onLink?(link: Link): void;
  onLinkGone?(link: Link): void;
  onAddress?(address: LocalAddress): void;
  onAddressGone?(address: LocalAddress): void;
  /** A policy routing rule of Drawbridge's was removed. */
  onRuleGone?(rule: NeighbourRule): void;
  /** Announcements were lost: list links and addresses anew. */
  onOverrun(): void;
}

/**
 * Listens from the moment of its making: make it first, then list. A veth moved away is announced as gone, also when it
 * only leaves this namespace.
 */
export class RouteMonitor implements Disposable {
  readonly #socket: NetlinkSocket;
  readonly #listener: RouteListener;

  constructor(
    listener: RouteListener,
    options: { readonly namespace?: string | number; readonly receiveBuffer?: number } = {},
  ) {
    this.#listener = listener;
    const groups = [GROUP.link, GROUP.ipv4Address, GROUP.ipv6Address, GROUP.ipv4Rule];
    this.#socket = new NetlinkSocket({ protocol: 'route', groups, ...options });
    this.#socket.listen({
      onMessage: (message) => this.#receive(message),
      onOverrun: () => listener.onOverrun(),
      onMalformed: () => listener.onOverrun(), // something was said that we did not understand
    });
  }

  close(): void {
    this.#socket.close();
  }
  [Symbol.dispose](): void {
    this.close();
  }

  #receive({ type, body }: NetlinkMessage): void {
    if (type === ROUTE_MESSAGE.newLink || type === ROUTE_MESSAGE.delLink) {
      const link = decodeLink(body);
      if (!link.ok || isBridgePortNews(body)) return;
      if (type === ROUTE_MESSAGE.newLink) this.#listener.onLink?.(link.value);
      else this.#listener.onLinkGone?.(link.value);
    } else if (type === ROUTE_MESSAGE.newAddress || type === ROUTE_MESSAGE.delAddress) {
      const address = decodeAddress(body);
      if (!address.ok) return;
      if (type === ROUTE_MESSAGE.newAddress) this.#listener.onAddress?.(address.value);
      else this.#listener.onAddressGone?.(address.value);
    } else if (type === RULE_MESSAGE.deleteRule) {
      const rule = decodeRule(body);
      if (rule) this.#listener.onRuleGone?.(rule);
    }
  }
}

const AF_BRIDGE = 7;
/** A bridge announces its ports' state in the link group too, as "gone" when a port only leaves the bridge. */
function isBridgePortNews(body: Buffer): boolean {
  return body[0] === AF_BRIDGE;
}
