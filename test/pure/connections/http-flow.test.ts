import { describe, expect, it, vi } from 'vitest';
import type { Decision, NameJudge, Outcome, Segment } from '../../../src/connections/flow-check.js';
import { HttpFlow } from '../../../src/connections/http-flow.js';
import { HELLO_MS } from '../../../src/connections/tls-flow.js';
import { Random } from '../../fuzz/random.js';

const judge: NameJudge = {
  hello: () => ({ allow: false, refusal: { reason: 'server-name', name: '', detail: 'no' } }),
  request: (host): Decision =>
    host.kind === 'name' && host.name === 'good.example'
      ? { allow: true, name: host.name, entry: 'good.example' }
      : {
          allow: false,
          refusal: {
            reason: 'host',
            name: host.kind === 'name' ? host.name : '',
            detail: host.kind === 'invalid' ? host.why : 'no',
          },
        },
};
const ISN = 0xffff_ffc0;
const SERVER = 900;
let ids = 0;
const segment = (offset: number, text: string | Buffer): Segment => ({
  id: ++ids,
  from: 'client',
  seq: (ISN + offset) >>> 0,
  ack: SERVER,
  payload: typeof text === 'string' ? Buffer.from(text, 'latin1') : text,
});
const reply = (offset: number, text: string): Segment => ({
  id: ++ids,
  from: 'server',
  seq: SERVER + offset,
  ack: 0,
  payload: Buffer.from(text),
});
const CHUNKED = 'POST / HTTP/1.1\r\nHost: good.example\r\nTransfer-Encoding: chunked\r\n\r\n';
const get = (host = 'good.example', path = '/'): string => `GET ${path} HTTP/1.1\r\nHost: ${host}\r\n\r\n`;
/** The texts one after the other, as segments of one stream. */
function stream(...texts: readonly string[]): Segment[] {
  let at = 0;
  return texts.map((text) => {
    at += text.length;
    return segment(at - text.length, text);
  });
}
const run = (segments: readonly Segment[], flow = new HttpFlow(judge, 80, ISN)): Outcome[] =>
  segments.map((s) => flow.take(s, 0));
const released = (outcomes: readonly Outcome[]): number[] => outcomes.flatMap((o) => [...o.release]);
const refusalOf = (outcomes: readonly Outcome[]): string | undefined =>
  outcomes.find((o) => o.refusal)?.refusal?.detail;
const refusalOfText = (text: string): string | undefined => {
  const flow = new HttpFlow(judge, 80, ISN);
  const outcomes = run([segment(0, text)], flow);
  const late = flow.expire(HELLO_MS);
  return refusalOf(outcomes) ?? late?.refusal?.detail;
};

const withBody = (method: string, body: string, ...lines: readonly string[]): string =>
  [`${method} / HTTP/1.1`, 'Host: good.example', ...lines, `Content-Length: ${body.length}`, '', body].join(
    '\r\n',
  );
const inChunks = (method: string, ...chunks: readonly string[]): string =>
  `${method} / HTTP/1.1\r\nHost: good.example\r\nTransfer-Encoding: chunked\r\n\r\n${[...chunks, ''].map((c) => `${c.length.toString(16)}\r\n${c}\r\n`).join('')}`;

it.each([1, 100, 1_000, 1_448])('chunks of a word go on in segments of %i bytes', (size) => {
  const flow = new HttpFlow(judge, 80, ISN);
  const whole = inChunks('POST', ...Array.from({ length: size === 1 ? 3 : 600 }, () => 'y'.repeat(1_000)));
  const all = Array.from({ length: Math.ceil(whole.length / size) }, (_, n) =>
    segment(n * size, whole.slice(n * size, (n + 1) * size)),
  );
  const held = size === 1 ? 256 : Math.ceil(1_100 / size) + 1;
  if (size === 1) return expect(refusalOf(run(all, flow))).toMatch(/more than 256 segments/);
  let [waiting, most] = [0, 0];
  for (const one of all) {
    waiting += 1 - flow.take(one, 0).release.length;
    most = Math.max(most, waiting);
  }
  expect(waiting).toBe(0);
  return expect(most).toBeLessThanOrEqual(held);
});

it('more segments than may wait go on when the first of them comes at last', () => {
  const flow = new HttpFlow(judge, 80, ISN);
  const whole = withBody('POST', '{'.repeat(300_000));
  const size = 1_000;
  const all = Array.from({ length: 257 }, (_, n) => segment(n * size, whole.slice(n * size, (n + 1) * size)));
  const [head = segment(0, ''), ...others] = all;
  expect(released(run(others, flow))).toEqual([]);
  expect(released(run([head], flow))).toEqual(all.map(({ id }) => id));
});

