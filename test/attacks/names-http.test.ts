/** Requests on port 80 that ask for another host, or that servers read in different ways. */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Lab } from '../lab/lab.js';
import { startDaemon, waitFor } from '../lab/process.js';
import type { Answer } from '../lab/sink.js';
import { helloFor } from '../pure/connections/hello-maker.js';
import { BOTH, distance, GOOD, type NameAttack, namesSuite, SHARED, type Try } from './names.js';
import type { RawTcp } from './raw-tcp.js';
import type { Family } from './report.js';

const V4: readonly Family[] = ['v4'];
const HOST = 'every request must name what an entry permits on the port';
const STRICT = 'a request that servers read in different ways refuses the flow';
const BEGINS = 'a SYN begins another check, and tells where the stream begins';
const SAME = 'bytes that are sent again must be those that were read';
const SWITCH = 'what follows a request for WebSocket goes on once the server has agreed';

const get = (host: string, ...lines: readonly string[]): string =>
  ['GET / HTTP/1.1', `Host: ${host}`, ...lines, '', ''].join('\r\n');
const post = (body: string, ...lines: readonly string[]): string =>
  `${['POST / HTTP/1.1', `Host: ${GOOD}`, ...lines, '', ''].join('\r\n')}${body}`;
const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n';

type Text = (t: Try) => string;
interface Short {
  readonly id: string;
  readonly title: string;
  readonly families?: readonly Family[];
  readonly stoppedBy?: string;
  readonly hasPermitted?: true;
}
/** All of it at once on a new connection. */
const single = ({ id, ...o }: Short, text: Text): NameAttack => ({
  families: V4,
  stoppedBy: STRICT,
  ...o,
  id,
  port: 80,
  attack: async (t) => {
    const c = await t.open();
    c.stream(text(t));
  },
});
/** Segments, each once the one before it was answered. */
const turns = ({ id, ...o }: Short, ...texts: readonly Text[]): NameAttack => ({
  families: V4,
  stoppedBy: HOST,
  hasPermitted: true,
  ...o,
  id,
  port: 80,
  attack: async (t) => {
    const all = texts.map((text) => text(t));
    const c = await open(t, all.slice(0, -1), OK);
    let answered = 0;
    for (const text of all) {
      c.segment(text);
      answered += OK.length;
      if (text !== all.at(-1)) await t.answered(c, answered);
    }
  },
});
async function open(t: Try, answered: readonly string[], answer: string): Promise<RawTcp> {
  let after = 0;
  const answers = answered.map((text): Answer => {
    after += text.length;
    return { after, send: answer };
  });
  return t.open({ answers });
}

