/** Ends TCP sockets of one network namespace (include/uapi/linux/inet_diag.h, sock_diag.h). */
import { AF_INET, AF_INET6, addressBytes } from './netlink-codec.js';
import { isRefusal } from './netlink-error.js';
import { NetlinkSocket } from './netlink-socket.js';

const [BY_FAMILY, DESTROY] = [20, 21];
const TCP = 6;
const TCP_LISTEN = 10;
/** struct inet_diag_req_v2: its length, the place of its struct inet_diag_sockid, and in that the places of addresses and of the cookie. */
const REQUEST = { length: 56, id: 8 } as const;
const ID = { sport: 0, dport: 2, src: 4, dst: 20, cookie: 40, end: 48 } as const;
/** struct inet_diag_msg: family, state, timer, retransmissions, then the struct inet_diag_sockid of the socket. */
const ANSWER = { state: 1, id: 4 } as const;

/** The ends of a connection, as its socket here has them. */
export interface SocketTuple {
  readonly family: 4 | 6;
  readonly src: string;
  readonly sport: number;
  readonly dst: string;
  readonly dport: number;
}

/** `namespace`: path; the own one when absent. */
export class TcpSockets implements Disposable {
  readonly #diag: NetlinkSocket;

  constructor(namespace?: string) {
    this.#diag = new NetlinkSocket({ protocol: 'diag', ...(namespace === undefined ? {} : { namespace }) });
  }

  /**
   * The kernel sends a reset to the other side, and the program gets ECONNABORTED. Returns false when there is no such socket. Throws
   * NetlinkError: EOPNOTSUPP where the kernel has no CONFIG_INET_DIAG_DESTROY.
   */
  abort(tuple: SocketTuple): boolean {
    const operation = `abort the connection to ${tuple.dst}`;
    const request = requestOf(tuple);
    try {
      // Where the connection has ended, the kernel finds a socket that listens to its port (inet_diag_find_one_icsk).
      const [found] = this.#diag.request(operation, { type: BY_FAMILY, body: request });
      if (!found || found.body[ANSWER.state] === TCP_LISTEN) return false;
      found.body.copy(request, REQUEST.id + ID.cookie, ANSWER.id + ID.cookie, ANSWER.id + ID.end);
      this.#diag.request(operation, { type: DESTROY, body: request });
      return true;
    } catch (error) {
      if (isRefusal(error, 'ENOENT')) return false;
      throw error;
    }
  }

  [Symbol.dispose](): void {
    this.#diag.close();
  }
}

function requestOf({ family, src, sport, dst, dport }: SocketTuple): Buffer {
  const request = Buffer.alloc(REQUEST.length);
  request.writeUInt8(family === 4 ? AF_INET : AF_INET6, 0);
  request.writeUInt8(TCP, 1);
  request.writeUInt32LE(0xffffffff, 4); // sockets in any state
  const id = request.subarray(REQUEST.id);
  id.writeUInt16BE(sport, ID.sport);
  id.writeUInt16BE(dport, ID.dport);
  addressBytes(src)?.copy(id, ID.src);
  addressBytes(dst)?.copy(id, ID.dst);
  id.fill(0xff, ID.cookie, ID.end); // INET_DIAG_NOCOOKIE
  return request;
}
