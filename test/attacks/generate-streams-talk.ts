/**
 * What a client of a generated conversation says: requests of HTTP, hellos of TLS, of QUIC and of DTLS, in forms that a server and the check of
 * names could read differently. Pure: the same random numbers give the same bytes, but for the letters of the site that is not permitted.
 */
import { readHelloRecords } from '../../src/connections/client-hello.js';
import { RequestReader } from '../../src/connections/http-requests.js';
import type { Random } from '../fuzz/random.js';
import { extension, records, serverNames } from '../pure/connections/hello-maker.js';
import { OTHER, PERMITTED } from './generate-streams-servers.js';
import { type Bytes, bytes, u8, u16, u32 } from './wire.js';

/** Ten letters: a name that is as long as the permitted one. */
export const deniedOf = (tag: string): string => `${tag}${OTHER}`;
/** The same bytes with the permitted name in each place of the other one. */
export const permittedForm = (text: string, tag: string): string => text.replaceAll(deniedOf(tag), PERMITTED);

export interface Talk {
  /** Latin-1, whole. */
  readonly text: string;
  /** Offsets before which the client waits for an answer. */
  readonly turns: readonly number[];
}
const whole = (text: string): Talk => ({ text, turns: [] });
const hex = (n: number): string => n.toString(16);

// ---- HTTP

/** A request in the body of another one, and so on, names the site that is not permitted. */
const denied = (r: Random, tag: string): string => {
  const method = r.pick(['GET', 'GET', 'HEAD', 'POST']);
  const more = method === 'POST' ? 'Content-Length: 0\r\n' : '';
  return `${method} /${tag}/d HTTP/1.1\r\nHost: ${deniedOf(tag)}\r\n${more}\r\n`;
};
const METHODS = [
  'GET',
  'HEAD',
  'OPTIONS',
  'DELETE',
  'POST',
  'PUT',
  'PATCH',
  'TRACE',
  'PROPFIND',
  'get',
  'M-SEARCH',
];
const VERSIONS = [
  'HTTP/1.1',
  'HTTP/1.1',
  'HTTP/1.1',
  'HTTP/1.1',
  'HTTP/1.0',
  'HTTP/1.2',
  'HTTP/2.0',
  'http/1.1',
  'HTTP/01.1',
  'HTTP/1.1 ',
];

