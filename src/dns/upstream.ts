/**
 * Resolution: cache, collapse of equal questions, servers by zone, and CNAME chains that an upstream leaves open. Each client has a cache of its
 * own: neither the time of an answer nor what is left of its TTL tells what another client has asked Drawbridge.
 */

import type { Server } from '../lib/dns-server-address.js';
import { type Chain, followChain, maxChain } from './answer-filter.js';
import { rcode, type } from './dns-constants.js';
import type { Question } from './exchange.js';
import type { ClientLimits } from './query-limits.js';
import type { Resolvers, Route } from './resolvers.js';
import { NoAnswerError, UpstreamServers } from './upstream-servers.js';
import { flag, type Message, type ResourceRecord } from './wire.js';

export interface Answer {
  readonly rcode: number;
  /** Only what belongs to the question: its chain and the records at the chain's end. TTLs count down while cached. */
  readonly records: readonly ResourceRecord[];
  /** SOA (and DNSSEC proof) of a negative answer. */
  readonly authorities: readonly ResourceRecord[];
  readonly authentic: boolean;
  /** Until then (ms, monotonic) the cache has the answer; an earlier time: not at all. */
  readonly freshUntil: number;
}
export interface UpstreamOptions {
  readonly resolvers: Resolvers;
  readonly cacheBytes?: number;
  /** Longest time that an answer is kept, seconds. */
  readonly maxTtl: number;
  /** Names that are never sent upstream, also at the end of a CNAME: the chain ends there. */
  readonly stopsAt: (name: string) => boolean;
  /** The limits of each client for upstream queries. */
  readonly shares: ClientLimits;
}
/** The answer of one exchange, and its chain. */
interface Link extends Answer {
  readonly chain: Chain;
}
interface Kept {
  readonly link: Link;
  readonly at: number;
}
const negativeMaxTtl = 3600;
const maxInFlight = 2000;

export class Upstream {
  readonly #options: UpstreamOptions;
  readonly #cache: Caches<Kept>;
  readonly #asked = new UpstreamServers();
  readonly #inFlight = new Map<string, Promise<Link>>();

  constructor(options: UpstreamOptions) {
    this.#options = options;
    this.#cache = new Caches(options.cacheBytes ?? 32 * 1024 * 1024);
  }

  /**
   * Throws NoAnswerError when no server answers, or the CNAME chain has no end. `asked`: the name whose record has led to this one, if it is
   * another: its servers are queried, unless both are in the same zone.
   */
  async resolve(q: Question, client: string, asked = q.name): Promise<Answer> {
    const records: ResourceRecord[] = [];
    const seen = new Set<string>();
    let authentic = true;
    let freshUntil = Number.POSITIVE_INFINITY;
    let name = q.name;
    for (let hop = 0; hop < maxChain; hop++) {
      const link = await this.#link({ ...q, name }, asked, client);
      records.push(...link.records);
      authentic &&= link.authentic;
      freshUntil = Math.min(freshUntil, link.freshUntil);
      if (link.chain.broken || link.chain.names.some((n) => seen.has(n)) || seen.size > maxChain) break;
      if (isFinal(link) || this.#options.stopsAt(link.chain.end))
        return { rcode: link.rcode, records, authorities: link.authorities, authentic, freshUntil };
      for (const n of link.chain.names.slice(0, -1)) seen.add(n);
      name = link.chain.end;
    }
    throw new NoAnswerError(`the CNAME chain of ${q.name} is a loop or longer than ${maxChain}`);
  }

  #link(q: Question, asked: string, client: string): Promise<Link> {
    const route = this.#route(q.name, asked);
    const key = keyOf(q, route);
    const kept = this.#cache.get(client, key, performance.now());
    if (kept !== undefined) return Promise.resolve(aged(kept, performance.now()));
    const asking = `${client} ${key}`;
    const running = this.#inFlight.get(asking);
    if (running !== undefined) return running;
    if (this.#inFlight.size >= maxInFlight) {
      return Promise.reject(new NoAnswerError(`${maxInFlight} questions are waiting for upstreams already`));
    }
    const { shares } = this.#options;
    if (!shares.enter(client, performance.now()))
      return Promise.reject(new NoAnswerError('upstream query limit of this container reached'));
    const started = this.#fetch(q, route.servers, client, key).finally(() => {
      shares.leave(client);
      this.#inFlight.delete(asking);
    });
    this.#inFlight.set(asking, started);
    return started;
  }

  /** A public name's chain may not make us ask a private zone's servers: its owner would choose what we look up there. */
  #route(name: string, asked: string): Route {
    const route = this.#options.resolvers.route(name);
    if (!route.private || name === asked) return route;
    const first = this.#options.resolvers.route(asked);
    return first.zone === route.zone ? route : first;
  }

  async #fetch(q: Question, servers: readonly Server[], client: string, key: string): Promise<Link> {
    const message = await this.#asked.ask(servers, q);
    const now = performance.now();
    const link = linkOf(message, q, now, this.#options.maxTtl);
    if (link.freshUntil > now)
      this.#cache.set(client, key, { link, at: now }, link.freshUntil, weight(link, key));
    return link;
  }

  /** The client is gone. */
  forget(client: string): void {
    this.#cache.forget(client);
  }

  /** Delete expired answers. `now`: ms, monotonic. */
  purge(now: number): void {
    this.#cache.purge(now);
  }
}