describe('a body that a server without interest in it takes for the next request', () => {
  const evil = get('evil.example');
  const READ = /may be read as another request/;
  const EACH = [
    'GET',
    'HEAD',
    'OPTIONS',
    'DELETE',
    'TRACE',
    'PROPFIND',
    'X-ANY',
    'post',
    'POST',
    'PUT',
    'PATCH',
  ];
  it.each(EACH)('is refused of %s, at once or in the end', (method) => {
    for (const body of [
      evil,
      `\r\n\r\n${evil}`,
      ` \t${evil}`,
      `\x85\xa0${evil}`,
      `\n${evil.replaceAll('\r', '')}`,
      evil.replaceAll('\n', ''),
      get().replace('\r\n\r\n', `\r\nContent-Length: 0\r\n\r\n${evil}`),
      evil.replace('GET / ', 'ANY\t/a '),
      evil.replace('GET / ', 'GET /a b c '),
      evil.replace('GET / ', 'gEt / ').replace('HTTP', 'http'),
      'GET http://evil.example/\r\n\r\n',
      'GET http://evil.example/',
      'GET /\r\n',
      `GET /${'a'.repeat(9_000)}`,
      `GET ${'a'.repeat(9_000)} HTTP/1.1\r\nHost: evil.example\r\n\r\n`,
      `${' '.repeat(9_000)}${evil}`,
      'ANY http://evil.example/ HTTP/',
      evil.replace('GET', ':ET'),
      evil.replace('GET', 'G\x7fT').replace(' HTTP', '\x1f\thttp'),
      evil.replace('GET', '"'),
      evil.replace('GET', 'A'.repeat(9_000)),
      evil.replace('GET', '{'.repeat(60_000)),
      evil.replace('GET /', `{ ${'b'.repeat(60_000)}`),
      evil.replace('GET /', `${'A'.repeat(9_000)} /\xa0x`),
      evil.replace('GET /', '{ /x\x85y'),
      evil.replace('GET /', '{ /').replace('1.1', '1.1 {'),
      evil.replace('GET /', 'ANY /a').replace('1.1', '1.1 b'),
      evil.replace('GET /', 'ANY /a\xa0c').replace('1.1', '1.1 b'),
    ]) {
      expect(refusalOfText(withBody(method, body)), JSON.stringify(body)).toMatch(READ);
      expect(refusalOfText(inChunks(method, 'x', body)), `chunk ${JSON.stringify(body)}`).toMatch(READ);
    }
    expect(refusalOfText(withBody(method, evil, 'Expect: 100-continue'))).toMatch(READ);
    expect(refusalOfText(withBody(method, evil).replace('HTTP/1.1', 'HTTP/1.0'))).toMatch(READ);
  });
  it.each(EACH.slice(0, 8))('is refused of %s behind lines that are none of a request', (method) => {
    for (const body of [
      `x\r\n${evil}`,
      `{"a": 1}\n${evil}`,
      `${'"'.repeat(20_000)}\r${evil}`,
      `\x00\r\n${evil}`,
    ])
      expect(refusalOfText(withBody(method, body)), JSON.stringify(body)).toMatch(READ);
    expect(refusalOfText(inChunks(method, 'x\r\n', `y\r\n${evil}`))).toMatch(READ);
  });
  it('is refused in segments of any size, and nothing of its line is released before', () => {
    const whole = withBody('POST', evil);
    const head = whole.length - evil.length;
    for (let size = 1; size < evil.length; size++) {
      const flow = new HttpFlow(judge, 80, ISN);
      const outcomes = [flow.take(segment(0, whole.slice(0, head)), 0)];
      for (let at = head; at < whole.length && !refusalOf(outcomes); at += size)
        outcomes.push(flow.take(segment(at, whole.slice(at, at + size)), 0));
      expect(refusalOf(outcomes)).toMatch(READ);
      expect(released(outcomes)).toHaveLength(1);
    }
  });
  it('is refused when its line comes behind a gap, and when it replaces another one', () => {
    const whole = withBody('POST', evil);
    const head = whole.length - evil.length;
    const late = run([
      segment(0, whole.slice(0, head)),
      segment(head + 10, whole.slice(head + 10)),
      segment(head, whole.slice(head, head + 10)),
    ]);
    expect(refusalOf(late)).toMatch(READ);
    expect(released(late)).toHaveLength(1);
    const text = '{"a": "some text of this length, and some more"}'.padEnd(evil.length);
    const replaced = run([segment(0, whole.slice(0, head)), segment(head, text), segment(head, evil)]);
    expect(refusalOf(replaced)).toMatch(/other bytes in the place/);
  });
  it('is refused where a chunk line has a version in its extension', () => {
    const text = inChunks('POST', 'Host: evil.example\r\n\r\n').replace(
      /\r\n\r\n([0-9a-f]+)/,
      '\r\n\r\n$1;x / HTTP/1.1',
    );
    expect(refusalOfText(text)).toMatch(/size of a chunk/);
  });
  it('is refused after another process has gone on with the connection', () => {
    const first = new HttpFlow(judge, 80, ISN);
    const [head] = withBody('DELETE', `{"a": 1}\n${evil}`).split('\n{') as [string];
    const begun = `${head}\n{"a": 1}\n`;
    run([segment(0, begun)], first);
    const { place } = first;
    expect(place).toBeDefined();
    const next = new HttpFlow(judge, 80, ISN, structuredClone(place));
    expect(refusalOf(run([segment(begun.length, evil)], next))).toMatch(READ);
  });
  it('goes on while no third word of its line has begun, also in another process, and is refused with it', () => {
    const whole = withBody('POST', evil.replace('GET', '{'.repeat(20_000)));
    const version = whole.lastIndexOf('HTTP');
    for (let cut = version - 5; cut < version + 7; cut++) {
      const flow = new HttpFlow(judge, 80, ISN);
      const segments = stream(...(whole.slice(0, cut).match(/.{1,1400}/gs) ?? []));
      const isBegun = cut > version;
      expect(released(run(segments, flow))).toHaveLength(segments.length - (isBegun ? 1 : 0));
      const { place } = flow;
      expect(place === undefined).toBe(isBegun);
      const next = place ? new HttpFlow(judge, 80, ISN, structuredClone(place)) : flow;
      expect(refusalOf(run([segment(cut, whole.slice(cut))], next))).toMatch(READ);
    }
  });
  it('of one word or two does not wait', () => {
    const body = withBody('POST', `{"a":"${'b'.repeat(2_000_000)}"} `).slice(0, -1);
    for (const end of [body.length - 1_990_000, body.length - 1, body.length]) {
      const flow = new HttpFlow(judge, 80, ISN);
      const segments = stream(...(body.slice(0, end).match(/.{1,60000}/gs) ?? []));
      expect(released(run(segments, flow))).toHaveLength(segments.length);
    }
  });
  it('costs no more than a few readings of its bytes, however long its lines are', () => {
    const split = vi.spyOn(String.prototype, 'split');
    try {
      const body = `${'a '.repeat(4_000)}\n`.repeat(5);
      const segments = stream(...(withBody('GET', body).match(/.{1,1400}/gs) ?? []));
      const outcomes = run(segments);
      const read = split.mock.contexts.reduce<number>((sum, text) => sum + String(text).length, 0);
      expect(released(outcomes)).toHaveLength(segments.length);
      expect(read).toBeLessThan(10 * body.length);
    } finally {
      split.mockRestore();
    }
  });
  it('that real clients send goes on, and is not held longer than its first line', () => {
    const search = '{\n  "query": { "match_all": {} },\n  "note": "GET / HTTP/1.1"\n}\n';
    const log = '127.0.0.1 - - [25/Nov/2026:10:00:00 +0000] "GET / HTTP/1.1" 200 12\n';
    const binary = `\x1f\x8b\x08\0 - ${'%s %s HTTP/1.1\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(3)}`;
    for (const text of [
      withBody('GET', search),
      withBody('DELETE', '{"ids":[1,2]}'),
      withBody('POST', 'a=b&c=d'),
      withBody('POST', log.repeat(50)),
      withBody('POST', 'cpu,host=a value=0.64 1434055562000000000\n'),
      withBody('POST', 'metric_name 3.14\n'),
      withBody('POST', 'See http://good.example/x for details'),
      withBody('POST', 'hello'),
      withBody('PUT', binary, 'Expect: 100-continue'),
      withBody('PUT', '\0'.repeat(40_000)),
      withBody('PUT', 'a'.repeat(40_000)),
      withBody('PATCH', `You are a helpful assistant. ${'word '.repeat(5_000)}`),
      withBody('PROPFIND', '<?xml version="1.0"?>\n<propfind xmlns="DAV:"><allprop/></propfind>\n'),
      withBody('POST', `--batch\r\nContent-Type: application/http\r\n\r\n${get()}--batch--\r\n`),
      inChunks('PATCH', binary, 'hello', log, '1'),
      inChunks('GET', search, 'x'),
    ]) {
      const segments = stream(...(`${text}${get()}`.match(/.{1,1400}/gs) ?? []));
      const outcomes = run(segments);
      expect(refusalOf(outcomes), text.slice(0, 300)).toBeUndefined();
      expect(released(outcomes)).toEqual(segments.map((s) => s.id));
    }
  });
});