/** Lines that say how long the body is, and the body. */
type Body = (r: Random, tag: string, inner: string) => readonly [lines: readonly string[], body: string];
const chunk = (text: string): string => `${hex(text.length)}\r\n${text}\r\n`;
const LENGTHS: readonly ((n: number) => readonly string[])[] = [
  (n) => [`Content-Length: ${n}`],
  (n) => [`Content-Length: ${n}`],
  (n) => [`content-length:${n}`],
  (n) => [`Content-Length: ${n}  `],
  (n) => [`Content-Length: \t${n}`],
  (n) => [`Content-Length: +${n}`],
  (n) => [`Content-Length: 0${n}`],
  (n) => [`Content-Length: ${n}`, 'Content-Length: 0'],
  (n) => ['Content-Length: 0', `Content-Length: ${n}`],
  (n) => [`Content-Length: ${n}, ${n}`],
  (n) => [`Content-Length: ${n}`, `Content-Length: ${n}`],
  (n) => [`Content-Length : ${n}`],
  (n) => [`Content-Length: 0x${hex(n)}`],
  (n) => [`Content-Length: ${n}.0`],
  (n) => [`Content-Length: ${n};x`],
  (n) => [`Content-Length:\r\n ${n}`],
  (n) => [`Content-Length: ${n}`, 'Connection: Content-Length'],
  (n) => [`Content_Length: ${n}`],
  (n) => [`Content-Length: ${n + 2 ** 32}`],
];
const CODINGS: readonly (readonly string[])[] = [
  ['Transfer-Encoding: chunked'],
  ['Transfer-Encoding: chunked'],
  ['transfer-encoding:chunked'],
  ['Transfer-Encoding: Chunked'],
  ['Transfer-Encoding: chunked', 'Connection: Transfer-Encoding'],
  ['Transfer-Encoding:\tchunked'],
  ['Transfer-Encoding: chunked '],
  ['Transfer-Encoding: xchunked'],
  ['Transfer-Encoding: chunked, identity'],
  ['Transfer-Encoding: identity, chunked'],
  ['Transfer-Encoding: gzip, chunked'],
  ['Transfer-Encoding: "chunked"'],
  ['Transfer-Encoding: chunked;q=1'],
  ['Transfer-Encoding: \x0bchunked'],
  ['Transfer-Encoding: chu\tnked'],
  ['Transfer-Encoding:\r\n chunked'],
  ['Transfer-Encoding: identity'],
  ['Transfer-Encoding:'],
  ['Transfer-Encoding: chunked', 'Transfer-Encoding: identity'],
  ['Transfer-Encoding : chunked'],
  ['Transfer_Encoding: chunked'],
  ['X: y', ' Transfer-Encoding: chunked'],
  ['Transfer-Encoding: chunked', 'Content-Length: 5'],
  ['TE: trailers', 'Transfer-Encoding: chunked', 'Trailer: Host'],
];
const CHUNKED: readonly ((inner: string) => string)[] = [
  (inner) => `${chunk(inner)}0\r\n\r\n`,
  (inner) => `0\r\n\r\n${inner}`,
  (inner) => `0;x=y\r\n\r\n${inner}`,
  (inner) => `0\r\nX: y\r\n\r\n${inner}`,
  (inner) => `0\r\n${inner}`,
  (inner) => `5\r\nabcde\r\n${chunk(inner)}0\r\n\r\n`,
  (inner) => `5;${'x'.repeat(200)}\r\nabcde\r\n${chunk(inner)}0\r\n\r\n`,
  (inner) => `00000005\r\nabcde\r\n00\r\n\r\n${inner}`,
  (inner) => `5 \r\nabcde\r\n0\r\n\r\n${inner}`,
  (inner) => `5\nabcde\r\n0\r\n\r\n${inner}`,
  (inner) => `5;a\rb\r\nabcde\r\n0\r\n\r\n${inner}`,
  (inner) => `5;a\nb\r\nabcde\r\n0\r\n\r\n${inner}`,
  (inner) => `0x5\r\nabcde\r\n0\r\n\r\n${inner}`,
  (inner) => `100000005\r\nabcde\r\n0\r\n\r\n${inner}`,
  (inner) => `${hex(inner.length + 7)};"\r\nabcde\r\n${inner}\r\n0\r\n\r\n`,
  (inner) => `5\r\nabcdeXX${chunk(inner)}0\r\n\r\n`,
  (inner) => `0\r\nHost: x\r\n\r\n${inner}`,
  (inner) => `A\r\n0123456789\r\n0\r\n\r\n${inner}`,
  (inner) => `${chunk(inner)}`,
];
const BODIES: readonly Body[] = [
  (r, _tag, inner) => [r.pick(LENGTHS)(inner.length), inner],
  (r, _tag, inner) => [r.pick(LENGTHS)(inner.length), inner],
  (r, _tag, inner) => [r.pick(CODINGS), r.pick(CHUNKED)(inner)],
  (r, _tag, inner) => [r.pick(CODINGS), `${chunk(inner)}0\r\n\r\n`],
  (r, _tag, inner) => [[...r.pick(CODINGS), ...r.pick(LENGTHS)(4)], `${chunk(inner)}0\r\n\r\n`],
  (_r, _tag, inner) => [[], inner],
  (_r, _tag, inner) => [['Content-Length: 5'], `abcde${inner}`],
  (_r, _tag, inner) => [['Content-Length: 5'], `abcde\r\n${inner}`],
];
const EXTRA: readonly ((tag: string) => readonly string[])[] = [
  () => ['Expect: 100-continue'],
  () => ['Expect: 100-CONTINUE'],
  () => ['Expect: x'],
  () => ['Connection: close'],
  () => ['Connection: keep-alive'],
  () => ['Connection: Host'],
  () => [
    'Connection: Upgrade',
    'Upgrade: websocket',
    'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==',
    'Sec-WebSocket-Version: 13',
  ],
  () => ['Connection: Upgrade', 'Upgrade: foo'],
  () => ['Connection: Upgrade, HTTP2-Settings', 'Upgrade: h2c', 'HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA'],
  () => ['Upgrade: h2c'],
  () => ['Upgrade: TLS/1.2', 'Connection: Upgrade'],
  (tag) => [`X-Forwarded-Host: ${deniedOf(tag)}`],
  (tag) => [`X-Original-URL: http://${deniedOf(tag)}/`],
  (tag) => [`X-HTTP-Method-Override: GET /${tag}`],
  () => [`X: ${'y'.repeat(4_000)}`],
  () => ['Keep-Alive: max=1'],
  () => ['Content-Type: text/plain'],
  () => ['Range: bytes=0-1'],
  () => ['Max-Forwards: 0'],
];
/** How a head names its host. */
const HOSTS: readonly ((tag: string) => readonly string[])[] = [
  (tag) => [`Host: ${deniedOf(tag)}`],
  (tag) => [`Host: ${PERMITTED}`, `Host: ${deniedOf(tag)}`],
  (tag) => [`Host: ${deniedOf(tag)}`, `Host: ${PERMITTED}`],
  (tag) => [`Host : ${deniedOf(tag)}`, `Host: ${PERMITTED}`],
  (tag) => [` Host: ${deniedOf(tag)}`, `Host: ${PERMITTED}`],
  (tag) => [`Host: ${PERMITTED}`, ` Host: ${deniedOf(tag)}`],
  (tag) => [`Host:\r\n ${deniedOf(tag)}`],
  (tag) => [`Host: ${PERMITTED}\r\n ${deniedOf(tag)}`],
  (tag) => [`Host: ${PERMITTED}\nHost: ${deniedOf(tag)}`],
  (tag) => [`Host: ${PERMITTED}`, `X: y\rHost: ${deniedOf(tag)}`],
  (tag) => [`Host: ${PERMITTED}`, `X: y\nHost: ${deniedOf(tag)}`],
  (tag) => [`Host: ${PERMITTED}`, `X: y\x00\nHost: ${deniedOf(tag)}`],
  (tag) => [`Host: ${PERMITTED}`, `X: y\x85Host: ${deniedOf(tag)}`],
  (tag) => [`Host: ${PERMITTED}@${deniedOf(tag)}`],
  (tag) => [`Host: ${PERMITTED}:80@${deniedOf(tag)}`],
  (tag) => [`Host: ${PERMITTED}, ${deniedOf(tag)}`],
  (tag) => [`Host: ${PERMITTED} ${deniedOf(tag)}`],
  (tag) => [`Host: ${PERMITTED}\t${deniedOf(tag)}`],
  (tag) => [`Host: ${PERMITTED}#${deniedOf(tag)}`],
  (tag) => [`Host: ${PERMITTED}\x00${deniedOf(tag)}`],
  (tag) => [`Host: ${deniedOf(tag)}#${PERMITTED}`],
  (tag) => [`Ho\x00st: ${deniedOf(tag)}`, `Host: ${PERMITTED}`],
  (tag) => [`X: y`, '', `Host: ${deniedOf(tag)}`],
  (tag) => [`Host: ${PERMITTED}:8080`, `X: ${tag}`],
  (tag) => [`X-${tag}: y`],
  () => ['Host:'],
  () => [`Host: ${PERMITTED}.`],
  () => [`Host: ${PERMITTED.toUpperCase()}`],
  () => [`Host: ${PERMITTED}:80`],
  () => [`Host: ${PERMITTED}:`],
  (tag) => [`Host:: ${deniedOf(tag)}`, `Host: ${PERMITTED}`],
  (tag) => [`Host: ${PERMITTED}`, `:authority: ${deniedOf(tag)}`],
  (tag) => [`Host\x0b: ${deniedOf(tag)}`, `Host: ${PERMITTED}`],
];
const TARGETS: readonly ((tag: string) => string)[] = [
  (tag) => `http://${deniedOf(tag)}/${tag}/t`,
  (tag) => `HTTP://${deniedOf(tag)}/${tag}/t`,
  (tag) => `http://${PERMITTED}@${deniedOf(tag)}/${tag}/t`,
  (tag) => `http://${PERMITTED}:80@${deniedOf(tag)}/${tag}/t`,
  (tag) => `http://${deniedOf(tag)}:80@${PERMITTED}/${tag}/t`,
  (tag) => `https://${deniedOf(tag)}/${tag}/t`,
  (tag) => `ftp://${deniedOf(tag)}/${tag}/t`,
  (tag) => `//${deniedOf(tag)}/${tag}/t`,
  (tag) => `/\\${deniedOf(tag)}/${tag}/t`,
  (tag) => `${deniedOf(tag)}:80`,
  (tag) => `${deniedOf(tag)}`,
  (tag) => `*`.concat(tag),
  () => '*',
  (tag) => `/${tag}/t http://${deniedOf(tag)}/`,
  (tag) => `http:/${deniedOf(tag)}/${tag}/t`,
  (tag) => `http:///${deniedOf(tag)}/${tag}/t`,
  (tag) => `http://${PERMITTED}/${tag}/t`,
  (tag) => `http://${PERMITTED}\\@${deniedOf(tag)}/${tag}/t`,
  (tag) => `/${tag}/t#http://${deniedOf(tag)}/`,
  (tag) => `/${tag}/t?http://${deniedOf(tag)}/`,
  (tag) => `/${tag}/\x80`,
];
const BEFORE: readonly ((tag: string) => string)[] = [
  () => '\r\n',
  () => '\r\n\r\n',
  () => '\n',
  () => '\r',
  () => ' ',
  () => '\t',
  () => 'X: y\r\n',
  (tag) => `PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nX: ${tag}\r\n`,
  () => 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
  (tag) => `GET /${tag}/0\r\n`,
];