const heads: readonly NameAttack[] = [
  single(
    {
      id: 'host-other-site',
      title: 'another Host to an address that the permitted site shares',
      families: BOTH,
      stoppedBy: HOST,
    },
    (t) => get(t.evil),
  ),
  single({ id: 'host-absolute', title: 'a URL of another site in the first line', families: BOTH }, (t) =>
    get(GOOD).replace('GET /', `GET http://${t.evil}/`),
  ),
  single({ id: 'host-absolute-user', title: 'the permitted name as user of the URL', families: V4 }, (t) =>
    get(GOOD).replace('GET /', `GET http://${GOOD}@${t.evil}/`),
  ),
  single({ id: 'host-authority', title: 'another name in the place of the path', families: V4 }, (t) =>
    get(GOOD).replace('GET /', `GET ${t.evil}:80`),
  ),
  single({ id: 'host-two', title: 'two Host lines', families: BOTH }, (t) => get(GOOD, `Host: ${t.evil}`)),
  single({ id: 'host-two-reversed', title: 'two Host lines, the permitted one last' }, (t) =>
    get(t.evil, `Host: ${GOOD}`),
  ),
  single({ id: 'host-blank', title: 'a blank before the colon of another Host line' }, (t) =>
    get(GOOD, `Host : ${t.evil}`),
  ),
  single({ id: 'host-folded', title: 'the Host on a continued line' }, (t) => get(`\r\n ${t.evil}`)),
  single({ id: 'host-folded-behind', title: 'another Host line behind a blank' }, (t) =>
    get(GOOD, 'X: y', ` Host: ${t.evil}`),
  ),
  single({ id: 'host-bare-lf', title: 'another Host line behind an LF alone' }, (t) =>
    get(GOOD, `X: y\nHost: ${t.evil}`),
  ),
  single({ id: 'host-bare-cr', title: 'another Host line behind a CR alone' }, (t) =>
    get(GOOD, `X: y\rHost: ${t.evil}`),
  ),
  single({ id: 'host-lf-only', title: 'a head whose lines end with LF alone' }, (t) =>
    get(t.evil).replaceAll('\r', ''),
  ),
  single(
    { id: 'host-end-lf', title: 'a head that ends with LF LF, and another request behind it' },
    (t) => `GET / HTTP/1.1\r\nHost: ${GOOD}\n\nGET / HTTP/1.1\r\nHost: ${t.evil}\r\n\r\n`,
  ),
  single({ id: 'host-nul', title: 'a NUL in the Host' }, (t) => get(`${GOOD}\0.${t.evil}`)),
  single({ id: 'host-not-ascii', title: 'bytes that are not ASCII in the Host' }, (t) =>
    get(`${GOOD}\u00ad.${t.evil}`),
  ),
  single({ id: 'host-user', title: 'the permitted name as user in the Host' }, (t) =>
    get(`${GOOD}@${t.evil}`),
  ),
  single({ id: 'host-list', title: 'a list of names in the Host' }, (t) => get(`${GOOD}, ${t.evil}`)),
  single({ id: 'host-address', title: 'the address as Host', stoppedBy: HOST }, (t) =>
    get(t.shared, `X: ${t.tag}`),
  ),
  single({ id: 'host-port', title: 'a Host with another port' }, (t) => get(`${GOOD}:8080`, `X: ${t.tag}`)),
  single(
    { id: 'host-none', title: 'no Host', stoppedBy: HOST },
    (t) => `GET / HTTP/1.0\r\nX: ${t.tag}\r\n\r\n`,
  ),
  single({ id: 'host-old', title: 'HTTP/0.9', stoppedBy: STRICT }, (t) => `GET /${t.tag}\r\n`),
  single({ id: 'host-connect', title: 'CONNECT', families: BOTH }, (t) =>
    get(GOOD).replace('GET /', `CONNECT ${t.evil}:443`),
  ),
  single({ id: 'host-h2c', title: 'an upgrade to HTTP/2 without TLS' }, (t) =>
    get(
      GOOD,
      'Connection: Upgrade, HTTP2-Settings',
      'Upgrade: h2c',
      'HTTP2-Settings: AAMAAABk',
      `X: ${t.tag}`,
    ),
  ),
  single(
    { id: 'host-h2', title: 'HTTP/2 at once (prior knowledge)', families: BOTH },
    (t) => `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0${t.evil}`,
  ),
  single({ id: 'host-tls', title: 'TLS on the port of HTTP' }, (t) => helloFor(t.evil).toString('latin1')),
  single(
    { id: 'host-other-protocol', title: 'another protocol on the port of HTTP' },
    (t) => `SSH-2.0-${t.tag}\r\n`,
  ),
  single(
    { id: 'host-long-head', title: 'a head of more than 16 KiB, the Host at its end' },
    (t) => `GET / HTTP/1.1\r\n${`X: ${'y'.repeat(1000)}\r\n`.repeat(18)}Host: ${t.evil}\r\n\r\n`,
  ),
  {
    id: 'host-segments',
    title: 'a head in segments of seven bytes, from the last one to the first one',
    families: BOTH,
    port: 80,
    stoppedBy: 'nothing of a head goes on before its Host was evaluated',
    attack: async (t) => {
      const c = await t.open();
      const text = get(t.evil);
      for (let at = text.length - (text.length % 7); at >= 0; at -= 7)
        c.segment(text.slice(at, at + 7), { at });
    },
  },
];

