import { describe, expect, it } from 'vitest';
import type { NameJudge, Ruling } from '../../../src/connections/flow-check.js';
import { QUIC_HELLO_MS, QuicFlow } from '../../../src/connections/quic-flow.js';
import { initialKeys, openInitial, readDatagram } from '../../../src/connections/quic-initial.js';
import { Random } from '../../fuzz/random.js';
import {
  cryptoFrame,
  helloMessage,
  initialPacket,
  padding,
  serverHello,
  serverNames,
} from './hello-maker.js';

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
const good = helloMessage(serverNames('good.example'));
const bad = helloMessage(serverNames('evil.example'));
const DCID = Buffer.from('8394c8f03e515708', 'hex');
const OTHER = Buffer.from('0102030405060708', 'hex');
const V2 = 0x6b3343cf;
const initial = (
  frames: Buffer,
  more: { dcid?: Buffer; keyId?: Buffer; version?: number; number?: number; side?: 'server' } = {},
): Buffer => initialPacket({ dcid: DCID, frames, ...more });
const PING = Buffer.from([1]);
const ACK = Buffer.from([2, 0, 0, 0, 0]);
let ids = 0;
const take = (flow: QuicFlow, payload: Buffer, now = 0) => flow.take({ id: ++ids, payload }, now);
const answer = (flow: QuicFlow, payload: Buffer) => flow.answer({ id: ++ids, payload });
/** To the connection that was begun with DCID, to the source that the client has chosen. */
const answered = (more: { keyId?: Buffer; version?: number } = {}, frames = serverHello): Buffer =>
  initial(frames, { dcid: Buffer.alloc(8, 3), keyId: DCID, side: 'server', ...more });

describe('the keys', () => {
  it('are those of RFC 9001 A.1 and RFC 9369 A.1', () => {
    const v1 = initialKeys(1, DCID);
    expect(v1.key.toString('hex')).toBe('1f369613dd76d5467730efcbe3b1a22d');
    expect(v1.iv.toString('hex')).toBe('fa044b2f42a3fd3b46fb255c');
    expect(v1.headerProtection.toString('hex')).toBe('9f50449e04a0e810283a1e9933adedd2');
    const v2 = initialKeys(V2, DCID);
    expect(v2.key.toString('hex')).toBe('8b1a0bc121284290a29e0971b5cd045d');
    expect(v2.iv.toString('hex')).toBe('91f73e2351d8fa91660e909f');
    expect(v2.headerProtection.toString('hex')).toBe('45b95e15235d6f45a6b19cbcb0294ba9');
  });
  it('open what they sealed, and nothing that was changed', () => {
    const datagram = readDatagram(initial(cryptoFrame(0, good)));
    const packet = datagram.kind === 'packets' ? datagram.packets[0] : undefined;
    if (packet?.kind !== 'initial') throw new Error('no Initial packet');
    expect(openInitial(packet, initialKeys(1, DCID), undefined)?.frames[0]).toBe(6);
    packet.bytes[60] = (packet.bytes[60] as number) ^ 1;
    expect(openInitial(packet, initialKeys(1, DCID), undefined)).toBeUndefined();
  });
});

