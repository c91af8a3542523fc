/** Queries of containers that are not enforced: no name is denied, would-be denials are reported, answers are recorded. */

import { setTimeout as sleep } from 'node:timers/promises';
import type { OriginalDestination } from '../kernel/netlink/conntrack.js';
import { parseServer, type Server } from '../lib/dns-server-address.js';
import { hitText } from '../policy/threat.js';
import { followChain } from './answer-filter.js';
import { awaitMs, type ClientRequest, encodeFor, type ParsedQuery, type Query } from './client-query.js';
import {
  decide,
  decideLocal,
  decideThreat,
  deniedAlias,
  type LocalAnswer,
  observedThreat,
  replyFor,
  threatAlias,
} from './decide.js';
import { type, typeName } from './dns-constants.js';
import { readAnswer, relay, relayToAny } from './exchange.js';
import type { NameEvent, QueryPolicy } from './names-policy.js';
import type { ClientLimits } from './query-limits.js';
import type { Recorder } from './recorder.js';
import type { Resolvers } from './resolvers.js';
import { isPlainName, type ResourceRecord } from './wire.js';

export interface PassthroughOptions {
  readonly policy: QueryPolicy;
  readonly original: OriginalDestination;
  readonly resolvers: Resolvers;
  readonly recorder: Recorder;
  /** The limits of each client for upstream queries. */
  readonly shares: ClientLimits;
  isOwn(address: string, port: number): boolean;
  /** Records the addresses that Drawbridge's resolver has for a name that is permitted. */
  learn(container: string, name: string, type: number): Promise<void>;
  onEvent(event: NameEvent): void;
}

/** An answer of another resolver waits for ours for so long. */
const LEARN_MS = 300;

export class Passthrough {
  readonly #o: PassthroughOptions;

  constructor(options: PassthroughOptions) {
    this.#o = options;
  }

  /** The answer of the resolver that the container addressed, unchanged; undefined when none came. */
  async answer(request: ClientRequest, container: string, parsed: ParsedQuery): Promise<Buffer | undefined> {
    const { shares } = this.#o;
    if (!shares.enter(container, performance.now())) return undefined;
    return this.#answer(request, container, parsed).finally(() => shares.leave(container));
  }

  async #answer(request: ClientRequest, container: string, parsed: ParsedQuery): Promise<Buffer | undefined> {
    const query = parsed.ok ? parsed.query : undefined;
    const intended = this.#intended(request);
    const { policy } = this.#o;
    // The query was for Docker's embedded resolver, which has the names of neighbours before the Docker API reports them.
    if (query !== undefined && intended === undefined && decideLocal(policy, container, query) === undefined)
      await policy.awaitNetworks(container, awaitMs);
    const threat = query && this.#threat(container, query);
    if (query !== undefined && threat !== undefined)
      return encodeFor(request, query, replyFor(query, threat));
    if (query !== undefined) this.#wouldDeny(container, query);
    if (intended !== undefined && this.#isThreat(container, query, intended)) return undefined;
    if (intended !== undefined) return this.#relayed(request, container, query, intended);
    if (query === undefined) return parsed.ok ? undefined : parsed.reply;
    const local = decideLocal(policy, container, query);
    if (local !== undefined) return encodeFor(request, query, replyFor(query, local));
    const answer = await relayToAny(
      this.#o.resolvers.route(query.name).servers,
      request.message,
      request.transport,
    );
    return answer && this.#checked(request, container, query, answer, true);
  }

  /** Threats are denied in mode observe, too; in mode off DNS is left alone. */
  #threat(container: string, query: Query): LocalAnswer | undefined {
    if (this.#o.policy.mode(container) !== 'observe') return undefined;
    const seen = observedThreat(this.#o.policy, query.name);
    if (seen !== undefined) this.#event(container, query, 'would-deny', seen);
    const threat = decideThreat(this.#o.policy, query.name);
    if (threat?.kind === 'deny') this.#event(container, query, 'threat', threat.reason);
    return threat;
  }

  /** The resolver itself is a blocked address: we must not send a query for the container that the rules would drop. */
  #isThreat(container: string, query: Query | undefined, { address }: Server): boolean {
    const hit = this.#o.policy.threats.blockedAddress(address);
    if (hit && query) this.#event(container, query, 'threat', `its resolver ${address}: ${hitText(hit)}`);
    return hit !== undefined;
  }

  /** Return the answer unchanged, unless it leads to a blocked name. The kernel rules deny blocked addresses. */
  #checked(
    request: ClientRequest,
    container: string,
    query: Query,
    answer: Buffer,
    trusted: boolean,
  ): Buffer {
    const records = readAnswer(answer)?.answers ?? [];
    const alias =
      this.#o.policy.mode(container) === 'observe' ? threatAlias(this.#o.policy, query, records) : undefined;
    if (alias !== undefined) {
      this.#event(container, query, 'threat', alias.reason);
      return encodeFor(request, query, replyFor(query, alias));
    }
    this.#wouldDenyAlias(container, query, records);
    this.#learn(container, query, answer, trusted);
    return answer;
  }

