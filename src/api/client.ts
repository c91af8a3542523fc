import { type IncomingMessage, request } from 'node:http';
import { connect } from 'node:net';
import { text } from 'node:stream/consumers';
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
import type {
  FeedBody,
  FeedSyncBody,
  FlowsBody,
  KnownBody,
  ModeBody,
  PreviewBody,
  ThreatBody,
} from './schemas-traffic.js';

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
  /** Of all these containers, or of none. */
  async setModes(containers: readonly string[], wanted: ModeBody): Promise<readonly ContainerBody[]> {
    const [one = '', ...others] = containers;
    if (others.length === 0)
      return [
        await this.#json<ContainerBody>('PUT', `/v1/containers/${encodeURIComponent(one)}/mode`, {
          body: wanted,
        }),
      ];
    const body = { containers, ...wanted };
    return (await this.#json<Page<ContainerBody>>('PUT', '/v1/modes', { body })).items;
  }
  /** What mode enforce would deny, or the list `against` in place of the policy; changes nothing. */
  preview(idOrName: string, against?: string): Promise<PreviewBody> {
    const query = against === undefined ? '' : `?${new URLSearchParams({ against })}`;
    return this.#json('GET', `/v1/containers/${encodeURIComponent(idOrName)}/preview${query}`);
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
  /** One page of flows, the newest first. */
  flows(query: Readonly<Record<string, string>>): Promise<FlowsBody> {
    return this.#json('GET', `/v1/flows?${new URLSearchParams(query)}`);
  }
  async known(): Promise<readonly KnownBody[]> {
    return (await this.#json<Page<KnownBody>>('GET', '/v1/known')).items;
  }
  markKnown(idOrName: string, destination: string, isKnown: boolean): Promise<KnownBody> {
    const path = `/v1/containers/${encodeURIComponent(idOrName)}/known/${encodeURIComponent(destination)}`;
    return this.#json(isKnown ? 'PUT' : 'DELETE', path);
  }
  /** Events as they come, until `signal` is aborted or the service ends. `query` as of GET /v1/events. */
  async *events(
    query: Readonly<Record<string, string>>,
    signal: AbortSignal,
  ): AsyncGenerator<{ readonly id: string; readonly kind: string; readonly data: unknown }> {
    const response = await this.#open(`/v1/events?${new URLSearchParams(query)}`, signal);
    if (response.statusCode !== 200) throw new ApiError(problemOf(response, await text(response)));
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
  #exchange(method: string, path: string, send: Send): Promise<Exchange> {
    const { socket, timeoutMs } = this.#options;
    const body = send.body === undefined ? undefined : JSON.stringify(send.body);
    return new Promise((resolve, reject) => {
      const fail = (e: NodeJS.ErrnoException) => reject(new UnreachableError(socket, e.code ?? e.message, e));
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
      const fail = (e: NodeJS.ErrnoException) => reject(new UnreachableError(socket, e.code ?? e.message, e));
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

/** A stream ends, too, when the service is killed. */
async function* untilItBreaks(stream: IncomingMessage): AsyncGenerator<string> {
  try {
    for await (const chunk of stream) yield String(chunk);
  } catch (e) {
    if (!stream.destroyed || (e as NodeJS.ErrnoException).code !== 'ECONNRESET') throw e;
  }
}

/** A block of a stream of server-sent events; undefined: a comment. */
function eventOf(
  block: string,
): { readonly id: string; readonly kind: string; readonly data: unknown } | undefined {
  const fields = new Map(
    block.split('\n').map((line) => [line.split(': ', 1)[0] ?? '', line.slice(line.indexOf(': ') + 2)]),
  );
  const [kind, data] = [fields.get('event'), fields.get('data')];
  return kind === undefined || data === undefined
    ? undefined
    : { id: fields.get('id') ?? '', kind, data: JSON.parse(data) };
}

const pausePath = (idOrName: string | undefined): string =>
  idOrName === undefined ? '/v1/pause' : `/v1/containers/${encodeURIComponent(idOrName)}/pause`;

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

/** A change that is stored is answered without a body. */
const durability = (answer: string): Durability =>
  answer === '' ? { durable: true, note: null } : (JSON.parse(answer) as Durability);
