/** The sockets that containers reach: UDP and TCP, on addresses of the host or inside a container's network namespace. */

import { createSocket, type Socket as PassingSocket, type RemoteInfo } from 'node:dgram';
import { closeSync } from 'node:fs';
import { createServer, type Socket, type Server as TcpServer } from 'node:net';
import { getSystemErrorMap } from 'node:util';
import { DatagramSocket, Datagrams, type Received, type Sender } from '../kernel/netlink/datagram-socket.js';
import { keptSockets } from '../kernel/netlink/kept-sockets.js';
import { closeDescriptor } from '../kernel/netlink/libc.js';
import { sizeReceiveBuffer, tcpListenFd, udpSocketFd } from '../kernel/netlink/namespace.js';
import type { Server } from '../lib/dns-server-address.js';
import { contained } from '../lib/faults.js';
import { Histogram } from '../lib/histogram.js';
import { familyOf } from '../lib/ip.js';
import type { Logger } from '../lib/log.js';
import { errorCode } from '../lib/problem.js';
import { type ClientRequest, maxQuery, maxUdp } from './client-query.js';
import { relayFrom } from './exchange.js';
import type { QueryTime } from './kept-replies.js';
import { ClientLimits, FairQueue, type RateLimits } from './query-limits.js';
import type { QueryPipeline } from './query-pipeline.js';

/** DNS over one TCP connection (RFC 7766): length-prefixed messages, pipelined, answered as they are ready. */

export interface ServerOptions {
  readonly pipeline: QueryPipeline;
  readonly log: Logger;
  readonly limits?: RateLimits;
  /** Open TCP connections of one client. */
  readonly connections?: number;
  /** ms since the epoch. */
  wallClock(): number;
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
/** Source addresses with their texts; forged sources could name any number of them. */
const maxTexts = 8192;

export class DnsServer {
  readonly #options: ServerOptions;
  readonly #limits: ClientLimits;
  readonly #queue = new FairQueue();
  readonly #connections = new Map<string, number>();
  readonly #open = new Set<() => void>();
  /** Of all sockets. Longer queries than the longest are cut, and refused. */
  readonly #datagrams = new Datagrams(maxQuery + 64, maxUdp);
  readonly #texts = new Map<number | string, string>();
  /** From the arrival of a query to its reply. */
  readonly durations = new Histogram([0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5]);

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
    const key = `dns at ${address} port ${port}`;
    try {
      const [udpFd = -1, tcpFd = -1] = keptSockets.takeIf(key, container ?? '') ?? openBoth(address, port);
      keptSockets.keep(key, container ?? '', [udpFd, tcpFd]);
      const close = this.#serve(place, { udpFd, tcpFd });
      return {
        [Symbol.dispose]: () => {
          keptSockets.release(key);
          close();
        },
      };
    } catch (error) {
      keptSockets.release(key);
      throw new Error(`dns: cannot listen on ${address} port ${port}: ${(error as Error).message}`, {
        cause: error,
      });
    }
  }

