import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { udpSocketFd } from '../../../src/kernel/netlink/namespace.js';
import type { Namespace } from './lab.js';

export interface UdpEnd extends Disposable {
  readonly socket: Socket;
  readonly port: number;
  /** What has arrived, as text, oldest first. */
  readonly received: string[];
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
  return { socket, port: socket.address().port, received, [Symbol.dispose]: () => socket.close() };
}
