/** The Engine API over its unix socket: the only user of dockerode. Answers are unknown JSON; reading it is elsewhere. */

import { hash } from 'node:crypto';
import { addAbortSignal, type Readable } from 'node:stream';
import Docker from 'dockerode';
import { errorText } from '../lib/problem.js';

const REQUEST_TIMEOUT_MS = 10_000;
const MAX_ANSWER_BYTES = 256 * 1024 * 1024;

/** A failed request: its path, the socket, and the message of the engine or the system. */
export class DockerError extends Error {
  /** HTTP status; undefined when the engine did not answer. */
  readonly status: number | undefined;
  constructor(socket: string, path: string, cause: unknown) {
    const status = statusOf(cause);
    super(`Docker at ${socket} did not answer GET ${path}: ${errorText(cause).trim()}`, { cause });
    this.name = 'DockerError';
    this.status = status;
  }
}

function statusOf(cause: unknown): number | undefined {
  const status =
    typeof cause === 'object' && cause !== null && 'statusCode' in cause ? cause.statusCode : undefined;
  return typeof status === 'number' ? status : undefined;
}

/** An answer that is parsed only when its value is needed. */
export interface Answer {
  /** Depends on all of the text, except for what `digestOf` leaves out. */
  readonly digest: string;
  /** Throws DockerError when the text is not JSON. */
  readonly value: () => unknown;
}

/**
 * Leaves out how long a container has been up ("Up 5 minutes"), which changes by itself, and which nothing reads: its state is in `State`. A
 * label with this name is left out, too, but labels never change in a container's life, and another container has another id.
 */
const digestOf = (text: string): string => hash('sha1', text.replace(/"Status":"[^"\\]*"/g, ''), 'base64');

export class DockerApi {
  readonly #socket: string;
  readonly #docker: Docker;
  readonly #maxBytes: number;
  /** Requests under way, and when they were sent (ms, monotonic). */
  readonly #pending = new Map<AbortController, number>();

  constructor(socket: string, maxAnswerBytes: number = MAX_ANSWER_BYTES) {
    this.#socket = socket;
    this.#maxBytes = maxAnswerBytes;
    this.#docker = new Docker({ socketPath: socket });
  }

  /** Stopped ones too. */
  allContainers(): Promise<Answer> {
    return this.#read('/containers/json?', { all: true });
  }
  /** @param ids full ids */
  containers(ids: readonly string[]): Promise<unknown> {
    return this.#get('/containers/json?', { all: true, filters: JSON.stringify({ id: ids }) });
  }
  container(id: string): Promise<unknown> {
    return this.#get(`/containers/${encodeURIComponent(id)}/json?`, {});
  }
  networks(): Promise<Answer> {
    return this.#read('/networks?', {});
  }
  network(id: string): Promise<Answer> {
    return this.#read(`/networks/${encodeURIComponent(id)}?`, {});
  }
  /** With the services of the swarm and their tasks, of all hosts. */
  networkServices(id: string): Promise<unknown> {
    return this.#get(`/networks/${encodeURIComponent(id)}?`, { verbose: true });
  }
  image(id: string): Promise<unknown> {
    return this.#get(`/images/${encodeURIComponent(id)}/json?`, {});
  }
  info(): Promise<unknown> {
    return this.#get('/info?', {});
  }

  /** @param since Unix seconds: the engine sends its answer's head before it subscribes; `since` replays the gap. */
  async events(since: number, signal: AbortSignal): Promise<Readable> {
    try {
      const filters = JSON.stringify(EVENT_FILTERS);
      return (await this.#docker.getEvents({ since, filters, abortSignal: signal })) as Readable;
    } catch (cause) {
      throw new DockerError(this.#socket, '/events', cause);
    }
  }

  /** Ends all requests under way, which then fail: after a lost connection some would never be answered. */
  abort(): void {
    for (const controller of this.#pending.keys()) controller.abort();
  }

  /** For how long the oldest request under way has been without an answer (ms). */
  get waiting(): number {
    return Math.max(0, ...[...this.#pending.values()].map((sent) => performance.now() - sent));
  }

  async #get(path: string, query: object): Promise<unknown> {
    return this.#parse(path, await this.#text(path, query));
  }

  async #read(path: string, query: object): Promise<Answer> {
    const text = await this.#text(path, query);
    return { digest: digestOf(text), value: () => this.#parse(path, text) };
  }

  #parse(path: string, text: string): unknown {
    try {
      return JSON.parse(text) as unknown;
    } catch (cause) {
      throw new DockerError(this.#socket, path.replace(/\?$/, ''), cause);
    }
  }

  async #text(path: string, query: object): Promise<string> {
    const controller = new AbortController();
    const timer = setTimeout(() => controller.abort(), REQUEST_TIMEOUT_MS);
    this.#pending.set(controller, performance.now());
    try {
      const answer = await this.#dial(path, query, controller.signal);
      return await textOf(addAbortSignal(controller.signal, answer), this.#maxBytes);
    } catch (cause) {
      throw new DockerError(this.#socket, path.replace(/\?$/, ''), cause);
    } finally {
      clearTimeout(timer);
      this.#pending.delete(controller);
    }
  }

  /**
   * dockerode's own methods take no abort signal for networks; its modem does for all. Resolves when the head of the answer
   * has status 200: the modem would collect a body without limit, and return a body that is not JSON as bytes.
   */
  #dial(path: string, query: object, abortSignal: AbortSignal): Promise<Readable> {
    const statusCodes = { 200: true, 404: 'not found', 500: 'server error' };
    return new Promise((resolve, reject) => {
      this.#docker.modem.dial(
        { path, method: 'GET', options: query, abortSignal, statusCodes, isStream: true },
        (error: unknown, data: unknown) => (error ? reject(error) : resolve(data as Readable)),
      );
    });
  }
}

async function textOf(answer: Readable, maxBytes: number): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of answer as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > maxBytes) throw new Error(`the answer has more than ${maxBytes} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString();
}

/** Events asked of the engine; exec, health, attach and the like would only be noise. */
const EVENT_FILTERS = {
  type: ['container', 'network'],
  event: [
    'create',
    'start',
    'die',
    'destroy',
    'pause',
    'unpause',
    'rename',
    'connect',
    'disconnect',
    'remove',
  ],
};
