/**
 * The links of a network namespace, the netns ids of others, and the learning settings of bridges, over rtnetlink
 * (include/uapi/linux/rtnetlink.h, if_link.h, net_namespace.h).
 */

import { closeSync, openSync } from 'node:fs';
import { ignoreMissing } from '../../lib/problem.js';
import {
  attribute,
  cString,
  type Decoded,
  nested,
  parseAttributes,
  readCString,
  readI32le,
  readMac,
  readU32le,
  u32At,
  u32le,
} from './netlink-codec.js';
import { isRefusal } from './netlink-error.js';
import { NetlinkSocket, type Outgoing } from './netlink-socket.js';

export const ROUTE_MESSAGE = {
  newLink: 16,
  delLink: 17,
  getLink: 18,
  newAddress: 20,
  delAddress: 21,
  getAddress: 22,
  newNamespaceId: 88,
  getNamespaceId: 90,
} as const;
const LINK = {
  address: 1,
  name: 3,
  mtu: 4,
  link: 5,
  master: 10,
  info: 18,
  alias: 20,
  statistics: 23,
  extensionMask: 29,
  namespaceId: 37,
  targetNamespaceId: 46,
} as const;
/** Of a message of some fifty. */
const DECODED = new Set([
  LINK.address,
  LINK.name,
  LINK.mtu,
  LINK.link,
  LINK.master,
  LINK.info,
  LINK.alias,
  LINK.namespaceId,
]);
const INFO_KIND = 1;
const INFO_DATA = 2;
/** IFLA_BR_MULTI_BOOLOPT (Linux >= 5.0), IFLA_BR_FDB_MAX_LEARNED (Linux >= 6.7). */
const BRIDGE = { options: 46, maxLearned: 49 } as const;
/** IFLA_BR_STP_STATE, IFLA_BR_VLAN_FILTERING, IFLA_BR_NF_CALL_IPTABLES. */
const FILTERING = { stp: 5, vlan: 7, netfilter: 36 } as const;
/** BR_BOOLOPT_NO_LL_LEARN. */
const NO_LINK_LOCAL_LEARN = 1;
const SKIP_STATISTICS = 1 << 3;
/** tx_packets of struct rtnl_link_stats64. */
const SENT_PACKETS = 8;
const IFF_UP = 1;
const NAMESPACE = { id: 1, pid: 2, fd: 3 } as const;

const IFINFOMSG = 16;
const RTGENMSG = 4;

export interface Link {
  readonly index: number;
  readonly name: string;
  /** veth, bridge, …; undefined for plain devices such as lo and eth0. */
  readonly kind?: string;
  /** Index of the bridge or bond it is a port of. */
  readonly master?: number;
  /** Lower case with colons. */
  readonly mac?: string;
  /** Index of the peer (veth) or lower device, counted in the namespace it lives in. */
  readonly peerIndex?: number;
  /** Namespace of the peer, as this namespace numbers it; absent when it lives here. */
  readonly linkNamespaceId?: number;
  readonly up: boolean;
  /** Bytes of the largest packet. */
  readonly mtu?: number;
  readonly alias?: string;
}

/** All links, without their statistics. */
export function linkDumpBody(): Buffer {
  return Buffer.concat([Buffer.alloc(IFINFOMSG), attribute(LINK.extensionMask, u32le(SKIP_STATISTICS))]);
}
/** One link by index, in another namespace when its netns id is given (IFLA_TARGET_NETNSID, Linux >= 4.16). */
export function linkByIndexBody(index: number, namespaceId?: number): Buffer {
  const header = Buffer.alloc(IFINFOMSG);
  header.writeInt32LE(index, 4);
  const parts = [header, attribute(LINK.extensionMask, u32le(SKIP_STATISTICS))];
  if (namespaceId !== undefined) parts.push(attribute(LINK.targetNamespaceId, u32le(namespaceId)));
  return Buffer.concat(parts);
}
function linkByNameBody(name: string): Buffer {
  return Buffer.concat([Buffer.alloc(IFINFOMSG), attribute(LINK.name, cString(name))]);
}

export function decodeLink(body: Buffer): Decoded<Link> {
  const attributes = parseAttributes(body, IFINFOMSG, DECODED);
  const name = readCString(attributes.get(LINK.name));
  if (body.length < IFINFOMSG || name === undefined) return { ok: false, error: 'a link without name' };
  const kind = readCString(parseAttributes(attributes.get(LINK.info)).get(INFO_KIND));
  const master = readU32le(attributes.get(LINK.master));
  const mac = readMac(attributes.get(LINK.address));
  const peerIndex = readU32le(attributes.get(LINK.link));
  const linkNamespaceId = readI32le(attributes.get(LINK.namespaceId));
  const alias = readCString(attributes.get(LINK.alias));
  const value: { -readonly [K in keyof Link]: Link[K] } = {
    index: u32At(body, 4) | 0,
    name,
    up: (u32At(body, 8) & IFF_UP) !== 0,
  };
  const mtu = readU32le(attributes.get(LINK.mtu));
  if (mtu !== undefined) value.mtu = mtu;
  if (kind !== undefined) value.kind = kind;
  if (master) value.master = master;
  if (mac !== undefined) value.mac = mac;
  if (peerIndex) value.peerIndex = peerIndex;
  if (linkNamespaceId !== undefined) value.linkNamespaceId = linkNamespaceId;
  if (alias !== undefined) value.alias = alias;
  return { ok: true, value };
}