describe('a permitted hello', () => {
  it.each([1, V2])('goes on in version %i', (version) => {
    expect(take(new QuicFlow(judge), initial(cryptoFrame(0, good), { version }))).toMatchObject({
      release: [ids],
      allowed: [{ name: 'good.example' }],
    });
  });
  it('goes on as a whole: from two datagrams in any order, with frames in any order', () => {
    const large = helloMessage(serverNames('good.example'), padding(1_200));
    const frames = [
      cryptoFrame(0, large.subarray(0, 300)),
      cryptoFrame(300, large.subarray(300, 900)),
      cryptoFrame(900, large.subarray(900)),
    ];
    const first = initial(Buffer.concat([frames[1] as Buffer, PING]));
    const second = initial(Buffer.concat([PING, frames[0] as Buffer]), { number: 1 });
    const third = initial(frames[2] as Buffer, { number: 2 });
    for (const order of [
      [first, second, third],
      [third, first, second],
      [second, third, first],
    ]) {
      const flow = new QuicFlow(judge);
      const outcomes = order.map((d) => take(flow, d));
      expect(outcomes.slice(0, 2).flatMap((o) => o.release)).toEqual([]);
      expect(outcomes[2]?.release).toEqual([ids - 2, ids - 1, ids]);
    }
  });
  it('lets acknowledgements, 0-RTT and the handshake of its connection follow, with another destination', () => {
    const flow = new QuicFlow(judge);
    take(flow, initial(cryptoFrame(0, good)));
    expect(take(flow, initial(ACK, { dcid: OTHER, keyId: DCID, number: 1 })).release).toEqual([ids]);
    answer(flow, answered());
    const handshake = Buffer.concat([
      Buffer.from([0xe0, 0, 0, 0, 1, 8]),
      OTHER,
      Buffer.from([0, 0x40, 20]),
      Buffer.alloc(20),
    ]);
    expect(take(flow, handshake).release).toEqual([ids]);
    expect(take(flow, Buffer.concat([initial(ACK, { number: 2 }), handshake])).release).toEqual([ids]);
  });
  it('lets packets of its connection follow whose numbers are large, and sent with their last digits', () => {
    const flow = new QuicFlow(judge);
    expect(take(flow, initial(cryptoFrame(0, good), { number: 0xfff0 })).release).toEqual([ids]);
    for (const number of [0xfff1, 0x1_0002, 0x1_7000])
      expect(take(flow, initial(ACK, { dcid: OTHER, keyId: DCID, number })).release).toEqual([ids]);
  });
  it('goes on in the version that the server has chosen, with the keys of its first destination', () => {
    const flow = new QuicFlow(judge);
    take(flow, initial(cryptoFrame(0, good)));
    const chosen = { dcid: OTHER, keyId: DCID, version: V2 };
    expect(take(flow, initial(ACK, { ...chosen, number: 1 })).release).toEqual([ids]);
    expect(
      take(flow, initial(cryptoFrame(good.length, bad), { ...chosen, number: 2 })).refusal,
    ).toBeDefined();
  });
  it('begins again in another version after Version Negotiation, but not with the same destination', () => {
    const other = helloMessage(serverNames('good.example'), padding(20));
    const flow = new QuicFlow(judge);
    take(flow, initial(cryptoFrame(0, good), { version: V2 }));
    expect(take(flow, initial(cryptoFrame(0, good), { dcid: OTHER })).release).toEqual([ids]);
    expect(take(flow, initial(cryptoFrame(0, other))).refusal?.detail).toMatch(/another version/);
  });
  it('goes on for connections one after the other from the same port', () => {
    const flow = new QuicFlow(judge);
    for (let n = 0; n < 50; n++)
      expect(take(flow, initial(cryptoFrame(0, good), { dcid: Buffer.alloc(8, n) })).release).toEqual([ids]);
  });
  it('holds data of 0-RTT that come before its end', () => {
    const flow = new QuicFlow(judge);
    const zero = Buffer.concat([
      Buffer.from([0xd0, 0, 0, 0, 1, 8]),
      DCID,
      Buffer.from([0, 0x40, 20]),
      Buffer.alloc(20),
    ]);
    expect(take(flow, initial(cryptoFrame(0, good.subarray(0, 50)))).release).toEqual([]);
    expect(take(flow, zero).release).toEqual([]);
    expect(take(flow, initial(cryptoFrame(50, good.subarray(50)), { number: 1 })).release).toHaveLength(3);
  });
});

