/** The DNS server with its policy, upstreams, ledger and journal: the steps of a query are in query-pipeline.ts. */
import type { Config } from '../config/config.js';
import type { AnswerSets } from '../kernel/netlink/answer-sets.js';
import type { OriginalDestination } from '../kernel/netlink/conntrack.js';
import { nameMatches } from '../lib/dns-name.js';
import type { Logger } from '../lib/log.js';
import { queryFor } from './client-query.js';
import { decide } from './decide.js';
import { type } from './dns-constants.js';
import { DnsServer, type NamespaceSockets } from './dns-server.js';
import { Journal } from './journal.js';
import { KeptReplies } from './kept-replies.js';
import { type Fact, Ledger, type ResolvedNames, type SetsOf } from './ledger.js';
import type { NameEvent, QueryPolicy } from './names-policy.js';
import { Passthrough } from './passthrough.js';
import { PublishedKeys } from './published-keys.js';
import { ClientLimits, type RateLimits, upstreamShare } from './query-limits.js';
import { type AskedName, type NameQuestion, QueryPipeline } from './query-pipeline.js';
import { type Decide, Recorder } from './recorder.js';
import { type ResolverOptions, Resolvers } from './resolvers.js';
import { Upstream } from './upstream.js';

export interface DnsConfig {
  readonly upstreams: ResolverOptions['upstreams'];
  readonly zones: ResolverOptions['zones'];
  /** Seconds. */
  readonly minTtl: number;
  readonly maxTtl: number;
  readonly grace: number;
  readonly resolvConf?: string;
  readonly cacheBytes?: number;
  readonly limits?: RateLimits;
}
/** The settings of the DNS server as the configuration has them, in seconds. */
export const dnsConfig = ({ upstreams, zones, minTtlMs, maxTtlMs, graceMs }: Config['dns']): DnsConfig => ({
  upstreams,
  zones,
  minTtl: minTtlMs / 1000,
  maxTtl: maxTtlMs / 1000,
  grace: graceMs / 1000,
});

export interface DnsDeps {
  readonly config: DnsConfig;
  readonly policy: QueryPolicy;
  readonly sets: AnswerSets;
  readonly original: OriginalDestination;
  readonly log: Logger;
  /** File of the ledger's journal. */
  readonly journal: string;
  /** ms since the epoch, by a clock that nothing sets. */
  readonly now?: () => number;
  readonly wallClock?: () => number;
  onEvent(event: NameEvent): void;
  /** Asks a person about a name that no entry permits. */
  ask?(question: NameQuestion): AskedName;
}

type NameTarget = Parameters<typeof nameMatches>[0];

export class DnsService {
  readonly ledger = new Ledger();
  /** Keys for encrypted hellos, by name. */
  readonly keys: PublishedKeys;
  readonly #journal: Journal;
  readonly #recorder: Recorder;
  readonly #server: DnsServer;
  readonly #now: () => number;
  readonly #own = new Set<string>();
  readonly #kept: KeptReplies;
  readonly #pipeline: QueryPipeline;
  readonly #upstream: Upstream;

