/** One question put to a list of servers until one answers: time-outs, TCP, servers that lack EDNS or echo no case. */

import type { Server } from '../lib/dns-server-address.js';
import { exchangeTcp, exchangeUdp, type Outcome } from './exchange.js';
import { rcode } from './types.js';
import { buildQuery, type Question, readAnswer } from './upstream-query.js';
import { flag, type Message } from './wire.js';

/** What is remembered of a server, until `until` (ms, monotonic). */
interface Quirks {
  noEcho: boolean;
  noEdns: boolean;
  until: number;
  failedAt: number;
}
/** UDP waits in ms, one after another over the servers; with TCP at the end it stays below a stub's 5 s. */
const waits = [600, 1000, 1200];
const tcpMs = 1500;
const rememberMs = 600_000;
const avoidMs = 10_000;

export class NoAnswerError extends Error {}

export class ServersAsked {
  readonly #quirks = new Map<string, Quirks>();

  /** Throws NoAnswerError, naming every server and what came of it. */
  async ask(servers: readonly Server[], q: Question): Promise<Message> {
    const order = this.#order(servers);
    const failures: string[] = [];
    let refusal: Message | undefined;
    for (let i = 0; order.length > 0 && i < waits.length + 1; i++) {
      const server = order[i % order.length] as Server;
      const ms = waits[i];
      const outcome =
        ms === undefined ? await this.#tcp(server, q, failures) : await this.#udp(server, q, ms, failures);
      if (outcome !== undefined && isUseful(outcome)) return outcome;
      refusal = outcome ?? refusal;
      this.#quirksOf(server).failedAt = performance.now();
      // Every server has refused: asking again would not change its mind.
      if (outcome !== undefined && i + 1 >= order.length) break;
    }
    if (refusal !== undefined) return refusal;
    throw new NoAnswerError(
      failures.length > 0 ? failures.join('; ') : 'no upstream to ask: set dns.upstreams',
    );
  }

  /** Servers that failed lately go last. */
  #order(servers: readonly Server[]): readonly Server[] {
    const now = performance.now();
    const bad = (s: Server): boolean =>
      now - (this.#quirks.get(s.key)?.failedAt ?? Number.NEGATIVE_INFINITY) < avoidMs;
    return [...servers.filter((s) => !bad(s)), ...servers.filter(bad)];
  }

  #quirksOf(server: Server): Quirks {
    const known = this.#quirks.get(server.key);
    if (known !== undefined && known.until > performance.now()) return known;
    const fresh = {
      noEcho: false,
      noEdns: false,
      until: performance.now() + rememberMs,
      failedAt: known?.failedAt ?? Number.NEGATIVE_INFINITY,
    };
    this.#quirks.set(server.key, fresh);
    return fresh;
  }

  async #udp(server: Server, q: Question, ms: number, failures: string[]): Promise<Message | undefined> {
    const quirks = this.#quirksOf(server);
    const { packet } = buildQuery(q, { mixedCase: !quirks.noEcho, edns: !quirks.noEdns });
    const outcome = await exchangeUdp(server, packet, ms);
    // Forged, or no echo: TCP tells which, and cannot be forged blindly.
    if (outcome.kind === 'case') return this.#tcp(server, q, failures);
    const message = this.#decode(server, outcome, failures, 'udp');
    if (message === undefined) return undefined;
    if ((message.flags & flag.TC) !== 0) return (await this.#tcp(server, q, failures)) ?? undefined;
    if (isEdnsTrouble(message) && !quirks.noEdns) {
      quirks.noEdns = true;
      return this.#udp(server, q, ms, failures);
    }
    return message;
  }

  async #tcp(server: Server, q: Question, failures: string[]): Promise<Message | undefined> {
    const quirks = this.#quirksOf(server);
    const mixed = buildQuery(q, { mixedCase: !quirks.noEcho, edns: !quirks.noEdns });
    const outcome = await exchangeTcp(server, mixed.packet, tcpMs);
    if (outcome.kind !== 'case') return this.#decode(server, outcome, failures, 'tcp');
    quirks.noEcho = true;
    const plain = buildQuery(q, { mixedCase: false, edns: !quirks.noEdns });
    return this.#decode(server, await exchangeTcp(server, plain.packet, tcpMs), failures, 'tcp');
  }

  #decode(server: Server, outcome: Outcome, failures: string[], over: string): Message | undefined {
    const message = outcome.kind === 'answer' ? readAnswer(outcome.answer) : undefined;
    if (message !== undefined) return message;
    const what =
      outcome.kind === 'unreachable'
        ? outcome.detail
        : outcome.kind === 'timeout'
          ? 'no answer'
          : 'malformed';
    failures.push(`${server.key} ${over}: ${what}`);
    return undefined;
  }
}

function isUseful(message: Message): boolean {
  const code = message.flags & 0x0f;
  return code === rcode.NOERROR || code === rcode.NXDOMAIN;
}

/** Servers from before RFC 6891 answer FORMERR or NOTIMP to an OPT record. */
function isEdnsTrouble(message: Message): boolean {
  const code = message.flags & 0x0f;
  return code === rcode.FORMERR || code === rcode.NOTIMP;
}
