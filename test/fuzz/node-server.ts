/** What the HTTP server of Node reads in the bytes of a client. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { Duplex } from 'node:stream';

export interface NodeReads {
  /** The Host of each request. */
  readonly hosts: readonly (string | undefined)[];
  /** It could not read on, or the client asked to close. */
  readonly stopped: boolean;
}

/** A connection that gives some bytes, and ignores what it is sent. */
class Wire extends Duplex {
  constructor(stream: Buffer) {
    super({ allowHalfOpen: true });
    this.push(stream);
    this.push(null);
  }
  override _read(): void {}
  override _write(_: unknown, __: unknown, done: () => void): void {
    done();
  }
  setTimeout(): void {}
}

export async function readAsNode(stream: Buffer): Promise<NodeReads> {
  if (stream.length === 0) return { hosts: [], stopped: false };
  const hosts: (string | undefined)[] = [];
  let stopped = false;
  const answer = (request: IncomingMessage, response: ServerResponse): void => {
    hosts.push(request.headers.host);
    stopped ||= !response.shouldKeepAlive;
    request.on('error', () => undefined).resume();
    response.end();
  };
  const options = { maxHeaderSize: 65_536, requireHostHeader: false, connectionsCheckingInterval: 2 ** 30 };
  const server = createServer(options, answer);
  server.on('checkContinue', answer);
  server.on('checkExpectation', answer);
  server.on('clientError', () => {
    stopped = true;
  });
  for (const event of ['connect', 'upgrade'] as const)
    server.on(event, (request: IncomingMessage) => {
      hosts.push(request.headers.host);
      stopped = true;
    });
  const wire = new Wire(stream);
  const ended = new Promise<void>((done) => wire.once('end', done).once('close', done));
  server.emit('connection', wire);
  await ended;
  await new Promise((done) => setImmediate(done));
  wire.destroy();
  server.close();
  return { hosts, stopped };
}
