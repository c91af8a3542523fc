/** Containers that are not enforced: nothing is denied, what enforce would deny is told, answers are written down. */
import type { DnsPolicy, NameEvent, OriginalDestination } from '../ports.js';
import type { Ask } from './ask.js';
import { followChain } from './chain.js';
import type { ParsedQuery, Query } from './codec.js';
import { decide, decideLocal } from './decide.js';
import type { Learn } from './learn.js';
import { relay, relayToAny } from './relay.js';
import { encodeFor, replyFor } from './reply.js';
import { parseServer, type Resolvers, type Server } from './resolvers.js';
import { type, typeName } from './types.js';
import { readAnswer } from './upstream-query.js';
import { isPlainName } from './wire-name.js';

export interface ObservedOptions {
  readonly policy: DnsPolicy;
  readonly original: OriginalDestination;
  readonly resolvers: Resolvers;
  readonly learn: Learn;
  isOwn(address: string, port: number): boolean;
  onEvent(event: NameEvent): void;
}

export class Observed {
  readonly #o: ObservedOptions;

  constructor(options: ObservedOptions) {
    this.#o = options;
  }

  /** The answer of the resolver that was asked, unchanged; undefined: none came. */
  async answer(ask: Ask, container: string, parsed: ParsedQuery): Promise<Buffer | undefined> {
    const query = parsed.ok ? parsed.query : undefined;
    const asked = this.#asked(ask);
    if (query !== undefined) this.#wouldDeny(container, query);
    if (asked !== undefined) return this.#relayed(ask, container, query, asked);
    if (query === undefined) return parsed.ok ? undefined : parsed.reply;
    // Docker's own resolver was meant, which knows the neighbours' names.
    const local = decideLocal(this.#o.policy, container, query);
    if (local !== undefined) return encodeFor(ask, query, replyFor(query, local));
    const answer = await relayToAny(this.#o.resolvers.route(query.name).servers, ask.message, ask.transport);
    if (answer !== undefined) this.#learn(container, query, answer, true);
    return answer;
  }

  /**
   * An enforced container that may ask this resolver itself (dns=direct), whose port was unknown when nat redirected its
   * flow: the answer of the resolver that it meant. `own`: it meant another, or this one.
   */
  async direct(ask: Ask, container: string): Promise<Buffer | undefined | 'own'> {
    const isDirect = this.#o.policy.directResolvers(container);
    const meant = isDirect && this.#asked(ask);
    if (!meant || !isDirect({ ...meant, proto: ask.transport })) return 'own';
    return relay(meant, ask.message, ask.transport);
  }

  /** The resolver that the container addressed, unless that was this one. A loopback one is the host's own, asked in host mode. */
  #asked(ask: Ask): Server | undefined {
    if (ask.container !== undefined) return undefined;
    const { client, server } = ask;
    const original = this.#o.original.lookup({
      proto: ask.transport,
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
    ask: Ask,
    container: string,
    query: Query | undefined,
    to: Server,
  ): Promise<Buffer | undefined> {
    const answer = await relay(to, ask.message, ask.transport);
    if (answer !== undefined && query !== undefined) {
      this.#learn(container, query, answer, this.#o.resolvers.isTrusted(to.address, to.port));
    }
    return answer;
  }

  #learn(container: string, query: Query, bytes: Buffer, trusted: boolean): void {
    if (this.#o.policy.mode(container) !== 'observe' || !isPlainName(query.name)) return;
    if (query.type !== type.A && query.type !== type.AAAA) return;
    const answer = readAnswer(bytes);
    if (answer === undefined) return;
    this.#o.learn.observe(
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
    const { name } = query;
    const reason = `enforce would deny it: ${action.reason}`;
    this.#o.onEvent({ container, name, type: typeName(query.type), verdict: 'would-deny', reason });
  }
}