  /** Reads the journal; throws when it cannot be read, or an upstream is no address. */
  constructor(deps: DnsDeps) {
    const { config, policy, log, original, sets, onEvent } = deps;
    const isOwn = (address: string, port: number): boolean => this.#own.has(`${address}#${port}`);
    const resolvers = new Resolvers({ ...config, isOwn, log });
    const { now = Date.now, wallClock = Date.now } = deps;
    this.#now = now;
    this.#journal = new Journal({ path: deps.journal, wallAhead: () => wallClock() - now(), log });
    const { maxTtl, grace } = config;
    const ttl = Math.max(1, Math.ceil(config.minTtl));
    const { ledger } = this;
    this.#recorder = new Recorder({
      policy,
      resolvers,
      ledger,
      journal: this.#journal,
      sets,
      log,
      minTtl: ttl,
      maxTtl,
      grace,
      now,
    });
    const shares = new ClientLimits(upstreamShare);
    const isListed = (name: string): boolean => policy.threats.blockedName(name) !== undefined;
    const upstream = new Upstream({ ...config, resolvers, shares, stopsAt: isListed });
    this.#upstream = upstream;
    const mayQuery = (container: string, name: string): boolean =>
      decide(policy, container, queryFor(name, type.HTTPS)).kind === 'forward';
    this.keys = new PublishedKeys({ upstream, isListed, mayQuery, now: () => performance.now() });
    const recorder = this.#recorder;
    const passthrough = new Passthrough({
      policy,
      original,
      resolvers,
      recorder,
      shares,
      isOwn,
      onEvent,
      learn: (...of) => this.#pipeline.learn(...of),
    });
    this.#kept = new KeptReplies(sets);
    const pipeline = new QueryPipeline({
      policy,
      upstream,
      recorder,
      passthrough,
      resolvers,
      kept: this.#kept,
      log,
      ttl,
      onEvent,
      ask: (question) => deps.ask?.(question) ?? 'no',
    });
    this.#pipeline = pipeline;
    this.#server = new DnsServer({ ...config, pipeline, log, wallClock: now });
    this.#journal.open(
      () => ledger.snapshot(),
      (facts) => ledger.restore(facts, now(), recorder.latest()),
    );
  }

  /** From the arrival of a query to its reply. */
  get durations(): DnsServer['durations'] {
    return this.#server.durations;
  }

  /** Open UDP and TCP on one address of the host. Every query there belongs to `container`, when it is given. */
  async listen(address: string, port: number, container?: string): Promise<Disposable> {
    this.#own.add(`${address}#${port}`);
    this.#kept.clear(); // the servers of a name may have become fewer
    return this.#server.listen(address, port, container);
  }

  attachNamespace(container: string, path: string, sockets: NamespaceSockets): Disposable {
    return this.#server.attachNamespace(container, path, sockets);
  }

  /** Docker answers the container: see DnsServer. */
  passOn(namespace: string, sockets: NamespaceSockets, openFd: () => number): Disposable {
    return this.#server.passOn(namespace, sockets, openFd);
  }

  /** The members of the container's learned sets under the present policy: set → address → until (ms). */
  members(container: string): Map<string, Map<string, number>> {
    let sets: SetsOf | undefined; // most containers have resolved nothing since a start
    const setsOf: SetsOf = (name, address) => {
      sets ??= this.setsOf(container);
      return sets(name, address);
    };
    return this.ledger.members(container, setsOf, this.#now());
  }

  /** Whether the answers to the container's queries justify the address in this learned set. */
  isMember(container: string, set: string, address: string, decide?: Decide): boolean {
    const now = this.#now();
    return (
      (this.ledger.membersAt(container, address, this.setsOf(container, decide), now).get(set) ?? 0) > now
    );
  }

  setsOf(container: string, decide?: Decide): SetsOf {
    return this.#recorder.setsOf(container, decide);
  }

  /** Addresses that the container may use now because they were returned for this name, or names below it. */
  addressesFor(container: string, target: NameTarget): readonly string[] {
    return this.ledger.addressesFor(container, (name) => nameMatches(target, name), this.#now());
  }

  /** Facts that expire within `ms`: the caller checks whether their addresses are in use. */
  expiring(ms: number): readonly Fact[] {
    return this.ledger.expiring(this.#now() + ms, this.#now());
  }

  /** Reads the names of an address also after the container is forgotten. */
  namesReader(container: string): (address: string) => ResolvedNames {
    const read = this.ledger.namesReader(container);
    return (address) => read(address, this.#now());
  }

  /** Names that were permitted when the address was returned to the container for them. */
  learnedNames(container: string, address: string): readonly string[] {
    return this.ledger.learnedNames(container, address, this.#now());
  }

  /** A live flow uses the address: it stays permitted for a time, in ledger, journal and kernel. */
  extend(container: string, address: string): Promise<void> {
    return this.#recorder.extend(container, address);
  }

  /** Resolve a name for the container, which has not asked for it, and record its addresses if the policy permits the name. */
  async learn(container: string, name: string): Promise<void> {
    await Promise.all([type.A, type.AAAA].map((of) => this.#pipeline.learn(container, name, of)));
  }

  /** The container is gone for good. */
  forget(container: string): void {
    this.ledger.forget(container);
    this.#kept.forget(container);
    this.#upstream.forget(container);
    this.#journal.forget(container);
  }

  /** Remove what has expired, and note a change of the wall clock; call at intervals. */
  purge(): void {
    this.ledger.purge(this.#now());
    this.#upstream.purge(performance.now());
    this.#kept.purge(performance.now());
    this.#journal.keepTime();
  }

  /** State of the journal. */
  health(): { readonly ok: boolean; readonly detail: string } {
    return this.#journal.health();
  }

  [Symbol.dispose](): void {
    this.#server[Symbol.dispose]();
    this.#journal.close();
  }
}