const later: readonly NameAttack[] = [
  turns(
    { id: 'host-kept-alive', title: 'another Host in the second request of a connection', families: BOTH },
    () => get(GOOD),
    (t) => get(t.evil),
  ),
  single(
    {
      id: 'host-pipelined',
      title: 'another Host in a request behind the first one, in its segment',
      stoppedBy: HOST,
    },
    (t) => get(GOOD) + get(t.evil),
  ),
  turns(
    { id: 'host-behind-body', title: 'another Host in the request behind a body' },
    () => post('12345', 'Content-Length: 5'),
    (t) => get(t.evil),
  ),
  turns(
    { id: 'host-behind-chunks', title: 'another Host in the request behind a body in chunks' },
    () => post('5;a=b\r\n12345\r\n0\r\nT: x\r\n\r\n', 'Transfer-Encoding: chunked'),
    (t) => get(t.evil),
  ),
  turns(
    {
      id: 'host-websocket-not',
      title: 'another Host after a request for WebSocket to which the server has not agreed',
      stoppedBy: SWITCH,
    },
    () => get(GOOD, 'Connection: Upgrade', 'Upgrade: websocket'),
    (t) => get(t.evil),
  ),
  single(
    {
      id: 'host-websocket-together',
      title: 'another Host behind a request for WebSocket, before the answer',
      stoppedBy: SWITCH,
    },
    (t) => get(GOOD, 'Connection: Upgrade', 'Upgrade: websocket') + get(t.evil),
  ),
  turns(
    {
      id: 'host-websocket-late',
      title: 'a request for WebSocket as the second request, then another Host',
      stoppedBy: SWITCH,
    },
    () => get(GOOD),
    () => get(GOOD, 'Connection: Upgrade', 'Upgrade: websocket'),
    (t) => get(t.evil),
  ),
  turns(
    {
      id: 'host-overlap',
      title: 'the end of a request again, longer and with another request in it',
      stoppedBy: SAME,
    },
    () => post('1'.repeat(20), 'Content-Length: 20'),
    (t) => get(t.evil),
  ),
];

const CHUNKED = 'Transfer-Encoding: chunked';
/** A request that one server takes for a body, and another one for the next request. */
const asBody: Text = (t) => `0\r\n\r\n${get(t.evil)}`;
const inBody =
  (...lines: readonly string[]): Text =>
  (t) =>
    post(asBody(t), `Content-Length: ${asBody(t).length}`, ...lines);
const asChunk =
  (size: (length: string) => string): Text =>
  (t) => {
    const inner = get(t.evil);
    return post(`${size(inner.length.toString(16))}${inner}\r\n0\r\n\r\n`, CHUNKED);
  };
const smuggling: readonly NameAttack[] = [
  single(
    { id: 'host-cl-te', title: 'Content-Length and Transfer-Encoding (CL.TE)', families: BOTH },
    inBody(CHUNKED),
  ),
  single({ id: 'host-te-cl', title: 'Transfer-Encoding and Content-Length (TE.CL)', families: BOTH }, (t) => {
    const inner = get(t.evil);
    return post(`${inner.length.toString(16)}\r\n${inner}\r\n0\r\n\r\n`, CHUNKED, 'Content-Length: 4');
  }),
  single(
    { id: 'host-te-x', title: 'a Transfer-Encoding that is nearly chunked' },
    inBody('Transfer-Encoding: xchunked'),
  ),
  single(
    { id: 'host-te-blank', title: 'a blank before the colon of Transfer-Encoding' },
    inBody('Transfer-Encoding : chunked'),
  ),
  single(
    { id: 'host-te-tab', title: 'a vertical tab before chunked' },
    inBody('Transfer-Encoding: \vchunked'),
  ),
  single({ id: 'host-te-quoted', title: 'chunked in quotes' }, (t) =>
    post(asBody(t), 'Transfer-Encoding: "chunked"'),
  ),
  single({ id: 'host-te-list', title: 'a list of codings' }, (t) =>
    post(asBody(t), 'Transfer-Encoding: identity, chunked'),
  ),
  single({ id: 'host-te-two', title: 'two lines of Transfer-Encoding' }, (t) =>
    post(asBody(t), CHUNKED, 'Transfer-Encoding: identity'),
  ),
  single({ id: 'host-te-old', title: 'Transfer-Encoding with HTTP/1.0' }, (t) =>
    post(asBody(t), CHUNKED).replace('HTTP/1.1', 'HTTP/1.0'),
  ),
  single({ id: 'host-te-folded', title: 'chunked on a continued line' }, (t) =>
    post(asBody(t), 'Transfer-Encoding:', ' chunked'),
  ),
  single({ id: 'host-cl-two', title: 'two lengths' }, (t) =>
    post(asBody(t), 'Content-Length: 5', `Content-Length: ${asBody(t).length}`),
  ),
  single({ id: 'host-cl-list', title: 'a list of lengths' }, (t) =>
    post(asBody(t), `Content-Length: 5, ${asBody(t).length}`),
  ),
  single({ id: 'host-cl-sign', title: 'a length with a sign' }, (t) => post(asBody(t), 'Content-Length: +5')),
  single({ id: 'host-cl-large', title: 'a length that overflows 64 bits' }, (t) =>
    post(asBody(t), 'Content-Length: 18446744073709551621'),
  ),
  single(
    { id: 'host-chunk-hex', title: 'the size of a chunk with 0x' },
    asChunk((n) => `0x${n}\r\n`),
  ),
  single(
    { id: 'host-chunk-blank', title: 'a blank behind the size of a chunk' },
    asChunk((n) => `${n} \r\n`),
  ),
  single(
    { id: 'host-chunk-sign', title: 'the size of a chunk with a sign' },
    asChunk((n) => `+${n}\r\n`),
  ),
  single(
    { id: 'host-chunk-large', title: 'the size of a chunk overflows 32 bits' },
    asChunk((n) => `100000000${n}\r\n`),
  ),
  single(
    { id: 'host-chunk-lf', title: 'the size of a chunk ends with LF alone' },
    asChunk((n) => `${n}\n`),
  ),
  single(
    { id: 'host-chunk-extension', title: 'an LF in the extension of a chunk' },
    asChunk((n) => `${n};a\nb\r\n`),
  ),
  single({ id: 'host-chunk-end', title: 'a chunk that is longer than its size' }, (t) =>
    post(`2\r\nab${get(t.evil)}\r\n0\r\n\r\n`, CHUNKED),
  ),
  single({ id: 'host-chunk-trailer', title: 'a continued line in the trailers' }, (t) =>
    post(`0\r\nX: y\r\n GET / HTTP/1.1\r\nHost: ${t.evil}\r\n\r\n`, CHUNKED),
  ),
];

