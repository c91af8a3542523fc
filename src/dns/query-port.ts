/**
 * Source ports of our own questions. They lie below those that the kernel gives to sockets (ip_local_port_range): a container
 * in the host's network has the host's address, and a socket of its that got the port of a question of ours would find the
 * flow established in the connection table.
 */
import { randomInt } from 'node:crypto';
import { createSocket, type Socket } from 'node:dgram';
import { readFileSync } from 'node:fs';

const LOWEST = 10_240;
/** Fewer ports than this would be guessed too easily (RFC 5452 4.5): then the kernel chooses. */
const FEWEST = 8_192;
const TRIES = 8;

/** First port that the kernel gives by itself in this network namespace. */
function firstEphemeral(): number {
  try {
    return Number(/^\d+/.exec(readFileSync('/proc/sys/net/ipv4/ip_local_port_range', 'utf8'))?.[0] ?? 0);
  } catch {
    return 0; // the kernel does not say: it chooses
  }
}
const end = firstEphemeral();
const isWide = end - LOWEST >= FEWEST;

function bind(family: 4 | 6, port: number): Promise<Socket> {
  const socket = createSocket(family === 4 ? { type: 'udp4' } : { type: 'udp6', ipv6Only: true });
  return new Promise((resolve, reject) => {
    socket.once('error', (error) => {
      socket.close();
      reject(error);
    });
    socket.bind({ port, exclusive: true }, () => {
      socket.removeAllListeners('error');
      resolve(socket);
    });
  });
}

/** A UDP socket at a random port that nobody has. Rejects with the system's error. */
export async function openQuerySocket(family: 4 | 6): Promise<Socket> {
  for (let n = 0; isWide && n < TRIES; n++) {
    try {
      return await bind(family, randomInt(LOWEST, end));
    } catch (e) {
      if ((e as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw e;
    }
  }
  return bind(family, 0);
}
