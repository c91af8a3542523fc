/** The test's hands on what runs in NET: the authority, the web servers' log, the sniffer. */
import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import type { Query } from './authority.js';
import type { StubQuery } from './host-side.js';
import type { Packet } from './pcap.js';
import { waitFor } from './process.js';
import { call } from './rpc.js';
import type { Answer, Stream } from './sink.js';
import type { PacketFilter } from './sniffer.js';
import type { WebRequest } from './web.js';
import type { Zone } from './zone.js';

class Client {
  readonly #socket: string;
  constructor(dir: string, socket = 'internet.sock') {
    this.#socket = join(dir, socket);
  }
  protected ask<T>(method: string, params: unknown = {}): Promise<T> {
    return call<T>(this.#socket, method, params);
  }
}

export class Dns extends Client {
  /** Adds or replaces the rules of these names. */
  set(zone: Zone): Promise<void> {
    return this.ask('setZone', { zone });
  }
  remove(...names: string[]): Promise<void> {
    return this.ask('removeNames', { names });
  }
  /** Forgets every name. */
  clear(): Promise<void> {
    return this.ask('clearZones');
  }
  /** The questions that reached the authority, oldest first; all, or those for one name and below it. */
  queries(name?: string): Promise<readonly Query[]> {
    return this.ask('queries', { name });
  }
  clearLog(): Promise<void> {
    return this.ask('clearQueries');
  }
}

/** HOST's stub resolver, which `dns: 'loopback'` names in resolv.conf. */
export class Stub extends Client {
  constructor(dir: string) {
    super(dir, 'host.sock');
  }
  /** One item a datagram or TCP connection. */
  queries(): Promise<readonly StubQuery[]> {
    return this.ask('stubQueries');
  }
}

export class Web extends Client {
  /** The HTTP and HTTPS requests that arrived. */
  requests(): Promise<readonly WebRequest[]> {
    return this.ask('requests');
  }
  clear(): Promise<void> {
    return this.ask('clearRequests');
  }
  /** What connections to the sink's addresses (topology.ts) from these ports, before `to`, have carried, oldest first. */
  streams(from = 0, to = 65_536): Promise<readonly Stream[]> {
    return this.ask('streams', { from, to });
  }
  /** What the sink answers to the next connections from this port. */
  answerStream(fromPort: number, answers: readonly Answer[]): Promise<void> {
    return this.ask('answerStream', { fromPort, answers });
  }
  /** Gives a host a site: these paths (absolute, unescaped) and their bodies; all else there is 404. */
  serve(host: string, pages: Readonly<Record<string, string | Buffer>>): Promise<void> {
    const site = Object.entries(pages).map(([path, body]) => [path, Buffer.from(body).toString('base64')]);
    return this.ask('serveSite', { host, site: Object.fromEntries(site) });
  }
}

const RESEND_MS = 500;

export class SnifferClient extends Client {
  readonly #hostSocket: string;
  constructor(dir: string) {
    super(dir);
    this.#hostSocket = join(dir, 'host.sock');
  }

  async #marker(): Promise<void> {
    const marker = randomUUID();
    const arrives = async (): Promise<boolean> => {
      await call(this.#hostSocket, 'mark', { marker });
      return this.ask<boolean>('markerSeen', { marker, ms: RESEND_MS });
    };
    await waitFor('the sniffer to see the marker packet', arrives, 10_000, 2);
  }
  /** Two markers in a row: a packet queued on another CPU when the first was sent is through when the second is. */
  async #settle(): Promise<void> {
    await this.#marker();
    await this.#marker();
  }

  /**
   * Waits until every packet that left HOST before this call has been seen, and gives a cursor for `after`.
   * Throws when any packet may have been missed, as the next two.
   */
  async settle(): Promise<number> {
    await this.#settle();
    return this.ask<number>('cursor');
  }
  /** Settles, then gives the packets that fit. */
  async packets(filter: PacketFilter = {}): Promise<readonly Packet[]> {
    await this.#settle();
    return this.ask('packets', filter);
  }
  /** Settles, then counts the packets that fit. */
  async count(filter: PacketFilter = {}): Promise<number> {
    await this.#settle();
    return this.ask('count', filter);
  }
  /** Forgets what was seen up to now, losses too. */
  async clear(): Promise<void> {
    await this.#settle();
    await this.ask('clearPackets');
  }
}