/** In the middle of a body, the connection is reset and another one goes on with the sequence numbers of the first one. */
const reopened: readonly NameAttack[] = [
  {
    id: 'host-reset-reopen',
    title:
      'a connection is reset in the middle of a body, and another one has its ports and goes on where it was',
    families: BOTH,
    port: 80,
    hasPermitted: true,
    stoppedBy: BEGINS,
    attack: async (t) => {
      const head = post('', 'Content-Length: 100000');
      const c = await t.open();
      c.segment(head);
      await t.received(c, head.length);
      c.segment('', { flags: 'R' });
      const again = await t.open({ fromPort: c.fromPort, isn: c.isn + head.length });
      again.segment(get(t.evil));
    },
  },
  {
    id: 'host-before-start',
    title:
      'a segment that begins before the stream: the server skips what makes the request a permitted one (seqovl)',
    families: BOTH,
    port: 80,
    stoppedBy: BEGINS,
    attack: async (t) => {
      const c = await t.open();
      const inner = get(t.evil);
      const prefix = post('', `Content-Length: ${inner.length}`);
      c.segment(prefix + inner, { at: -prefix.length });
    },
  },
  {
    id: 'host-fake-ttl',
    title: 'a permitted request that dies on its way, then a forbidden one in its place',
    families: BOTH,
    port: 80,
    stoppedBy: 'a segment that may not arrive refuses the flow',
    attack: async (t) => {
      const c = await t.open();
      const evil = get(t.evil);
      c.segment(get(GOOD, `X: ${'y'.repeat(evil.length - get(GOOD, 'X: ').length)}`), { at: 0, ttl: 12 });
      await t.never(200);
      c.segment(evil, { at: 0 });
    },
  },
];

