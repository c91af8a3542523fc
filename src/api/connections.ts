import { readFileSync } from 'node:fs';
import type { Server } from 'node:http';
import type { Socket } from 'node:net';
import type { Logger } from '../lib/log.js';
import { sourceOf } from './source.js';

/** Times of one connection, in ms: the head of a request, a whole request, and between two. */
export const TIMES = { headersTimeout: 10_000, requestTimeout: 60_000, keepAliveTimeout: 10_000 } as const;
export const CHECK_MS = 2_000;

const DEFAULT_DESCRIPTORS = 1_024;
/** Of the process's descriptors; the rest is for enforcement: netlink, DNS, Docker, kernel tools, the store. */
const SHARES = { tcp: 1 / 8, unix: 1 / 16 };
const MOST = { tcp: 2_048, unix: 512 };
const LEAST = 16;

/** How many descriptors this process may have (RLIMIT_NOFILE). */
export function descriptorLimit(text = limitsText()): number {
  const [, soft] = /^Max open files\s+(\d+)/m.exec(text) ?? [];
  return soft === undefined ? DEFAULT_DESCRIPTORS : Number(soft);
}

function limitsText(): string {
  try {
    return readFileSync('/proc/self/limits', 'utf8');
  } catch {
    return ''; // no /proc: the least that Linux gives is assumed
  }
}

export const connectionBound = (kind: 'tcp' | 'unix', descriptors: number): number =>
  Math.max(LEAST, Math.min(MOST[kind], Math.floor(descriptors * SHARES[kind])));

const LOG_EACH_MS = 60_000;
/** Sockets on which no request has proven who sends it yet. */
const unproven = new WeakMap<Socket, () => void>();

/** The first request of this connection was that of a known client. */
export function prove(socket: Socket): void {
  unproven.get(socket)?.();
}

interface Open {
  readonly sockets: Set<Socket>;
  /** The oldest first. */
  readonly unproven: Set<Socket>;
}
function forget({ sockets, unproven: silent }: Open, socket: Socket): void {
  sockets.delete(socket);
  silent.delete(socket);
}
const nobody = (): Open => ({ sockets: new Set(), unproven: new Set() });

/**
 * Bounds the connections of a listener, in all and for one address (half of all). Beyond it the oldest connection that has
 * not proven who it is makes way, so that connections that say nothing keep no client with a token out.
 */
export function boundConnections(server: Server, most: number, log: Pick<Logger, 'warn'>): void {
  new Connections(most, log).follow(server);
}

class Connections {
  readonly #most: number;
  readonly #log: Pick<Logger, 'warn'>;
  readonly #all = nobody();
  readonly #bySource = new Map<string, Open>();
  #loggedAt = Number.NEGATIVE_INFINITY;
  #closed = 0;

  constructor(most: number, log: Pick<Logger, 'warn'>) {
    this.#most = most;
    this.#log = log;
  }

  follow(server: Server): void {
    // Accepting failed: no descriptor was left. What waits is accepted later.
    server.on('error', (e) => this.#complain({ err: e.message }, 'the API cannot accept a connection'));
    server.on('connection', (socket: Socket) => this.#take(socket));
  }

  #take(socket: Socket): void {
    const source = socket.remoteAddress === undefined ? undefined : sourceOf(socket.remoteAddress);
    const own = source === undefined ? undefined : (this.#bySource.get(source) ?? nobody());
    const hasOwn = own === undefined || this.#makeRoom(own, Math.ceil(this.#most / 2));
    if (!hasOwn || !this.#makeRoom(this.#all, this.#most)) {
      this.#refuse(socket);
      return;
    }
    if (source !== undefined && own) this.#bySource.set(source, own);
    this.#add(socket, own ? [this.#all, own] : [this.#all]);
    socket.once('close', () => {
      if (source !== undefined && own?.sockets.size === 0) this.#bySource.delete(source);
    });
  }

  #add(socket: Socket, parts: readonly Open[]): void {
    for (const part of parts) {
      part.sockets.add(socket);
      part.unproven.add(socket);
    }
    unproven.set(socket, () => {
      for (const part of parts) part.unproven.delete(socket);
    });
    socket.once('close', () => {
      for (const part of parts) forget(part, socket);
    });
  }

  /** False: it is full, and every connection is a known client's. */
  #makeRoom(open: Open, most: number): boolean {
    if (open.sockets.size < most) return true;
    for (const oldest of open.unproven) {
      this.#refuse(oldest);
      for (const part of [this.#all, open]) forget(part, oldest);
      return true;
    }
    return false;
  }

  /** By a reset, where it is TCP: it takes one packet, and leaves nothing to wait for. */
  #refuse(socket: Socket): void {
    if (socket.remoteAddress === undefined) socket.destroy();
    else socket.resetAndDestroy();
    this.#closed += 1;
    this.#complain({ most: this.#most }, 'too many connections to the API: those without a token are closed');
  }

  #complain(facts: object, message: string): void {
    const now = performance.now();
    if (now - this.#loggedAt < LOG_EACH_MS) return;
    this.#loggedAt = now;
    this.#log.warn({ ...facts, closed: this.#closed }, message);
  }
}
