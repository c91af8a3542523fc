/** Selects the servers for a name: zones by longest suffix, else the configured ones, else the host's resolv.conf. */
import { readFileSync, statSync } from 'node:fs';
import { parseResolvConf, parseServer, type Server } from '../lib/dns-server-address.js';
import type { Logger } from '../lib/log.js';
import { isWithin } from './wire.js';

export interface ResolverOptions {
  /** "ip", "ip:port", "[v6]:port"; empty: the host's. */
  readonly upstreams: readonly string[];
  readonly zones: Readonly<
    Record<string, { readonly upstreams?: readonly string[]; readonly private?: boolean }>
  >;
  readonly resolvConf?: string;
  /** True for addresses and ports that this very resolver listens on. */
  isOwn(address: string, port: number): boolean;
  readonly log: Logger;
}
export interface Route {
  readonly servers: readonly Server[];
  /** The zone that chose them, '' for the default. */
  readonly zone: string;
  /** Answers in private address space are permitted. */
  readonly private: boolean;
}
interface Zone {
  readonly name: string;
  readonly servers: readonly Server[];
  readonly private: boolean;
}
/** How often the file is checked, ms. */
const recheckMs = 1000;

export class Resolvers {
  readonly #options: ResolverOptions;
  readonly #fixed: readonly Server[];
  readonly #zones: readonly Zone[];
  #host: readonly Server[] = [];
  #stamp = '';
  #checked = Number.NEGATIVE_INFINITY;
  #readings = 0;

  /** Throws when a configured upstream is no address. */
  constructor(options: ResolverOptions) {
    this.#options = options;
    this.#fixed = options.upstreams.map((s) => configured(s, 'dns.upstreams'));
    this.#zones = Object.entries(options.zones)
      .map(([name, zone]) => ({
        name: name.toLowerCase().replace(/\.$/, ''),
        servers: (zone.upstreams ?? []).map((s) => configured(s, `dns.zones.${name}`)),
        private: zone.private === true,
      }))
      .sort((a, b) => b.name.length - a.name.length);
  }

  route(name: string): Route {
    const zone = this.#zones.find((z) => isWithin(name, z.name));
    const servers = zone !== undefined && zone.servers.length > 0 ? zone.servers : this.#defaults();
    return {
      servers: servers.filter((s) => !this.#options.isOwn(s.address, s.port)),
      zone: zone?.name ?? '',
      private: zone?.private ?? false,
    };
  }

  /** Changes when the servers of any name may have changed. */
  get revision(): number {
    this.#defaults();
    return this.#readings;
  }

  /** The server is one of our upstreams, so that its answers are trusted. */
  isTrusted(address: string, port: number): boolean {
    return [...this.#defaults(), ...this.#zones.flatMap((z) => z.servers)].some(
      (s) => s.address === address && s.port === port,
    );
  }

  #defaults(): readonly Server[] {
    return this.#fixed.length > 0 ? this.#fixed : this.#hostServers();
  }

  #hostServers(): readonly Server[] {
    const now = performance.now();
    if (now - this.#checked < recheckMs) return this.#host;
    this.#checked = now;
    const path = this.#options.resolvConf ?? '/etc/resolv.conf';
    try {
      const { mtimeMs, ino, size } = statSync(path);
      const stamp = `${mtimeMs} ${ino} ${size}`;
      if (stamp !== this.#stamp) this.#take(stamp, path, readFileSync(path, 'utf8'));
    } catch (error) {
      // The last good list stays: a file being replaced must not stop resolution.
      if (this.#stamp !== 'gone')
        this.#options.log.warn({ path, detail: (error as Error).message }, 'resolv.conf unreadable');
      this.#stamp = 'gone';
    }
    return this.#host;
  }

  #take(stamp: string, path: string, text: string): void {
    this.#stamp = stamp;
    this.#readings++;
    this.#host = parseResolvConf(text);
    const own = this.#host.filter((s) => this.#options.isOwn(s.address, s.port)).map((s) => s.key);
    if (own.length > 0) this.#options.log.warn({ path, own }, 'resolver of the host is this one: not asked');
    if (this.#host.length === own.length) {
      this.#options.log.error({ path }, 'no nameserver left to ask: set dns.upstreams');
    }
  }
}

function configured(text: string, key: string): Server {
  const server = parseServer(text);
  if (server === undefined)
    throw new Error(
      `${key}: "${text}" is not a server: write 10.0.0.53, 10.0.0.53:5353 or [2001:db8::53]:53`,
    );
  return server;
}
