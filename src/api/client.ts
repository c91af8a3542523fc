import { type IncomingMessage, request } from 'node:http';
import { connect } from 'node:net';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ItemOf, PagedRoute, Route, Routes } from '../../schemas/api.js';
import { codeOrText, errorCode } from '../lib/problem.js';
import type { SyncHow } from '../threats/feed-view.js';
import type { ContainerBody, Durability, ProblemDocument, Status } from './schemas.js';
import type { ClosedStatus, ExportBody } from './schemas-fleet.js';

/** The types of requests and answers come from the published description of the API (npm run schemas). */
type Optional<K extends string, T> = [T] extends [never] ? unknown : { readonly [F in K]?: T };
type Required<K extends string, T> = [T] extends [never] ? unknown : { readonly [F in K]: T };
type Send<R extends Route> = Required<'params', Routes[R]['params']> &
  Optional<'query', Routes[R]['query']> &
  Optional<'body', Routes[R]['body']> &
  Extra;
interface Extra {
  /** A revision; 0: only when there is none yet. */
  readonly ifRevision?: number | undefined;
  readonly timeoutMs?: number;
}

/** Durations as in "7d". */
export interface SuggestQuery {
  readonly since?: string;
  readonly unused?: string;
  readonly includeDenied?: 'true';
}

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
/** An answer waits for the kernel (5 s) and, when undone, for the store again. */
const TIMEOUT_MS = 30_000;
const SYNC_MS = 600_000;
const MOST_TRIES = 4;
const LONGEST_WAIT_S = 5;
const MOST_OF_PAGE = 999;
const MODE = 'PUT /v1/containers/{container}/mode';

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
  async anyStatus(): Promise<Status | ClosedStatus> {
    return this.#json('GET /v1/status', {});
  }
  acceptStore() {
    return this.#json('POST /v1/store/accept', {});
  }
  containers() {
    return this.#items('GET /v1/containers', {});
  }
  container(container: string) {
    return this.#json('GET /v1/containers/{container}', { params: { container } });
  }
  /** `duration` as in "10m"; undefined: without end. */
  grant(container: string, entry: string, duration: string | undefined) {
    const body = { entry, ...(duration === undefined ? {} : { for: duration }) };
    return this.#json('POST /v1/containers/{container}/grants', { params: { container }, body });
  }
  revokeGrant(container: string, grant: string): Promise<Durability> {
    return this.#end('DELETE /v1/containers/{container}/grants/{grant}', { params: { container, grant } });
  }
  /** Of all these containers, or of none. */
  async setModes(containers: readonly string[], wanted: Routes[typeof MODE]['body']) {
    const [one = '', ...others] = containers;
    if (others.length > 0)
      return (await this.#json('PUT /v1/modes', { body: { containers, ...wanted } })).containers;
    // Only a dry run is answered with a preview.
    return [(await this.#json(MODE, { params: { container: one }, body: wanted })) as ContainerBody];
  }
  /** Takes away what is set for an owner that has no container. */
  async forgetMode(owner: string): Promise<void> {
    await this.#json('PUT /v1/modes', { body: { containers: [owner], mode: 'auto' } });
  }
  /** What mode enforce would deny, or the list `against` in place of the policy; changes nothing. */
  preview(container: string, against?: string) {
    const query = against === undefined ? {} : { against };
    return this.#json('GET /v1/containers/{container}/preview', { params: { container }, query });
  }
  /** `container` undefined: all containers. `duration` as in "10m". */
  pause(container: string | undefined, duration: string) {
    const body = { for: duration };
    return container === undefined
      ? this.#json('POST /v1/pause', { body })
      : this.#json('POST /v1/containers/{container}/pause', { params: { container }, body });
  }
  endPause(container: string | undefined): Promise<Durability> {
    return container === undefined
      ? this.#end('DELETE /v1/pause', {})
      : this.#end('DELETE /v1/containers/{container}/pause', { params: { container } });
  }
  setLockdown(on: boolean) {
    return this.#json('PUT /v1/lockdown', { body: { on } });
  }
  /** The newest records, at most `limit`. */
  audit(limit: number) {
    return this.#items('GET /v1/audit', {}, limit);
  }
  /** `container` undefined: all, and the host. */
  scan(container: string | undefined) {
    return this.#items('GET /v1/scan', { query: container === undefined ? {} : { container } });
  }
  suggestion(container: string, query: SuggestQuery) {
    return this.#json('GET /v1/suggestions/{container}', { params: { container }, query });
  }
  suggestions(project: string, query: SuggestQuery) {
    return this.#items('GET /v1/suggestions', { query: { project, ...query } });
  }
  lists() {
    return this.#items('GET /v1/lists', {});
  }
  list(name: string) {
    return this.#json('GET /v1/lists/{name}', { params: { name } });
  }
  /** The service checks the body, and names the place of each problem in it. */
  putList(name: string, body: unknown, ifRevision?: number) {
    const send = { params: { name }, body: body as Routes['PUT /v1/lists/{name}']['body'], ifRevision };
    return this.#json('PUT /v1/lists/{name}', send);
  }
  async deleteList(name: string): Promise<void> {
    await this.#end('DELETE /v1/lists/{name}', { params: { name } });
  }
  addEntry(name: string, entry: string) {
    return this.#json('POST /v1/lists/{name}/entries', { params: { name }, body: { entry } });
  }
  removeEntry(name: string, entry: string) {
    return this.#json('DELETE /v1/lists/{name}/entries/{entry}', { params: { name, entry } });
  }
  explain(container: string, to: string) {
    return this.#json('GET /v1/explain', { query: { container, to } });
  }
  plan() {
    return this.#items('GET /v1/plan', {});
  }
  /** One page of flows, the newest first. */
  flows(query: Routes['GET /v1/flows']['query']) {
    return this.#json('GET /v1/flows', { query });
  }
  known() {
    return this.#items('GET /v1/known', {});
  }
  markKnown(container: string, destination: string, isKnown: boolean) {
    const send = { params: { container, destination } };
    return isKnown
      ? this.#json('PUT /v1/containers/{container}/known/{destination}', send)
      : this.#json('DELETE /v1/containers/{container}/known/{destination}', send);
  }
  /** Events as they come, until `signal` is aborted or the service ends. */
  async *events(query: Routes['GET /v1/events']['query'], signal: AbortSignal): AsyncGenerator<ReadEvent> {
    const response = await this.#open(addressOf('GET /v1/events', { query }).path, signal);
    if (response.statusCode !== 200) throw new ApiError(problemOf(response, await text(response)));
    yield* eventsIn(response);
  }
  asks() {
    return this.#items('GET /v1/asks', {});
  }
  decideAsk(id: string, body: Routes['POST /v1/asks/{id}']['body']) {
    return this.#json('POST /v1/asks/{id}', { params: { id }, body });
  }
  exportAll(): Promise<ExportBody> {
    return this.#json('GET /v1/export', {});
  }
  importAll(document: unknown, how: { readonly replace: boolean; readonly dryRun: boolean }) {
    const query = { replace: flag(how.replace), dryRun: flag(how.dryRun) };
    return this.#json('POST /v1/import', { query, body: document as Routes['POST /v1/import']['body'] });
  }
  syncLists(
    owner: string,
    lists: Readonly<Record<string, unknown>>,
    how: { readonly adopt: boolean; readonly dryRun: boolean },
  ) {
    const query = { adopt: flag(how.adopt), dryRun: flag(how.dryRun) };
    return this.#json('PUT /v1/sync/{owner}', { params: { owner }, query, body: { lists } });
  }
  feeds() {
    return this.#items('GET /v1/feeds', {});
  }
  /** Waits as long as a fetch and its evaluation may take. */
  syncFeed(name: string, { accept, onlyDue }: SyncHow) {
    const body = { accept, onlyDue };
    return this.#json('POST /v1/feeds/{name}/sync', { params: { name }, body, timeoutMs: SYNC_MS });
  }
  outputs() {
    return this.#items('GET /v1/notify', {});
  }
  /** Waits as long as a delivery may take. */
  testReceiver(name: string) {
    return this.#json('POST /v1/notify/{name}/test', { params: { name }, timeoutMs: SYNC_MS });
  }
  threat(target: string) {
    return this.#json('GET /v1/threats/{target}', { params: { target } });
  }
  nodes() {
    return this.#items('GET /v1/nodes', {});
  }
  async forgetNode(name: string): Promise<void> {
    await this.#end('DELETE /v1/nodes/{name}', { params: { name } });
  }
  tokens() {
    return this.#items('GET /v1/tokens', {});
  }
  /** `duration` as in "90d"; undefined: without end. */
  createToken(name: string, role: Routes['POST /v1/tokens']['body']['role'], duration: string | undefined) {
    const body = { name, role, ...(duration === undefined ? {} : { for: duration }) };
    return this.#json('POST /v1/tokens', { body });
  }
  async revokeToken(name: string): Promise<void> {
    await this.#end('DELETE /v1/tokens/{name}', { params: { name } });
  }
  async teardown(): Promise<void> {
    await this.#end('POST /v1/teardown', {});
  }

  async #json<R extends Route>(route: R, send: Send<R>): Promise<Routes[R]['response']> {
    return JSON.parse(await this.#send(route, send)) as Routes[R]['response'];
  }

  /** All items of a collection, or the first `most`: follows `next` from page to page. */
  async #items<R extends PagedRoute>(route: R, send: Send<R>, most?: number): Promise<readonly ItemOf<R>[]> {
    const items: ItemOf<R>[] = [];
    const { query, ...rest }: Sent = send;
    for (let cursor: string | null | undefined; cursor !== null && items.length < (most ?? Infinity); ) {
      const limit = most === undefined ? undefined : String(Math.min(most - items.length, MOST_OF_PAGE));
      const page = await this.#send(route, { ...rest, query: { ...query, limit, cursor } });
      const read = JSON.parse(page) as { readonly items: readonly ItemOf<R>[]; readonly next: string | null };
      items.push(...read.items);
      cursor = read.next;
    }
    return items;
  }

  /** A change that is stored is answered without a body. */
  async #end<R extends Route>(route: R, send: Send<R>): Promise<Durability> {
    const answer = await this.#send(route, send);
    return answer === '' ? { durable: true, note: null } : (JSON.parse(answer) as Durability);
  }

  /** Waits and asks again when it is too much at once: nothing of a request that is answered with 429 has been done. */
  async #send(route: Route, send: Sent): Promise<string> {
    const { method, path } = addressOf(route, send);
    for (let tries = 1; ; tries++) {
      const { response, answer } = await this.#exchange(method, path, send);
      const status = response.statusCode ?? 500;
      if (status < 400) return answer;
      const seconds = Number(response.headers['retry-after']);
      if (status !== 429 || tries === MOST_TRIES || !(seconds <= LONGEST_WAIT_S))
        throw new ApiError(problemOf(response, answer));
      await sleep(seconds * 1000);
    }
  }

  /** An answer counts also where the service ends the connection before it has read the whole request. */
  #exchange(method: string, path: string, send: Sent): Promise<Exchange> {
    const { socket, timeoutMs } = this.#options;
    const body = send.body === undefined ? undefined : JSON.stringify(send.body);
    return new Promise((resolve, reject) => {
      const fail = (e: Error) => reject(new UnreachableError(socket, codeOrText(e), e));
      const headers = this.#headers(body, send.ifRevision);
      // Without an agent of node:http, which compiles its patterns of addresses first: 7 ms of a command.
      const options = { createConnection: () => connect(socket), method, path, headers };
      const outgoing = request(options, (response) => {
        text(response).then((answer) => resolve({ response, answer }), fail);
      });
      outgoing.setTimeout(send.timeoutMs ?? timeoutMs ?? TIMEOUT_MS, () =>
        outgoing.destroy(Object.assign(new Error('timed out'), { code: 'ETIMEDOUT' })),
      );
      outgoing.on('error', fail);
      outgoing.end(body);
    });
  }

  /** A response that is read as it comes, without an end in time. */
  #open(path: string, signal: AbortSignal): Promise<IncomingMessage> {
    const { socket } = this.#options;
    return new Promise((resolve, reject) => {
      const fail = (e: Error) => reject(new UnreachableError(socket, codeOrText(e), e));
      const options = {
        createConnection: () => connect(socket),
        path,
        headers: this.#headers(undefined, undefined),
        signal,
      };
      request(options, resolve).on('error', fail).end();
    });
  }

  #headers(body: string | undefined, ifRevision: number | undefined): Record<string, string> {
    const { user } = this.#options;
    return {
      host: 'drawbridge',
      ...(user === undefined ? {} : { 'drawbridge-user': user }),
      ...(body === undefined
        ? {}
        : { 'content-type': 'application/json', 'content-length': `${Buffer.byteLength(body)}` }),
      ...(ifRevision === undefined ? {} : guard(ifRevision)),
    };
  }
}

