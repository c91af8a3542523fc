/** Resolution: cache, collapse of equal questions, servers by zone, and CNAME chains that an upstream leaves open. */

import type { Server } from '../lib/dns-server-address.js';
import { Cache } from './cache.js';
import { type Chain, followChain, maxChain } from './cname-chain.js';
import type { Limits } from './limits.js';
import { NoAnswerError, ServersAsked } from './query-servers.js';
import type { Resolvers, Route } from './resolvers.js';
import { rcode, type } from './types.js';
import type { Question } from './upstream-query.js';
import { flag, type Message, type ResourceRecord } from './wire.js';

export interface Answer {
  readonly rcode: number;
  /** Only what belongs to the question: its chain and the records at the chain's end. TTLs count down while cached. */
  readonly records: readonly ResourceRecord[];
  /** SOA (and DNSSEC proof) of a negative answer. */
  readonly authorities: readonly ResourceRecord[];
  readonly authentic: boolean;
}
export interface UpstreamOptions {
  readonly resolvers: Resolvers;
  readonly cacheBytes?: number;
  /** Longest time that an answer is kept, seconds. */
  readonly maxTtl: number;
  /** Names that are asked of nobody, also where another leads to them: the chain ends there. */
  readonly stopsAt: (name: string) => boolean;
  /** What each asker may have asked of resolvers. */
  readonly shares: Limits;
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
  readonly #cache: Cache<Kept>;
  readonly #asked = new ServersAsked();
  readonly #inFlight = new Map<string, Promise<Link>>();

  constructor(options: UpstreamOptions) {
    this.#options = options;
    this.#cache = new Cache(options.cacheBytes ?? 32 * 1024 * 1024);
  }

  /** Throws NoAnswerError when nobody answers, or the chain of names has no end. */
  async resolve(q: Question, asker: string): Promise<Answer> {
    const records: ResourceRecord[] = [];
    const seen = new Set<string>();
    let authentic = true;
    let name = q.name;
    for (let hop = 0; hop < maxChain; hop++) {
      const link = await this.#link({ ...q, name }, q.name, asker);
      records.push(...link.records);
      authentic &&= link.authentic;
      if (link.chain.broken || link.chain.names.some((n) => seen.has(n)) || seen.size > maxChain) break;
      if (isFinal(link) || this.#options.stopsAt(link.chain.end))
        return { rcode: link.rcode, records, authorities: link.authorities, authentic };
      for (const n of link.chain.names.slice(0, -1)) seen.add(n);
      name = link.chain.end;
    }
    throw new NoAnswerError(`the CNAME chain of ${q.name} is a loop or longer than ${maxChain}`);
  }

  #link(q: Question, asked: string, asker: string): Promise<Link> {
    const route = this.#route(q.name, asked);
    const key = keyOf(q, route);
    const kept = this.#cache.get(key, performance.now());
    if (kept !== undefined) return Promise.resolve(aged(kept, performance.now()));
    const running = this.#inFlight.get(key);
    if (running !== undefined) return running;
    if (this.#inFlight.size >= maxInFlight) {
      return Promise.reject(new NoAnswerError(`${maxInFlight} questions are waiting for upstreams already`));
    }
    const { shares } = this.#options;
    if (!shares.enter(asker, performance.now()))
      return Promise.reject(new NoAnswerError('the container has asked its share of questions to resolvers'));
    const started = this.#fetch(q, route.servers, key).finally(() => {
      shares.leave(asker);
      this.#inFlight.delete(key);
    });
    this.#inFlight.set(key, started);
    return started;
  }

  /** A public name's chain may not make us ask a private zone's servers: its owner would choose what we look up there. */
  #route(name: string, asked: string): Route {
    const route = this.#options.resolvers.route(name);
    if (!route.private || name === asked) return route;
    const first = this.#options.resolvers.route(asked);
    return first.zone === route.zone ? route : first;
  }

  async #fetch(q: Question, servers: readonly Server[], key: string): Promise<Link> {
    const message = await this.#asked.ask(servers, q);
    const link = linkOf(message, q);
    const seconds = Math.min(lifetime(link), this.#options.maxTtl);
    const now = performance.now();
    if (seconds > 0) this.#cache.set(key, { link, at: now }, now + seconds * 1000, weight(link, key));
    return link;
  }
}

function keyOf(q: Question, route: Route): string {
  const bits = (q.dnssecOk ? 1 : 0) | (q.checkingDisabled ? 2 : 0) | (q.authenticData ? 4 : 0);
  return `${q.name}/${q.type}/${bits}/${route.servers.map((s) => s.key).join(',')}`;
}

function linkOf(message: Message, q: Question): Link {
  const chain = followChain(q.name, q.type, message.answers);
  const negative = !chain.complete;
  return {
    rcode: message.flags & 0x0f,
    records: chain.records,
    authorities: negative ? message.authorities.filter((r) => isProof(r.type)) : [],
    authentic: (message.flags & flag.AD) !== 0,
    chain,
  };
}

/** SOA, and NSEC, NSEC3 with their signatures. */
function isProof(number: number): boolean {
  return number === type.SOA || number === type.RRSIG || number === 47 || number === 50;
}

/** Nothing to ask further: an answer, an error, or "no such type" at the chain's end. */
function isFinal(link: Link): boolean {
  if (link.chain.complete || link.rcode !== rcode.NOERROR || link.chain.names.length === 1) return true;
  return link.authorities.some((r) => r.type === type.SOA);
}

/** Seconds that the answer may be kept (RFC 2181 5.2, RFC 2308 5); 0: not at all. */
function lifetime(link: Link): number {
  if (link.rcode !== rcode.NOERROR && link.rcode !== rcode.NXDOMAIN) return 0;
  const ttls = link.records.map((r) => r.ttl);
  if (link.chain.complete || !isFinal(link)) return Math.min(...ttls);
  const soa = link.authorities.find((r) => r.type === type.SOA && r.data.length >= 22);
  if (soa === undefined) return 0;
  return Math.min(soa.ttl, soa.data.readUInt32BE(soa.data.length - 4), negativeMaxTtl, ...ttls);
}

function weight(link: Link, key: string): number {
  const all = [...link.records, ...link.authorities];
  return 300 + key.length * 2 + all.reduce((sum, r) => sum + 200 + r.name.length + r.data.length, 0);
}

function aged({ link, at }: Kept, now: number): Link {
  const seconds = Math.floor((now - at) / 1000);
  if (seconds === 0) return link;
  const age = (r: ResourceRecord): ResourceRecord => ({ ...r, ttl: Math.max(0, r.ttl - seconds) });
  return { ...link, records: link.records.map(age), authorities: link.authorities.map(age) };
}
