/** Calls between the test and the lab's processes: HTTP over a unix socket, one JSON body each way. */
import { Agent, createServer, type IncomingMessage, request, type Server } from 'node:http';

/** A test run makes some hundred thousand calls: a connection for each takes half of their processor time. */
const CONNECTIONS = new Agent({ keepAlive: true });

export type Methods = Readonly<Record<string, (params: never) => unknown>>;

async function body(message: IncomingMessage): Promise<string> {
  const parts: Buffer[] = [];
  for await (const part of message) parts.push(part as Buffer);
  return Buffer.concat(parts).toString();
}

async function answer(methods: Methods, message: IncomingMessage): Promise<string> {
  const { method, params } = JSON.parse(await body(message)) as { method: string; params: unknown };
  const call = methods[method];
  if (call === undefined) throw new Error(`no method ${method}`);
  return JSON.stringify({ result: (await call(params as never)) ?? null });
}

export function serve(socketPath: string, methods: Methods): Promise<Server> {
  const server = createServer((req, res) => {
    answer(methods, req)
      .catch((e: Error) => JSON.stringify({ error: e.message }))
      .then((text) => res.end(text));
  });
  server.keepAliveTimeout = 0; // a call must not meet the end of its connection
  return new Promise((resolve, reject) => {
    server.on('error', reject);
    server.listen(socketPath, () => resolve(server));
  });
}

/** Throws what the method threw, or the socket's error. */
export async function call<T>(socketPath: string, method: string, params: unknown = {}): Promise<T> {
  const text = await new Promise<string>((resolve, reject) => {
    const req = request({ socketPath, method: 'POST', path: '/', agent: CONNECTIONS }, (res) => {
      body(res).then(resolve, reject);
    });
    req.on('error', reject);
    req.end(JSON.stringify({ method, params }));
  });
  const reply = JSON.parse(text) as { result: T } | { error: string };
  if ('error' in reply) throw new Error(`${method}: ${reply.error}`);
  return reply.result;
}