describe('a client that has ended its handshake', () => {
  const short = Buffer.concat([Buffer.from([0x40]), Buffer.alloc(40)]);
  it('is queued with its short headers until the first of them: they must not overtake the handshake', () => {
    const flow = new QuicFlow(judge);
    expect(take(flow, initial(cryptoFrame(0, good))).state).toBe('open');
    expect(take(flow, initial(ACK, { number: 1 })).state).toBe('open');
    expect(answer(flow, answered())).toMatchObject({ release: [ids], state: 'open' });
    expect(take(flow, short)).toMatchObject({ release: [ids], state: 'requests' });
    expect(take(flow, initial(cryptoFrame(0, good), { dcid: OTHER })).state).toBe('open');
  });
  const HANDSHAKE = Buffer.concat([
    Buffer.from([0xe0, 0, 0, 0, 1, 8]),
    OTHER,
    Buffer.from([0, 0x40, 20]),
    Buffer.alloc(20),
  ]);
  it.each([
    ['a short header', short],
    ['a handshake packet', HANDSHAKE],
    ['a short header behind an Initial packet', Buffer.concat([initial(ACK, { number: 1 }), short])],
  ])('has had an answer of a server of QUIC: %s goes on behind it only', (_, datagram) => {
    const begun = (): QuicFlow => {
      const flow = new QuicFlow(judge);
      take(flow, initial(cryptoFrame(0, good)));
      return flow;
    };
    for (const datagrams of [
      [],
      // what anybody else may send, and what a server of QUIC sends that has no such connection
      [Buffer.from('220 smtp.example ESMTP')],
      [short],
      [initial(cryptoFrame(0, good))],
      [answered({ keyId: OTHER })],
      [answered({}, ACK)],
      [answered({}, Buffer.from([0x1c, 0, 0, 0]))],
      [answered({}, cryptoFrame(1, Buffer.alloc(40, 2)))],
      [initial(serverHello, { dcid: OTHER, keyId: DCID })],
    ]) {
      const flow = begun();
      for (const d of datagrams) expect(answer(flow, d)).toMatchObject({ release: [ids], state: 'open' });
      expect(take(flow, datagram)).toMatchObject({
        release: [],
        refusal: { reason: 'quic', detail: expect.stringContaining('before a server of QUIC has answered') },
      });
    }
    for (const made of [
      answered(),
      answered({ version: V2 }),
      Buffer.concat([answered(), HANDSHAKE, short]),
    ]) {
      const flow = begun();
      answer(flow, made);
      expect(take(flow, datagram).release).toEqual([ids]);
    }
  });
  it('has had an answer to the hello after a Retry, too', () => {
    const flow = new QuicFlow(judge);
    take(flow, initial(cryptoFrame(0, good)));
    take(flow, initial(cryptoFrame(0, good), { dcid: OTHER, number: 1 }));
    answer(flow, answered({ keyId: OTHER }));
    expect(take(flow, short)).toMatchObject({ release: [ids], state: 'requests' });
  });
  it('sends no hello of a version of Google, which names its site in the clear', () => {
    const flow = new QuicFlow(judge);
    take(flow, initial(cryptoFrame(0, good)));
    answer(flow, answered());
    take(flow, short);
    const without = (...parts: readonly (string | number)[]): Buffer =>
      Buffer.concat(parts.map((p) => (typeof p === 'number' ? Buffer.from([p]) : Buffer.from(p))));
    const later = (payload: Buffer) => flow.take({ id: ++ids, payload, isVerified: true }, 0);
    for (const hello of [
      without(0x0d, '12345678', 'Q043', 'x'.repeat(1_000)),
      without(0x09, '12345678', 'Q039', 'x'.repeat(1_000)),
      without(0x01, 'Q035'),
      without(0x05, '1', 'Q030'),
      without(0x08, '12345678', 'x'.repeat(20), 'CHLO', 'evil.example'),
    ]) {
      expect(later(hello)).toMatchObject({ release: [], drop: [ids] });
      expect(later(Buffer.concat([initial(ACK, { number: 1 }), hello]))).toMatchObject({ release: [] });
    }
    // RFC 9287
    expect(later(without(0x16, 'x'.repeat(40)))).toMatchObject({ release: [ids], state: 'requests' });
  });
  it('goes on after it was forgotten, but begins no other connection', () => {
    const flow = new QuicFlow(judge);
    const verified = (payload: Buffer) => flow.take({ id: ++ids, payload, isVerified: true }, 0);
    expect(verified(short)).toMatchObject({ release: [ids], state: 'requests' });
    expect(verified(initial(cryptoFrame(0, bad)))).toMatchObject({ release: [], refusal: {} });
  });
});