const flag = (on: boolean): 'true' | 'false' => (on ? 'true' : 'false');

/** What a request carries, whatever its route. */
interface Sent extends Extra {
  readonly params?: Readonly<Record<string, string>>;
  readonly query?: Readonly<Record<string, string | null | undefined>>;
  readonly body?: unknown;
}

function addressOf(
  route: Route,
  { params = {}, query = {} }: Sent,
): { readonly method: string; readonly path: string } {
  const [method = '', template = ''] = route.split(' ');
  const path = template.replaceAll(/\{(\w+)\}/g, (_, name: string) => encodeURIComponent(params[name] ?? ''));
  const given = new URLSearchParams();
  for (const [key, value] of Object.entries(query)) if (typeof value === 'string') given.set(key, value);
  return { method, path: given.size === 0 ? path : `${path}?${given}` };
}

function guard(revision: number): Record<string, string> {
  return revision === 0 ? { 'if-none-match': '*' } : { 'if-match': `"${revision}"` };
}

function problemOf(response: IncomingMessage, answer: string): ProblemDocument {
  if (response.headers['content-type']?.startsWith('application/problem+json')) return JSON.parse(answer);
  const status = response.statusCode ?? 500;
  const detail = `the service answered ${status}: ${answer.slice(0, 200)}`;
  return {
    type: 'about:blank',
    title: 'Failed',
    status,
    detail,
    errors: [{ detail, remedy: 'look into its log' }],
  };
}