/** A head with a permitted Host, whose body is something else. */
function carrier(r: Random, tag: string, inner: string): string {
  const method = r.pick(METHODS);
  const [lines, body] = r.pick(BODIES)(r, tag, inner);
  const extra = r.chance(2) ? r.pick(EXTRA)(tag) : [];
  const all = shuffled(r, [[`Host: ${PERMITTED}`], [...lines], [...extra]]).flat();
  return `${method} /${tag}/c ${r.chance(4) ? r.pick(VERSIONS) : 'HTTP/1.1'}\r\n${all.join('\r\n')}\r\n\r\n${body}`;
}
/** A head that names its host in an odd way, or in two. */
function head(r: Random, tag: string): string {
  const target = r.chance(2) ? r.pick(TARGETS)(tag) : `/${tag}/h`;
  const hosts = target.startsWith('/') || r.chance(2) ? r.pick(HOSTS)(tag) : [`Host: ${PERMITTED}`];
  const extra = r.chance(3) ? r.pick(EXTRA)(tag) : [];
  const end = r.chance(10) ? '\n\n' : '\r\n\r\n';
  const space = r.chance(20) ? r.pick(['\t', '  ', '\x0b', '\x0c', '\r']) : ' ';
  const lines = shuffled(r, [[...hosts], [...extra]]).flat();
  return `${r.pick(METHODS)}${space}${target} ${r.chance(6) ? r.pick(VERSIONS) : 'HTTP/1.1'}\r\n${lines.join('\r\n')}${end}`;
}
const permitted = (r: Random, tag: string): string =>
  r.chance(3)
    ? `POST /${tag}/p HTTP/1.1\r\nHost: ${PERMITTED}\r\nContent-Length: 4\r\n\r\nabcd`
    : `GET /${tag}/p HTTP/1.1\r\nHost: ${PERMITTED}\r\n${r.chance(4) ? 'Connection: close\r\n' : ''}\r\n`;