describe('a Retry', () => {
  const large = helloMessage(serverNames('good.example'), padding(1_200));
  const begun = (): QuicFlow => {
    const flow = new QuicFlow(judge);
    expect(take(flow, initial(cryptoFrame(0, large))).release).toEqual([ids]);
    return flow;
  };
  it('lets the beginning of the same hello go on: curl sends its rest after an acknowledgement only', () => {
    const flow = begun();
    const again = (from: number, to: number, number: number): Buffer =>
      initial(cryptoFrame(from, large.subarray(from, to)), { dcid: OTHER, number });
    expect(take(flow, again(0, 900, 1))).toMatchObject({ release: [ids] });
    expect(take(flow, again(900, 1_100, 2))).toMatchObject({ release: [ids] });
    expect(take(flow, again(1_100, large.length, 3))).toMatchObject({ release: [ids], allowed: [{}] });
  });
  it('holds what differs, what has a gap, and what comes with other packets', () => {
    const other = Buffer.from(large);
    other[40] = (other[40] as number) ^ 1;
    const zero = Buffer.concat([
      Buffer.from([0xd0, 0, 0, 0, 1, 8]),
      OTHER,
      Buffer.from([0, 0x40, 20]),
      Buffer.alloc(20),
    ]);
    for (const datagram of [
      initial(cryptoFrame(0, other.subarray(0, 900)), { dcid: OTHER }),
      initial(cryptoFrame(100, large.subarray(100, 900)), { dcid: OTHER }),
      Buffer.concat([initial(cryptoFrame(0, large.subarray(0, 900)), { dcid: OTHER }), zero]),
    ])
      expect(take(begun(), datagram).release).toEqual([]);
  });
  it('of another name is refused when it is complete', () => {
    const flow = begun();
    const evil = helloMessage(serverNames('evil.example'), padding(1_200));
    const same = evil.findIndex((byte, i) => byte !== large[i]);
    expect(take(flow, initial(cryptoFrame(0, evil.subarray(0, same)), { dcid: OTHER })).release).toEqual([
      ids,
    ]);
    expect(
      take(flow, initial(cryptoFrame(same, evil.subarray(same)), { dcid: OTHER, number: 1 })),
    ).toMatchObject({ release: [], refusal: { reason: 'server-name' } });
  });
});

