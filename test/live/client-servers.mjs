// The servers of NET for real clients: HTTP/1.1, HTTP/2 and WebSocket over TLS and on a port without it. Plain JavaScript: it runs there
// alone. Arguments: a folder with cert.pem, key.pem, repository (git) and pages.json (path to base64; ORIGIN in a text is the URL's origin);
// ports for TLS with HTTP/2, for TLS with HTTP/1.1 only, and for HTTP.
import { spawn } from 'node:child_process';
import { createCipheriv, createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createSecureServer } from 'node:http2';
import { createServer as createTlsServer } from 'node:https';
import { join } from 'node:path';

const [folder, tlsPort, bulkPort, httpPort] = process.argv.slice(2);
const pages = JSON.parse(readFileSync(join(folder, 'pages.json'), 'utf8'));
const say = (o) => process.stdout.write(`${JSON.stringify(o)}\n`);
/** `n` bytes of a fixed stream without repetitions. */
function send(res, n) {
  const cipher = createCipheriv('aes-128-ctr', Buffer.alloc(16), Buffer.alloc(16));
  const zeros = Buffer.alloc(1 << 20);
  let left = n;
  res.setHeader('content-length', n);
  const fill = () => {
    while (left > 0) {
      const piece = cipher.update(zeros.subarray(0, Math.min(left, zeros.length)));
      left -= piece.length;
      if (!res.write(piece)) return;
    }
    res.end();
  };
  res.on('drain', fill);
  fill();
}

/** The length and the SHA-256 of what was uploaded. */
function digest(req, res) {
  const hash = createHash('sha256');
  let length = 0;
  req.on('data', (d) => {
    hash.update(d);
    length += d.length;
  });
  req.on('end', () => res.end(JSON.stringify({ length, sha256: hash.digest('hex') })));
}

/** git http-backend as a CGI program (RFC 3875). */
function git(req, res, url) {
  const env = {
    ...process.env,
    GIT_PROJECT_ROOT: folder,
    GIT_HTTP_EXPORT_ALL: '1',
    PATH_INFO: url.pathname,
    QUERY_STRING: url.search.slice(1),
    REQUEST_METHOD: req.method,
    CONTENT_TYPE: req.headers['content-type'] ?? '',
    HTTP_CONTENT_ENCODING: req.headers['content-encoding'] ?? '',
    GIT_PROTOCOL: req.headers['git-protocol'] ?? '',
  };
  const child = spawn('git', ['http-backend'], { env, stdio: ['pipe', 'pipe', 'inherit'] });
  const out = [];
  req.pipe(child.stdin);
  child.stdin.on('error', () => undefined);
  child.stdout.on('data', (d) => out.push(d));
  child.on('close', () => {
    const all = Buffer.concat(out);
    const end = all.indexOf('\r\n\r\n');
    for (const line of all.subarray(0, end).toString().split('\r\n')) {
      const [name, value] = line.split(': ');
      if (name === 'Status') res.statusCode = Number.parseInt(value, 10);
      else res.setHeader(name, value);
    }
    res.end(all.subarray(end + 4));
  });
}

function page(res, url) {
  const known = pages[decodeURIComponent(url.pathname)];
  if (known === undefined) return res.writeHead(404, { 'content-length': 0 }).end();
  const raw = Buffer.from(known, 'base64');
  const body = raw.includes('ORIGIN')
    ? Buffer.from(raw.toString('latin1').replaceAll('ORIGIN', url.origin), 'latin1')
    : raw;
  const type = url.pathname.endsWith('/') ? 'text/html' : 'application/octet-stream';
  return res.writeHead(200, { 'content-type': type, 'content-length': body.length }).end(body);
}

/** A browser has loaded its page once it has reported: until then an image of the page is on its way. */
let loading = [];
const reports = [];
function reported(what) {
  reports.push(what);
  for (const res of loading) res.end();
  loading = [];
}

const handle = (req, res) => {
  const host = req.headers[':authority'] ?? req.headers.host;
  const url = new URL(req.url, `${req.socket.encrypted ? 'https' : 'http'}://${host}`);
  say({
    host,
    path: url.pathname,
    http: req.httpVersion,
    method: req.method,
    sni: req.socket.servername ?? null,
  });
  res.on('error', () => undefined);
  if (url.pathname === '/loading') loading.push(res);
  else if (url.pathname === '/reports') res.end(reports.join('\n'));
  else if (url.pathname.startsWith('/report/')) {
    req.resume();
    req.on('end', () => res.end());
    reported(decodeURIComponent(url.pathname));
  } else if (url.pathname === '/content') res.end(`the content of ${url.hostname}`);
  else if (url.pathname === '/bytes') send(res, Number(url.searchParams.get('n')));
  else if (url.pathname.startsWith('/repository')) git(req, res, url);
  else if (req.method === 'POST' || req.method === 'PUT') digest(req, res);
  else page(res, url);
};

/** An echo of short text frames (RFC 6455 5). */
const upgrade = (req, socket) => {
  say({
    host: req.headers.host,
    path: req.url,
    http: 'websocket',
    method: req.method,
    sni: socket.servername ?? null,
  });
  const key = createHash('sha1').update(
    `${req.headers['sec-websocket-key']}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`,
  );
  socket.write(
    `HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${key.digest('base64')}\r\n\r\n`,
  );
  socket.on('error', () => socket.destroy());
  socket.on('data', (frame) => {
    const length = frame[1] & 127;
    if ((frame[0] & 15) !== 1 || length > 125) return socket.end();
    const mask = frame.subarray(2, 6);
    const text = Buffer.from(frame.subarray(6, 6 + length).map((byte, i) => byte ^ mask[i % 4]));
    return socket.write(Buffer.concat([Buffer.from([0x81, length]), text]));
  });
};

const pair = { cert: readFileSync(join(folder, 'cert.pem')), key: readFileSync(join(folder, 'key.pem')) };
const servers = [
  [createSecureServer({ ...pair, allowHTTP1: true }, handle), tlsPort],
  [createTlsServer(pair, handle), bulkPort],
  [createServer(handle), httpPort],
];
for (const [server, port] of servers) {
  server.on('upgrade', upgrade);
  server.on('clientError', (_, socket) => socket.destroy());
  server.listen({ port: Number(port), host: '::', backlog: 4096 }, () => say({ listening: port }));
}
