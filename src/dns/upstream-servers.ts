/** One question put to a list of servers until one answers: time-outs, TCP, servers that lack EDNS or echo no case. */

import type { Server } from '../lib/dns-server-address.js';
import { rcode } from './dns-constants.js';
import {
  buildQuery,
  exchangeTcp,
  exchangeUdp,
  type Outcome,
  type Question,
  readAnswer,
  Unneeded,
  type Wait,
} from './exchange.js';
import { flag, type Message } from './wire.js';

/** What is remembered of a server, until `until` (ms, monotonic). */
interface Quirks {
  noEcho: boolean;
  noEdns: boolean;
  until: number;
  failedAt: number;
}
/**
 * A question ends after this time. A stub resolver waits 5 s, asks again, and gives up 5 s later (resolv.conf(5)): the answer to the first of its
 * queries is the answer to the second, and it gets an error before it gives up.
 */
const QUESTION_MS = 9_000;
/** After a refusal of one server, the others have until then: the stub gets the refusal while it waits for its first query. */
const REFUSED_MS = 4_500;
/**
 * When the servers are asked over UDP, ms after the question: the second while the first may still answer. One query is open to each server,
 * from one port with one id and one spelling, and it is repeated unchanged. So a forged packet can match the one query to the server that it
 * claims to be from, as if there were one query only. Several open queries to one server would multiply its chance (RFC 5452 5). What
 * grows is the time for which a question of a slow server is open: `maxForeign` in exchange.ts bounds the packets that can be tried in it.
 */
const UDP_AT_MS = [0, 400, 1_600];
const REPEAT_MS = [800, 2_400];
/** The same over TCP: the network may lose UDP. */
const TCP_AT_MS = [2_800, 4_000];
/** Open exchanges of all questions. With more, a question that waits for one server asks no other: each exchange has a descriptor. */
const MOST_OPEN = 3_000;
const rememberMs = 600_000;
const avoidMs = 10_000;

export class NoAnswerError extends Error {}

/** One question, while servers are asked. */
interface Asking {
  readonly question: Question;
  /** ms, monotonic. */
  readonly begun: number;
  readonly unneeded: Unneeded;
  readonly failures: string[];
}
interface Try {
  readonly server: Server;
  readonly over: 'udp' | 'tcp';
  readonly at: number;
}

export class UpstreamServers {
  readonly #quirks = new Map<string, Quirks>();
  #open = 0;

  /** The first valid answer of any server. Throws NoAnswerError, naming every server and what came of it. */
  async ask(servers: readonly Server[], question: Question): Promise<Message> {
    const order = this.#order(servers);
    if (order.length === 0) throw new NoAnswerError('no upstream to ask: set dns.upstreams');
    const unneeded = new Unneeded();
    const asking = { question, begun: performance.now(), unneeded, failures: [] };
    const round = new Round(order, {
      begun: asking.begun,
      ask: (one) => this.#try(one, asking),
      isFull: () => this.#open >= MOST_OPEN,
    });
    try {
      const answer = await round.run();
      if (answer === undefined) throw new NoAnswerError(asking.failures.join('; '));
      return answer;
    } finally {
      unneeded.end();
      const now = performance.now();
      for (const server of round.late(now)) this.#quirksOf(server).failedAt = now;
      if (round.answeredBy) this.#quirksOf(round.answeredBy).failedAt = Number.NEGATIVE_INFINITY;
    }
  }

  async #try({ server, over }: Try, asking: Asking): Promise<Message | undefined> {
    this.#open += 1;
    try {
      return await (over === 'udp' ? this.#udp(server, asking) : this.#tcp(server, asking));
    } finally {
      this.#open -= 1;
    }
  }

  /** Servers that failed lately, or were slower than another, go last. */
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