describe('refused', () => {
  it('connections that push out one whose hello is not complete', () => {
    const flow = new QuicFlow(judge);
    const half = Math.floor(bad.length / 2);
    const evil = take(flow, initial(cryptoFrame(0, bad.subarray(0, half))));
    expect(evil.release).toEqual([]);
    const id = ids;
    for (let n = 0; n < 20; n++) {
      const outcome = take(flow, initial(cryptoFrame(0, good), { dcid: Buffer.alloc(8, 16 + n) }));
      expect(outcome.release).not.toContain(id);
    }
  });
  it.each([
    ['another name', initial(cryptoFrame(0, bad)), 'server-name'],
    ['another name in version 2', initial(cryptoFrame(0, bad), { version: V2 }), 'server-name'],
    ['a short header', Buffer.concat([Buffer.from([0x40]), Buffer.alloc(40)]), 'quic'],
    ['an unknown version', Buffer.concat([Buffer.from('c0ff000020', 'hex'), Buffer.alloc(1_200)]), 'quic'],
    ['version negotiation', Buffer.concat([Buffer.from('c000000000', 'hex'), Buffer.alloc(40)]), 'quic'],
    ['noise', Buffer.alloc(40, 0xfe), 'quic'],
    ['an Initial with another key', initial(cryptoFrame(0, good), { keyId: OTHER }), 'quic'],
    ['a frame that has no place there', initial(Buffer.from([8, 0, 1, 1])), 'quic'],
    [
      'a frame that has no place there behind a permitted hello',
      initial(Buffer.concat([cryptoFrame(0, good), Buffer.from([8, 0, 1, 1])])),
      'quic',
    ],
    [
      'an Initial behind padding',
      Buffer.concat([
        initial(cryptoFrame(0, good)),
        Buffer.alloc(20),
        initial(cryptoFrame(0, bad), { dcid: OTHER }),
      ]),
      'quic',
    ],
    [
      '0-RTT first',
      Buffer.concat([Buffer.from([0xd0, 0, 0, 0, 1, 8]), DCID, Buffer.from([0, 0x40, 20]), Buffer.alloc(20)]),
      'quic',
    ],
  ])('%s', (_, payload, reason) => {
    expect(take(new QuicFlow(judge), payload)).toMatchObject({ release: [], refusal: { reason } });
  });
  it('a hello whose parts overlap with other bytes', () => {
    const flow = new QuicFlow(judge);
    take(flow, initial(cryptoFrame(0, good.subarray(0, -5))));
    expect(take(flow, initial(cryptoFrame(60, bad.subarray(60)), { number: 1 })).refusal?.detail).toMatch(
      /other bytes/,
    );
  });
  it('after a permitted one: another connection from the same port, and what follows a Retry', () => {
    for (const dcid of [OTHER, DCID]) {
      const flow = new QuicFlow(judge);
      take(flow, initial(cryptoFrame(0, good)));
      expect(take(flow, initial(cryptoFrame(0, bad), { dcid, number: 1 }))).toMatchObject({
        release: [],
        refusal: {},
      });
    }
  });
  it('a hello whose first part was forgotten, because other connections came in between', () => {
    const [other, evil] = ['good.example', 'evil.example'].map((n) =>
      helloMessage(serverNames(n), padding(900)),
    );
    if (!other || !evil) throw new Error('no hellos');
    const parts = [
      initial(cryptoFrame(0, evil.subarray(0, 700))),
      ...Array.from({ length: 12 }, (_, n) => initial(cryptoFrame(0, good), { dcid: Buffer.alloc(8, n) })),
      initial(cryptoFrame(700, other.subarray(700)), { number: 1 }),
      initial(cryptoFrame(0, other.subarray(0, 700)), { number: 2 }),
    ];
    const flow = new QuicFlow(judge);
    expect(parts.flatMap((payload) => take(flow, payload).release)).toEqual([]);
  });
  it('other bytes for a connection that was permitted, after many others', () => {
    const flow = new QuicFlow(judge);
    for (let n = 0; n < 12; n++) take(flow, initial(cryptoFrame(0, good), { dcid: Buffer.alloc(8, n) }));
    const other = helloMessage(serverNames('good.example'), padding(9));
    expect(
      take(flow, initial(cryptoFrame(0, other), { dcid: Buffer.alloc(8, 0), number: 1 })).release,
    ).toEqual([]);
  });
  it('a second hello of one connection', () => {
    const flow = new QuicFlow(judge);
    take(flow, initial(cryptoFrame(0, good)));
    expect(take(flow, initial(cryptoFrame(good.length, bad), { number: 1 })).refusal?.reason).toBe(
      'server-name',
    );
  });
  it('a second hello that begins behind a gap, as long as it is not complete', () => {
    const flow = new QuicFlow(judge);
    const frames = [cryptoFrame(0, good), cryptoFrame(good.length + 20, bad.subarray(20))];
    expect(take(flow, initial(Buffer.concat(frames))).release).toEqual([]);
    const rest = cryptoFrame(good.length, bad.subarray(0, 20));
    expect(take(flow, initial(rest, { number: 1 }))).toMatchObject({
      release: [],
      refusal: { reason: 'server-name' },
    });
  });
  it('an Initial packet with keys that no packet has shown, without the end of the flow', () => {
    const flow = new QuicFlow(judge);
    take(flow, initial(cryptoFrame(0, good)));
    const unknown = initial(cryptoFrame(0, bad), { dcid: OTHER, keyId: Buffer.alloc(8, 1) });
    expect(take(flow, unknown)).toMatchObject({ release: [], drop: [ids] });
    expect(take(flow, initial(ACK, { number: 1 })).release).toEqual([ids]);
  });
  it('what is not complete in 3 s', () => {
    const flow = new QuicFlow(judge);
    take(flow, initial(cryptoFrame(0, good.subarray(0, 50))));
    expect(flow.expire(QUIC_HELLO_MS - 1)).toBeUndefined();
    expect(flow.expire(QUIC_HELLO_MS)?.refusal?.detail).toMatch(/within 3 s/);
  });
});

describe('datagrams of any kind', () => {
  it('are taken without an exception, and release nothing that was not permitted', () => {
    const random = new Random(5);
    const seed = initial(cryptoFrame(0, bad));
    for (let round = 0; round < 1_000; round++) {
      const flow = new QuicFlow(judge);
      const bytes = Buffer.from(seed.subarray(0, 1 + random.below(seed.length)));
      for (let n = random.below(4); n > 0; n--) bytes[random.below(bytes.length)] = random.below(256);
      expect(take(flow, bytes).release).toEqual([]);
    }
  });
});
