import { describe, expect, it } from 'vitest';
import type { NameJudge, Outcome, Ruling, Segment } from '../../../src/connections/flow-check.js';
import { HELLO_MS, TlsFlow } from '../../../src/connections/tls-flow.js';
import { Random } from '../../fuzz/random.js';
import { helloFor, helloMessage, padding, records, serverNames } from './hello-maker.js';

const judge: NameJudge = {
  hello: ({ name }): Ruling =>
    name.kind === 'name' && name.name === 'good.example'
      ? { allow: true, name: name.name, entry: 'good.example' }
      : {
          allow: false,
          refusal: { reason: 'server-name', name: name.kind === 'name' ? name.name : '', detail: 'no' },
        },
  request: () => ({ allow: false, refusal: { reason: 'host', name: '', detail: 'no' } }),
};
const ISN = 0xffff_ff00;
const SERVER = 5_000;
let ids = 0;
const client = (offset: number, payload: Buffer): Segment => ({
  id: ++ids,
  from: 'client',
  seq: (ISN + offset) >>> 0,
  ack: SERVER,
  payload,
});
const server = (offset: number, payload: Buffer): Segment => ({
  id: ++ids,
  from: 'server',
  seq: SERVER + offset,
  ack: 0,
  payload,
});
const good = helloFor('good.example');
const bad = helloFor('evil.example');
const SERVER_HELLO = Buffer.concat([Buffer.from('160303002a020000260303', 'hex'), Buffer.alloc(36, 1)]);
const RETRY = Buffer.concat([
  Buffer.from('160303002a020000260303', 'hex'),
  Buffer.from('cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c', 'hex'),
  Buffer.alloc(4),
]);
const CHANGE = Buffer.from('140303000101', 'hex');
const data = (bytes: number): Buffer => records(Buffer.alloc(bytes, 8), 16_384, 23);

/** Hands over the segments, and returns what came of each. */
function run(segments: readonly Segment[], flow = new TlsFlow(judge, ISN)): Outcome[] {
  return segments.map((s) => flow.take(s, 0));
}
const released = (outcomes: readonly Outcome[]): number[] => outcomes.flatMap((o) => [...o.release]);
const refusal = (outcomes: readonly Outcome[]): string | undefined =>
  outcomes.find((o) => o.refusal)?.refusal?.detail;

describe('a permitted hello', () => {
  it('is released, and the flow is verified by the answer of the server', () => {
    const flow = new TlsFlow(judge, ISN);
    const first = client(0, good);
    expect(flow.take(first, 0)).toMatchObject({
      release: [first.id],
      state: 'requests',
      allowed: [{ name: 'good.example' }],
    });
    const answer = server(0, SERVER_HELLO);
    expect(flow.take(answer, 0)).toEqual({ release: [answer.id], drop: [], state: 'verified' });
  });
  it('is released whole, in the order of its bytes, whatever segments it comes in', () => {
    const random = new Random(3);
    for (let round = 0; round < 200; round++) {
      const cuts = [
        0,
        ...Array.from({ length: 1 + random.below(8) }, () => random.below(good.length)),
        good.length,
      ];
      const at = [...new Set(cuts)].sort((a, b) => a - b);
      const pieces = at.slice(1).map((end, n) => client(at[n] as number, good.subarray(at[n], end)));
      const shuffled = pieces.map((p) => ({ p, key: random.next() })).sort((a, b) => a.key - b.key);
      const outcomes = run(shuffled.map(({ p }) => p));
      expect(refusal(outcomes)).toBeUndefined();
      expect(released(outcomes)).toEqual(pieces.map((p) => p.id));
      expect(released(outcomes.slice(0, -1))).toEqual([]);
    }
  });
  it('may come again, before and after its release, and with data behind it', () => {
    const half = good.subarray(0, 40);
    const flow = new TlsFlow(judge, ISN);
    const segments = [
      client(0, half),
      client(0, half),
      client(40, good.subarray(40)),
      client(0, good),
      client(good.length, data(100)),
    ];
    const [, repeated, third, again, more] = run(segments, flow);
    expect(repeated?.release).toEqual([]);
    expect(third?.release).toEqual([segments[0]?.id, segments[2]?.id]);
    expect(again?.release).toEqual([segments[3]?.id]);
    expect(more).toMatchObject({ release: [segments[4]?.id], state: 'requests' });
  });
});

describe('refused, with nothing released', () => {
  const cases: readonly [string, readonly Segment[], RegExp][] = [
    ['another name', [client(0, bad)], /^no$/],
    ['no hello', [client(0, Buffer.from('SSH-2.0-x\r\n')), client(-5, Buffer.from('xxxxx'))], /./],
    [
      'other bytes in an overlap',
      [client(0, good.subarray(0, -10)), client(50, bad.subarray(50))],
      /other bytes/,
    ],
    ['a hello that replaces another', [client(0, good.subarray(0, -10)), client(0, bad)], /other bytes/],
    ['a server that sends first', [server(0, Buffer.from('220 mail\r\n'))], /server sent first/],
    [
      'too many segments',
      [...records(helloMessage(serverNames('good.example'), padding(200)), 1)]
        .slice(0, 80)
        .map((b, n) => client(n, Buffer.from([b]))),
      /segments/,
    ],
  ];
  it.each(cases)('%s', (_, segments, why) => {
    const flow = new TlsFlow(judge, ISN);
    const outcomes = run(segments, flow);
    const late = flow.expire(HELLO_MS);
    expect(refusal([...outcomes, ...(late ? [late] : [])])).toMatch(why);
    expect(released(outcomes)).toEqual([]);
  });
  it('what is not complete in 3 s, and what is no hello at once', () => {
    const slow = new TlsFlow(judge, ISN);
    slow.take(client(0, good.subarray(0, 50)), 0);
    expect(slow.expire(HELLO_MS - 1)).toBeUndefined();
    expect(slow.expire(HELLO_MS)?.refusal?.detail).toMatch(/within 3 s/);
    const other = new TlsFlow(judge, ISN);
    expect(other.take(client(100, good.subarray(100)), 0).release).toEqual([]);
    expect(other.take(client(0, good.subarray(10, 20)), 0).refusal?.reason).toBe('not-tls');
  });
});