  async #udp(server: Server, asking: Asking): Promise<Message | undefined> {
    const quirks = this.#quirksOf(server);
    const { packet } = buildQuery(asking.question, { mixedCase: !quirks.noEcho, edns: !quirks.noEdns });
    const outcome = await exchangeUdp(server, packet, { ...waitOf(asking), repeatMs: REPEAT_MS });
    // The answer is forged, or the server does not echo the case: TCP shows which, and cannot be forged blindly.
    if (outcome.kind === 'case') return this.#tcp(server, asking);
    const message = this.#decode(server, outcome, asking, 'udp');
    if (message === undefined) return undefined;
    if ((message.flags & flag.TC) !== 0) return this.#tcp(server, asking);
    if (isEdnsTrouble(message) && !quirks.noEdns) {
      quirks.noEdns = true;
      return this.#udp(server, asking);
    }
    return message;
  }

  async #tcp(server: Server, asking: Asking): Promise<Message | undefined> {
    const quirks = this.#quirksOf(server);
    const mixed = buildQuery(asking.question, { mixedCase: !quirks.noEcho, edns: !quirks.noEdns });
    const outcome = await exchangeTcp(server, mixed.packet, waitOf(asking));
    if (outcome.kind !== 'case') return this.#decode(server, outcome, asking, 'tcp');
    quirks.noEcho = true;
    const plain = buildQuery(asking.question, { mixedCase: false, edns: !quirks.noEdns });
    return this.#decode(server, await exchangeTcp(server, plain.packet, waitOf(asking)), asking, 'tcp');
  }

  #decode(server: Server, outcome: Outcome, { failures }: Asking, over: string): Message | undefined {
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

/** An exchange lasts as long as its question. */
const waitOf = ({ begun, unneeded }: Asking): Wait => ({
  ms: Math.max(1, begun + QUESTION_MS - performance.now()),
  unneeded,
});

interface RoundParts {
  /** ms, monotonic. */
  readonly begun: number;
  /** Undefined: no valid answer came. */
  readonly ask: (one: Try) => Promise<Message | undefined>;
  readonly isFull: () => boolean;
}

/** Which server is asked when, until one answers. The next one is asked at its time, or as soon as one has failed. */
class Round {
  readonly #o: RoundParts;
  readonly #tries: Try[];
  /** Servers that have not answered, and since when (ms, monotonic). */
  readonly #silent = new Map<Server, number>();
  readonly #refused = new Set<Server>();
  #refusal: Message | undefined;
  #running = 0;
  #next: NodeJS.Timeout | undefined;
  #late: NodeJS.Timeout | undefined;
  #settle: (answer: Message | undefined) => void = () => undefined;
  answeredBy: Server | undefined;

  constructor(order: readonly Server[], parts: RoundParts) {
    this.#o = parts;
    const tries = (over: Try['over'], at: readonly number[]): Try[] =>
      order.slice(0, at.length).map((server, i) => ({ server, over, at: at[i] as number }));
    this.#tries = [...tries('udp', UDP_AT_MS), ...tries('tcp', TCP_AT_MS)];
  }

  /** The answer, or else the last refusal. Rejects with an error of `ask`. */
  async run(): Promise<Message | undefined> {
    try {
      return await new Promise((resolve, reject) => {
        this.#settle = resolve;
        this.#begin(reject);
      });
    } finally {
      this.#settle = () => undefined;
      this.#tries.length = 0;
      clearTimeout(this.#next);
      clearTimeout(this.#late);
    }
  }

  /** Servers that have failed, or were silent for longer than it takes to ask the next one. */
  late(now: number): readonly Server[] {
    const patience = UDP_AT_MS[1] as number;
    return [...this.#silent].filter(([, since]) => now - since >= patience).map(([server]) => server);
  }

  #begin(reject: (error: unknown) => void): void {
    clearTimeout(this.#next);
    const one = this.#take();
    if (one) {
      this.#running += 1;
      if (!this.#silent.has(one.server)) this.#silent.set(one.server, performance.now());
      this.#o.ask(one).then((message) => this.#ended(one, message, reject), reject);
    } else if (this.#running === 0) this.#settle(this.#refusal);
    const [following] = this.#tries;
    if (following) this.#next = this.#at(following.at, () => this.#begin(reject));
  }

  /** While many exchanges are open, what is not necessary is left out. */
  #take(): Try | undefined {
    while (this.#tries.length > 0) {
      const one = this.#tries.shift() as Try;
      if (!this.#refused.has(one.server)) return this.#running > 0 && this.#o.isFull() ? undefined : one;
    }
    return undefined;
  }

  #ended({ server }: Try, message: Message | undefined, reject: (error: unknown) => void): void {
    this.#running -= 1;
    if (message && isUseful(message)) {
      this.#silent.delete(server);
      this.answeredBy = server;
      this.#settle(message);
      return;
    }
    this.#silent.set(server, Number.NEGATIVE_INFINITY);
    if (message) {
      this.#refused.add(server);
      this.#refusal = message;
      this.#late ??= this.#at(REFUSED_MS, () => this.#settle(this.#refusal));
    }
    this.#begin(reject);
  }

  #at(ms: number, work: () => void): NodeJS.Timeout {
    return setTimeout(work, Math.max(0, this.#o.begun + ms - performance.now()));
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