function shuffled<T>(r: Random, items: readonly T[]): T[] {
  const left = [...items];
  return items.map(() => left.splice(r.below(left.length), 1)[0] as T);
}
/** Some bytes are others, missing, doubled or new. */
function damaged(r: Random, text: string): string {
  let out = text;
  for (let n = 1 + r.below(3); n > 0; n--) {
    const at = r.below(out.length + 1);
    const byte = r.pick([
      '\r',
      '\n',
      '\r\n',
      ' ',
      '\t',
      '\0',
      ':',
      '\x0b',
      '\x7f',
      '\xa0',
      '0',
      ',',
      ';',
      'chunked',
      String.fromCharCode(r.below(256)),
    ]);
    const cut = r.below(3) === 0 ? 1 : 0;
    out = out.slice(0, at) + (r.chance(3) ? '' : byte) + out.slice(at + cut);
  }
  return out;
}

function requests(r: Random, tag: string): Talk {
  const parts: string[] = [];
  const turns: number[] = [];
  const add = (part: string): void => {
    if (parts.length > 0 && r.chance(2)) turns.push(parts.join('').length);
    parts.push(part);
  };
  if (r.chance(3)) add(permitted(r, tag));
  const kind = r.below(8);
  if (kind < 4) add(carrier(r, tag, r.chance(6) ? carrier(r, tag, denied(r, tag)) : denied(r, tag)));
  else if (kind < 6) add(head(r, tag));
  else if (kind < 7) add(r.pick(BEFORE)(tag) + (r.chance(2) ? head(r, tag) : permitted(r, tag)));
  else add(damaged(r, r.chance(2) ? head(r, tag) : carrier(r, tag, denied(r, tag))));
  if (r.chance(3)) add(permitted(r, tag));
  // a body that follows once its head was answered
  const text = parts.join('');
  const body = text.indexOf('\r\n\r\n') + 4;
  if (r.chance(4) && body < text.length) turns.push(body);
  return { text, turns: [...new Set(turns)].sort((a, b) => a - b) };
}

