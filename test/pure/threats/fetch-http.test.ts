/** Private space, secrets and proxies: what a feed's server must not get out of us. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { checkLiteral, FetchFault } from '../../../src/threats/fetch-http.js';
import { FeedServer, LIST, text } from './feed-server.js';

const server = new FeedServer();
let folder = '';
beforeAll(async () => {
  await server.start();
  folder = await mkdtemp(join(tmpdir(), 'feed-fetch-'));
});
afterAll(async () => {
  await server.close();
  await rm(folder, { recursive: true });
});
const get: FeedServer['get'] = (...all) => server.get(...all);

/** Nothing is sent: what a fetch asks before it connects. */
const refused = (url: string, allowPrivate: boolean): boolean => {
  try {
    checkLiteral(new URL(url), allowPrivate);
    return false;
  } catch (error) {
    return error instanceof FetchFault;
  }
};

describe('private space', () => {
  it('is refused unless the feed allows it, by address and by name', async () => {
    for (const url of [`${server.base}/ok`, `${server.base.replace('127.0.0.1', 'localhost')}/ok`])
      expect(text(await get(url, { allowPrivate: false }))).toMatch(
        /private, loopback, link-local or metadata/,
      );
  });

  it('redirects there are refused even so', async () => {
    for (const path of ['/to-private', '/to-other-loopback'])
      expect(text(await get(path))).toMatch(/private, loopback, link-local or metadata/);
  });

  it.each([
    'http://10.0.0.1/',
    'http://2130706433/',
    'http://0x7f.1/',
    'http://[::1]:9/',
    'http://0/',
    'http://[fd00::1]/',
  ])('%s only where it is allowed', (url) =>
    expect([refused(url, false), refused(url, true)]).toEqual([true, false]),
  );

  it.each([
    'http://169.254.169.254/',
    'http://[fd00:ec2::254]/',
    'http://[fe80::1]/',
    'http://168.63.129.16/',
    'http://[::ffff:127.0.0.1]/',
  ])('%s never', (url) => expect([refused(url, false), refused(url, true)]).toEqual([true, true]));

  it('public addresses are fine', () => expect(refused('http://192.0.2.7/', false)).toBe(false));
});

describe('secrets', () => {
  it('go to their server, from a file, and nowhere else', async () => {
    const file = join(folder, 'key');
    await writeFile(file, 's3cret\n');
    const auth = { header: 'Auth-Key', file, prefix: 'Key ' };
    expect(text(await get('/secret', { auth }))).toBe(LIST);
    expect(text(await get('/secret'))).toMatch(/status 401/);
    expect(text(await get('/secret', { auth: { ...auth, file: join(folder, 'none') } }))).toMatch(
      /cannot be read/,
    );
    await writeFile(file, 'two\nlines');
    expect(text(await get('/secret', { auth }))).toMatch(/several lines/);
  });

  it('do not follow a redirect to another origin', async () => {
    const file = join(folder, 'key2');
    await writeFile(file, 's3cret');
    const seen: (string | undefined)[] = [];
    const other = createServer((request, response) => {
      seen.push(request.headers['x-key'] as string | undefined);
      response.end(LIST);
    });
    const port = await server.listen(other);
    server.answers['/away'] = (_, response) =>
      response.writeHead(302, { location: `http://127.0.0.1:${port}/` }).end();
    expect(text(await get('/away', { auth: { header: 'X-Key', file } }))).toBe(LIST);
    expect(seen).toEqual([undefined]);
  });
});

describe('a proxy', () => {
  it('is asked for http whole, with its credentials, and still guards private space', async () => {
    const lines: string[] = [];
    const proxy = createServer((request, response) => {
      lines.push(`${request.method} ${request.url} ${request.headers['proxy-authorization'] ?? ''}`);
      response.end(LIST);
    });
    const port = await server.listen(proxy);
    const through = { proxy: `http://user:pa%20ss@127.0.0.1:${port}` };
    expect(text(await get(`${server.base}/ok`, through))).toBe(LIST);
    expect(lines).toEqual([`GET ${server.base}/ok Basic ${Buffer.from('user:pa ss').toString('base64')}`]);
    expect(text(await get(`${server.base}/ok`, { ...through, allowPrivate: false }))).toMatch(/private/);
  });

  it('that never answers ends at the time-out', async () => {
    const silent = createServer();
    silent.on('connect', () => undefined);
    const through = { proxy: `http://127.0.0.1:${await server.listen(silent)}`, timeoutMs: 300 };
    for (const url of [server.base, server.base.replace('http:', 'https:')])
      expect(text(await get(`${url}/ok`, through))).toBe('failed: no whole answer within 0.3 s');
  });

  it('tunnels https, and its refusal is told', async () => {
    const asked: string[] = [];
    const proxy = createServer();
    proxy.on('connect', (request, socket: Socket) => {
      asked.push(request.url ?? '');
      if (asked.length === 1) socket.end('HTTP/1.1 403 No\r\n\r\n');
      else {
        // A plain server behind the tunnel: the TLS handshake must fail, not the certificate be skipped.
        const target = connect(Number(new URL(server.base).port), '127.0.0.1', () => {
          socket.write('HTTP/1.1 200 OK\r\n\r\n');
          target.pipe(socket).pipe(target);
        });
        target.on('error', () => socket.destroy());
      }
      socket.on('error', () => undefined);
    });
    const port = await server.listen(proxy);
    const url = `${server.base.replace('http:', 'https:')}/ok`;
    const through = { proxy: `http://127.0.0.1:${port}` };
    expect(text(await get(url, through))).toMatch(/proxy 127.0.0.1:\d+ refused with status 403/);
    expect(text(await get(url, through))).toMatch(/failed: .*(SSL|wrong version|packet length)/);
    expect(asked).toEqual([new URL(server.base).host, new URL(server.base).host]);
  });
});
