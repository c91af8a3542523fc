/** Our resolver's sockets inside a container's network namespace. */
import { closeSync, readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { Conntrack } from './netlink/conntrack.js';
import { tcpListenFd, udpSocketFd, withNamespace } from './netlink/namespace.js';
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

/** Of the network namespace of the thread that reads it (net/netfilter/nf_conntrack_standalone.c). */
const FLOWS = '/proc/sys/net/netfilter/nf_conntrack_count';

/**
 * Whether Docker's resolver was asked in this namespace before the rules were laid: a flow to it leads to a port that is not
 * ours. To be called right after `furnishResolver`. In a new namespace the count of its flows is mostly 0, so that the
 * connection table, in which the flows of all namespaces are (43 ms beside 100,000), is not read. Rejects with NetlinkError.
 */
export async function wasAskedBefore(namespace: string, port: number): Promise<boolean> {
  if (withNamespace(namespace, () => readFileSync(FLOWS, 'latin1')).trim() === '0') return false;
  using conntrack = new Conntrack({ namespace });
  const flows = await conntrack.flows(4, { orig: { dst: RESOLVER } });
  return flows.some(({ reply }) => reply.sport !== port);
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
