/** Requests of HTTP/1, as a connection carries them. An input is four bytes of a seed, and a stream. */

import { HttpFlow } from '../../../src/connections/http-flow.js';
import type { RequestHead } from '../../../src/connections/http-requests.js';
import { RequestReader } from '../../../src/connections/http-requests.js';
import { HELLO_MS } from '../../../src/connections/tls-flow.js';
import { cut, GOOD, Ledger, ONE_NAME, repeated, type Sent, ServerView, shuffled } from '../flow-model.js';
import { type NodeReads, readAsNode } from '../node-server.js';
import { Random } from '../random.js';
import { bytes, must, mustEqual, type Target } from '../target.js';

interface Reads {
  readonly heads: readonly RequestHead[];
  readonly isRefused: boolean;
  /** No byte waits for the end of a head or a line. */
  readonly isDecided: boolean;
}
function readAll(pieces: readonly Buffer[]): Reads {
  const reader = new RequestReader(80);
  const events = pieces.flatMap((piece) => reader.read(piece));
  const isRefused = events.some((e) => e.kind === 'refused');
  return {
    heads: events.flatMap((e) => (e.kind === 'request' ? [e.head] : [])),
    isRefused,
    isDecided: !isRefused && reader.decidedTo === Buffer.concat(pieces).length,
  };
}

const withoutPort = (host: string | undefined): string | undefined =>
  host?.toLowerCase().replace(/:\d*$/, '');

/** What the server reads is what we have read, as far as both have read. */
function compare(ours: Reads, node: NodeReads): void {
  for (const [n, host] of node.hosts.entries()) {
    const head = ours.heads[n];
    if (!head)
      must(!ours.isDecided, `the server reads request ${n + 1} with Host ${host}, where we have read none`);
    else if (head.host.kind === 'name')
      must(withoutPort(host) === head.host.name, `request ${n + 1}: ${host}, not ${head.host.name}`);
  }
  if (!node.stopped && ours.isDecided && !ours.heads.some((h) => h.isUpgrade))
    must(
      node.hosts.length === ours.heads.length,
      `the server reads ${node.hosts.length} requests, not ${ours.heads.length}`,
    );
}

const ISN = 0xffff_ff80;

async function deliver(
  sent: readonly Sent[],
): Promise<{ readonly isRefused: boolean; readonly names: readonly string[] }> {
  const flow = new HttpFlow(ONE_NAME, 80, ISN);
  const [ledger, server] = [new Ledger(), new ServerView()];
  for (const { offset, bytes: payload } of sent) {
    const id = ledger.next();
    const outcome = flow.take({ id, from: 'client', seq: (ISN + offset) >>> 0, ack: 1, payload }, 0);
    for (const released of ledger.note(outcome)) server.arrive(sent[released] as Sent);
  }
  const late = flow.expire(HELLO_MS);
  if (late) ledger.note(late);
  ledger.settled();
  for (const stream of server.streams) {
    const { hosts } = await readAsNode(stream);
    for (const host of hosts) must(withoutPort(host) === GOOD, `the server reads the Host ${host}`);
  }
  return { isRefused: ledger.isRefused, names: ledger.allowed };
}

const WEBSOCKET = /upgrade/i;

async function check(input: Buffer): Promise<void> {
  const random = new Random(input.length < 4 ? 0 : input.readUInt32BE(0));
  const stream = input.subarray(4);
  const ours = readAll([stream]);
  const pieces = cut(stream, random, 40);
  const inPieces = readAll(pieces.map((piece) => piece.bytes));
  mustEqual(inPieces, ours, 'what is read depends on the segments');
  compare(ours, await readAsNode(stream));
  if (stream.length === 0 || stream.length > 20_000) return;
  const [reference, inOrder] = [
    await deliver([{ offset: 0, bytes: stream }]),
    await deliver(repeated(stream, pieces, random)),
  ];
  // after a request for WebSocket the answer of the server decides, and there is none
  if (WEBSOCKET.test(stream.toString('latin1'))) return;
  must(inOrder.isRefused || !reference.isRefused, 'segments make a refused stream a permitted one');
  if (reference.isRefused) must(inOrder.isRefused, 'the verdict depends on the segments');
  else mustEqual(inOrder, reference, 'the verdict depends on the segments');
  const disorder = await deliver(shuffled(repeated(stream, pieces, random), random));
  if (reference.isRefused) must(disorder.isRefused, 'the order makes a refused stream a permitted one');
  else must(!disorder.isRefused, 'the order makes a permitted stream a refused one');
  const forged = Buffer.from(stream.toString('latin1').replaceAll(GOOD, 'evil.example'), 'latin1');
  await deliver(shuffled([...pieces, ...cut(forged, random, 10)], random).slice(0, 60));
}