async function prepare(lab: Lab): Promise<void> {
  await Promise.all([distance(lab), serveUnread(lab)]);
}
const MiB = 2 ** 20;
/** An upload of which the kernel lets the rest pass without the service. Returns the connection, and the length of its head. */
async function uploading(t: Try): Promise<{ c: RawTcp; head: number }> {
  const head = post('', `Content-Length: ${64 * MiB}`);
  const c = await t.open();
  c.segment(head);
  await t.until(() => c.acknowledged >= head.length);
  if (!(await c.upload(1.25 * MiB)))
    throw new Error(`the server takes ${c.acknowledged} bytes of the upload, reset: ${c.isReset}`);
  if (t.side === 'held') {
    const { stdout } = await t.lab.inHost(['nft', 'list', 'table', 'inet', 'drawbridge_bodies']);
    if (!stdout.includes(`. ${c.fromPort} .`))
      throw new Error(`the kernel lets nothing of it pass: ${stdout}`);
  }
  return { c, head: head.length };
}
const uploads: readonly NameAttack[] = [
  {
    id: 'host-upload-reopen',
    title: 'the same in an upload that passes in the kernel, within the bytes that pass',
    families: BOTH,
    port: 80,
    hasPermitted: true,
    stoppedBy: 'bytes pass in the kernel only on the connection whose request has announced them',
    attack: async (t) => {
      const { c, head } = await uploading(t);
      c.segment('', { flags: 'R' });
      const again = await t.open({ fromPort: c.fromPort, isn: c.isn + head + 2 * MiB });
      again.segment(get(t.evil));
    },
  },
  {
    id: 'host-upload-reopen-later',
    title: 'the same, and the other connection sends a permitted request first',
    families: BOTH,
    port: 80,
    hasPermitted: true,
    stoppedBy:
      'what passes in the kernel ends before anything of another connection with its ends is released',
    attack: async (t) => {
      const { c, head } = await uploading(t);
      c.segment('', { flags: 'R' });
      const again = await t.open({ fromPort: c.fromPort, isn: c.isn + head + 2 * MiB });
      again.segment(get(GOOD));
      await t.until(() => again.acknowledged >= get(GOOD).length);
      again.segment(get(t.evil));
    },
  },
  {
    id: 'host-upload-urgent',
    title: 'urgent data in an upload that passes in the kernel: servers read a byte less than were sent',
    families: BOTH,
    port: 80,
    hasPermitted: true,
    stoppedBy: 'only ordinary segments pass in the kernel; urgent data refuse the flow',
    attack: async (t) => {
      const { c } = await uploading(t);
      c.segment(get(t.evil), { flags: 'PAU', urgent: 1 });
    },
  },
];
/** Of the permitted name: a server that takes bodies for requests. */
const UNREAD = { address: '93.184.63.7', port: 8099, log: 'unread.log' } as const;
async function serveUnread(lab: Lab): Promise<void> {
  const { address, port } = UNREAD;
  const redirect = [
    '-t',
    'nat',
    '-I',
    'PREROUTING',
    '-p',
    'tcp',
    '-d',
    address,
    '--dport',
    '80',
    '-j',
    'REDIRECT',
  ];
  await lab.inNet(['iptables', ...redirect, '--to-ports', String(port)], { check: true });
  const log = join(lab.dir, UNREAD.log);
  const server = ['python3', join(import.meta.dirname, 'programs', 'unread.py'), String(port)];
  startDaemon(['nsenter', `--net=${lab.netNetns}`, '--', ...server], log);
  await waitFor('the server to listen', () => readFileSync(log, 'utf8').includes('listening'));
}
/** One request, and another one in its body. `pieces`: of the body, in segments of their own. */
const unread = (
  o: Pick<NameAttack, 'id' | 'title'>,
  head: (length: number) => string,
  pieces = 1,
): NameAttack => ({
  ...o,
  families: V4,
  port: 80,
  hasPermitted: true,
  stoppedBy:
    'a body that begins like a request refuses the flow; of methods that have none by their definition, each of its lines',
  attack: async (t) => {
    const c = await t.open({ dst: UNREAD.address });
    const body = get(t.evil);
    const begin = head(body.length);
    if (pieces === 1) {
      c.stream(begin + body);
      return;
    }
    c.segment(begin);
    const size = Math.ceil(body.length / pieces);
    for (let at = 0; at < body.length; at += size)
      c.segment(body.slice(at, at + size), { at: begin.length + at });
  },
  arrived: (t) => readFileSync(join(t.lab.dir, UNREAD.log), 'utf8').includes(t.evil),
});
const announcing =
  (method: string, ...lines: readonly string[]) =>
  (length: number): string =>
    [`${method} / HTTP/1.1`, `Host: ${GOOD}`, `Content-Length: ${length}`, ...lines, '', ''].join('\r\n');
const bodies: readonly NameAttack[] = [
  unread(
    { id: 'host-body-get', title: 'a request as the body of GET, to a server that does not read it (CL.0)' },
    announcing('GET'),
  ),
  unread({ id: 'host-body-head', title: 'the same of HEAD' }, announcing('HEAD')),
  unread({ id: 'host-body-options', title: 'the same of OPTIONS' }, announcing('OPTIONS')),
  unread({ id: 'host-body-delete', title: 'the same of DELETE' }, announcing('DELETE')),
  unread({ id: 'host-body-post', title: 'the same of POST' }, announcing('POST')),
  unread({ id: 'host-body-put', title: 'the same of PUT' }, announcing('PUT')),
  unread(
    { id: 'host-body-expect', title: 'the same of POST, behind Expect: 100-continue' },
    announcing('POST', 'Expect: 100-continue'),
  ),
  unread({ id: 'host-body-segments', title: 'the same of GET, in many segments' }, announcing('GET'), 20),
];

namesSuite('names in requests', { prepare, ofGood: { A: [SHARED.v4, UNREAD.address] } }, [
  ...bodies,
  ...heads,
  ...later,
  ...smuggling,
  ...reopened,
  ...uploads,
]);
