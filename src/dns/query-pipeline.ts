/** The steps of a query: container → mode → local names → policy → upstream → answer filter → kernel sets → reply. */

import type { Received, ReplySpace } from '../kernel/netlink/datagram-socket.js';
import type { Logger } from '../lib/log.js';
import { filterAnswers, stripServiceParams } from './answer-filter.js';
import {
  awaitMs,
  type ClientRequest,
  encodeFor,
  noData,
  parseQuery,
  type Query,
  queryFor,
  type Reply,
  type ReplyBasis,
  type Revision,
  serverFailure,
} from './client-query.js';
import { decide, deniedAlias, observedThreat, replyFor, threatAlias } from './decide.js';
import { extendedError, rcode, type, typeName } from './dns-constants.js';
import type { KeptReplies, QueryTime } from './kept-replies.js';
import type { NameDecision, NameEvent, QueryPolicy } from './names-policy.js';
import type { Passthrough } from './passthrough.js';
import type { Permission, Recorder } from './recorder.js';
import type { Resolvers } from './resolvers.js';
import type { Answer, Upstream } from './upstream.js';
import { NoAnswerError } from './upstream-servers.js';
import type { ResourceRecord } from './wire.js';

export interface QueryPipelineOptions {
  readonly policy: QueryPolicy;
  readonly upstream: Upstream;
  readonly recorder: Recorder;
  readonly passthrough: Passthrough;
  readonly resolvers: Pick<Resolvers, 'revision'>;
  readonly kept: KeptReplies;
  readonly log: Logger;
  /**
   * The TTL of each record in replies to clients, seconds. What is left of the TTL of an upstream's answer would tell when another client of
   * that upstream has asked for the name.
   */
  readonly ttl: number;
  onEvent(event: NameEvent): void;
  /** Asks a person about a name that no entry permits. Left out: it is denied at once. */
  ask?(question: NameQuestion): AskedName;
}
/** A query of an enforced container. */
export interface NameQuestion {
  readonly container: string;
  readonly name: string;
  readonly type: number;
  /** Equal for the repetitions of one query. */
  readonly client: string;
  /** It has reached our resolver in the namespace of the container, in place of Docker's. */
  readonly isInside: boolean;
}
/** `no`: no person is asked, and the name is denied. `repeated`: the same query waits already. Else it resolves when the query is to be decided again. */
export type AskedName = 'no' | 'repeated' | Promise<void>;
/** The client of a query: the container that the socket belongs to, or the source address. */
interface ClientKey {
  readonly container?: string | undefined;
  readonly address: string;
}
/** Unknown clients that wait at the same time: forged source addresses could name any number of them. */
const maxWaitingClients = 4096;

export class QueryPipeline {
  readonly #o: QueryPipelineOptions;
  #waitingClients = 0;
  #seen: Revision = { policy: -1, resolvers: -1 };

  constructor(options: QueryPipelineOptions) {
    this.#o = options;
  }

  /**
   * Write the reply that the same bytes had before, if it is still valid, and count it. Returns the length of the reply, or 0:
   * then `handle` answers the query. `container`: of the socket; without it the source address identifies the client.
   */
  repeat(client: ClientKey, query: Received, now: QueryTime, into: ReplySpace): number {
    const container = client.container ?? this.#o.policy.containerAt(client.address);
    if (container === undefined) return 0;
    const kept = this.#o.kept.answer(container, query, this.#revision, now, into);
    if (kept === undefined) return 0;
    this.#o.onEvent(kept.event);
    return kept.bytes.length;
  }

  get #revision(): Revision {
    const { revision: policy } = this.#o.policy;
    const { revision: resolvers } = this.#o.resolvers;
    if (policy !== this.#seen.policy || resolvers !== this.#seen.resolvers)
      this.#seen = { policy, resolvers };
    return this.#seen;
  }

  /** Returns the bytes of the reply, or undefined when there is none. Never rejects. */
  async handle(request: ClientRequest): Promise<Buffer | undefined> {
    try {
      return await this.#handle(request);
    } catch (error) {
      this.#o.log.error({ err: error, client: request.client }, 'dns: query failed');
      const parsed = parseQuery(request.message);
      if (!parsed.ok) return parsed.reply;
      return encodeFor(request, parsed.query, serverFailure(extendedError.OTHER, 'internal error'));
    }
  }