describe('after a permitted hello, until the server has answered', () => {
  it.each([
    ['the hello is replaced', client(0, bad)],
    ['bytes come before it', client(-10, Buffer.alloc(10))],
    ['another hello follows', client(good.length, bad)],
    ['another record follows', client(good.length, records(Buffer.alloc(5), 9, 22))],
  ])('the flow is refused when %s', (_, segment) => {
    const flow = new TlsFlow(judge, ISN);
    flow.take(client(0, good), 0);
    expect(flow.take(segment, 0)).toMatchObject({ release: [], refusal: {} });
  });
  it('and it is refused, nothing is released any more, and no answer of the server verifies it', () => {
    const flow = new TlsFlow(judge, ISN);
    flow.take(client(0, good), 0);
    expect(flow.take(client(good.length, bad), 0).refusal).toBeDefined();
    for (const segment of [client(good.length, bad), server(0, SERVER_HELLO), client(good.length, good)])
      expect(flow.take(segment, 0)).toMatchObject({ release: [], drop: [segment.id] });
    expect(flow.state).not.toBe('verified');
  });
  it('data of 0-RTT pass, but no more than servers accept', () => {
    const flow = new TlsFlow(judge, ISN);
    flow.take(client(0, good), 0);
    let at = good.length;
    let refused = '';
    for (let n = 0; n < 10 && refused === ''; n++) {
      const outcome = flow.take(client(at, data(8_000)), 0);
      at += data(8_000).length;
      refused = outcome.refusal?.detail ?? '';
    }
    expect(refused).toMatch(/too much/);
    expect(at).toBeGreaterThan(32_000);
  });
});

describe('a second hello', () => {
  const start = (): TlsFlow => {
    const flow = new TlsFlow(judge, ISN);
    flow.take(client(0, good), 0);
    expect(flow.take(server(0, RETRY), 0).state).toBe('open');
    return flow;
  };
  it('that the server asks for is evaluated, behind data that the server skips', () => {
    for (const between of [Buffer.alloc(0), CHANGE, Buffer.concat([CHANGE, data(5_000)])]) {
      const flow = start();
      if (between.length > 0) expect(flow.take(client(good.length, between), 0).release).toHaveLength(1);
      expect(flow.take(client(good.length + between.length, bad), 0).refusal?.reason).toBe('server-name');
    }
  });
  it('does not verify the flow before a second hello has come, whatever the server sends', () => {
    const flow = start();
    expect(flow.take(server(RETRY.length, SERVER_HELLO), 0).state).toBe('open');
    expect(flow.take(client(good.length, bad), 0).refusal?.reason).toBe('server-name');
  });
  it('is refused when the server replaces its answer by another one', () => {
    const flow = start();
    expect(flow.take(server(0, SERVER_HELLO), 0).refusal?.detail).toMatch(/the server sent other bytes/);
  });
  it('verifies the flow when it is permitted and answered', () => {
    const flow = start();
    // a change of cipher may follow the first answer: it answers no second hello
    expect(flow.take(server(RETRY.length, CHANGE), 0).state).toBe('open');
    expect(flow.take(client(good.length, Buffer.concat([CHANGE, good])), 0)).toMatchObject({
      state: 'requests',
      allowed: [{}],
    });
    expect(flow.take(server(RETRY.length, CHANGE), 0).state).toBe('requests');
    expect(flow.take(server(RETRY.length + CHANGE.length, SERVER_HELLO), 0).state).toBe('verified');
  });
});

describe('the kernel may end the check at the next answer of the server', () => {
  it('only while no byte of the client waits, and after the second hello when one is asked for', () => {
    const flow = new TlsFlow(judge, ISN);
    expect(flow.take(client(0, good.subarray(0, 50)), 0).state).toBe('open');
    expect(flow.take(client(50, good.subarray(50)), 0).state).toBe('requests');
    expect(flow.take(client(good.length, data(100).subarray(0, 3)), 0).state).toBe('open');
    const retried = new TlsFlow(judge, ISN);
    retried.take(client(0, good), 0);
    expect(retried.take(server(0, RETRY), 0).state).toBe('open');
    expect(retried.take(client(good.length, good), 0).state).toBe('requests');
  });
  it('so that what waits behind a permitted hello is dropped, not refused: the client sends it again', () => {
    const flow = new TlsFlow(judge, ISN);
    flow.take(client(0, good), 0);
    const rest = client(good.length, data(100).subarray(0, 3));
    flow.take(rest, 0);
    expect(flow.expire(HELLO_MS - 1)).toBeUndefined();
    expect(flow.expire(HELLO_MS)).toEqual({ release: [], drop: [rest.id], state: 'requests' });
    expect(flow.expire(HELLO_MS)).toBeUndefined();
  });
});