/** Whether a talk has something for a server beyond what is permitted, and the check lets all of it pass in order. */
function passesAsRequests({ text }: Talk): boolean {
  const events = new RequestReader(80).read(Buffer.from(text, 'latin1'));
  return events.every(
    (e) => e.kind === 'request' && e.head.host.kind === 'name' && e.head.host.name === PERMITTED,
  );
}
/** One that names the other site plainly: for odd ways of delivery. */
export function plainRequest(tag: string, r?: Random): Talk {
  const line = r?.chance(2) ? `X-First: ${'y'.repeat(r.below(200))}\r\n` : '';
  const after = r?.chance(2) ? `X-Last: ${'z'.repeat(r.below(100))}\r\n` : '';
  return whole(`GET /${tag}/x HTTP/1.1\r\n${line}Host: ${deniedOf(tag)}\r\n${after}\r\n`);
}
const TRIES = 12;
/** Most of what is generated would be refused at once: three of four are such that the check's own reader finds nothing in them. */
export function oddRequests(r: Random, tag: string): Talk {
  let made = requests(r, tag);
  if (r.chance(4)) return made;
  for (let n = 0; n < TRIES && !passesAsRequests(made); n++) made = requests(r, tag);
  return made;
}

// ---- TLS

const vector = (content: Bytes, size: 1 | 2 | 3): Bytes =>
  bytes(
    size === 1
      ? u8(content.length)
      : size === 2
        ? u16(content.length)
        : u8(content.length >> 16, (content.length >> 8) & 255, content.length & 255),
    content,
  );
