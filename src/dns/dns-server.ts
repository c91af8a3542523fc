/** The sockets that containers reach: UDP and TCP, on addresses of the host or inside a container's network namespace. */

import { createSocket, type RemoteInfo, type Socket as UdpSocket } from 'node:dgram';
import { once } from 'node:events';
import { closeSync } from 'node:fs';
import { createServer, type Socket, type Server as TcpServer } from 'node:net';
import type { Server } from '../lib/dns-server-address.js';
import { familyOf } from '../lib/ip.js';
import type { Logger } from '../lib/log.js';
import type { ClientRequest } from './client-query.js';
import { relayFrom } from './exchange.js';
import { ClientLimits, FairQueue, type RateLimits } from './query-limits.js';
import type { QueryPipeline } from './query-pipeline.js';

/** DNS over one TCP connection (RFC 7766): length-prefixed messages, pipelined, answered as they are ready. */

export interface ServerOptions {
  readonly pipeline: QueryPipeline;
  readonly log: Logger;
  readonly limits?: RateLimits;
  /** Open TCP connections of one client. */
  readonly connections?: number;
}
interface Endpoint {
  readonly address: string;
  readonly port: number;
}
/** Descriptors of sockets bound (TCP: not yet listening) to 127.0.0.11 in a container's namespace; the server closes them. */
export interface NamespaceSockets {
  readonly udpFd: number;
  readonly tcpFd: number;
}
/** Address of a socket, and the container that all its queries belong to; without it the source address identifies the client. */
interface Place {
  readonly local: Endpoint;
  readonly container?: string;
}
/** Inside each namespace of a container on a user-defined network. */
const DOCKERS_RESOLVER: Server = { address: '127.0.0.11', port: 53, key: '127.0.0.11#53' };
/** Space for a burst of queries while the event loop is busy, bytes. */
const receiveBuffer = 4 * 1024 * 1024;
const backlog = 512;

export class DnsServer {
  readonly #options: ServerOptions;
  readonly #limits: ClientLimits;
  readonly #queue = new FairQueue();
  readonly #connections = new Map<string, number>();
  readonly #open = new Set<() => void>();

  constructor(options: ServerOptions) {
    this.#options = options;
    this.#limits = new ClientLimits(options.limits);
  }

  /**
   * Listen on UDP and TCP of one address; a bound address, so that answers leave from the address that the query was sent to.
   * Every query there belongs to `container`, when it is given.
   */
  async listen(address: string, port: number, container?: string): Promise<Disposable> {
    const place = { local: { address, port }, ...(container === undefined ? {} : { container }) };
    const udp = this.#udp(familyOf(address), place);
    const tcp = this.#tcp(place);
    const close = this.#closer(udp, tcp);
    try {
      udp.bind({ address, port, exclusive: true });
      await once(udp, 'listening');
      tcp.listen({ host: address, port, backlog, exclusive: true, ipv6Only: true });
      await once(tcp, 'listening');
    } catch (error) {
      close();
      throw new Error(`dns: cannot listen on ${address} port ${port}: ${(error as Error).message}`, {
        cause: error,
      });
    }
    this.#settle(udp, tcp);
    udp.setRecvBufferSize(receiveBuffer);
    return { [Symbol.dispose]: close };
  }

  /** Serve sockets inside a container's network namespace: every query there belongs to that container. */
  attachNamespace(container: string, sockets: NamespaceSockets): Disposable {
    const { address, port } = DOCKERS_RESOLVER;
    const place = { local: { address, port }, container };
    const udp = this.#udp(4, place);
    const tcp = this.#tcp(place);
    this.#settle(udp, tcp);
    udp.once('listening', () => udp.setRecvBufferSize(receiveBuffer));
    udp.bind({ fd: sockets.udpFd });
    tcp.listen({ fd: sockets.tcpFd, backlog });
    return { [Symbol.dispose]: this.#closer(udp, tcp) };
  }

  /**
   * Pass the queries that reach our sockets in a container's namespace on to Docker's resolver there, and its answers back:
   * queries sent before the container of the namespace was known, and those of clients that go on with the same socket.
   * TCP connections are closed, so that the client opens them again, to Docker.
   *
   * @param openFd opens a bound UDP socket in that namespace. Its packets to port 53 must reach Docker, so that our own rules
   *   must be removed before.
   */
  passOn(namespace: string, { udpFd, tcpFd }: NamespaceSockets, openFd: () => number): Disposable {
    closeSync(tcpFd);
    const udp = createSocket('udp4');
    udp.on('error', (error) => this.#options.log.error({ err: error }, 'dns: udp socket'));
    udp.on('message', (message, from) =>
      this.#passed(udp, { namespace, openFd }, message, from).catch((e: unknown) => this.#failed(e)),
    );
    udp.bind({ fd: udpFd });
    const close = (): void => {
      if (this.#open.delete(close)) closeQuietly(() => udp.close());
    };
    this.#open.add(close);
    return { [Symbol.dispose]: close };
  }

  async #passed(
    socket: UdpSocket,
    { namespace, openFd }: { readonly namespace: string; readonly openFd: () => number },
    message: Buffer,
    from: RemoteInfo,
  ): Promise<void> {
    if (!this.#limits.enter(namespace, performance.now())) return;
    const answer = await relayFrom(openFd, DOCKERS_RESOLVER, message).finally(() =>
      this.#limits.leave(namespace),
    );
    if (answer !== undefined) this.#send(socket, answer, from);
  }

  [Symbol.dispose](): void {
    for (const close of [...this.#open]) close();
  }

  #settle(udp: UdpSocket, tcp: TcpServer): void {
    const { log } = this.#options;
    udp.on('error', (error) => log.error({ err: error }, 'dns: udp socket'));
    tcp.on('error', (error) => log.error({ err: error }, 'dns: tcp socket'));
  }

  #closer(udp: UdpSocket, tcp: TcpServer): () => void {
    const streams = new Set<Socket>();
    tcp.on('connection', (socket: Socket) => {
      streams.add(socket);
      socket.once('close', () => streams.delete(socket));
    });
    const close = (): void => {
      if (!this.#open.delete(close)) return;
      closeQuietly(() => udp.close());
      tcp.close();
      for (const socket of streams) socket.destroy();
    };
    this.#open.add(close);
    return close;
  }

  #udp(family: 4 | 6, place: Place): UdpSocket {
    const socket = createSocket(family === 4 ? { type: 'udp4' } : { type: 'udp6', ipv6Only: true });
    socket.on('message', (message, from) =>
      this.#datagram(socket, place, message, from).catch((e: unknown) => this.#failed(e)),
    );
    return socket;
  }

  async #datagram(socket: UdpSocket, place: Place, message: Buffer, from: RemoteInfo): Promise<void> {
    const client = { address: from.address, port: from.port };
    const answer = await this.#answer({ ...addressedTo(place), message, transport: 'udp', client });
    if (answer !== undefined) this.#send(socket, answer, from);
  }

  #send(socket: UdpSocket, answer: Buffer, client: Endpoint): void {
    try {
      socket.send(answer, client.port, client.address, (error) => this.#unsent(client, error));
    } catch (error) {
      this.#unsent(client, error as Error);
    }
  }

  /** The client gets no answer and sends the query again. */
  #failed(error: unknown): void {
    this.#options.log.error({ err: String(error) }, 'dns: cannot handle a query');
  }

  /** The client is gone, or the socket was closed: no client waits for the answer. */
  #unsent(client: Endpoint, error: Error | null): void {
    if (error) this.#options.log.debug({ client, detail: error.message }, 'dns: cannot send an answer');
  }

