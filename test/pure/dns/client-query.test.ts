import { type DecodedPacket, decode, encode, type OptAnswer } from 'dns-packet';
import { describe, expect, it } from 'vitest';
import { stripServiceParams } from '../../../src/dns/answer-filter.js';
import {
  denied,
  encodeReply,
  noData,
  parseQuery,
  type Query,
  udpLimit,
} from '../../../src/dns/client-query.js';

/** The types of dns-packet lack the response code and options it does not know. */
type Decoded = DecodedPacket & { rcode: string };

function ask(name: string, edns?: number): Query {
  const opt: OptAnswer = {
    type: 'OPT',
    name: '.',
    udpPayloadSize: edns ?? 0,
    extendedRcode: 0,
    ednsVersion: 0,
    flags: 0,
    flag_do: false,
    options: [{ code: 8, ip: '192.0.2.0', sourcePrefixLength: 24 }],
  };
  const message = encode({
    type: 'query',
    id: 77,
    flags: 0x0100,
    questions: [{ type: 'A', name }],
    additionals: edns === undefined ? [] : [opt],
  });
  const parsed = parseQuery(message);
  if (!parsed.ok) throw new Error(parsed.why);
  return parsed.query;
}

describe('queries', () => {
  it('are lower-cased for decisions and echoed as asked', () => {
    const query = ask('ApI.ExAmple.com', 4096);
    expect(query.name).toBe('api.example.com');
    const reply = decode(encodeReply(query, denied(query, 'no entry allows this name'), 512)) as Decoded;
    expect(reply.questions?.[0]?.name).toBe('ApI.ExAmple.com');
    expect(reply.id).toBe(77);
  });

  it.each([
    ['a response', (b: Buffer) => b.writeUInt16BE(0x8180, 2), undefined],
    ['an UPDATE', (b: Buffer) => b.writeUInt16BE(5 << 11, 2), 'NOTIMP'],
    ['no question', (b: Buffer) => b.writeUInt16BE(0, 4), 'FORMERR'],
    ['two questions', (b: Buffer) => b.writeUInt16BE(2, 4), 'FORMERR'],
  ])('%s is refused', (_, spoil, code) => {
    const message = encode({ type: 'query', id: 1, questions: [{ type: 'A', name: 'a.b' }] });
    spoil(message);
    const parsed = parseQuery(message);
    expect(parsed.ok).toBe(false);
    if (parsed.ok) return;
    expect(parsed.reply && (decode(parsed.reply) as Decoded).rcode).toBe(code);
  });

  it('too short for a header get no reply', () => {
    expect(parseQuery(Buffer.alloc(11))).toEqual({ ok: false, why: 'shorter than a header' });
  });

  it('say how much they take over UDP', () => {
    expect(udpLimit(ask('a.b'))).toBe(512);
    expect(udpLimit(ask('a.b', 900))).toBe(900);
    expect(udpLimit(ask('a.b', 65_535))).toBe(1232);
    expect(udpLimit(ask('a.b', 1))).toBe(512);
  });
});

describe('denials', () => {
  it('are NXDOMAIN, authoritative, with a SOA of 5 s and EDE 18, and echo no client option', () => {
    const query = ask('www.example.com', 1232);
    const reply = decode(encodeReply(query, denied(query, 'no entry allows this name'), 512)) as Decoded;
    expect(reply.rcode).toBe('NXDOMAIN');
    expect(reply.flag_aa).toBe(true);
    expect(reply.flag_rd).toBe(true);
    expect(reply.authorities?.[0]).toMatchObject({
      type: 'SOA',
      name: 'example.com',
      ttl: 5,
      data: { minimum: 5 },
    });
    const opt = reply.additionals?.[0] as OptAnswer;
    expect(opt.options).toHaveLength(1);
    expect(opt.options[0]?.code).toBe(15);
    expect(opt.options[0]?.data?.readUInt16BE(0)).toBe(18);
    expect(opt.options[0]?.data?.toString('utf8', 2)).toBe('no entry allows this name');
  });

  it('carry no OPT for clients without EDNS', () => {
    const query = ask('com');
    const reply = decode(encodeReply(query, noData(query, 'withheld'), 512)) as Decoded;
    expect(reply.rcode).toBe('NOERROR');
    expect(reply.additionals).toEqual([]);
    expect(reply.authorities?.[0]?.name).toBe('.');
  });
});

describe('service bindings', () => {
  const param = (key: number, value: number[]): number[] => [0, key, 0, value.length, ...value];
  const record = (...params: number[][]): Buffer => Buffer.from([0, 1, 1, 97, 0, ...params.flat()]);

  it('lose ECH and address hints, and keep the rest', () => {
    const alpn = param(1, [2, 104, 50]);
    expect(
      stripServiceParams(
        record(alpn, param(4, [1, 2, 3, 4]), param(5, [9, 9]), param(6, new Array(16).fill(1))),
      ),
    ).toEqual(record(alpn));
  });

  it('go when clients must understand what is taken out, or when malformed', () => {
    expect(stripServiceParams(record(param(0, [0, 5]), param(5, [9])))).toBeUndefined();
    expect(stripServiceParams(record([0, 1, 0, 9, 1]))).toBeUndefined();
    expect(stripServiceParams(Buffer.from([0]))).toBeUndefined();
    expect(stripServiceParams(record([0, 1]))).toBeUndefined();
  });
});