describe('requests that go on', () => {
  it.each([
    ['one', [get()]],
    ['two, one after the other', [get(), get()]],
    ['two in one segment', [get() + get('GOOD.example:80')]],
    ['after a blank line', [`\r\n${get()}`]],
    ['a URL as target', ['GET http://good.example/x HTTP/1.1\r\nHost: good.example\r\n\r\n']],
    [
      'a body with a length',
      ['POST / HTTP/1.1\r\nHost: good.example\r\nContent-Length: 10\r\n\r\n', '01234', '56789', get()],
    ],
    [
      'chunks',
      [
        'PUT / HTTP/1.1\r\nHost: good.example\r\nTransfer-Encoding: chunked\r\n\r\n',
        '5\r\nhello\r\n',
        'A;x=1\r\n0123456789\r\n',
        '0\r\nX-Trailer: y\r\n\r\n',
        get(),
      ],
    ],
    ['HTTP/1.0', ['GET / HTTP/1.0\r\nHost: good.example\r\n\r\n']],
    ['OPTIONS *', ['OPTIONS * HTTP/1.1\r\nHost: good.example\r\n\r\n']],
  ])('%s', (_, texts) => {
    const segments = stream(...texts);
    const outcomes = run(segments);
    expect(refusalOf(outcomes)).toBeUndefined();
    expect(released(outcomes)).toEqual(segments.map((s) => s.id));
    expect(outcomes.at(-1)?.state).toBe('requests');
  });
  it('in segments of any size, released in order once each head is whole', () => {
    const text = `${get()}POST /a HTTP/1.1\r\nHost: good.example\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n${get()}`;
    const random = new Random(9);
    for (let round = 0; round < 200; round++) {
      const cuts = [
        ...new Set([
          0,
          ...Array.from({ length: random.below(20) }, () => random.below(text.length)),
          text.length,
        ]),
      ].sort((a, b) => a - b);
      const segments = cuts.slice(1).map((end, n) => segment(cuts[n] as number, text.slice(cuts[n], end)));
      const order = [
        segments[0],
        ...segments
          .slice(1)
          .map((s) => ({ s, key: random.next() }))
          .sort((a, b) => a.key - b.key)
          .map(({ s }) => s),
      ];
      const outcomes = run(order as Segment[]);
      expect(refusalOf(outcomes)).toBeUndefined();
      expect(released(outcomes)).toEqual(segments.map((s) => s.id));
    }
  });
  it('not before their end', () => {
    const text = get();
    for (let cut = 1; cut < text.length; cut++) {
      const [begun, rest] = run([segment(0, text.slice(0, cut)), segment(cut, text.slice(cut))]);
      expect([begun?.release, rest?.release]).toEqual([[], [ids - 1, ids]]);
    }
  });
  it('when the first segments come in another order', () => {
    const text = get();
    const [first, second] = [segment(0, text.slice(0, 20)), segment(20, text.slice(20))];
    expect(released(run([second, first]))).toEqual([first.id, second.id]);
  });
  it('when they come again with the same bytes', () => {
    const flow = new HttpFlow(judge, 80, ISN);
    run([segment(0, get())], flow);
    expect(flow.take(segment(0, get()), 0).release).toEqual([ids]);
    expect(flow.take(segment(5, get().slice(5) + get()), 0).release).toEqual([ids]);
  });
  it('with content of a body that differs when it comes again: it decides nothing', () => {
    const flow = new HttpFlow(judge, 80, ISN);
    const head = 'POST / HTTP/1.1\r\nHost: good.example\r\nContent-Length: 110\r\n\r\n';
    run([segment(0, `${head}${'{ } '.repeat(25)}0123456789`)], flow);
    expect(flow.take(segment(head.length + 100, 'abcdefghij'), 0).release).toEqual([ids]);
    expect(flow.take(segment(head.length - 1, 'Xabcdefghi'), 0).refusal?.detail).toMatch(/other bytes/);
  });
  it('of which a part waits, when that part comes again with bytes before it', () => {
    const flow = new HttpFlow(judge, 80, ISN);
    const text = `${get()}GET / HTTP/1.1\r\nHo`;
    run([segment(0, get()), segment(get().length, text.slice(get().length))], flow);
    expect(flow.take(segment(10, text.slice(10)), 0)).toMatchObject({ release: [], drop: [ids] });
    expect(flow.take(segment(10, text.slice(10, get().length)), 0).release).toEqual([ids]);
  });
  it('with content of a body, in chunks of a byte, within bounded time and memory', () => {
    const flow = new HttpFlow(judge, 80, ISN);
    let at = 0;
    const began = process.cpuUsage();
    for (const text of [CHUNKED, ...new Array<string>(8).fill('1\r\na\r\n'.repeat(10_000))]) {
      expect(flow.take(segment(at, text), 0).release).toEqual([ids]);
      at += text.length;
    }
    expect(process.cpuUsage(began).user).toBeLessThan(5_000_000);
  });
  it('over more than 2^32 bytes', () => {
    const flow = new HttpFlow(judge, 80, ISN);
    const size = 2 ** 30;
    const heads = `POST / HTTP/1.1\r\nHost: good.example\r\nContent-Length: ${size}\r\n\r\n`;
    const part = Buffer.alloc(size / 16);
    let at = 0;
    const send = (bytes: string | Buffer): void => {
      expect(flow.take(segment(at, bytes), 0).release).toEqual([ids]);
      at += bytes.length;
    };
    for (let round = 0; round < 5; round++) {
      send(heads);
      for (let n = 0; n < 16; n++) send(part);
    }
    send(get());
    expect(flow.take(segment(at, get('evil.example')), 0).refusal).toBeDefined();
  });
});

