/** TCP sockets that are ended from outside of their program: both sides know at once, and nothing else ends. */
import { createServer, type Server, Socket } from 'node:net';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { tcpConnectFd, tcpListenFd } from '../../../src/kernel/netlink/namespace.js';
import { TcpSockets } from '../../../src/kernel/sockets.js';
import { makeNamespace, type Namespace, until } from './lab.js';

let ns: Namespace;
beforeAll(() => {
  ns = makeNamespace('diag');
});
afterAll(() => {
  ns[Symbol.dispose]();
});

interface Side {
  readonly socket: Socket;
  end: string | undefined;
}
function watched(socket: Socket): Side {
  const side: Side = { socket, end: undefined };
  socket.on('error', (e: NodeJS.ErrnoException) => (side.end ??= e.code));
  socket.on('end', () => (side.end ??= 'FIN'));
  socket.resume();
  return side;
}

it.each([
  [4, '127.0.0.1'],
  [6, '::1'],
] as const)(
  'IPv%i: an idle connection ends with an error at both sides; another one, and the listener, stay',
  async (family, address) => {
    const accepted: Side[] = [];
    const server: Server = createServer((s) => accepted.push(watched(s)));
    const place = { family, address, port: 7300, namespace: ns.path };
    server.listen({ fd: tcpListenFd(place) });
    await until('the server to listen', () => server.listening);
    const open = (): Side => watched(new Socket({ fd: tcpConnectFd(place, place) }));
    const [ended, other] = [open(), open()];
    await until('two connections', () => accepted.length === 2);
    const tupleOf = ({ remotePort: sport = 0 }: Socket) =>
      ({ family, src: address, sport, dst: address, dport: 7300 }) as const;
    const [first, second] = accepted.map((a) => tupleOf(a.socket));
    if (!first || !second) throw new Error('no connection');

    using sockets = new TcpSockets(ns.path);
    expect(sockets.abort(first)).toBe(true);
    const firstOnes = [ended, accepted[0]];
    await until('both sides to know', () => firstOnes.every((s) => s?.end !== undefined));
    expect(accepted[0]?.end).toBe('ECONNRESET');
    expect([other.end, accepted[1]?.end]).toEqual([undefined, undefined]);

    // the same connection again, from its other end: the kernel finds the socket that listens there
    expect(sockets.abort(first)).toBe(false);
    const { src, dst, sport, dport } = first;
    expect(sockets.abort({ family, src: dst, sport: dport, dst: src, dport: sport })).toBe(false);
    const third = open();
    await until('the listener to accept', () => accepted.length === 3);
    for (const s of [third, other, ...accepted]) s.socket.destroy();
    server.close();
  },
);