const METHODS = ['GET', 'POST', 'PUT', 'HEAD', 'OPTIONS', 'get', 'CONNECT', 'PRI'];
const TARGETS = ['/', '/a?b', `http://${GOOD}/`, 'http://evil.example/', '*', GOOD];
const HOSTS = [
  GOOD,
  GOOD,
  GOOD,
  GOOD,
  `${GOOD}:80`,
  'Good.Example',
  'evil.example',
  `${GOOD}:81`,
  '192.0.2.1',
  `${GOOD}, evil.example`,
  '',
];
const LINES = [
  'X: y',
  'Content-Length : 3',
  'Transfer-Encoding: gzip, chunked',
  'Transfer-Encoding:\tchunked',
  'Content-Length: +3',
  'Content-Length: 0x3',
  'Connection: close',
  'Connection: keep-alive',
  'Upgrade: websocket\r\nConnection: Upgrade',
  'Expect: 100-continue',
  ' folded',
  'X: a\rHost: evil.example',
  'X: a\nHost: evil.example',
  'Host: evil.example',
  'Trailer: X',
];

function body(random: Random): { readonly lines: readonly string[]; readonly content: string } {
  const inner = random.pick(['abc', '', 'GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n', '0\r\n\r\n']);
  if (random.chance(3)) return { lines: [], content: '' };
  if (random.chance(2))
    return {
      lines: [`Content-Length: ${random.chance(8) ? random.below(9) : inner.length}`],
      content: inner,
    };
  const size =
    random.pick(['', '0', '00', ' ']) +
    inner.length.toString(16) +
    random.pick(['', '', ';x=y', ' ', ';', '\t;a']);
  const chunk = inner === '' ? '' : `${size}\r\n${inner}\r\n`;
  const trailers = random.pick(['', '', 'X: y\r\n', 'Host: evil.example\r\n']);
  return {
    lines: ['Transfer-Encoding: chunked'],
    content: `${chunk}${random.chance(9) ? '' : '0\r\n'}${trailers}\r\n`,
  };
}

function request(random: Random): string {
  const { lines, content } = body(random);
  const [method, target, host] = random.chance(3)
    ? [random.pick(METHODS), random.pick(TARGETS), random.pick(HOSTS)]
    : ['POST', '/', GOOD];
  const all = shuffled(
    [`Host: ${host}`, ...lines, ...(random.chance(5) ? [random.pick(LINES)] : [])],
    random,
  );
  const version = random.chance(12)
    ? random.pick(['HTTP/1.0', 'HTTP/2.0', 'HTTP/1.1 ', 'http/1.1'])
    : 'HTTP/1.1';
  return `${random.chance(12) ? '\r\n' : ''}${method} ${target} ${version}\r\n${all.map((l) => `${l}\r\n`).join('')}\r\n${content}`;
}

function generate(random: Random): Buffer {
  const seed = Buffer.alloc(4);
  seed.writeUInt32BE(random.next());
  const texts = Array.from({ length: 1 + random.below(4) }, () => request(random));
  return Buffer.concat([seed, Buffer.from(texts.join(''), 'latin1')]);
}

const get = `GET / HTTP/1.1\r\nHost: ${GOOD}\r\n\r\n`;
export const requests: Target = {
  name: 'requests',
  corpus: bytes(
    get,
    `${get}${get}GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n`,
    `POST / HTTP/1.1\r\nHost: ${GOOD}\r\nContent-Length: 3\r\n\r\nabc${get}`,
    `PUT / HTTP/1.1\r\nHost: ${GOOD}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n${get}`,
    `GET / HTTP/1.1\r\nHost: ${GOOD}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n`,
  ).map((stream, n) => Buffer.concat([Buffer.from([0, 0, 2, n]), stream])),
  words: bytes(
    '\r\n',
    '\r',
    '\n',
    '\r\n\r\n',
    ' ',
    '\t',
    ':',
    '\0',
    '\x0b',
    '\x85',
    ...LINES,
    'Host: ',
    `${GOOD}\r\n`,
    'evil.example',
    'Transfer-Encoding: chunked\r\n',
    'Content-Length: 3\r\n',
    '0\r\n\r\n',
    '3\r\nabc\r\n',
    'HTTP/1.0',
    get,
    'GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n',
  ),
  maxLength: 40_000,
  generate,
  check,
};
