import { createHash } from 'node:crypto';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { isRecord } from '../lib/json.js';
import { refuse, refuseInvalid } from '../lib/problem.js';
import type { SmallState } from '../store/small-state.js';
import { badRequest } from './problems.js';

/** Idempotency keys of changes (draft-ietf-httpapi-idempotency-key-header): the answer to a key is sent again for a day. */

const HEADER = 'idempotency-key';
/** It marks an answer that was made before. */
const REPLAYED = 'idempotency-replayed';
const KEEP_MS = 24 * 3_600_000;
const MOST_KEYS = 1_000;
const MOST_OF_ONE = 200;
/** A larger answer is not kept, but the fact that the change was made is. */
const MOST_BODY = 32 * 1024;
const MOST_BYTES = 8 * 1024 * 1024;
const LONGEST_KEY = 255;
/** Headers of an answer that are part of its meaning. */
const KEPT_HEADERS = ['content-type', 'etag', 'cache-control', 'retry-after'] as const;

const CHANGES = ['POST', 'PUT', 'DELETE', 'PATCH'];

interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  /** Null: it was too large, or it had a secret and the service has restarted since. */
  readonly body: string | null;
}
interface Kept {
  readonly id: string;
  /** The author of the change, hashed: each has a share of the keys. */
  readonly who: string;
  /** Digest of method, path, query, guards and body. */
  readonly print: string;
  /** ms since the epoch. */
  readonly at: number;
  readonly isSecret: boolean;
  /** running: no answer yet. lost: the service ended before there was one. */
  readonly state: 'running' | 'lost' | Answer;
}

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Its answer has a secret, which is not written to a file. */
    isSecret?: boolean;
  }
  interface FastifyRequest {
    /** The id of the idempotency key under which this request runs; '' when it has none. */
    keyed: string;
  }
}

/** Of the small state: by the id of the key. */
const AREA = 'idempotency';

/** The answers that are kept, the oldest first. */
export class KeptAnswers {
  readonly #now: () => number;
  readonly #small: Pick<SmallState, 'take' | 'set'> | undefined;
  readonly #kept = new Map<string, Kept>();
  #bytes = 0;

  /** `now`: ms since the epoch. `small`: where they outlive a restart; left out: they are kept in memory only. */
  constructor(now: () => number, small?: Pick<SmallState, 'take' | 'set'>) {
    this.#now = now;
    this.#small = small;
    const found = [...(small?.take(AREA).values() ?? [])].map(parsed).filter(isKept);
    for (const kept of found.sort((a, b) => a.at - b.at))
      this.#set(kept.state === 'running' ? { ...kept, state: 'lost' } : kept);
    this.#trim();
  }

  find(id: string): Kept | undefined {
    const kept = this.#kept.get(id);
    return kept && kept.at > this.#now() - KEEP_MS ? kept : undefined;
  }

  /** Resolves when the key is saved, so that a service that ends meanwhile leaves a trace of the request. */
  begin(begun: Omit<Kept, 'at' | 'state'>): Promise<void> {
    return this.#put({ ...begun, at: this.#now(), state: 'running' });
  }

  finish(id: string, answer: Answer): Promise<void> {
    const begun = this.#kept.get(id);
    return begun ? this.#put({ ...begun, state: answer }) : Promise.resolve();
  }

  /** The request has failed, and may be sent again with its key. */
  forget(id: string): Promise<void> {
    return this.#delete(id);
  }