interface Exchange {
  readonly response: IncomingMessage;
  readonly answer: string;
}

/** A server-sent event (HTML, 9.2), as GET /v1/events sends them. */
interface ReadEvent {
  readonly id: string;
  readonly kind: string;
  readonly data: unknown;
}

/** The events of a response, until it ends. */
async function* eventsIn(response: IncomingMessage): AsyncGenerator<ReadEvent> {
  let rest = '';
  for await (const chunk of untilItBreaks(response.setEncoding('utf8'))) {
    const blocks = `${rest}${chunk}`.split('\n\n');
    rest = blocks.pop() ?? '';
    for (const block of blocks) {
      const event = eventOf(block);
      if (event) yield event;
    }
  }
}

/** A stream ends, too, when the service is killed. */
async function* untilItBreaks(stream: IncomingMessage): AsyncGenerator<string> {
  try {
    for await (const chunk of stream) yield String(chunk);
  } catch (e) {
    if (!stream.destroyed || errorCode(e) !== 'ECONNRESET') throw e;
  }
}

/** A block of a stream of server-sent events; undefined: a comment. */
function eventOf(block: string): ReadEvent | undefined {
  const fields = new Map(
    block.split('\n').map((line) => [line.split(': ', 1)[0] ?? '', line.slice(line.indexOf(': ') + 2)]),
  );
  const [kind, data] = [fields.get('event'), fields.get('data')];
  return kind === undefined || data === undefined
    ? undefined
    : { id: fields.get('id') ?? '', kind, data: JSON.parse(data) };
}