  #tcp(place: Place): TcpServer {
    // Half open: a client may end its side and still wait for its answers.
    return createServer({ allowHalfOpen: true }, (socket) => {
      const client = { address: socket.remoteAddress ?? '', port: socket.remotePort ?? 0 };
      const key = place.container ?? client.address;
      const count = (this.#connections.get(key) ?? 0) + 1;
      if (count > (this.#options.connections ?? 64)) {
        socket.destroy();
        return;
      }
      this.#connections.set(key, count);
      socket.once('close', () => this.#disconnected(key));
      serveStream(socket, (message) =>
        this.#answer({ ...addressedTo(place), message, transport: 'tcp', client }),
      );
    });
  }

  #disconnected(key: string): void {
    const left = (this.#connections.get(key) ?? 1) - 1;
    if (left > 0) this.#connections.set(key, left);
    else this.#connections.delete(key);
  }

  /** A client beyond its limit gets no answer: it sends the query again, and the others are served. */
  async #answer(request: ClientRequest): Promise<Buffer | undefined> {
    const client = request.container ?? request.client.address;
    if (!this.#limits.enter(client, performance.now())) return undefined;
    try {
      await this.#queue.take(client);
      return await this.#options.pipeline.handle(request);
    } finally {
      this.#limits.leave(client);
    }
  }
}

function addressedTo(place: Place): Pick<ClientRequest, 'server' | 'container'> {
  return place.container === undefined
    ? { server: place.local }
    : { server: place.local, container: place.container };
}

function closeQuietly(close: () => void): void {
  try {
    close();
  } catch (error) {
    // A socket is closed already when its bind has failed.
    if ((error as NodeJS.ErrnoException).code !== 'ERR_SOCKET_DGRAM_NOT_RUNNING') throw error;
  }
}

const idleMs = 15_000;
/** Queries of one connection that may wait at once; reading stops there. */
const maxPipelined = 64;
/** Unsent answer bytes at which reading stops: a client that never reads cannot fill our memory. */
const maxUnsent = 262_144;

/** Serves until the client ends, is idle, or breaks the framing. */
export function serveStream(socket: Socket, answer: (message: Buffer) => Promise<Buffer | undefined>): void {
  let pending: Buffer = Buffer.alloc(0);
  let waiting = 0;
  let ended = false;

  const settle = (): void => {
    if (ended && waiting === 0) socket.end();
    if (waiting < maxPipelined && socket.writableLength < maxUnsent) {
      socket.resume();
      drain();
    }
  };
  const one = async (message: Buffer): Promise<void> => {
    const reply = await answer(message);
    waiting--;
    if (reply !== undefined && socket.writable) socket.write(frame(reply));
    settle();
  };
  const drain = (): void => {
    while (pending.length >= 2 && waiting < maxPipelined) {
      const size = pending.readUInt16BE(0);
      if (pending.length < 2 + size) break;
      const message = pending.subarray(2, 2 + size);
      pending = pending.subarray(2 + size);
      waiting++;
      void one(message);
    }
    if (waiting >= maxPipelined || socket.writableLength >= maxUnsent) socket.pause();
  };

  socket.setTimeout(idleMs, () => socket.destroy());
  // A reset by the client; 'close' follows.
  socket.on('error', () => socket.destroy());
  socket.on('drain', settle);
  socket.on('end', () => {
    ended = true;
    settle();
  });
  socket.on('data', (chunk) => {
    pending = pending.length === 0 ? chunk : Buffer.concat([pending, chunk]);
    drain();
  });
}

function frame(message: Buffer): Buffer {
  const length = Buffer.alloc(2);
  length.writeUInt16BE(message.length);
  return Buffer.concat([length, message]);
}