  #put(kept: Kept): Promise<void> {
    this.#set(kept);
    const saved = this.#save(kept.id, JSON.stringify(written(kept)));
    this.#trim();
    return saved;
  }

  #save(id: string, value: string | undefined): Promise<void> {
    return this.#small?.set(AREA, id, value) ?? Promise.resolve();
  }

  #set(kept: Kept): void {
    this.#drop(kept.id);
    this.#kept.set(kept.id, kept);
    this.#bytes += bytesOf(kept);
  }

  #delete(id: string): Promise<void> {
    this.#drop(id);
    return this.#save(id, undefined);
  }

  #drop(id: string): void {
    const old = this.#kept.get(id);
    if (old) this.#bytes -= bytesOf(old);
    this.#kept.delete(id);
  }

  /** Running requests stay: the limits of the API bound their number. */
  #trim(): void {
    const oldest = this.#now() - KEEP_MS;
    for (const { id, at, state } of [...this.#kept.values()])
      if (at <= oldest && state !== 'running') void this.#delete(id);
    while (this.#isFull()) if (!this.#deleteOne()) return;
  }

  #isFull(): boolean {
    if (this.#kept.size > MOST_KEYS || this.#bytes > MOST_BYTES) return true;
    return Math.max(0, ...this.#shares().values()) > MOST_OF_ONE;
  }

  /** Delete the oldest key of the author that has the most. */
  #deleteOne(): boolean {
    const [most] = [...this.#shares()].sort(([, a], [, b]) => b - a)[0] ?? [];
    const done = [...this.#kept.values()].filter(({ state }) => state !== 'running');
    const gone = done.find(({ who }) => who === most) ?? done[0];
    if (gone) void this.#delete(gone.id);
    return gone !== undefined;
  }

  #shares(): ReadonlyMap<string, number> {
    const shares = new Map<string, number>();
    for (const { who } of this.#kept.values()) shares.set(who, (shares.get(who) ?? 0) + 1);
    return shares;
  }
}

const written = (kept: Kept): Kept =>
  kept.isSecret && typeof kept.state === 'object' ? { ...kept, state: { ...kept.state, body: null } } : kept;

const bytesOf = ({ state }: Kept): number => (typeof state === 'object' ? (state.body?.length ?? 0) : 0);

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined; // a damaged row
  }
}

function isKept(read: unknown): read is Kept {
  if (!isRecord(read)) return false;
  const { id, who, print, at, isSecret, state } = read;
  const isAnswer = isRecord(state) && typeof state.status === 'number' && isRecord(state.headers);
  return (
    [id, who, print].every((text) => typeof text === 'string') &&
    typeof at === 'number' &&
    typeof isSecret === 'boolean' &&
    (state === 'running' || state === 'lost' || isAnswer)
  );
}

/** Execute a change that has an idempotency key once, and send its answer again. */
export function keepAnswers(server: FastifyInstance, answers: KeptAnswers): void {
  server.decorateRequest('keyed', '');
  server.addHook('preHandler', async (request, reply) => {
    const header = request.headers[HEADER];
    if (header === undefined || !CHANGES.includes(request.method) || request.routeOptions.url === undefined)
      return undefined;
    const { who: author } = request.identity;
    const who = digest([author]);
    const id = digest([author, keyOf(header)]);
    const print = printOf(request);
    const known = answers.find(id);
    if (known) return replay(reply, known, print);
    request.keyed = id;
    await answers.begin({ id, who, print, isSecret: request.routeOptions.config.isSecret === true });
    return undefined;
  });
  server.addHook('onSend', async (request, reply, payload) => {
    if (request.keyed === '') return payload;
    const status = reply.statusCode;
    // A failure is not remembered: it is undone, or the next attempt finds out.
    if (status >= 500) await answers.forget(request.keyed);
    else await answers.finish(request.keyed, { status, headers: headersOf(reply), body: bodyOf(payload) });
    return payload;
  });
}

/** The key is a string of RFC 8941 ("…"); many clients send it without the quotes, which means the same. */
function keyOf(header: string | string[]): string {
  const text = typeof header === 'string' ? header.trim() : '';
  const [, quoted, bare] = /^(?:"((?:[ !#-[\]-~]|\\["\\])+)"|([!#-+\--:<-[\]-~]+))$/.exec(text) ?? [];
  const key = quoted?.replaceAll(/\\(.)/g, '$1') ?? bare;
  if (key !== undefined && key.length <= LONGEST_KEY) return key;
  return badRequest(
    'the header Idempotency-Key is not one string',
    `send one key of at most ${LONGEST_KEY} visible ASCII characters in quotes, such as "8e03978e-40d5-43e8-bc93-6894a57f9324"`,
  );
}

function printOf({ method, url, headers, body }: FastifyRequest): string {
  const guards = [headers['if-match'] ?? null, headers['if-none-match'] ?? null];
  return digest([method, url, guards, body ?? null]);
}

const digest = (parts: readonly unknown[]): string =>
  createHash('sha256').update(JSON.stringify(parts)).digest('base64url');

function replay(reply: FastifyReply, { state, print }: Kept, now: string): FastifyReply {
  if (print !== now)
    refuseInvalid([
      {
        detail: 'the idempotency key belongs to another request',
        remedy: 'send a new key with each new request, and an old one with exactly the same request only',
      },
    ]);
  if (state === 'running')
    refuse(
      'conflict',
      'the first request with this idempotency key is still running',
      'wait for its answer, then send it again',
    );
  if (state === 'lost')
    refuse(
      'conflict',
      'the service ended while the first request with this idempotency key ran: its outcome is not known',
      'read what is in force now; if the change is missing, send it with a new key',
    );
  if (state.body === null)
    refuse(
      'conflict',
      `the first request with this idempotency key was answered with ${state.status}, and its answer is not kept`,
      'read what is in force now; a token whose secret is lost must be revoked and created again',
    );
  return reply
    .code(state.status)
    .headers(state.headers)
    .header(REPLAYED, 'true')
    .send(state.body === '' ? undefined : state.body);
}

function headersOf(reply: FastifyReply): Readonly<Record<string, string>> {
  const headers = KEPT_HEADERS.map((name) => [name, reply.getHeader(name)] as const);
  return Object.fromEntries(
    headers.flatMap(([name, value]) => (value === undefined ? [] : [[name, String(value)]])),
  );
}

/** The answers of changes are texts. */
function bodyOf(payload: unknown): string | null {
  if (payload === undefined || payload === null) return '';
  const text =
    typeof payload === 'string' ? payload : Buffer.isBuffer(payload) ? payload.toString('utf8') : null;
  return text === null || Buffer.byteLength(text) > MOST_BODY ? null : text;
}