const random = (r: Random, length: number): Bytes =>
  Buffer.from(Array.from({ length }, () => 1 + r.below(255)));

interface HelloSpec {
  readonly extensions?: readonly Bytes[];
  readonly version?: number;
  readonly suites?: Bytes;
  readonly session?: Bytes;
  readonly tail?: Bytes;
  readonly isDtls?: true;
}
/** A ClientHello message that servers answer. */
function helloMessage(
  r: Random,
  { extensions, version = 0x0303, suites, session, tail = u8(), isDtls }: HelloSpec,
): Bytes {
  const body = bytes(
    u16(version),
    random(r, 32),
    vector(session ?? (isDtls ? u8() : random(r, 32)), 1),
    isDtls ? u8(0) : u8(),
    vector(suites ?? Buffer.from('130113021303c02bc02fc02cc030c009c013009c002f', 'hex'), 2),
    vector(u8(0), 1),
    ...(extensions === undefined ? [] : [vector(bytes(...extensions), 2)]),
    tail,
  );
  return bytes(u8(1), vector(body, 3));
}
const groups = extension(10, vector(u16(29, 23, 24), 2));
const points = extension(11, vector(u8(0), 1));
const signatures = extension(13, vector(u16(0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501), 2));
const alpn = (...names: readonly string[]): Bytes =>
  extension(16, vector(bytes(...names.map((n) => vector(Buffer.from(n), 1))), 2));
const versions = (...numbers: readonly number[]): Bytes => extension(43, vector(u16(...numbers), 1));
const keyShare = (r: Random): Bytes => extension(51, vector(bytes(u16(29), vector(random(r, 32), 2)), 2));
const pskModes = extension(45, vector(u8(1), 1));
/** All but the server name. */
const usual = (r: Random): Bytes[] => [
  groups,
  points,
  signatures,
  versions(0x0304, 0x0303),
  pskModes,
  keyShare(r),
];

/** The extension for the server name, in odd forms: [before the others, after them]. */
const nameForms: readonly ((tag: string) => readonly [Bytes[], Bytes[]])[] = [
  (tag) => [[serverNames(deniedOf(tag))], []],
  (tag) => [[serverNames(PERMITTED)], [serverNames(deniedOf(tag))]],
  (tag) => [[serverNames(deniedOf(tag))], [serverNames(PERMITTED)]],
  (tag) => [[serverNames(PERMITTED, deniedOf(tag))], []],
  (tag) => [[serverNames(deniedOf(tag), PERMITTED)], []],
  (tag) => [[serverNames(`${PERMITTED}\0${deniedOf(tag)}`)], []],
  (tag) => [[serverNames(`${deniedOf(tag)}.`)], []],
  (tag) => [
    [extension(0, bytes(u16(25), u8(1), vector(Buffer.from(PERMITTED), 2)))],
    [serverNames(deniedOf(tag))],
  ],
  (tag) => [
    [
      extension(
        0,
        vector(
          bytes(u8(1), vector(Buffer.from(PERMITTED), 2), u8(0), vector(Buffer.from(deniedOf(tag)), 2)),
          2,
        ),
      ),
    ],
    [],
  ],
  (tag) => [
    [
      extension(
        0,
        bytes(
          vector(bytes(u8(0), vector(Buffer.from(PERMITTED), 2)), 2),
          u8(0),
          vector(Buffer.from(deniedOf(tag)), 2),
        ),
      ),
    ],
    [],
  ],
  () => [[], []],
  () => [[extension(0, u8())], []],
  (tag) => [[serverNames(PERMITTED.toUpperCase())], [extension(21, Buffer.from(deniedOf(tag)))]],
  (tag) => [[extension(0xffce, Buffer.from(deniedOf(tag))), serverNames(PERMITTED)], []],
  (tag) => [
    [serverNames(PERMITTED)],
    [
      extension(
        0xfe0d,
        bytes(u8(0), u16(1, 1), u8(7), vector(Buffer.alloc(32, 7), 2), vector(Buffer.from(deniedOf(tag)), 2)),
      ),
    ],
  ],
  (tag) => [
    [serverNames(PERMITTED)],
    [extension(0xfe0d, u8(1)), extension(0xfd00, bytes(u8(1), vector(Buffer.from(deniedOf(tag)), 1)))],
  ],
];
const GREASE = (r: Random): Bytes => extension(0x0a0a + 0x1010 * r.below(16), random(r, r.below(3)));
const padding = (length: number): Bytes => extension(21, Buffer.alloc(length));