  #wouldDenyAlias(container: string, query: Query, records: readonly ResourceRecord[]): void {
    const { policy } = this.#o;
    if (policy.mode(container) !== 'observe' || !policy.decide(container, query.name).allow) return;
    const alias = deniedAlias(policy, container, query, records);
    if (alias) this.#event(container, query, 'would-deny', `enforce would deny it: ${alias.reason}`);
  }

  #event(
    container: string,
    { name, type: asked }: Query,
    verdict: NameEvent['verdict'],
    reason: string,
  ): void {
    this.#o.onEvent({ container, name, type: typeName(asked), verdict, reason });
  }

  /**
   * Answer for an enforced container that may query this resolver itself (dns=direct), when its veth was unknown as nat
   * redirected the flow: relay to the resolver that the container addressed. `own`: it addressed another resolver, or this one.
   */
  async direct(request: ClientRequest, container: string): Promise<Buffer | undefined | 'own'> {
    const isDirect = this.#o.policy.directResolvers(container);
    const meant = isDirect && this.#intended(request);
    if (!meant || !isDirect({ ...meant, proto: request.transport })) return 'own';
    if (this.#isThreat(container, undefined, meant)) return undefined;
    return relay(meant, request.message, request.transport);
  }

  /** The resolver that the container addressed, unless that was this one. A loopback one is the host's own, asked in host mode. */
  #intended(request: ClientRequest): Server | undefined {
    if (request.container !== undefined) return undefined;
    const { client, server } = request;
    const original = this.#o.original.lookup({
      proto: request.transport,
      client: client.address,
      clientPort: client.port,
      server: server.address,
      serverPort: server.port,
    });
    if (original === undefined || this.#o.isOwn(original.address, original.port)) return undefined;
    const at = parseServer(original.address);
    return at && { ...at, port: original.port, key: `${at.address}#${original.port}` };
  }

  async #relayed(
    request: ClientRequest,
    container: string,
    query: Query | undefined,
    to: Server,
  ): Promise<Buffer | undefined> {
    const isTrusted = this.#o.resolvers.isTrusted(to.address, to.port);
    const learned = isTrusted || query === undefined ? undefined : this.#learnOurs(container, query);
    const answer = await relay(to, request.message, request.transport);
    if (answer === undefined || query === undefined) return answer;
    await learned;
    return this.#checked(request, container, query, answer, isTrusted);
  }

  /** Enforced, the container would get the addresses that our resolver gives for a permitted name: those count as permitted. */
  async #learnOurs(container: string, { name, type: asked }: Query): Promise<void> {
    const { policy, learn } = this.#o;
    if (policy.mode(container) !== 'observe' || !isPlainName(name)) return;
    if ((asked !== type.A && asked !== type.AAAA) || !policy.decide(container, name).allow) return;
    await Promise.race([learn(container, name, asked), sleep(LEARN_MS, undefined, { ref: false })]);
  }

  #learn(container: string, query: Query, bytes: Buffer, trusted: boolean): void {
    if (this.#o.policy.mode(container) !== 'observe' || !isPlainName(query.name)) return;
    if (query.type !== type.A && query.type !== type.AAAA) return;
    const answer = readAnswer(bytes);
    if (answer === undefined) return;
    this.#o.recorder.observe(
      container,
      query.name,
      followChain(query.name, query.type, answer.answers).records,
      trusted,
    );
  }

  #wouldDeny(container: string, query: Query): void {
    if (this.#o.policy.mode(container) !== 'observe') return;
    const action = decide(this.#o.policy, container, query);
    if (action.kind !== 'deny' || !action.counted) return;
    this.#event(container, query, 'would-deny', `enforce would deny it: ${action.reason}`);
  }
}
