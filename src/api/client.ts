import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { SyncHow } from '../threats/feed-view.js';
import type {
  AuditBody,
  ClosedStatus,
  ContainerBody,
  Durability,
  Explain,
  GrantBody,
  ListBody,
  LockdownBody,
  PauseBody,
  ProblemDocument,
  ScanBody,
  Status,
} from './schemas.js';
import type { ExportBody, NewToken, NodeBody, PlanBody, TokenBody } from './schemas-fleet.js';
import type { FeedBody, FeedSyncBody, Flow, PreviewBody, ThreatBody } from './schemas-traffic.js';

/** The service answered with a problem. */
export class ApiError extends Error {
  readonly problem: ProblemDocument;
  constructor(problem: ProblemDocument) {
    super(problem.detail);
    this.problem = problem;
  }
}
const closedProblem = ({ reason, remedy }: ClosedStatus['closed']): ProblemDocument => {
  const detail = `the service runs closed: ${reason}`;
  return {
    type: '/docs#closed',
    status: 503,
    title: 'The service runs closed',
    detail,
    errors: [{ detail, remedy }],
  };
};

/** The service could not be reached: `code` is the system's (ENOENT, ECONNREFUSED, EACCES …). */
export class UnreachableError extends Error {
  readonly code: string;
  readonly socket: string;
  constructor(socket: string, code: string, cause: unknown) {
    super(`no answer on ${socket}: ${code}`, { cause });
    this.socket = socket;
    this.code = code;
  }
}

export interface ClientOptions {
  /** Path of the unix socket. */
  readonly socket: string;
  /** The user that runs the command, for the audit. */
  readonly user?: string;
  readonly timeoutMs?: number;
}
interface Send {
  readonly body?: unknown;
  /** A revision; 0: only when there is none yet. */
  readonly ifRevision?: number | undefined;
  readonly timeoutMs?: number;
}
interface Page<T> {
  readonly items: readonly T[];
  readonly next: string | null;
}

/** An answer waits for the kernel (5 s) and, when undone, for the store again. */
const TIMEOUT_MS = 30_000;
const SYNC_MS = 600_000;
const MOST_TRIES = 4;
const LONGEST_WAIT_S = 5;

/** The API over its unix socket. Every method throws ApiError or UnreachableError. */
export class ApiClient {
  readonly #options: ClientOptions;

  constructor(options: ClientOptions) {
    this.#options = options;
  }