describe('requests that are refused, with nothing of them released', () => {
  it.each([
    ['another host', get('evil.example'), /^no$/],
    ['no host', 'GET / HTTP/1.1\r\nX: y\r\n\r\n', /^no$/],
    ['an empty host', 'GET / HTTP/1.1\r\nHost:\r\n\r\n', /^no$/],
    ['two hosts', 'GET / HTTP/1.1\r\nHost: good.example\r\nHost: evil.example\r\n\r\n', /several Host/],
    ['an address', get('192.0.2.1'), /address/],
    ['another port', get('good.example:8080'), /another port/],
    ['its port with a zero before it', get('good.example:080'), /another port/],
    ['user information', get('good.example@evil.example'), /no host name/],
    ['a URL of another host', 'GET http://evil.example/ HTTP/1.1\r\nHost: good.example\r\n\r\n', /differs/],
    [
      'a URL of the host and another Host',
      'GET http://good.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n',
      /differs/,
    ],
    ['https as target', 'GET https://good.example/ HTTP/1.1\r\nHost: good.example\r\n\r\n', /differs/],
    ['CONNECT', 'CONNECT evil.example:443 HTTP/1.1\r\nHost: good.example\r\n\r\n', /CONNECT/],
    [
      'a name as target',
      'GET evil.example HTTP/1.1\r\nHost: good.example\r\n\r\n',
      /neither a path nor a URL/,
    ],
    [
      'a blank before the colon',
      'GET / HTTP/1.1\r\nHost : evil.example\r\nHost: good.example\r\n\r\n',
      /blank before the colon/,
    ],
    ['a continued line', 'GET / HTTP/1.1\r\nHost: good.example\r\n evil.example\r\n\r\n', /continued/],
    [
      'a line that ends with LF',
      'GET / HTTP/1.1\nHost: evil.example\n\nX: \r\nHost: good.example\r\n\r\n',
      /./,
    ],
    [
      'a CR within a line',
      'GET / HTTP/1.1\r\nX: a\rHost: evil.example\r\nHost: good.example\r\n\r\n',
      /control character/,
    ],
    ['a NUL', 'GET / HTTP/1.1\r\nHost: good.example\0\r\n\r\n', /control character/],
    [
      'both kinds of length',
      'POST / HTTP/1.1\r\nHost: good.example\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n',
      /several ways/,
    ],
    [
      'two lengths',
      'POST / HTTP/1.1\r\nHost: good.example\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\n',
      /Content-Length/,
    ],
    [
      'a list of lengths',
      'POST / HTTP/1.1\r\nHost: good.example\r\nContent-Length: 4, 4\r\n\r\n',
      /Content-Length/,
    ],
    [
      'a signed length',
      'POST / HTTP/1.1\r\nHost: good.example\r\nContent-Length: +4\r\n\r\n',
      /Content-Length/,
    ],
    [
      'another coding',
      'POST / HTTP/1.1\r\nHost: good.example\r\nTransfer-Encoding: xchunked\r\n\r\n',
      /several ways/,
    ],
    [
      'two codings',
      'POST / HTTP/1.1\r\nHost: good.example\r\nTransfer-Encoding: gzip, chunked\r\n\r\n',
      /several ways/,
    ],
    [
      'a coding in HTTP/1.0',
      'POST / HTTP/1.0\r\nHost: good.example\r\nTransfer-Encoding: chunked\r\n\r\n',
      /several ways/,
    ],
    ['HTTP/2', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', /HTTP\/2/],
    [
      'an upgrade to HTTP/2',
      'GET / HTTP/1.1\r\nHost: good.example\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n',
      /HTTP\/2/,
    ],
    ['an upgrade to TLS', 'GET / HTTP/1.1\r\nHost: good.example\r\nUpgrade: TLS/1.2\r\n\r\n', /upgrade/],
    ['HTTP/0.9', 'GET /\r\n\r\n', /no request/],
    ['two blanks', 'GET  / HTTP/1.1\r\nHost: good.example\r\n\r\n', /no request/],
    ['TLS', Buffer.from('160301', 'hex').toString('latin1'), /does not begin/],
    ['SSH', 'SSH-2.0-OpenSSH_9.9\r\n', /3 s|does not begin/],
    [
      'a head that is too large',
      `GET / HTTP/1.1\r\nHost: good.example\r\nX: ${'a'.repeat(17_000)}`,
      /more than/,
    ],
  ])('%s', (_, text, why) => {
    expect(refusalOfText(text)).toMatch(why);
    expect(released(run([segment(0, text)]))).toEqual([]);
  });
  it.each([
    ['the second request', stream(get(), get('evil.example'))],
    [
      'a request behind a body',
      stream('POST / HTTP/1.1\r\nHost: good.example\r\nContent-Length: 3\r\n\r\nabc', get('evil.example')),
    ],
    [
      'a size of a chunk that is not one',
      stream(
        'POST / HTTP/1.1\r\nHost: good.example\r\nTransfer-Encoding: chunked\r\n\r\n',
        '0x5\r\nhello\r\n',
      ),
    ],
    [
      'a chunk that goes on',
      stream('POST / HTTP/1.1\r\nHost: good.example\r\nTransfer-Encoding: chunked\r\n\r\n', '3\r\nabcd\r\n'),
    ],
    [
      'a size that ends with LF',
      stream('POST / HTTP/1.1\r\nHost: good.example\r\nTransfer-Encoding: chunked\r\n\r\n', '3\nabc\r\n'),
    ],
    ['a head in the place of the first one', [segment(0, get()), segment(0, get('evil.example'))]],
    ['bytes before the first request', [segment(0, get()), segment(-10, '0123456789')]],
  ])('%s', (_, segments) => {
    const outcomes = run(segments);
    expect(refusalOf(outcomes)).toBeDefined();
    expect(released(outcomes)).toEqual([segments[0]?.id]);
  });
  it.each([
    ['a first line that is no request', `GET / HTTP/1.1 \r\nHost: good.example\r\n\r\n`],
    ['another protocol', 'SSH-2.0-OpenSSH_9.9\r\n'],
  ])('%s, with all that comes behind it', (_, first) => {
    const outcomes = run(stream(first, get(), get('evil.example')));
    expect(refusalOf(outcomes)).toBeDefined();
    expect(released(outcomes)).toEqual([]);
  });
  it('a head whose parts overlap with other bytes, while its first segment is missing', () => {
    const text = get();
    const forged = text.replace('good', 'evil');
    const parts = [
      segment(8, text.slice(8, 26)),
      segment(12, forged.slice(12, 30)),
      segment(0, text.slice(0, 12)),
      segment(30, text.slice(30)),
    ];
    expect(released(run(parts))).toEqual([]);
  });
  it('with every segment that waits, also those whose bytes others have', () => {
    const flow = new HttpFlow(judge, 80, ISN);
    const text = `POST / HTTP/1.1\r\nHost: good.example\r\n X: y\r\n\r\n`;
    const parts = [
      [0, 10],
      [20, 30],
      [22, 28],
      [20, text.length],
      [10, 20],
    ] as const;
    const outcomes = run(
      parts.map(([from, to]) => segment(from, text.slice(from, to))),
      flow,
    );
    expect(outcomes.flatMap((o) => o.drop).sort()).toEqual([ids - 4, ids - 3, ids - 2, ids - 1, ids].sort());
  });
  it('a head that is no longer kept, when it comes again', () => {
    const flow = new HttpFlow(judge, 80, ISN);
    const texts = Array.from({ length: 300 }, (_, n) => get('good.example', `/${n}${'a'.repeat(100)}`));
    run(stream(...texts), flow);
    expect(flow.take(segment(0, get('evil.example')), 0)).toMatchObject({ release: [], refusal: {} });
  });
  it('a line of a chunk that is too long, in one segment or in several', () => {
    const line = `3;${'x'.repeat(400)}\r\nabc\r\n`;
    for (const cuts of [[line], [line.slice(0, 100), line.slice(100)], [...line]])
      expect(refusalOf(run(stream(CHUNKED, ...cuts)))).toMatch(/more than 256 bytes|more than 256 segments/);
  });
  it('a head that costs more to read than its length', () => {
    const began = process.cpuUsage();
    for (let round = 0; round < 20; round++)
      run([segment(0, `GET / HTTP/1.1\r\nHost: good.example\r\nX: b${' '.repeat(16_000)}x\r\n\r\n`)]);
    expect(process.cpuUsage(began).user).toBeLessThan(1_000_000);
  });
  it('a head that is not complete in 3 s, and what is no request at once', () => {
    const flow = new HttpFlow(judge, 80, ISN);
    flow.take(segment(0, 'GET / HTTP/1.1\r\nHost: good'), 0);
    expect(flow.expire(HELLO_MS - 1)).toBeUndefined();
    expect(flow.expire(HELLO_MS)?.refusal?.detail).toMatch(/within 3 s/);
    const other = new HttpFlow(judge, 80, ISN);
    expect(other.take(segment(0, '\x81\x85'), 0).refusal?.detail).toMatch(/no request|not begin/);
  });
});

describe('WebSocket', () => {
  const ask = 'GET /chat HTTP/1.1\r\nHost: good.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n';
  it('is verified by the answer of the server', () => {
    const flow = new HttpFlow(judge, 80, ISN);
    expect(flow.take(segment(0, ask), 0)).toMatchObject({ release: [ids], state: 'open' });
    expect(flow.take(reply(0, 'HTTP/1.1 101 Switching Protocols\r\n\r\n'), 0)).toMatchObject({
      release: [ids],
      state: 'verified',
    });
    expect(flow.take(segment(ask.length, '\x81\x85abcdefghi'), 0).release).toEqual([ids]);
  });
  it('goes on with requests when the server does not agree', () => {
    const flow = new HttpFlow(judge, 80, ISN);
    flow.take(segment(0, ask), 0);
    expect(flow.take(reply(0, 'HTTP/1.1 200 OK\r\n\r\n'), 0).state).toBe('requests');
    expect(flow.take(segment(ask.length, get('evil.example')), 0).refusal).toBeDefined();
  });
  it('is not verified by content that looks like an answer, or comes again', () => {
    const flow = new HttpFlow(judge, 80, ISN);
    flow.take(segment(0, ask), 0);
    expect(flow.take(reply(40, 'HTTP/1.1 101 Switching'), 0).state).toBe('open');
    expect(flow.take(reply(0, 'HTTP/1.1 404 Not Found\r\n\r\nHTTP/1.1 101 Switching'), 0).state).toBe(
      'requests',
    );
  });
  it('is refused with more behind it before the answer, and after another request', () => {
    expect(refusalOf(run(stream(ask + get())))).toMatch(/agreed/);
    expect(refusalOf(run(stream(ask, get())))).toMatch(/agreed/);
    expect(refusalOf(run(stream(get(), ask)))).toMatch(/other requests/);
  });
});

describe('a large body', () => {
  const MiB = 2 ** 20;
  const LENGTH = 1.5 * 2 ** 30;
  const head = `POST / HTTP/1.1\r\nHost: good.example\r\nContent-Length: ${LENGTH}\r\n\r\n`;
  const begun = (bytes: number): { flow: HttpFlow; at: number } => {
    const flow = new HttpFlow(judge, 80, ISN);
    flow.take(segment(0, head), 0);
    let at = head.length;
    for (const end = head.length + bytes; at < end; at += 2 ** 16)
      flow.take(segment(at, Buffer.alloc(2 ** 16, '{ } - ')), 0);
    return { flow, at };
  };

  it('may pass once a MiB of it has come, up to a MiB before its end, a GiB at a time', () => {
    expect(begun(MiB - 2 ** 16).flow.passable).toBeUndefined();
    const { flow, at } = begun(MiB);
    expect(flow.passable).toEqual({ seq: (ISN + at) >>> 0, length: 2 ** 30 });
    const near = head.length + LENGTH - 5 * MiB;
    expect(released([flow.take(segment(near, 'b'), 0)])).toHaveLength(1);
    expect(flow.passable).toEqual({ seq: (ISN + near + 1) >>> 0, length: 4 * MiB - 1 });
    flow.take(segment(near + MiB + 1, 'b'), 0);
    expect(flow.passable).toBeUndefined();
  });

  it('may not pass while a segment waits, or once the flow was refused', () => {
    const { flow, at } = begun(MiB);
    flow.refuse('why', { id: 1, ack: 0 });
    expect(flow.passable).toBeUndefined();
    const short = new HttpFlow(judge, 80, ISN);
    short.take(segment(0, head.slice(0, 20)), 0);
    short.take(segment(at, 'ahead'), 0);
    expect(short.passable).toBeUndefined();
  });

  it('keeps its order behind segments that wait for its beginning', () => {
    const flow = new HttpFlow(judge, 80, ISN);
    const at = (offset: number): Segment => segment(head.length + offset, '{ } '.repeat(25));
    const [first, second, third] = [at(0), at(100), at(200)];
    run([segment(0, head.slice(0, 20)), second, segment(20, head.slice(20))], flow);
    expect(released(run([third], flow))).toEqual([]);
    expect(released(run([first], flow))).toEqual([first.id, second.id, third.id]);
  });

  it('has its end read where it is, though some of it did not come', () => {
    const { flow, at } = begun(MiB);
    const end = head.length + LENGTH;
    expect(released([flow.take(segment(end - 10, `${'b'.repeat(10)}${get()}`), 0)])).toHaveLength(1);
    // what was lost on its way comes again
    expect(released([flow.take(segment(at, 'late'), 0)])).toHaveLength(1);
    expect(refusalOf([flow.take(segment(end + get().length, get('evil.example')), 0)])).toBe('no');
  });

  it('ends where its length says: what is behind a gap that is longer is not read', () => {
    const { flow } = begun(MiB);
    const behind = flow.take(segment(head.length + LENGTH + 1, get('evil.example')), 0);
    expect(behind).toMatchObject({ release: [], drop: [] });
    expect(flow.passable).toBeUndefined();
  });

  it('in chunks may pass chunk by chunk', () => {
    const flow = new HttpFlow(judge, 80, ISN);
    const text = `${CHUNKED}${(8 * MiB).toString(16)}\r\n${'{ } '.repeat(MiB / 4)}`;
    flow.take(segment(0, text), 0);
    expect(flow.passable).toEqual({ seq: (ISN + text.length) >>> 0, length: 6 * MiB });
  });
});

describe('the end of the stream of a client (FIN)', () => {
  const [begun, rest] = ['GET / HTTP/1.1\r\nHost: good.exa', 'mple\r\n\r\n'];
  const last = (s: Segment): Segment => ({ ...s, isLast: true });
  const at = (offset: number): number => (ISN + offset) >>> 0;

  it('behind a whole request goes on with it, and alone', () => {
    const flow = new HttpFlow(judge, 80, ISN);
    const whole = last(segment(0, begun + rest));
    expect(flow.mayEnd(at(0))).toBe(true);
    expect(released(run([whole], flow))).toEqual([whole.id]);
    expect(flow.mayEnd(at(begun.length + rest.length))).toBe(true);
  });
  it('within a head does not go on before the head is decided, nor ahead of it', () => {
    const flow = new HttpFlow(judge, 80, ISN);
    expect(flow.mayEnd(at(begun.length))).toBe(false);
    expect(released(run([segment(0, begun)], flow))).toEqual([]);
    expect(flow.mayEnd(at(begun.length))).toBe(false);
    expect(flow.mayEnd(at(begun.length + rest.length))).toBe(false);
    expect(released(run([segment(begun.length, rest)], flow))).toHaveLength(2);
    expect(flow.mayEnd(at(begun.length + rest.length))).toBe(true);
  });
  it.each([
    ['in order', [0, 1]],
    ['the other way round', [1, 0]],
  ])('with bytes behind it refuses the flow: %s', (_, order) => {
    const pieces = [last(segment(0, begun)), segment(begun.length, rest)];
    const outcomes = run(order.map((i) => pieces[i] as Segment));
    expect(released(outcomes)).toEqual([]);
    expect(refusalOf(outcomes)).toBe('it sent more behind the end of its stream');
  });
  it('of content that is large goes on with it', () => {
    const flow = new HttpFlow(judge, 80, ISN);
    const length = 64 * 1024 * 1024;
    const head = `POST / HTTP/1.1\r\nHost: good.example\r\nContent-Length: ${length}\r\n\r\nabcd\n`;
    expect(released(run([segment(0, head)], flow))).toHaveLength(1);
    expect(flow.mayEnd(at(head.length - 5 + length))).toBe(true);
  });
});
