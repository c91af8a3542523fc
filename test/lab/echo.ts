/** Echo on every port that nothing else serves (TCP and UDP), chargen on port 19, time on 123, silence on the marker's port. */
import { createSocket } from 'node:dgram';
import { createServer, type Socket } from 'node:net';
import { ADDRESSES, CHARGEN_PORT, ECHO_PORT, MARKER_PORT, NTP_PORT } from './topology.js';

const CHARGEN_MS = 100;
/** A UDP asker gets this many datagrams: a minute's worth. */
const CHARGEN_DATAGRAMS = 600;

function udp(
  address: string,
  port: number,
  onMessage: (message: Buffer, send: (reply: Buffer) => void) => void,
) {
  const socket = createSocket({ type: address.includes(':') ? 'udp6' : 'udp4', recvBufferSize: 4_000_000 });
  socket.on('message', (m, peer) => {
    // nobody hears an answer to port 0, and Node takes it for a mistake of ours
    if (peer.port !== 0) onMessage(m, (reply) => socket.send(reply, peer.port, peer.address));
  });
  return new Promise<void>((resolve, reject) => {
    socket.on('error', reject);
    socket.bind({ address, port, exclusive: true }, resolve);
  });
}

function tcp(port: number, onSocket: (socket: Socket) => void): Promise<void> {
  const server = createServer({ allowHalfOpen: false }, (socket) => {
    socket.on('error', () => socket.destroy()); // a reset by the client or a firewall is what tests are about
    onSocket(socket);
  });
  return new Promise((resolve, reject) => {
    server.on('error', reject);
    server.listen({ port, host: '::', backlog: 4096 }, resolve);
  });
}

function chargen(send: (line: Buffer) => void, limit: number): NodeJS.Timeout {
  let n = 0;
  const timer = setInterval(() => {
    send(Buffer.from(`line ${n++}\n`));
    if (n >= limit) clearInterval(timer);
  }, CHARGEN_MS);
  return timer;
}

/** A server's answer to an SNTP question (RFC 4330 section 5); what is no question comes back as it is. */
function ntpReply(message: Buffer): Buffer {
  const isQuestion = message.length === 48 && ((message[0] ?? 0) & 7) === 3;
  if (!isQuestion) return message;
  const now = Buffer.alloc(8);
  now.writeUInt32BE(Math.floor(Date.now() / 1000) + 2_208_988_800);
  const head = Buffer.from([0x24, 2, 6, 0xec]); // version 4, server; stratum 2
  return Buffer.concat([head, Buffer.alloc(12), now, message.subarray(40), now, now]);
}

export async function startEcho(): Promise<void> {
  const gateways = [ADDRESSES.gateway4, ADDRESSES.gateway6];
  await Promise.all([
    ...gateways.map((a) => udp(a, ECHO_PORT, (message, send) => send(message))),
    ...gateways.map((a) => udp(a, CHARGEN_PORT, (_, send) => void chargen(send, CHARGEN_DATAGRAMS))),
    ...gateways.map((a) => udp(a, NTP_PORT, (message, send) => send(ntpReply(message)))),
    ...gateways.map((a) => udp(a, MARKER_PORT, () => undefined)),
    tcp(ECHO_PORT, (socket) => socket.pipe(socket)),
    tcp(CHARGEN_PORT, (socket) => {
      const timer = chargen((line) => socket.write(line), Number.POSITIVE_INFINITY);
      socket.on('close', () => clearInterval(timer));
      socket.resume();
    }),
  ]);
}
