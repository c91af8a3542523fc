/** A server on loopback that keeps what it gets, and answers as the test wants. */
import { once } from 'node:events';
import { createServer, type IncomingHttpHeaders } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface Got {
  readonly url: string;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
}
export interface Answer {
  readonly status: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
}

export class Server implements AsyncDisposable {
  readonly got: Got[] = [];
  /** Undefined: the server never answers. */
  answer: Answer | undefined = { status: 204 };
  readonly #server = createServer((request, response) => {
    const parts: Buffer[] = [];
    request.on('data', (part: Buffer) => parts.push(part));
    request.on('end', () => {
      const { url = '', headers } = request;
      this.got.push({ url, headers, body: Buffer.concat(parts).toString() });
      const { answer } = this;
      if (answer) response.writeHead(answer.status, { ...answer.headers }).end(answer.body);
    });
  });

  static async start(): Promise<Server> {
    const server = new Server();
    server.#server.listen(0, '127.0.0.1');
    await once(server.#server, 'listening');
    return server;
  }
  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }
  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    this.#server.close();
    await once(this.#server, 'close');
  }
}
