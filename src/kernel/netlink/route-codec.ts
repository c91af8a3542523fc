/** Messages of rtnetlink (include/uapi/linux/rtnetlink.h, if_link.h, if_addr.h, net_namespace.h), pure. */
import { AF_INET, AF_INET6, addressBytes, addressText } from './address.js';
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
  u32le,
} from './codec.js';

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
  link: 5,
  master: 10,
  info: 18,
  alias: 20,
  extensionMask: 29,
  namespaceId: 37,
  targetNamespaceId: 46,
} as const;
const INFO_KIND = 1;
const INFO_DATA = 2;
/** IFLA_BR_MULTI_BOOLOPT (Linux >= 5.0), IFLA_BR_FDB_MAX_LEARNED (Linux >= 6.7). */
const BRIDGE = { options: 46, maxLearned: 49 } as const;
/** BR_BOOLOPT_NO_LL_LEARN. */
const NO_LINK_LOCAL_LEARN = 1;
const SKIP_STATISTICS = 1 << 3;
const IFF_UP = 1;
const ADDRESS = { address: 1, local: 2 } as const;
const IFA_F_NODAD = 2;
const NAMESPACE = { id: 1, pid: 2, fd: 3 } as const;

const IFINFOMSG = 16;
const IFADDRMSG = 8;
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
  readonly alias?: string;
}
export interface LocalAddress {
  readonly index: number;
  readonly family: 4 | 6;
  readonly address: string;
  readonly prefix: number;
  /** rtnetlink scope: 0 global, 200 site, 253 link, 254 host. */
  readonly scope: number;
}

/** All links, without their statistics. */
export function linkDumpBody(): Buffer {
  return Buffer.concat([Buffer.alloc(IFINFOMSG), attribute(LINK.extensionMask, u32le(SKIP_STATISTICS))]);
}
/** One link by index, in another namespace when its number is given (IFLA_TARGET_NETNSID, Linux >= 4.16). */
export function linkByIndexBody(index: number, namespaceId?: number): Buffer {
  const header = Buffer.alloc(IFINFOMSG);
  header.writeInt32LE(index, 4);
  const parts = [header, attribute(LINK.extensionMask, u32le(SKIP_STATISTICS))];
  if (namespaceId !== undefined) parts.push(attribute(LINK.targetNamespaceId, u32le(namespaceId)));
  return Buffer.concat(parts);
}
export function linkByNameBody(name: string): Buffer {
  return Buffer.concat([Buffer.alloc(IFINFOMSG), attribute(LINK.name, cString(name))]);
}

export function decodeLink(body: Buffer): Decoded<Link> {
  const attributes = parseAttributes(body, IFINFOMSG);
  const name = readCString(attributes.get(LINK.name));
  if (body.length < IFINFOMSG || name === undefined) return { ok: false, error: 'a link without name' };
  return {
    ok: true,
    value: {
      index: body.readInt32LE(4),
      name,
      up: (body.readUInt32LE(8) & IFF_UP) !== 0,
      ...given('kind', readCString(parseAttributes(attributes.get(LINK.info)).get(INFO_KIND))),
      ...given('master', readU32le(attributes.get(LINK.master)) || undefined),
      ...given('mac', readMac(attributes.get(LINK.address))),
      ...given('peerIndex', readU32le(attributes.get(LINK.link)) || undefined),
      ...given('linkNamespaceId', readI32le(attributes.get(LINK.namespaceId))),
      ...given('alias', readCString(attributes.get(LINK.alias))),
    },
  };
}

/** How a bridge learns MACs. Undefined: the kernel has no such setting. */
export interface Learning {
  /** How many at most, 0: any number. */
  readonly bound?: number;
  /** From frames to 01-80-C2-00-00-0X too, which it does not pass on. */
  readonly linkLocal?: boolean;
}
/** Undefined: no bridge. */
export function decodeLearning(body: Buffer): Learning | undefined {
  const info = parseAttributes(parseAttributes(body, IFINFOMSG).get(LINK.info));
  if (readCString(info.get(INFO_KIND)) !== 'bridge') return undefined;
  const data = parseAttributes(info.get(INFO_DATA));
  const options = data.get(BRIDGE.options)?.readUInt32LE(0);
  return {
    ...given('bound', readU32le(data.get(BRIDGE.maxLearned))),
    ...given('linkLocal', options === undefined ? undefined : (options & NO_LINK_LOCAL_LEARN) === 0),
  };
}
export function learningBody(index: number, to: Learning): Buffer {
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

/** All addresses of both families. */
export function addressDumpBody(): Buffer {
  return Buffer.alloc(IFADDRMSG);
}
const RT_SCOPE_HOST = 254;
/** One address of an interface, for adding or removing; undefined when `cidr` is not ADDRESS/PREFIX. */
export function addressBody(index: number, cidr: string): Buffer | undefined {
  const [host = '', prefix = '', ...rest] = cidr.split('/');
  const bytes = addressBytes(host);
  if (
    bytes === undefined ||
    rest.length > 0 ||
    !/^\d{1,3}$/.test(prefix) ||
    Number(prefix) > bytes.length * 8
  ) {
    return undefined;
  }
  const header = Buffer.alloc(IFADDRMSG);
  header.writeUInt8(bytes.length === 4 ? AF_INET : AF_INET6, 0);
  header.writeUInt8(Number(prefix), 1);
  header.writeUInt8(bytes.length === 4 ? 0 : IFA_F_NODAD, 2); // usable at once
  // IPv4 as `ip` does for loopback: nothing takes it for its source, MASQUERADE on lo least of all
  header.writeUInt8(bytes.length === 4 ? RT_SCOPE_HOST : 0, 3);
  header.writeUInt32LE(index, 4);
  return Buffer.concat([header, attribute(ADDRESS.local, bytes), attribute(ADDRESS.address, bytes)]);
}

export function decodeAddress(body: Buffer): Decoded<LocalAddress> {
  const attributes = parseAttributes(body, IFADDRMSG);
  // of a point-to-point link, "address" is the other end
  const address = addressText(attributes.get(ADDRESS.local) ?? attributes.get(ADDRESS.address));
  if (body.length < IFADDRMSG || address === undefined)
    return { ok: false, error: 'an address entry without address' };
  return {
    ok: true,
    value: {
      index: body.readUInt32LE(4),
      family: body[0] === AF_INET6 ? 6 : 4,
      address,
      prefix: body.readUInt8(1),
      scope: body.readUInt8(3),
    },
  };
}

/** Asks for the number of a namespace, named by a process or an open descriptor. */
export function namespaceIdBody(of: { readonly pid: number } | { readonly fd: number }): Buffer {
  const named = 'pid' in of ? attribute(NAMESPACE.pid, u32le(of.pid)) : attribute(NAMESPACE.fd, u32le(of.fd));
  return Buffer.concat([Buffer.alloc(RTGENMSG), named]);
}
/** The number; undefined when the kernel has given this namespace none. */
export function decodeNamespaceId(body: Buffer): number | undefined {
  const id = readI32le(parseAttributes(body, RTGENMSG).get(NAMESPACE.id));
  return id === undefined || id < 0 ? undefined : id;
}