  /** Throws ApiError while the service runs closed: then it counts nothing. */
  async status(): Promise<Status> {
    const status = await this.anyStatus();
    if ('closed' in status) throw new ApiError(closedProblem(status.closed));
    return status;
  }
  anyStatus(): Promise<Status | ClosedStatus> {
    return this.#json('GET', '/v1/status');
  }
  acceptStore(): Promise<Status> {
    return this.#json('POST', '/v1/store/accept');
  }
  async containers(): Promise<readonly ContainerBody[]> {
    return (await this.#json<Page<ContainerBody>>('GET', '/v1/containers')).items;
  }
  container(idOrName: string): Promise<ContainerBody> {
    return this.#json('GET', `/v1/containers/${encodeURIComponent(idOrName)}`);
  }
  /** `duration` as in "10m"; undefined: without end. */
  grant(idOrName: string, entry: string, duration: string | undefined): Promise<GrantBody> {
    const body = { entry, ...(duration === undefined ? {} : { for: duration }) };
    return this.#json('POST', `/v1/containers/${encodeURIComponent(idOrName)}/grants`, { body });
  }
  async revokeGrant(idOrName: string, id: string): Promise<Durability> {
    const path = `/v1/containers/${encodeURIComponent(idOrName)}/grants/${encodeURIComponent(id)}`;
    return durability(await this.#send('DELETE', path));
  }
  setMode(idOrName: string, mode: string): Promise<ContainerBody> {
    return this.#json('PUT', `/v1/containers/${encodeURIComponent(idOrName)}/mode`, { body: { mode } });
  }
  /** What mode enforce would deny; changes nothing. */
  preview(idOrName: string): Promise<PreviewBody> {
    return this.#json('GET', `/v1/containers/${encodeURIComponent(idOrName)}/preview`);
  }
  /** `idOrName` undefined: all containers. `duration` as in "10m". */
  pause(idOrName: string | undefined, duration: string): Promise<PauseBody> {
    return this.#json('POST', pausePath(idOrName), { body: { for: duration } });
  }
  async endPause(idOrName: string | undefined): Promise<Durability> {
    return durability(await this.#send('DELETE', pausePath(idOrName)));
  }
  setLockdown(on: boolean): Promise<LockdownBody> {
    return this.#json('PUT', '/v1/lockdown', { body: { on } });
  }
  async audit(limit: number): Promise<readonly AuditBody[]> {
    return (await this.#json<Page<AuditBody>>('GET', `/v1/audit?limit=${limit}`)).items;
  }
  /** `idOrName` undefined: all, and the host. */
  async scan(idOrName: string | undefined): Promise<readonly ScanBody[]> {
    const query = idOrName === undefined ? '' : `?${new URLSearchParams({ container: idOrName })}`;
    return (await this.#json<Page<ScanBody>>('GET', `/v1/scan${query}`)).items;
  }
  async lists(): Promise<readonly ListBody[]> {
    return (await this.#json<Page<ListBody>>('GET', '/v1/lists')).items;
  }
  list(name: string): Promise<ListBody> {
    return this.#json('GET', `/v1/lists/${encodeURIComponent(name)}`);
  }
  putList(name: string, body: unknown, ifRevision?: number): Promise<ListBody> {
    return this.#json('PUT', `/v1/lists/${encodeURIComponent(name)}`, { body, ifRevision });
  }
  async deleteList(name: string): Promise<void> {
    await this.#send('DELETE', `/v1/lists/${encodeURIComponent(name)}`);
  }
  addEntry(list: string, entry: string): Promise<ListBody> {
    return this.#json('POST', `/v1/lists/${encodeURIComponent(list)}/entries`, { body: { entry } });
  }
  removeEntry(list: string, canonical: string): Promise<ListBody> {
    return this.#json(
      'DELETE',
      `/v1/lists/${encodeURIComponent(list)}/entries/${encodeURIComponent(canonical)}`,
    );
  }
  explain(idOrName: string, to: string): Promise<Explain> {
    return this.#json('GET', `/v1/explain?${new URLSearchParams({ container: idOrName, to })}`);
  }
  async plan(): Promise<readonly string[]> {
    return (await this.#json<Page<string>>('GET', '/v1/plan')).items;
  }
  async denials(idOrName: string, since: string): Promise<readonly Flow[]> {
    const query = new URLSearchParams({ container: idOrName, verdict: 'denied', since, limit: '9999' });
    return (await this.#json<Page<Flow>>('GET', `/v1/flows?${query}`)).items;
  }
  exportAll(): Promise<ExportBody> {
    return this.#json('GET', '/v1/export');
  }
  importAll(body: unknown, how: { readonly replace: boolean; readonly dryRun: boolean }): Promise<PlanBody> {
    return this.#json('POST', `/v1/import?replace=${how.replace}&dryRun=${how.dryRun}`, { body });
  }
  syncLists(
    owner: string,
    lists: Readonly<Record<string, unknown>>,
    how: { readonly adopt: boolean; readonly dryRun: boolean },
  ): Promise<PlanBody> {
    const query = `adopt=${how.adopt}&dryRun=${how.dryRun}`;
    return this.#json('PUT', `/v1/sync/${encodeURIComponent(owner)}?${query}`, { body: { lists } });
  }
  async feeds(): Promise<readonly FeedBody[]> {
    return (await this.#json<Page<FeedBody>>('GET', '/v1/feeds')).items;
  }
  /** Waits as long as a fetch and its judging may take. */
  syncFeed(name: string, { accept, onlyDue }: SyncHow): Promise<FeedSyncBody> {
    const send = { body: { accept, onlyDue }, timeoutMs: SYNC_MS };
    return this.#json('POST', `/v1/feeds/${encodeURIComponent(name)}/sync`, send);
  }
  threat(addressOrName: string): Promise<ThreatBody> {
    return this.#json('GET', `/v1/threats/${encodeURIComponent(addressOrName)}`);
  }
  async nodes(): Promise<readonly NodeBody[]> {
    return (await this.#json<Page<NodeBody>>('GET', '/v1/nodes')).items;
  }
  async forgetNode(name: string): Promise<void> {
    await this.#send('DELETE', `/v1/nodes/${encodeURIComponent(name)}`);
  }
  async tokens(): Promise<readonly TokenBody[]> {
    return (await this.#json<Page<TokenBody>>('GET', '/v1/tokens')).items;
  }
  /** `duration` as in "90d"; undefined: without end. */
  createToken(name: string, role: string, duration: string | undefined): Promise<NewToken> {
    const body = { name, role, ...(duration === undefined ? {} : { for: duration }) };
    return this.#json('POST', '/v1/tokens', { body });
  }
  async revokeToken(name: string): Promise<void> {
    await this.#send('DELETE', `/v1/tokens/${encodeURIComponent(name)}`);
  }
  async teardown(): Promise<void> {
    await this.#send('POST', '/v1/teardown');
  }

  async #json<T>(method: string, path: string, send: Send = {}): Promise<T> {
    return JSON.parse(await this.#send(method, path, send)) as T;
  }

  /** Waits and asks again when it is too much at once: nothing of a request that is answered with 429 has been done. */
  async #send(method: string, path: string, send: Send = {}): Promise<string> {
    for (let tries = 1; ; tries++) {
      const response = await this.#exchange(method, path, send);
      const { status, body } = response;
      if (status < 400) return body;
      const seconds = Number(response.headers.get('retry-after'));
      if (status !== 429 || tries === MOST_TRIES || !(seconds <= LONGEST_WAIT_S))
        throw new ApiError(problemOf(response));
      await sleep(seconds * 1000);
    }
  }

  /** One request on a connection of its own. Without node:http, whose modules take a tenth of the time of a command. */
  #exchange(method: string, path: string, send: Send): Promise<Answer> {
    const { socket, timeoutMs } = this.#options;
    const body = send.body === undefined ? undefined : JSON.stringify(send.body);
    const head = requestHead(`${method} ${path} HTTP/1.1`, this.#headers(body, send.ifRevision));
    return new Promise((resolve, reject) => {
      const chunks: Buffer[] = [];
      const connection = connect(socket);
      /** The service ends the connection after its answer, also where it has not read the whole request. */
      const finish = (code: string, cause?: unknown): void => {
        connection.destroy();
        try {
          const answer = answerIn(Buffer.concat(chunks));
          if (answer) resolve(answer);
          else reject(new UnreachableError(socket, code, cause));
        } catch (e) {
          reject(new UnreachableError(socket, 'EPROTO', e));
        }
      };
      connection.setTimeout(send.timeoutMs ?? timeoutMs ?? TIMEOUT_MS, () => finish('ETIMEDOUT'));
      connection.on('error', (e: NodeJS.ErrnoException) => finish(e.code ?? e.message, e));
      connection.on('end', () => finish('ECONNRESET'));
      connection.on('data', (chunk: Buffer) => {
        chunks.push(chunk);
        if (chunks.length === 1 && !isAnswer(chunk)) finish('EPROTO');
      });
      connection.write(head, 'latin1');
      if (body !== undefined) connection.write(body);
    });
  }

  #headers(body: string | undefined, ifRevision: number | undefined): Record<string, string> {
    const { user } = this.#options;
    return {
      host: 'drawbridge',
      connection: 'close',
      ...(user === undefined ? {} : { 'drawbridge-user': user }),
      ...(body === undefined
        ? {}
        : { 'content-type': 'application/json', 'content-length': `${Buffer.byteLength(body)}` }),
      ...(ifRevision === undefined ? {} : guard(ifRevision)),
    };
  }
}

const pausePath = (idOrName: string | undefined): string =>
  idOrName === undefined ? '/v1/pause' : `/v1/containers/${encodeURIComponent(idOrName)}/pause`;

function guard(revision: number): Record<string, string> {
  return revision === 0 ? { 'if-none-match': '*' } : { 'if-match': `"${revision}"` };
}

function problemOf({ status, headers, body }: Answer): ProblemDocument {
  if (headers.get('content-type')?.startsWith('application/problem+json')) return JSON.parse(body);
  const detail = `the service answered ${status}: ${body.slice(0, 200)}`;
  return {
    type: 'about:blank',
    title: 'Failed',
    status,
    detail,
    errors: [{ detail, remedy: 'look into its log' }],
  };
}

/** A change that is stored is answered without a body. */
const durability = (answer: string): Durability =>
  answer === '' ? { durable: true, note: null } : (JSON.parse(answer) as Durability);

interface Answer {
  readonly status: number;
  /** By their names in lower case. */
  readonly headers: ReadonlyMap<string, string>;
  readonly body: string;
}

/** Throws where a value would end its line: the user is a text of the environment. */
function requestHead(requestLine: string, headers: Readonly<Record<string, string>>): string {
  const lines = [requestLine, ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`)];
  const wrong = lines.find((line) => !/^[\t\x20-\x7e\x80-\xff]*$/.test(line));
  if (wrong !== undefined)
    throw new TypeError(`invalid character in header content: ${JSON.stringify(wrong)}`);
  return `${lines.join('\r\n')}\r\n\r\n`;
}

const LINE_END = '\r\n';
/** Whether these bytes can begin an answer. */
const isAnswer = (bytes: Buffer): boolean => 'HTTP/1.'.startsWith(bytes.toString('latin1', 0, 7));

/** The answer in all that was received; undefined: it is not complete (RFC 9112, 6.3). Throws when it is not HTTP/1.1. */
function answerIn(received: Buffer): Answer | undefined {
  const end = received.indexOf(`${LINE_END}${LINE_END}`);
  if (end < 0 && isAnswer(received)) return undefined;
  const [first = '', ...lines] = received.toString('latin1', 0, Math.max(end, 0)).split(LINE_END);
  const code = /^HTTP\/1\.[01] (\d{3})(?: |$)/.exec(first)?.[1];
  if (code === undefined) throw new Error('not an answer of HTTP/1.1');
  const status = Number(code);
  const content = received.subarray(end + 4);
  if (status < 200) return answerIn(content); // an interim answer comes before the final one
  const headers = new Map<string, string>();
  for (const line of lines) {
    const colon = line.indexOf(':');
    headers.set(line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim());
  }
  const body = status === 204 || status === 304 ? '' : bodyIn(content, headers)?.toString('utf8');
  return body === undefined ? undefined : { status, headers, body };
}

function bodyIn(content: Buffer, headers: Answer['headers']): Buffer | undefined {
  if (headers.get('transfer-encoding') === 'chunked') return chunksIn(content);
  const length = headers.get('content-length');
  if (length === undefined) return content;
  if (!/^\d{1,15}$/.test(length)) throw new Error(`not a content-length: ${length}`);
  return content.length < Number(length) ? undefined : content.subarray(0, Number(length));
}

/** The chunks up to the last one, which is empty; what follows it (trailers) is not read. */
function chunksIn(content: Buffer): Buffer | undefined {
  const chunks: Buffer[] = [];
  for (let at = 0; ; ) {
    const end = content.indexOf(LINE_END, at);
    if (end < 0) return undefined;
    const size = /^([0-9a-fA-F]{1,12})(?:[ \t]*;.*)?$/.exec(content.toString('latin1', at, end))?.[1];
    if (size === undefined) throw new Error('not the size of a chunk');
    const length = Number.parseInt(size, 16);
    if (length === 0) return Buffer.concat(chunks);
    const next = end + 2 + length + 2;
    if (content.length < next) return undefined;
    chunks.push(content.subarray(end + 2, next - 2));
    at = next;
  }
}