function oddHello(r: Random, tag: string, name = r.pick(nameForms)): Bytes {
  const [before, after] = name(tag);
  const others = r.chance(3) ? shuffled(r, usual(r)) : usual(r);
  const more = [
    ...(r.chance(3) ? [GREASE(r)] : []),
    ...(r.chance(4) ? [padding(r.below(600))] : []),
    ...(r.chance(5) ? [alpn('http/1.1')] : []),
    ...(r.chance(8) ? [extension(42, u8())] : []),
    ...(r.chance(8) ? [extension(35, random(r, r.below(40)))] : []),
    ...(r.chance(10) ? [padding(12_000)] : []),
  ];
  const at = r.below(3);
  const all =
    at === 0
      ? [...before, ...others, ...more, ...after]
      : at === 1
        ? [...others, ...before, ...more, ...after]
        : [...more, ...others, ...before, ...after];
  return helloMessage(r, {
    extensions: all,
    ...(r.chance(8) ? { version: r.pick([0x0300, 0x0301, 0x0302, 0x0304]) } : {}),
    ...(r.chance(10) ? { session: random(r, r.pick([0, 1, 33])) } : {}),
    ...(r.chance(12) ? { tail: random(r, 1 + r.below(6)) } : {}),
  });
}
/** Records of TLS in odd forms. */
function oddRecords(r: Random, message: Bytes): Bytes {
  const size = r.pick([16_384, 16_384, 16_384, 100, 37, 7, 1, message.length - 1]);
  const made = records(message, Math.max(1, size));
  if (!r.chance(4)) return made;
  const record = (type: number, content: Bytes, minor = 1): Bytes =>
    bytes(u8(type, 3, minor), vector(content, 2));
  return r.pick<() => Bytes>([
    () => bytes(record(22, u8()), made),
    () => bytes(record(20, u8(1)), made),
    () => bytes(record(21, u8(1, 0)), made),
    () => bytes(record(23, u8(1, 2, 3)), made),
    () => bytes(record(22, bytes(u8(0), vector(u8(), 3))), made),
    () => bytes(record(22, bytes(message, u8(1, 0)))),
    () => bytes(record(22, message, r.below(6))),
    () => bytes(u8(22, r.pick([2, 4, 0]), 1), vector(message, 2)),
    () => bytes(u8(0x80 | (message.length >> 8), message.length & 255), message),
    () => bytes(made.subarray(0, 5), record(22, u8()), made.subarray(5)),
    () => bytes('PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n', made),
    () => bytes(u8(13, 10, 13, 10, 0, 13, 10, 0x51, 0x55, 0x49, 0x54, 10, 0x20, 0), u16(0), made),
  ])();
}
const plainForm = (tag: string): readonly [Bytes[], Bytes[]] => [[serverNames(deniedOf(tag))], []];
const permittedHello = (r: Random): Bytes =>
  records(helloMessage(r, { extensions: [serverNames(PERMITTED), ...usual(r)] }));