  #serve(place: Place, { udpFd, tcpFd }: NamespaceSockets): () => void {
    const tcp = this.#tcp(place);
    const close = this.#closer(this.#udp(udpFd, place), tcp);
    tcp.listen({ fd: tcpFd, backlog });
    return close;
  }

  /**
   * Serve sockets inside a container's network namespace: every query there belongs to that container. So do those in the sockets that the process
   * before has had there, to which the rules in the namespace led until now.
   */
  attachNamespace(container: string, path: string, sockets: NamespaceSockets): Disposable {
    const { address, port } = DOCKERS_RESOLVER;
    const place = { local: { address, port }, container };
    const key = `dns in ${path}`;
    const [udpFd, tcpFd] = keptSockets.takeIf(key, container) ?? [];
    keptSockets.keep(key, container, [sockets.udpFd, sockets.tcpFd]);
    const all = udpFd === undefined || tcpFd === undefined ? [sockets] : [sockets, { udpFd, tcpFd }];
    const closers = all.map((one) => this.#serve(place, one));
    return {
      [Symbol.dispose]: () => {
        keptSockets.release(key);
        for (const close of closers) close();
      },
    };
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
    socket: PassingSocket,
    { namespace, openFd }: { readonly namespace: string; readonly openFd: () => number },
    message: Buffer,
    from: RemoteInfo,
  ): Promise<void> {
    if (!this.#limits.enter(namespace, performance.now())) return;
    const answer = await relayFrom(openFd, DOCKERS_RESOLVER, message).finally(() =>
      this.#limits.leave(namespace),
    );
    if (answer === undefined) return;
    const failed = (error: Error | null): void => void (error && this.#unsent(from, error));
    try {
      socket.send(answer, from.port, from.address, failed);
    } catch (error) {
      failed(error as Error);
    }
  }

  [Symbol.dispose](): void {
    for (const close of [...this.#open]) close();
  }

  #closer(udp: Disposable, tcp: TcpServer): () => void {
    tcp.on('error', (error) => this.#options.log.error({ err: error }, 'dns: tcp socket'));
    const streams = new Set<Socket>();
    tcp.on('connection', (socket: Socket) => {
      streams.add(socket);
      socket.once('close', () => streams.delete(socket));
    });
    const close = (): void => {
      if (!this.#open.delete(close)) return;
      udp[Symbol.dispose]();
      tcp.close();
      for (const socket of streams) socket.destroy();
    };
    this.#open.add(close);
    return close;
  }

  /** Takes over the bound socket. */
  #udp(fd: number, place: Place): DatagramSocket {
    sizeReceiveBuffer(fd, receiveBuffer);
    const socket = new DatagramSocket(fd, this.#datagrams, {
      datagrams: (count) => {
        const now = { monotonic: performance.now(), wall: this.#options.wallClock() };
        for (let i = 0; i < count; i++) this.#datagram(socket, place, i, now);
      },
      error: (errno) => this.#unsent(place.local, errno),
    });
    socket.drain(); // what waits was sent before now, and is dated so
    return socket;
  }

  /**
   * A query that had a reply before gets it again at once, for as much work as it takes to read the query: it does not wait for
   * its turn. Other queries take turns.
   */
  #datagram(socket: DatagramSocket, place: Place, i: number, now: QueryTime): void {
    const datagrams = this.#datagrams;
    const address = this.#source(i);
    if (address === undefined) return;
    const client = place.container ?? address;
    if (!this.#limits.enter(client, now.monotonic)) return;
    const query = datagrams.received(i);
    const length = this.#repeat({ container: place.container, address }, query, now);
    if (length > 0) {
      datagrams.stage(i, length);
      this.durations.observeMs(performance.now() - now.monotonic);
      this.#limits.leave(client);
      return;
    }
    const message = Buffer.from(query.bytes.subarray(query.start, query.end));
    const from = { address, port: datagrams.sourcePort(i) };
    const receivedAt = now.monotonic;
    const request = { ...addressedTo(place), message, transport: 'udp', client: from, receivedAt } as const;
    this.#later(socket, request, datagrams.sender(i)).catch((e: unknown) => this.#failed(e));
  }

  /** The length of the reply that was kept. 0: there is none, or it cannot be read, and the query takes all steps. */
  #repeat(client: Parameters<QueryPipeline['repeat']>[0], query: Received, now: QueryTime): number {
    try {
      return this.#options.pipeline.repeat(client, query, now, this.#datagrams.next());
    } catch (error) {
      this.#failed(error);
      return 0;
    }
  }

  async #later(socket: DatagramSocket, request: ClientRequest, sender: Sender): Promise<void> {
    const answer = await this.#answerInTurn(request);
    const errno = answer === undefined ? 0 : socket.sendTo(answer, sender);
    if (errno !== 0) this.#unsent(request.client, errno);
  }

  /** Undefined for a family that no socket here has. */
  #source(i: number): string | undefined {
    const key = this.#datagrams.sourceKey(i);
    if (key === undefined) return undefined;
    const known = this.#texts.get(key);
    if (known !== undefined) return known;
    if (this.#texts.size >= maxTexts) this.#texts.clear();
    const text = this.#datagrams.sourceAddress(i);
    this.#texts.set(key, text);
    return text;
  }

  /** The client gets no answer and sends the query again. */
  #failed(error: unknown): void {
    this.#options.log.error({ err: String(error) }, 'dns: cannot handle a query');
  }

  /** The client is gone, its network is, or the send buffer is full: the client sends the query again. */
  #unsent(at: Endpoint, error: number | Error): void {
    const detail = error instanceof Error ? error.message : (getSystemErrorMap().get(-error)?.[1] ?? error);
    this.#options.log.debug({ at, detail }, 'dns: cannot receive queries or send an answer');
  }

  #tcp(place: Place): TcpServer {
    // Half open: a client may end its side and still wait for its answers.
    return createServer({ allowHalfOpen: true }, (socket) => {
      const client = { address: socket.remoteAddress ?? '', port: socket.remotePort ?? 0 };
      const receivedAt = performance.now();
      const key = place.container ?? client.address;
      const count = (this.#connections.get(key) ?? 0) + 1;
      if (count > (this.#options.connections ?? 64)) {
        socket.destroy();
        return;
      }
      this.#connections.set(key, count);
      socket.once('close', () => this.#disconnected(key));
      serveStream(socket, (message) =>
        this.#answer({ ...addressedTo(place), message, transport: 'tcp', client, receivedAt }),
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
    return this.#limits.enter(client, performance.now()) ? this.#answerInTurn(request) : undefined;
  }

  /** The query was counted in by the limits. */
  async #answerInTurn(request: ClientRequest): Promise<Buffer | undefined> {
    const client = request.container ?? request.client.address;
    const begun = performance.now();
    try {
      await this.#queue.take(client);
      return await this.#options.pipeline.handle(request);
    } finally {
      this.#limits.leave(client);
      this.durations.observeMs(performance.now() - begun);
    }
  }
}

function openBoth(address: string, port: number): readonly [number, number] {
  const place = { family: familyOf(address), address, port };
  const udp = udpSocketFd(place);
  try {
    return [udp, tcpListenFd({ ...place, backlog })];
  } catch (error) {
    closeDescriptor(udp);
    throw error;
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
    if (errorCode(error) !== 'ERR_SOCKET_DGRAM_NOT_RUNNING') throw error;
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
    try {
      const reply = await answer(message);
      waiting--;
      if (reply !== undefined && socket.writable) socket.write(frame(reply));
      settle();
    } catch (error) {
      contained(error, 'dns: cannot handle a query over TCP: its connection is closed');
      socket.destroy();
    }
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

  // a query may wait for a person for longer
  socket.setTimeout(idleMs, () => {
    if (waiting === 0) socket.destroy();
  });
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