/** How a bridge learns MACs. A field is undefined when the kernel has no such setting. */
interface Learning {
  /** The largest number of learned MACs; 0 for no bound. */
  readonly bound?: number;
  /** From frames to 01-80-C2-00-00-0X too, which it does not pass on. */
  readonly linkLocal?: boolean;
}
/** Returns undefined when the link is no bridge. */
function decodeLearning(body: Buffer): Learning | undefined {
  const info = parseAttributes(parseAttributes(body, IFINFOMSG).get(LINK.info));
  if (readCString(info.get(INFO_KIND)) !== 'bridge') return undefined;
  const data = parseAttributes(info.get(INFO_DATA));
  const options = data.get(BRIDGE.options)?.readUInt32LE(0);
  return {
    ...given('bound', readU32le(data.get(BRIDGE.maxLearned))),
    ...given('linkLocal', options === undefined ? undefined : (options & NO_LINK_LOCAL_LEARN) === 0),
  };
}
/** What a bridge does with the frames of its ports besides forwarding them. */
export interface Filtering {
  readonly stp: boolean;
  readonly vlan: boolean;
  /** It shows IPv4 packets to iptables, whatever the setting for all bridges is. */
  readonly netfilter: boolean;
}
function decodeFiltering(body: Buffer): Filtering | undefined {
  const info = parseAttributes(parseAttributes(body, IFINFOMSG).get(LINK.info));
  if (readCString(info.get(INFO_KIND)) !== 'bridge') return undefined;
  const data = parseAttributes(info.get(INFO_DATA));
  const isOn = (type: number): boolean => (data.get(type)?.[0] ?? 0) !== 0;
  return { stp: isOn(FILTERING.stp), vlan: isOn(FILTERING.vlan), netfilter: isOn(FILTERING.netfilter) };
}
function learningBody(index: number, to: Learning): Buffer {
  const header = Buffer.alloc(IFINFOMSG);
  header.writeInt32LE(index, 4);
  const option = Buffer.concat([u32le(to.linkLocal ? 0 : NO_LINK_LOCAL_LEARN), u32le(NO_LINK_LOCAL_LEARN)]);
  const data = [
    ...(to.linkLocal === undefined ? [] : [attribute(BRIDGE.options, option)]),
    ...(to.bound === undefined ? [] : [attribute(BRIDGE.maxLearned, u32le(to.bound))]),
  ];
  return Buffer.concat([
    header,
    nested(LINK.info, attribute(INFO_KIND, cString('bridge')), nested(INFO_DATA, ...data)),
  ]);
}

function given<K extends string, V>(key: K, value: V | undefined): { [P in K]?: V } {
  return value === undefined ? {} : ({ [key]: value } as { [P in K]: V });
}

/** Request for the netns id of a namespace, which is given by a process or an open descriptor. */
function namespaceIdBody(of: { readonly pid: number } | { readonly fd: number }): Buffer {
  const named = 'pid' in of ? attribute(NAMESPACE.pid, u32le(of.pid)) : attribute(NAMESPACE.fd, u32le(of.fd));
  return Buffer.concat([Buffer.alloc(RTGENMSG), named]);
}
/** The netns id. Undefined when the kernel has assigned none. */
export function decodeNamespaceId(body: Buffer): number | undefined {
  const id = readI32le(parseAttributes(body, RTGENMSG).get(NAMESPACE.id));
  return id === undefined || id < 0 ? undefined : id;
}

/** The links of one network namespace. */
export class Links implements Disposable {
  readonly #requests: NetlinkSocket;
  readonly #dumps: NetlinkSocket;

  constructor(options: { readonly namespace?: string | number } = {}) {
    this.#requests = new NetlinkSocket({ protocol: 'route', ...options });
    this.#dumps = new NetlinkSocket({ protocol: 'route', ...options });
  }

