import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { udpSocketFd } from '../../../src/kernel/netlink/namespace.js';
import type { Namespace } from './lab.js';

export interface UdpEnd extends Disposable {
  readonly ns: Namespace;
  readonly socket: Socket;
  readonly port: number;
  /** What has arrived, as text, oldest first. */
  readonly received: string[];
}

/** How often a datagram is sent at most, and after how many ms again: the kernel may lose one. */
const TRIES = 20;
const REPEAT_MS = 250;

/**
 * Sends a datagram, and sends it again until `to` has received one more with this text. Rejects with the error of the socket, or with the
 * counters of both namespaces (nstat, links) when none arrives.
 */
export async function deliver(
  text: string,
  from: UdpEnd,
  to: UdpEnd,
  address: string,
  port: number,
): Promise<void> {
  const arrived = (): number => to.received.filter((one) => one === text).length;
  const before = arrived();
  for (let n = 0; n < TRIES; n++) {
    await new Promise<void>((resolve, reject) => {
      from.socket.send(text, port, address, (error) => (error === null ? resolve() : reject(error)));
    });
    const until = Date.now() + REPEAT_MS;
    while (arrived() === before && Date.now() < until) await sleep(2);
    if (arrived() > before) return;
  }
  const counters = [from.ns, to.ns].flatMap((ns) => [ns.run('nstat', '-as'), ns.run('ip', '-s', 'link')]);
  throw new Error(`${TRIES} datagrams to [${address}]:${port} did not arrive:\n${counters.join('\n')}`);
}

/** A UDP socket inside a namespace, on the event loop of this process. */
export async function udpIn(ns: Namespace, family: 4 | 6, address: string, port = 0): Promise<UdpEnd> {
  const fd = udpSocketFd({ family, address, port, namespace: ns.path });
  const socket = createSocket(family === 4 ? 'udp4' : 'udp6');
  const received: string[] = [];
  socket.on('message', (data) => received.push(data.toString()));
  const listening = once(socket, 'listening'); // comes before bind returns
  socket.bind({ fd });
  await listening;
  return { ns, socket, port: socket.address().port, received, [Symbol.dispose]: () => socket.close() };
}
