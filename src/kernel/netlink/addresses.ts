/** Local addresses of one network namespace over rtnetlink. */
import type { HostSubnet } from '../../ruleset/bridge-forwarding.js';
import { Links, ROUTE_MESSAGE } from './links.js';
import {
  AF_INET,
  AF_INET6,
  addressBytes,
  addressText,
  attribute,
  type Decoded,
  FLAG,
  parseAttributes,
} from './netlink-codec.js';
import { isRefusal, NetlinkError } from './netlink-error.js';
import { NetlinkSocket } from './netlink-socket.js';

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

const ADDRESS = { address: 1, local: 2 } as const;

const IFA_F_NODAD = 2;

const IFADDRMSG = 8;

export interface LocalAddress {
  readonly index: number;
  readonly family: 4 | 6;
  readonly address: string;
  readonly prefix: number;
  /** rtnetlink scope: 0 global, 200 site, 253 link, 254 host. */
  readonly scope: number;
}

/** All addresses of both families. */
function addressDumpBody(): Buffer {
  return Buffer.alloc(IFADDRMSG);
}

const RT_SCOPE_HOST = 254;

/** One address of an interface, for adding or removing. Returns undefined when `cidr` is not ADDRESS/PREFIX. */
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
  // on a point-to-point link, "address" is the peer's address
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

/** The host's own addresses on all interfaces, kept up to date by notifications. */
export class HostAddresses {
  readonly #table: Pick<Addresses, 'list'>;
  /** By address and interface: the prefix length. */
  readonly #prefixes = new Map<string, Map<number, number>>();
  #all: ReadonlySet<string> | undefined;

  constructor(table: Pick<Addresses, 'list'>) {
    this.#table = table;
  }

  /** The same object as long as no address is added or removed. */
  get all(): ReadonlySet<string> {
    this.#all ??= new Set(this.#prefixes.keys());
    return this.#all;
  }

  /** All addresses with their interfaces. */
  get subnets(): readonly HostSubnet[] {
    return [...this.#prefixes].flatMap(([address, links]) =>
      [...links].map(([index, prefix]) => ({ index, address, prefix })),
    );
  }

  put(a: LocalAddress): void {
    if (!this.#prefixes.has(a.address)) this.#all = undefined;
    this.#prefixes.set(a.address, (this.#prefixes.get(a.address) ?? new Map()).set(a.index, a.prefix));
  }

  gone(a: LocalAddress): void {
    const links = this.#prefixes.get(a.address);
    links?.delete(a.index);
    if (links?.size === 0 && this.#prefixes.delete(a.address)) this.#all = undefined;
  }

  /** Called at the start, and after notifications were lost. */
  async refresh(): Promise<void> {
    const addresses = await this.#table.list();
    this.#prefixes.clear();
    this.#all = undefined;
    for (const a of addresses) this.put(a);
  }
}
