/** One packet to one server and its answer back: UDP from a fresh random port each time, or TCP. */
import type { RemoteInfo, Socket } from 'node:dgram';
import { connect } from 'node:net';
import type { Server } from '../lib/dns-server-address.js';
import { familyOf } from './address.js';
import { openQuerySocket } from './query-port.js';
import { matchAnswer } from './upstream-query.js';

export type Outcome =
  | { readonly kind: 'answer'; readonly answer: Buffer }
  /** An answer whose question differs from ours in case only. */
  | { readonly kind: 'case'; readonly answer: Buffer }
  | { readonly kind: 'timeout' }
  | { readonly kind: 'unreachable'; readonly detail: string };

/** Wrong answers that are looked at before the exchange is given up as under attack. */
const maxForeign = 1000;

function fromServer(server: Server, from: RemoteInfo): boolean {
  return from.port === server.port && from.address === server.address;
}

/**
 * Sends `packet` by UDP; answers from elsewhere, with another id or question are passed over.
 *
 * @param open a bound socket, one for each exchange: where it was opened is where the packet leaves.
 */
export async function exchangeUdp(
  server: Server,
  packet: Buffer,
  ms: number,
  open: () => Promise<Socket> = () => openQuerySocket(familyOf(server.address) === 4 ? 4 : 6),
): Promise<Outcome> {
  try {
    return await ask(await open(), server, packet, ms);
  } catch (e) {
    return { kind: 'unreachable', detail: e instanceof Error ? e.message : String(e) };
  }
}

function ask(socket: Socket, server: Server, packet: Buffer, ms: number): Promise<Outcome> {
  return new Promise((resolve) => {
    let foreign = 0;
    const finish = (outcome: Outcome): void => {
      clearTimeout(timer);
      socket.removeAllListeners().on('error', () => socket.removeAllListeners());
      socket.close();
      resolve(outcome);
    };
    const timer = setTimeout(() => finish({ kind: 'timeout' }), ms);
    socket.on('error', (error) => finish({ kind: 'unreachable', detail: error.message }));
    socket.on('message', (answer, from) => {
      const match = fromServer(server, from) ? matchAnswer(packet, answer) : 'foreign';
      if (match === 'ours') finish({ kind: 'answer', answer });
      else if (match === 'case') finish({ kind: 'case', answer });
      else if (++foreign >= maxForeign) finish({ kind: 'unreachable', detail: `${foreign} forged answers` });
    });
    // Connected: the kernel drops what comes from elsewhere, and reports a closed port at once.
    socket.connect(server.port, server.address, () => {
      socket.send(packet, (error) => {
        if (error) finish({ kind: 'unreachable', detail: error.message });
      });
    });
  });
}

function framed(packet: Buffer): Buffer {
  const length = Buffer.alloc(2);
  length.writeUInt16BE(packet.length);
  return Buffer.concat([length, packet]);
}

/** Sends `packet` over a TCP connection of its own. */
export function exchangeTcp(server: Server, packet: Buffer, ms: number): Promise<Outcome> {
  return new Promise((resolve) => {
    const socket = connect({ host: server.address, port: server.port });
    let received: Buffer = Buffer.alloc(0);
    const finish = (outcome: Outcome): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(outcome);
    };
    const timer = setTimeout(() => finish({ kind: 'timeout' }), ms);
    socket.on('connect', () => socket.write(framed(packet)));
    socket.on('error', (error) => finish({ kind: 'unreachable', detail: error.message }));
    socket.on('close', () => finish({ kind: 'unreachable', detail: 'connection closed without an answer' }));
    socket.on('data', (chunk) => {
      received = Buffer.concat([received, chunk]);
      const size = received.length < 2 ? Number.POSITIVE_INFINITY : 2 + received.readUInt16BE(0);
      if (received.length < size) return;
      const answer = received.subarray(2, size);
      const match = matchAnswer(packet, answer);
      if (match === 'ours') finish({ kind: 'answer', answer });
      else if (match === 'case') finish({ kind: 'case', answer });
      else finish({ kind: 'unreachable', detail: 'answer to another question' });
    });
  });
}