  /** All links. Rejects with NetlinkError. */
  list(): Promise<readonly Link[]> {
    return this.#dumps.dump(
      'list links',
      { type: ROUTE_MESSAGE.getLink, body: linkDumpBody() },
      (message) => {
        const link = decodeLink(message.body);
        return link.ok ? link.value : undefined;
      },
    );
  }

  /** One link by its name. Returns undefined when there is none. Throws NetlinkError. */
  byName(name: string): Link | undefined {
    return this.#one(`find link ${name}`, linkByNameBody(name));
  }

  /** One link by its index. Returns undefined when there is none. Throws NetlinkError. */
  byIndex(index: number): Link | undefined {
    return this.#one(`find link ${index}`, linkByIndexBody(index));
  }

  /** How many packets an interface has sent. Undefined when there is none. Throws NetlinkError. */
  sent(index: number): bigint | undefined {
    const header = Buffer.alloc(IFINFOMSG);
    header.writeInt32LE(index, 4);
    const out = { type: ROUTE_MESSAGE.getLink, body: header };
    const answer = this.#ask(`read what link ${index} has sent`, out, ['ENODEV', 'EINVAL']);
    return parseAttributes(answer, IFINFOMSG).get(LINK.statistics)?.readBigUInt64LE(SENT_PACKETS);
  }

  /**
   * A link in another namespace, without entering it. `namespaceId` is the netns id of that namespace in this one (the
   * `linkNamespaceId` of a veth's host end, with `peerIndex` as index). Returns undefined when the link or namespace
   * does not exist any more. Throws NetlinkError.
   */
  getLinkInNamespace(namespaceId: number, index: number): Link | undefined {
    return this.#one(`find link ${index} in namespace ${namespaceId}`, linkByIndexBody(index, namespaceId));
  }

  /**
   * The netns id that this namespace has assigned to that of a process or path (such as /proc/PID/ns/net). Returns
   * undefined when it has none (then no veth connects the two), or when the process or path does not exist any more. It
   * does not assign an id. Throws NetlinkError.
   */
  namespaceId(of: { readonly pid: number } | { readonly path: string }): number | undefined {
    if ('pid' in of) return this.#namespaceId(`find the namespace of process ${of.pid}`, of);
    const fd = openIfThere(of.path);
    if (fd === undefined) return undefined;
    try {
      return this.#namespaceId(`find the namespace ${of.path}`, { fd });
    } finally {
      closeSync(fd);
    }
  }

  close(): void {
    this.#requests.close();
    this.#dumps.close();
  }
  [Symbol.dispose](): void {
    this.close();
  }

  #one(operation: string, body: Buffer): Link | undefined {
    const answer = this.#ask(operation, { type: ROUTE_MESSAGE.getLink, body }, ['ENODEV', 'EINVAL']);
    const link = answer === undefined ? undefined : decodeLink(answer);
    return link?.ok === true ? link.value : undefined;
  }

  #namespaceId(
    operation: string,
    of: { readonly pid: number } | { readonly fd: number },
  ): number | undefined {
    const out = { type: ROUTE_MESSAGE.getNamespaceId, body: namespaceIdBody(of) };
    const answer = this.#ask(operation, out, ['ESRCH', 'EINVAL']);
    return answer === undefined ? undefined : decodeNamespaceId(answer);
  }

  /** Body of the one answer; undefined when the kernel refuses with one of the codes that mean "not there". */
  #ask(operation: string, out: Outgoing, missing: readonly string[]): Buffer | undefined {
    try {
      return this.#requests.request(operation, out)[0]?.body;
    } catch (error) {
      if (isRefusal(error, ...missing)) return undefined;
      throw error;
    }
  }
}

function openIfThere(path: string): number | undefined {
  try {
    return openSync(path, 'r');
  } catch (error) {
    return ignoreMissing(error);
  }
}

/** An earlier version limited the number of MACs that a bridge learns to this value, which identifies its settings. */
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

  /** Undefined when there is no such bridge any more. Throws NetlinkError. */
  filtering(index: number): Filtering | undefined {
    const link = this.#read(index);
    return link && decodeFiltering(link);
  }

  close(): void {
    this.#requests.close();
  }
  [Symbol.dispose](): void {
    this.close();
  }

  #read(index: number): Buffer | undefined {
    const read = { type: ROUTE_MESSAGE.getLink, body: linkByIndexBody(index) };
    try {
      return this.#requests.request(`read the settings of bridge ${index}`, read)[0]?.body;
    } catch (error) {
      if (isRefusal(error, 'ENODEV')) return undefined;
      throw error;
    }
  }

  /** Returns false when there is nothing to change, or when the bridge was removed. */
  #change(index: number, wanted: (now: Learning) => Learning): boolean {
    try {
      const link = this.#read(index);
      const now = link && decodeLearning(link);
      const to = now && wanted(now);
      if (to === undefined || Object.keys(to).length === 0) return false;
      const write = { type: ROUTE_MESSAGE.newLink, body: learningBody(index, to) };
      this.#requests.request(`change how bridge ${index} learns`, write);
      return true;
    } catch (error) {
      if (isRefusal(error, 'ENODEV')) return false; // the bridge was removed in the meantime
      throw error;
    }
  }
}
