/** Requests to the Engine API, over a unix socket with an engine of the test's own. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer, type RequestListener, type Server } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { DockerApi, DockerError } from '../../../src/docker/docker-api.js';

let dir: string;
let server: Server | undefined;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'drawbridge-engine-'));
});
afterEach(async () => {
  server?.closeAllConnections();
  await new Promise((done) => (server ? server.close(done) : done(undefined)));
  server = undefined;
  rmSync(dir, { recursive: true });
});

async function engine(answer: RequestListener, maxAnswerBytes?: number): Promise<DockerApi> {
  const socket = join(dir, 'docker.sock');
  server = createServer(answer);
  await new Promise<void>((done) => server?.listen(socket, done));
  return new DockerApi(socket, maxAnswerBytes);
}
const failure = async (asked: Promise<unknown>): Promise<DockerError> => {
  const error = await asked.then(
    () => undefined,
    (e: unknown) => e,
  );
  expect(error).toBeInstanceOf(DockerError);
  return error as DockerError;
};

it('asks with GET, encodes the query and reads JSON in pieces', async () => {
  const asked: string[] = [];
  const e = await engine((req, res) => {
    asked.push(`${req.method} ${req.url}`);
    res.write('[{"Id":');
    setImmediate(() => res.end('"ä"}]'));
  });
  expect(await e.containers(['a/b'])).toEqual([{ Id: 'ä' }]);
  expect(await e.container('x/../y')).toEqual([{ Id: 'ä' }]);
  expect(asked).toEqual([
    'GET /containers/json?all=true&filters=%7B%22id%22%3A%5B%22a%2Fb%22%5D%7D',
    'GET /containers/x%2F..%2Fy/json',
  ]);
  expect(e.waiting).toBe(0);
});

it.each([
  ['{"message":"No such container: \\"x\\""}', '(HTTP code 404) not found - No such container: "x"'],
  ['denied by a proxy', '(HTTP code 404) not found - denied by a proxy'],
])('a refusal has its status and the words of %s', async (body, words) => {
  const e = await engine((_req, res) => res.writeHead(404).end(body));
  const error = await failure(e.container('x'));
  expect(error).toMatchObject({ status: 404 });
  expect(error.message).toContain(`GET /containers/x/json: ${words}`);
});

it('what is no JSON, and what breaks off, are failures without a status', async () => {
  const broken = ['<html>', '[{"Id"'];
  const e = await engine((_req, res) => {
    const text = broken.shift() ?? '';
    if (broken.length > 0) return void res.end(text);
    res.write(text);
    setImmediate(() => res.destroy());
  });
  expect(await failure(e.networks().then((a) => a.value()))).toMatchObject({ status: undefined });
  expect(await failure(e.networks().then((a) => a.value()))).toMatchObject({ status: undefined });
});

it('abort ends requests of which the head, the body or the reason of a failure is awaited', async () => {
  let reached: () => void = () => undefined;
  const e = await engine((req, res) => {
    if (req.url?.startsWith('/networks') === true) res.writeHead(500);
    if (req.url?.startsWith('/info') !== true) res.write('{');
    reached();
  });
  for (const ask of [() => e.info(), () => e.image('i'), () => e.networks().then((a) => a.value())]) {
    const arrived = new Promise<void>((done) => (reached = done));
    const asked = failure(ask());
    await arrived;
    e.abort();
    await asked;
    expect(e.waiting).toBe(0);
  }
});

it('events are a stream that its signal ends; a refused one is a failure', async () => {
  let status = 200;
  const e = await engine((req, res) => {
    expect(req.url).toMatch(/^\/events\?since=5&filters=/);
    res.writeHead(status).write('{"a":1}\n');
    if (status !== 200) res.end();
  });
  const life = new AbortController();
  const stream = await e.events(5, life.signal);
  const ended = (async () => {
    for await (const chunk of stream) {
      expect(String(chunk)).toBe('{"a":1}\n');
      life.abort();
    }
  })();
  await expect(ended).rejects.toThrow();
  status = 503;
  expect(await failure(e.events(5, new AbortController().signal))).toMatchObject({ status: 503 });
});

it('an engine that is not there is a failure', async () => {
  expect((await failure(new DockerApi(join(dir, 'none.sock')).info())).message).toContain('ENOENT');
});

it('an answer is read up to a limit', async () => {
  const text = JSON.stringify('x'.repeat(98));
  let body = text;
  const e = await engine((_req, res) => res.end(body), 100);
  expect(await e.info()).toHaveLength(98);
  body += ' ';
  expect((await failure(e.info())).message).toContain('more than 100 bytes');
});

it('no code of what dockerode has for SSH, gRPC or archives is loaded with it', () => {
  const script = `
    const { DockerApi } = await import('./src/docker/docker-api.ts');
    new DockerApi('/nonexistent.sock');
    const { createRequire } = await import('node:module');
    console.log(JSON.stringify(Object.keys(createRequire(import.meta.url).cache)));`;
  const argv = ['--import', 'tsx', '--input-type=module', '-e', script];
  const loaded = JSON.parse(execFileSync(process.execPath, argv, { encoding: 'utf8' })) as string[];
  expect(loaded.some((file) => file.endsWith('/docker-modem/lib/modem.js'))).toBe(true);
  const withoutUse = ['ssh2', '@grpc/', 'protobufjs', '@protobufjs/', 'tar-', 'bl/', 'cpu-features'];
  const files = loaded.filter((file) => withoutUse.some((name) => file.includes(`/node_modules/${name}`)));
  expect(files.filter((file) => readFileSync(file, 'utf8').trim() !== 'module.exports = {};')).toEqual([]);
});
