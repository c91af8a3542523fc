import { closeDescriptor, openSocket, readSocketOption } from './libc.js';

const SOCK_RAW = 3;
const IPPROTO_RAW = 255;
/** AF_INET with SOL_IP, AF_INET6 with SOL_IPV6. */
const FAMILIES = [
  { domain: 2, level: 0 },
  { domain: 10, level: 41 },
] as const;
/** IPT_SO_GET_INFO and IP6T_SO_GET_INFO (include/uapi/linux/netfilter_ipv4/ip_tables.h, …_ipv6/ip6_tables.h). */
const GET_INFO = 64;
/** struct ipt_getinfo: name[32], valid hooks, 5 hook entries, 5 underflows, number of entries, size. */
const NAME_LENGTH = 32;
const INFO_LENGTH = 84;
const TABLES = ['filter', 'nat', 'security', 'mangle'] as const;

/**
 * Sizes and offsets of the tables of iptables-legacy, which tells nobody when they change. Ask only where legacy is in
 * use: asking makes the kernel load its modules.
 */
export class LegacyTables implements Disposable {
  readonly #sockets = FAMILIES.map((f) => ({ ...f, fd: openSocket(f.domain, SOCK_RAW, IPPROTO_RAW) }));

  /** Differs when rules were added, removed, or moved between chains; not when one was exchanged for its like. */
  fingerprint(): string {
    return this.#sockets.flatMap((s) => TABLES.map((table) => infoOf(s.fd, s.level, table))).join();
  }

  [Symbol.dispose](): void {
    for (const { fd } of this.#sockets) closeDescriptor(fd);
  }
}

function infoOf(fd: number, level: number, table: string): string {
  const info = Buffer.alloc(INFO_LENGTH);
  info.write(table, 'latin1');
  const errno = readSocketOption(fd, level, GET_INFO, info);
  return errno === 0 ? info.toString('hex', NAME_LENGTH) : `error ${errno}`; // no such table: that may change, too
}