function keyOf(q: Question, route: Route): string {
  const bits = (q.dnssecOk ? 1 : 0) | (q.checkingDisabled ? 2 : 0) | (q.authenticData ? 4 : 0);
  return `${q.name}/${q.type}/${bits}/${route.servers.map((s) => s.key).join(',')}`;
}

function linkOf(message: Message, q: Question, now: number, maxTtl: number): Link {
  const chain = followChain(q.name, q.type, message.answers);
  const code = message.flags & 0x0f;
  const authorities = chain.complete ? [] : message.authorities.filter((r) => isProof(r.type));
  const seconds = Math.min(lifetime({ rcode: code, chain, authorities }), maxTtl);
  return {
    rcode: code,
    records: chain.records,
    authorities,
    authentic: (message.flags & flag.AD) !== 0,
    chain,
    freshUntil: now + seconds * 1000,
  };
}

/** SOA, and NSEC, NSEC3 with their signatures. */
function isProof(number: number): boolean {
  return number === type.SOA || number === type.RRSIG || number === 47 || number === 50;
}

/** Nothing to ask further: an answer, an error, or "no such type" at the chain's end. */
function isFinal(link: Pick<Link, 'rcode' | 'chain' | 'authorities'>): boolean {
  if (link.chain.complete || link.rcode !== rcode.NOERROR || link.chain.names.length === 1) return true;
  return link.authorities.some((r) => r.type === type.SOA);
}

/** Seconds that the answer may be kept (RFC 2181 5.2, RFC 2308 5); 0: not at all. */
function lifetime(link: Pick<Link, 'rcode' | 'chain' | 'authorities'>): number {
  if (link.rcode !== rcode.NOERROR && link.rcode !== rcode.NXDOMAIN) return 0;
  const ttls = link.chain.records.map((r) => r.ttl);
  if (link.chain.complete || !isFinal(link)) return Math.min(...ttls);
  const soa = link.authorities.find((r) => r.type === type.SOA && r.data.length >= 22);
  if (soa === undefined) return 0;
  return Math.min(soa.ttl, soa.data.readUInt32BE(soa.data.length - 4), negativeMaxTtl, ...ttls);
}

/** The bytes that an answer takes, as measured: most are V8's objects, and the C heap's share of each buffer. */
function weight(link: Link, key: string): number {
  const all = [...link.records, ...link.authorities];
  return 1000 + key.length * 2 + all.reduce((sum, r) => sum + 220 + r.name.length + r.data.length, 0);
}

function aged({ link, at }: Kept, now: number): Link {
  const seconds = Math.floor((now - at) / 1000);
  if (seconds === 0) return link;
  const age = (r: ResourceRecord): ResourceRecord => ({ ...r, ttl: Math.max(0, r.ttl - seconds) });
  return { ...link, records: link.records.map(age), authorities: link.authorities.map(age) };
}

/** Least recently used, bounded by bytes, each entry until its own end. */
interface Entry<T> {
  readonly value: T;
  readonly expires: number;
  readonly bytes: number;
}

export class Cache<T> {
  readonly #entries = new Map<string, Entry<T>>();
  readonly #maxBytes: number;
  #bytes = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  get(key: string, now: number): T | undefined {
    const entry = this.#entries.get(key);
    if (entry === undefined) return undefined;
    this.#entries.delete(key);
    if (entry.expires <= now) {
      this.#bytes -= entry.bytes;
      return undefined;
    }
    // A Map keeps insertion order: back in at the end means used last.
    this.#entries.set(key, entry);
    return entry.value;
  }

  set(key: string, value: T, expires: number, bytes: number): void {
    const old = this.#entries.get(key);
    if (old !== undefined) this.#bytes -= old.bytes;
    this.#entries.delete(key);
    if (bytes > this.#maxBytes) return;
    this.#entries.set(key, { value, expires, bytes });
    this.#bytes += bytes;
    while (this.#bytes > this.#maxBytes) this.dropOldest();
  }

  dropOldest(): void {
    for (const [oldest, entry] of this.#entries) {
      this.#entries.delete(oldest);
      this.#bytes -= entry.bytes;
      return;
    }
  }

  /** Forget what has expired: nothing else would, unless it is looked up again or the cache is full. */
  purge(now: number): void {
    for (const [key, entry] of this.#entries) {
      if (entry.expires > now) continue;
      this.#entries.delete(key);
      this.#bytes -= entry.bytes;
    }
  }

  get bytes(): number {
    return this.#bytes;
  }
}

/** A cache for each client. When all together are too large, the largest gives way: no client makes answers of another go. */
class Caches<T> {
  readonly #of = new Map<string, Cache<T>>();
  readonly #maxBytes: number;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  get(client: string, key: string, now: number): T | undefined {
    return this.#of.get(client)?.get(key, now);
  }

  set(client: string, key: string, value: T, expires: number, bytes: number): void {
    const own = this.#of.get(client) ?? new Cache<T>(this.#maxBytes);
    this.#of.set(client, own);
    own.set(key, value, expires, bytes);
    const all = [...this.#of.values()];
    let sum = all.reduce((total, cache) => total + cache.bytes, 0);
    while (sum > this.#maxBytes) {
      const largest = all.reduce((most, cache) => (cache.bytes > most.bytes ? cache : most), own);
      sum -= largest.bytes;
      largest.dropOldest();
      sum += largest.bytes;
    }
  }

  forget(client: string): void {
    this.#of.delete(client);
  }

  purge(now: number): void {
    for (const [client, cache] of this.#of) {
      cache.purge(now);
      if (cache.bytes === 0) this.#of.delete(client);
    }
  }
}
