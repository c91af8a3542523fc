/** Our resolver's sockets inside a container's network namespace. */
import { closeSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { tcpListenFd, udpSocketFd } from './netlink/namespace.js';
import { layResolverRules } from './resolver-rules.js';

/** Descriptors of sockets at 127.0.0.11, `port`. */
export interface ResolverSockets {
  readonly udpFd: number;
  /** Listens. */
  readonly tcpFd: number;
  readonly port: number;
}

const RESOLVER = '127.0.0.11';
const TRIES = 8;
const POLL_MS = 2;
const PORTS = { from: 20_000, count: 40_000 } as const;
/** Of a sandbox that is being made: its file is not mounted yet, or its loopback is still down. */
const NOT_YET = new Set(['EINVAL', 'EADDRNOTAVAIL']);
const MADE_WITHIN_MS = 1_000;

/**
 * Opens sockets and lays the rules that lead to them. The port is random: a container cannot have it beforehand. Rejects with
 * NetlinkError or the error of opening the namespace.
 */
export async function furnishResolver(namespace: string): Promise<ResolverSockets> {
  const sockets = await openSockets(namespace);
  try {
    layResolverRules(namespace, sockets.port);
    return sockets;
  } catch (e) {
    closeResolver(sockets);
    throw e;
  }
}

export function closeResolver({ udpFd, tcpFd }: ResolverSockets): void {
  closeSync(udpFd);
  closeSync(tcpFd);
}

async function openSockets(namespace: string): Promise<ResolverSockets> {
  const end = performance.now() + MADE_WITHIN_MS;
  for (let n = 1; ; n++) {
    const port = PORTS.from + Math.floor(Math.random() * PORTS.count);
    try {
      return { ...socketsAt(namespace, port), port };
    } catch (e) {
      const isYetToCome = NOT_YET.has((e as NodeJS.ErrnoException).code ?? '');
      if (isYetToCome ? performance.now() > end : n >= TRIES) throw e;
      if (isYetToCome) await delay(POLL_MS);
    }
  }
}

function socketsAt(namespace: string, port: number): Omit<ResolverSockets, 'port'> {
  const place = { family: 4, address: RESOLVER, port, namespace } as const;
  const udpFd = udpSocketFd(place);
  try {
    return { udpFd, tcpFd: tcpListenFd(place) };
  } catch (e) {
    closeSync(udpFd);
    throw e;
  }
}
