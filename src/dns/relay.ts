/** Observed containers: the query goes as it is to the resolver that was asked, the answer comes back as it is. */
import { randomInt } from 'node:crypto';
import { createSocket, type Socket } from 'node:dgram';
import type { Server } from '../lib/dns-server-address.js';
import { exchangeTcp, exchangeUdp, type Outcome } from './exchange.js';

/** As long as common stub resolvers wait (resolv.conf(5), timeout). */
const relayMs = 5000;
/** Each takes a socket; beyond this, queries are lost as on a busy line. */
const maxRelays = 1000;
let relays = 0;

/**
 * The server's answer, bytes unchanged but for the id, which is random on the way out. Undefined: none came; the client
 * finds out by its own time-out, as it would have without us.
 */
export async function relay(
  server: Server,
  query: Buffer,
  transport: 'udp' | 'tcp',
): Promise<Buffer | undefined> {
  return relayed(query, (out) => (transport === 'udp' ? exchangeUdp : exchangeTcp)(server, out, relayMs));
}

/** The same by UDP, from the network namespace in which `openFd` opens a bound socket. */
export async function relayFrom(
  openFd: () => number,
  server: Server,
  query: Buffer,
): Promise<Buffer | undefined> {
  return relayed(query, (out) => exchangeUdp(server, out, relayMs, () => socketOf(openFd())));
}

function socketOf(fd: number): Promise<Socket> {
  const socket = createSocket('udp4');
  return new Promise((resolve, reject) => {
    socket.once('error', reject);
    socket.bind({ fd }, () => {
      socket.removeAllListeners('error');
      resolve(socket);
    });
  });
}

async function relayed(
  query: Buffer,
  exchange: (out: Buffer) => Promise<Outcome>,
): Promise<Buffer | undefined> {
  if (relays >= maxRelays || query.length < 2) return undefined;
  const out = Buffer.from(query);
  out.writeUInt16BE(randomInt(0x10000), 0);
  relays++;
  const outcome = await exchange(out).finally(() => relays--);
  // A resolver that does not echo the letters' case is the client's to judge.
  if (outcome.kind !== 'answer' && outcome.kind !== 'case') return undefined;
  const answer = Buffer.from(outcome.answer);
  query.copy(answer, 0, 0, 2);
  return answer;
}

/** The same over several servers, the first that answers. */
export async function relayToAny(
  servers: readonly Server[],
  query: Buffer,
  transport: 'udp' | 'tcp',
): Promise<Buffer | undefined> {
  for (const server of servers.slice(0, 3)) {
    const answer = await relay(server, query, transport);
    if (answer !== undefined) return answer;
  }
  return undefined;
}
