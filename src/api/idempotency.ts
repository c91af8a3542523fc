import { createHash } from 'node:crypto';
import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { isRecord } from '../lib/json.js';
import type { Logger } from '../lib/log.js';
import { refuse, refuseInvalid } from '../lib/problem.js';
import { readOrUndefined, replaceFile } from '../store/state-file.js';
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
/** The file is written again with what is still kept when it has this many bytes more. */
const SLACK_BYTES = 4 * 1024 * 1024;
const LONGEST_KEY = 255;
/** Headers of an answer that are part of its meaning. */
const KEPT_HEADERS = ['content-type', 'etag', 'cache-control', 'retry-after'] as const;

/** What a failed write of the file costs is not paid for each request. */
const RETRY_MS = 30_000;
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

export interface AnswersOptions {
  readonly log: Pick<Logger, 'warn'>;
  /** ms since the epoch. */
  readonly now: () => number;
  /** The state folder; left out: answers are kept in memory only. */
  readonly dir?: string;
}

/** The answers that are kept, the oldest first, and their file. */
export class KeptAnswers implements AsyncDisposable {
  readonly #o: AnswersOptions;
  readonly #kept = new Map<string, Kept>();
  #bytes = 0;
  #file: FileHandle | undefined;
  #fileBytes = 0;
  #rewriteAt = 0;
  #writing: Promise<void> = Promise.resolve();
  #retryAt = 0;
  #isClosed = false;

  constructor(options: AnswersOptions) {
    this.#o = options;
  }

  /** Read the answers of the service that ran before. */
  static async open(options: AnswersOptions & { readonly dir: string }): Promise<KeptAnswers> {
    const answers = new KeptAnswers(options);
    try {
      const text = (await readOrUndefined(answers.#path))?.toString('utf8') ?? '';
      for (const line of text.split('\n')) answers.#read(line);
      answers.#trim();
    } catch (err) {
      options.log.warn(
        { err, file: answers.#path },
        'idempotency keys of earlier requests cannot be read: such a request that is sent again is executed again',
      );
    }
    return answers;
  }

  find(id: string): Kept | undefined {
    const kept = this.#kept.get(id);
    return kept && kept.at > this.#o.now() - KEEP_MS ? kept : undefined;
  }

  /** Resolves when the file has the key, so that a service that ends meanwhile leaves a trace of the request. */
  begin(begun: Omit<Kept, 'at' | 'state'>): Promise<void> {
    const kept: Kept = { ...begun, at: this.#o.now(), state: 'running' };
    this.#set(kept);
    this.#trim();
    return this.#append(kept);
  }

  finish(id: string, answer: Answer): Promise<void> {
    const begun = this.#kept.get(id);
    if (!begun) return Promise.resolve();
    const kept = { ...begun, state: answer };
    this.#set(kept);
    this.#trim();
    return this.#append(written(kept));
  }

  /** The request has failed, and may be sent again with its key. */
  forget(id: string): Promise<void> {
    this.#delete(id);
    return this.#append({ id });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosed = true;
    await this.#writing;
    await this.#file?.close();
    this.#file = undefined;
  }

  get #path(): string {
    return join(this.#o.dir ?? '', 'idempotency.log');
  }

  /** A line that a crash has cut short, or that another version wrote, is passed over. */
  #read(line: string): void {
    const read: unknown = parsed(line);
    if (!isRecord(read) || typeof read.id !== 'string') return;
    if (isKept(read)) this.#set(read.state === 'running' ? { ...read, state: 'lost' } : read);
    else this.#delete(read.id);
  }

  #set(kept: Kept): void {
    this.#delete(kept.id);
    this.#kept.set(kept.id, kept);
    this.#bytes += bytesOf(kept);
  }

  #delete(id: string): void {
    const old = this.#kept.get(id);
    if (old) this.#bytes -= bytesOf(old);
    this.#kept.delete(id);
  }

  /** Running requests stay: the limits of the API bound their number. */
  #trim(): void {
    const oldest = this.#o.now() - KEEP_MS;
    for (const { id, at, state } of [...this.#kept.values()])
      if (at <= oldest && state !== 'running') this.#delete(id);
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
    if (gone) this.#delete(gone.id);
    return gone !== undefined;
  }

  #shares(): ReadonlyMap<string, number> {
    const shares = new Map<string, number>();
    for (const { who } of this.#kept.values()) shares.set(who, (shares.get(who) ?? 0) + 1);
    return shares;
  }

  /** Not synced: a crash of the service loses no key, a crash of the host may lose the last ones. */
  #append(line: Kept | { readonly id: string }): Promise<void> {
    if (this.#o.dir === undefined) return Promise.resolve();
    const bytes = Buffer.from(`${JSON.stringify(line)}\n`);
    this.#writing = this.#writing.then(async () => {
      if (this.#isClosed || this.#o.now() < this.#retryAt) return;
      try {
        if (!this.#file || this.#fileBytes > this.#rewriteAt) return await this.#rewrite();
        await this.#file.appendFile(bytes);
        this.#fileBytes += bytes.length;
      } catch (err) {
        this.#retryAt = this.#o.now() + RETRY_MS;
        this.#fileBytes = Number.POSITIVE_INFINITY;
        this.#o.log.warn(
          { err, file: this.#path },
          'idempotency keys cannot be written: a restart of the service forgets the latest ones',
        );
      }
    });
    return this.#writing;
  }

  /** Replace the file by what is kept now. */
  async #rewrite(): Promise<void> {
    await this.#file?.close();
    this.#file = undefined;
    const lines = [...this.#kept.values()].map((kept) => Buffer.from(`${JSON.stringify(written(kept))}\n`));
    this.#fileBytes = await replaceFile(this.#path, lines);
    this.#rewriteAt = this.#fileBytes + SLACK_BYTES;
    this.#file = await open(this.#path, 'a', 0o600);
  }
}

const written = (kept: Kept): Kept =>
  kept.isSecret && typeof kept.state === 'object' ? { ...kept, state: { ...kept.state, body: null } } : kept;

const bytesOf = ({ state }: Kept): number => (typeof state === 'object' ? (state.body?.length ?? 0) : 0);

function parsed(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return undefined; // an empty line, or the last one before a crash
  }
}

function isKept(read: Readonly<Record<string, unknown>>): read is Readonly<Record<string, unknown>> & Kept {
  const { who, print, at, isSecret, state } = read;
  const isAnswer = isRecord(state) && typeof state.status === 'number' && isRecord(state.headers);
  return (
    [who, print].every((text) => typeof text === 'string') &&
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