  async #handle(request: ClientRequest): Promise<Buffer | undefined> {
    const parsed = parseQuery(request.message);
    if (!parsed.ok && parsed.reply === undefined) return undefined;
    const container = await this.#containerOf(request);
    const observed = container !== undefined && this.#o.policy.mode(container) !== 'enforce';
    if (observed) return this.#o.passthrough.answer(request, container, parsed);
    const direct = container === undefined ? 'own' : await this.#o.passthrough.direct(request, container);
    if (direct !== 'own') return direct;
    if (!parsed.ok) return parsed.reply;
    if (container === undefined) return encodeFor(request, parsed.query, unknownClient);
    const reply = await this.#enforced(container, parsed.query, request);
    if (reply === undefined) return undefined;
    const bytes = encodeFor(request, parsed.query, reply);
    this.#keep(request, container, reply, bytes);
    return bytes;
  }

  /** A container that may query resolvers itself is left out: its queries may be for one of those. */
  #keep(request: ClientRequest, container: string, { basis }: Reply, bytes: Buffer): void {
    if (basis === undefined || request.transport !== 'udp') return;
    if (this.#o.policy.directResolvers(container) !== undefined) return;
    this.#o.kept.keep(container, request.message, { bytes, basis }, this.#revision);
  }

  async #containerOf(request: ClientRequest): Promise<string | undefined> {
    const { policy } = this.#o;
    if (request.container !== undefined)
      return (await policy.awaitContainer(request.container, awaitMs)) ? request.container : undefined;
    const { address } = request.client;
    return (
      policy.containerAt(address, request.receivedAt) ??
      (await this.#awaitClient(address, request.receivedAt))
    );
  }

  async #awaitClient(address: string, receivedAt: number): Promise<string | undefined> {
    if (this.#waitingClients >= maxWaitingClients) return undefined;
    this.#waitingClients += 1;
    try {
      return await this.#o.policy.awaitClient(address, receivedAt, awaitMs);
    } finally {
      this.#waitingClients -= 1;
    }
  }

  /** Undefined: the client repeats a query that still waits, and gets the answer to the first. */
  async #enforced(container: string, query: Query, request: ClientRequest): Promise<Reply | undefined> {
    let action = decide(this.#o.policy, container, query);
    const seen = observedThreat(this.#o.policy, query.name);
    if (seen !== undefined) this.#event(container, query, 'would-deny', seen);
    if (action.kind === 'deny' && action.verdict === 'deny') {
      // The name can belong to a neighbour on a network that the Docker API has not reported yet.
      if (!(await this.#o.policy.awaitNetworks(container, awaitMs)))
        return this.#networksUnknown(container, query);
      action = decide(this.#o.policy, container, query);
    }
    if (action.kind === 'deny' && action.mayBeAsked) {
      const asked = this.#o.ask?.(questionOf(container, query, request)) ?? 'no';
      if (asked === 'repeated') return undefined;
      if (asked !== 'no') {
        await asked;
        action = decide(this.#o.policy, container, query);
      }
    }
    if (action.kind === 'forward') {
      const reply = await this.#forward(container, query);
      // Every query for a reported name counts.
      return seen === undefined ? reply : { ...reply, basis: undefined };
    }
    if (action.kind === 'deny' && action.counted)
      this.#event(container, query, action.verdict, action.reason);
    return replyFor(query, action);
  }

  #networksUnknown(container: string, query: Query): Reply {
    const reason = 'Docker has not reported the networks of the container yet';
    this.#event(container, query, 'error', reason);
    return serverFailure(extendedError.NOT_READY, reason);
  }

  /** Record the addresses that a permitted name has now, as an answer to the container would. Without an answer nothing is recorded. */
  async learn(container: string, name: string, type: number): Promise<void> {
    const { policy, upstream, recorder, log } = this.#o;
    const query = queryFor(name, type);
    if (decide(policy, container, query).kind !== 'forward') return;
    try {
      const { records } = await upstream.resolve({ ...query, dnssecOk: false }, container);
      const action = decide(policy, container, query); // it may have changed while we waited
      if (action.kind !== 'forward') return;
      if (threatAlias(policy, query, records) ?? deniedAlias(policy, container, query, records)) return;
      const rules = recorder.rules(container, name, action.decision);
      await recorder.permit(container, name, filterAnswers(records, rules).records);
    } catch (err) {
      log.debug({ err, container, name }, 'not resolved: the name permits no open connection');
    }
  }

  async #forward(container: string, query: Query): Promise<Reply> {
    let answer: Answer;
    const madeAt = performance.now();
    try {
      const { name, type, edns, checkingDisabled, authenticData } = query;
      const dnssecOk = edns?.dnssecOk ?? false;
      const question = { name, type, dnssecOk, checkingDisabled, authenticData };
      answer = await this.#o.upstream.resolve(question, container);
    } catch (error) {
      if (!(error instanceof NoAnswerError)) throw error;
      this.#event(container, query, 'error', error.message);
      return serverFailure(extendedError.NO_REACHABLE_AUTHORITY, 'no answer from the upstream resolvers');
    }
    // The policy may have changed while we waited.
    const revision = this.#revision;
    const now = decide(this.#o.policy, container, query);
    if (now.kind !== 'forward') return replyFor(query, now);
    return this.#answer(container, query, { ...answer, madeAt, revision }, now.decision);
  }

  async #answer(
    container: string,
    query: Query,
    answer: Answer & Pick<ReplyBasis, 'madeAt' | 'revision'>,
    decision: NameDecision,
  ): Promise<Reply> {
    const { policy } = this.#o;
    const alias =
      threatAlias(policy, query, answer.records) ?? deniedAlias(policy, container, query, answer.records);
    if (alias !== undefined) {
      this.#event(container, query, alias.verdict, alias.reason);
      return replyFor(query, alias);
    }
    const rules = this.#o.recorder.rules(container, query.name, decision);
    const { records, refused } = filterAnswers(answer.records.flatMap(stripEch), rules);
    for (const [reason, verdict] of new Map(refused.map((r) => [r.reason, r.verdict])))
      this.#event(container, query, verdict, reason);
    let permission: Permission;
    try {
      permission = await this.#o.recorder.permit(container, query.name, records);
    } catch (error) {
      const detail = (error as Error).message;
      this.#event(container, query, 'error', `the kernel did not take the addresses: ${detail}`);
      return serverFailure(extendedError.NOT_READY, 'addresses are not in force yet');
    }
    if (refused.length > 0 && !records.some((r) => r.type === query.type))
      return noData(query, refused[0]?.reason);
    const event = refused.length === 0 ? this.#answered(container, query, answer.rcode, decision) : undefined;
    const { madeAt, revision, freshUntil } = answer;
    // What was changed or taken out is no longer what the resolver has validated.
    const untouched =
      records.length === answer.records.length && records.every((r, i) => r === answer.records[i]);
    return {
      rcode: answer.rcode,
      authentic: answer.authentic && untouched,
      answers: records.map((r) => ({ ...r, ttl: this.#o.ttl })),
      authorities: answer.authorities.map((r) => ({ ...r, ttl: this.#o.ttl })),
      basis: event && { revision, madeAt, freshUntil, permission, event },
    };
  }

  /** Returns the event of an answer that a client may get again. */
  #answered(container: string, query: Query, code: number, decision: NameDecision): NameEvent | undefined {
    if (code === rcode.NOERROR || code === rcode.NXDOMAIN)
      return this.#event(container, query, 'allow', decision.entries[0]?.entry.canonical ?? '');
    this.#event(container, query, 'error', `the upstream resolvers answered with code ${code}`);
    return undefined;
  }

  #event(container: string, query: Query, verdict: NameEvent['verdict'], reason: string): NameEvent {
    const event = { container, name: query.name, type: typeName(query.type), verdict, reason };
    this.#o.onEvent(event);
    return event;
  }
}

const unknownClient = serverFailure(extendedError.NOT_READY, 'no container is known at this address');

/** Over a stream, no query is repeated: each has an answer. */
function questionOf(container: string, query: Query, request: ClientRequest): NameQuestion {
  const { name, id, type } = query;
  const { address, port } = request.client;
  const once = request.transport === 'tcp' ? `${++streamed}` : '';
  const client = `dns ${address} ${port} ${id} ${type} ${once}`;
  return { container, name, type, client, isInside: request.container !== undefined };
}
let streamed = 0;

/** Without ECH, so that the TLS check can see the name. */
function stripEch(record: ResourceRecord): ResourceRecord[] {
  if (record.type !== type.HTTPS && record.type !== type.SVCB) return [record];
  const data = stripServiceParams(record.data);
  return data === undefined ? [] : [{ ...record, data }];
}