function hellos(r: Random, tag: string): Talk {
  if (!r.chance(4)) return whole(oddRecords(r, oddHello(r, tag)).toString('latin1'));
  // a second hello behind a permitted one
  const share = extension(51, vector(u8(), 2));
  const asked = records(
    helloMessage(r, {
      extensions: [serverNames(PERMITTED), groups, points, signatures, versions(0x0304), pskModes, share],
    }),
  );
  const first = r.chance(2) ? asked : permittedHello(r);
  const between = r.pick([
    u8(),
    u8(20, 3, 3, 0, 1, 1),
    u8(21, 3, 3, 0, 2, 1, 0),
    bytes(u8(23, 3, 3), vector(random(r, 30), 2)),
  ]);
  const second = oddRecords(r, oddHello(r, tag, r.chance(2) ? plainForm : undefined));
  const text = bytes(first, between, second).toString('latin1');
  return { text, turns: r.chance(2) ? [first.length] : [] };
}
function passesAsHello({ text }: Talk): boolean {
  const read = readHelloRecords(Buffer.from(text, 'latin1'));
  return read.kind === 'read' && read.value.name.kind === 'name' && read.value.name.name === PERMITTED;
}
export function oddHellos(r: Random, tag: string): Talk {
  let made = hellos(r, tag);
  if (r.chance(3)) return made;
  for (let n = 0; n < TRIES && !passesAsHello(made); n++) made = hellos(r, tag);
  return made;
}
/** One that names the other site plainly. `hasSpare`: the permitted name is elsewhere in it. */
export function plainHello(tag: string, r: Random, hasSpare = false): Talk {
  const more = hasSpare
    ? [extension(21, Buffer.from(PERMITTED))]
    : r.chance(2)
      ? [padding(r.below(400))]
      : [];
  const name = serverNames(deniedOf(tag));
  const all = r.chance(2) ? [name, ...usual(r), ...more] : [...usual(r), ...more, name];
  return whole(
    records(helloMessage(r, { extensions: all }), !hasSpare && r.chance(4) ? 60 : undefined).toString(
      'latin1',
    ),
  );
}
/** As long as the other one, and answered by each server. */
export const permittedTalk = (talk: Talk, tag: string): Talk => ({
  ...talk,
  text: permittedForm(talk.text, tag),
});

// ---- QUIC and DTLS

/** The message of a hello for QUIC, for a site. Its transport parameters name the source that packets have. */
export function quicHello(r: Random, site: string, more: readonly Bytes[] = []): Bytes {
  const parameters = extension(
    0x39,
    bytes(u8(0x0f, 8), Buffer.alloc(8, 3), u8(0x04, 4), u32(0x80100000), u8(0x08, 2), u16(0x4010)),
  );
  return helloMessage(r, {
    extensions: [
      serverNames(site),
      groups,
      signatures,
      versions(0x0304),
      pskModes,
      keyShare(r),
      alpn('h3'),
      parameters,
      ...more,
    ],
    suites: Buffer.from('130113021303', 'hex'),
    session: u8(),
  });
}
/** A datagram of DTLS 1.2 with a hello. Its first bytes have the form of a short header of QUIC. */
export function dtlsHello(r: Random, site: string): Bytes {
  const message = helloMessage(r, {
    extensions: [serverNames(site), groups, points, signatures],
    version: 0xfefd,
    suites: Buffer.from('c02bc02cc009c00ac02fc030', 'hex'),
    isDtls: true,
  });
  const body = message.subarray(4);
  const fragment = bytes(
    u8(1),
    u8(0, body.length >> 8, body.length & 255),
    u16(0),
    u8(0, 0, 0),
    u8(0, body.length >> 8, body.length & 255),
    body,
  );
  return bytes(u8(22), u16(0xfeff), u16(0), u16(0, 0, 0), vector(fragment, 2));
}
