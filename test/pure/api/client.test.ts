/** How the client reads an answer. A test server sends fixed bytes in place of the service. */
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { ApiClient, ApiError, UnreachableError } from '../../../src/api/client.js';

let dir: string;
let path: string;
let server: Server | undefined;
let requests: string[];

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'drawbridge-client-'));
  path = join(dir, 'api.sock');
  requests = [];
});
afterEach(async () => {
  await new Promise((done) => (server ? server.close(done) : done(undefined)));
  server = undefined;
  await rm(dir, { recursive: true });
});

/** Answers each request by `answer`, once it has begun. */
async function serve(answer: (socket: Socket) => void): Promise<ApiClient> {
  server = createServer((socket) => {
    socket.on('error', () => {});
    socket.once('data', (chunk) => {
      requests.push(chunk.toString('latin1'));
      answer(socket);
    });
  });
  await new Promise<void>((done) => server?.listen(path, done));
  return new ApiClient({ socket: path, user: 'ann', timeoutMs: 2_000 });
}
const failed = (p: Promise<unknown>): Promise<unknown> => p.catch((e: unknown) => e);
const status = (text: string): string =>
  `HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(text)}\r\n\r\n${text}`;

it('sends one request, with the user', async () => {
  const client = await serve((s) => s.end(status('{"node":"hôte"}')));
  expect(await client.anyStatus()).toEqual({ node: 'hôte' });
  expect(requests).toHaveLength(1);
  expect(requests[0]).toMatch(/^GET \/v1\/status HTTP\/1\.1\r\nhost: drawbridge\r\ndrawbridge-user: ann\r\n/);
});

it('an answer in chunks, behind an interim one, byte by byte', async () => {
  const text =
    'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{"node":\r\n5;x=y\r\n"web"\r\n1\r\n}\r\n0\r\n\r\n';
  const client = await serve((socket) => {
    socket.setNoDelay(true);
    const rest = [...text];
    const next = (): void => {
      const char = rest.shift();
      if (char === undefined) socket.end();
      else socket.write(char, () => setImmediate(next));
    };
    next();
  });
  expect(await client.anyStatus()).toEqual({ node: 'web' });
});

it('an answer without a body', async () => {
  const client = await serve((s) => s.end('HTTP/1.1 204 No Content\r\n\r\n'));
  expect(await client.revokeToken('x')).toBeUndefined();
});

it.each([
  ['ends within its body', 'HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n{"node":'],
  ['ends within a chunk', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{"node":'],
  ['ends before the last chunk', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n'],
  ['ends within its head', 'HTTP/1.1 200 OK\r\nContent-Le'],
  ['is empty', ''],
])('an answer that %s is none', async (_, text) => {
  const client = await serve((s) => s.end(text));
  const error = await failed(client.anyStatus());
  expect(error).toBeInstanceOf(UnreachableError);
  expect(error).toMatchObject({ code: 'ECONNRESET' });
});

it.each([
  ['another protocol', '-ERR unknown command\r\n'],
  ['a wrong status', 'HTTP/1.1 2x0 OK\r\n\r\n'],
  ['a wrong length', 'HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}'],
  ['a wrong size of a chunk', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}'],
])('%s is refused', async (_, text) => {
  const client = await serve((s) => s.end(text));
  expect(await failed(client.anyStatus())).toMatchObject({ code: expect.stringMatching(/^HPE_/) });
});

it('another protocol is refused also where it leaves the connection open', async () => {
  const client = await serve((s) => s.write('220 mail ESMTP\r\n'));
  expect(await failed(client.anyStatus())).toMatchObject({ code: expect.stringMatching(/^HPE_/) });
});

it('silence ends after the time that was given', async () => {
  const client = await serve(() => {});
  expect(await failed(client.anyStatus())).toMatchObject({ code: 'ETIMEDOUT' });
});

it('an answer that comes before the whole request was read counts', async () => {
  const problem = JSON.stringify({ status: 413, errors: [{ detail: 'too large', remedy: 'send less' }] });
  const head = 'HTTP/1.1 413 Payload Too Large\r\nContent-Type: application/problem+json\r\n';
  const client = await serve((socket) => {
    socket.pause();
    socket.write(`${head}Content-Length: ${problem.length}\r\n\r\n${problem}`, () => socket.destroy());
  });
  const error = await failed(client.putList('x', 'x'.repeat(8_000_000)));
  expect(error).toBeInstanceOf(ApiError);
  expect(error).toMatchObject({ problem: { status: 413 } });
});

it('a name of the user adds no header', async () => {
  await serve((s) => s.end(status('{}')));
  const client = new ApiClient({ socket: path, user: 'ann\r\nx: y' });
  await expect(client.anyStatus()).rejects.toThrow(/Invalid character in header/);
  expect(requests).toEqual([]);
});

it('follows next until the last page, and asks for no more than is wanted', async () => {
  const pages = [
    { items: [{ name: 'a' }, { name: 'b' }], next: 'after b' },
    { items: [{ name: 'c' }], next: null },
  ];
  const client = await serve((s) => s.end(status(JSON.stringify(pages[requests.length - 1]))));
  expect((await client.lists()).map(({ name }) => name)).toEqual(['a', 'b', 'c']);
  expect(requests.map((text) => text.split(' ')[1])).toEqual(['/v1/lists', '/v1/lists?cursor=after+b']);
  requests = [];
  expect(await client.audit(1_500)).toHaveLength(3);
  expect(requests.map((text) => text.split(' ')[1])).toEqual([
    '/v1/audit?limit=999',
    '/v1/audit?limit=999&cursor=after+b',
  ]);
  requests = [];
  expect(await client.audit(2)).toHaveLength(2);
  expect(requests).toHaveLength(1);
});
