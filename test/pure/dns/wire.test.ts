import { type Answer, decode, encode } from 'dns-packet';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseQuery } from '../../../src/dns/client-query.js';
import {
  decodeMessage,
  encodeMessage,
  flag,
  isPlainName,
  isWithin,
  nameToWire,
  readName,
  WireError,
} from '../../../src/dns/wire.js';

const answers: Answer[] = [
  { type: 'CNAME', name: 'www.example.com', ttl: 300, data: 'edge.example.net' },
  { type: 'A', name: 'edge.example.net', ttl: 60, data: '198.51.100.7' },
  { type: 'AAAA', name: 'edge.example.net', ttl: 60, data: '2001:db8::7' },
  { type: 'MX', name: 'example.com', ttl: 5, data: { preference: 10, exchange: 'mail.example.com' } },
  {
    type: 'SRV',
    name: '_x._tcp.example.com',
    ttl: 5,
    data: { port: 1, priority: 2, weight: 3, target: 'a.b' },
  },
  { type: 'TXT', name: 'example.com', ttl: 5, data: [Buffer.from('v=spf1')] },
  {
    type: 'SOA',
    name: 'example.com',
    ttl: 5,
    data: {
      mname: 'a.example.com',
      rname: 'b.example.com',
      serial: 1,
      refresh: 2,
      retry: 3,
      expire: 4,
      minimum: 5,
    },
  },
  {
    type: 'NAPTR',
    name: 'example.com',
    ttl: 5,
    data: {
      order: 1,
      preference: 2,
      flags: 'S',
      services: 'SIP+D2U',
      regexp: '',
      replacement: '_sip._udp.example.com',
    },
  },
];

function throwsOnlyWireError(f: () => unknown): void {
  try {
    f();
  } catch (error) {
    expect(error).toBeInstanceOf(WireError);
  }
}

const bytes = fc.uint8Array({ maxLength: 600 }).map((b) => Buffer.from(b));
/** A header with small counts, so that random bytes reach the record reader. */
const almostMessage = fc
  .tuple(fc.nat(2), fc.nat(3), fc.nat(2), fc.nat(2), bytes)
  .map(([qd, an, ns, ar, rest]) => {
    const header = Buffer.alloc(12);
    [qd, an, ns, ar].forEach((n, i) => {
      header.writeUInt16BE(n, 4 + 2 * i);
    });
    return Buffer.concat([header, rest]);
  });

describe('messages', () => {
  it('reads what dns-packet writes, and writes what dns-packet reads', () => {
    const packet = encode({
      type: 'response',
      id: 7,
      questions: [{ type: 'A', name: 'www.example.com' }],
      answers,
    });
    const message = decodeMessage(packet);
    const ours = encodeMessage(message);
    expect(decode(ours).answers).toEqual(decode(packet).answers);
    expect(ours.length).toBeLessThan(packet.length);
    expect(decodeMessage(ours)).toEqual(message);
  });

  it('has names inside records in memory of their own, which a record that is cached keeps', () => {
    const [cname] = decodeMessage(encode({ type: 'response', answers })).answers;
    expect(cname?.data.buffer.byteLength).toBe(cname?.data.length);
  });

  it('never throws anything but WireError, on any bytes', () => {
    fc.assert(
      fc.property(fc.oneof(bytes, almostMessage), (b) => throwsOnlyWireError(() => decodeMessage(b))),
    );
    fc.assert(fc.property(fc.oneof(bytes, almostMessage), (b) => void parseQuery(b)));
  });

  it('survives cut and flipped messages', () => {
    const packet = encodeMessage(decodeMessage(encode({ type: 'response', id: 7, answers })));
    fc.assert(
      fc.property(fc.nat(packet.length - 1), fc.nat(255), fc.nat(packet.length), (at, value, end) => {
        const bad = Buffer.from(packet.subarray(0, end));
        if (at < bad.length) bad[at] = value;
        throwsOnlyWireError(() => encodeMessage(decodeMessage(bad)));
      }),
    );
  });

  it('cuts answers at the limit and says so', () => {
    const many = Array.from(
      { length: 80 },
      (_, i): Answer => ({ type: 'A', name: 'x.org', ttl: 1, data: `198.51.100.${i}` }),
    );
    const message = decodeMessage(
      encode({ type: 'response', questions: [{ type: 'A', name: 'x.org' }], answers: many }),
    );
    const cut = encodeMessage(message, 512);
    expect(cut.length).toBeLessThanOrEqual(512);
    expect(decodeMessage(cut).flags & flag.TC).toBe(flag.TC);
    expect(decodeMessage(cut).answers.length).toBe(30);
    expect(decodeMessage(encodeMessage(message)).answers.length).toBe(80);
  });
});

describe('names', () => {
  it('keep any bytes', () => {
    const label = fc.uint8Array({ minLength: 1, maxLength: 63 });
    fc.assert(
      fc.property(fc.array(label, { maxLength: 3 }), (labels) => {
        const wire = Buffer.concat([
          ...labels.flatMap((l) => [Buffer.from([l.length]), Buffer.from(l)]),
          Buffer.from([0]),
        ]);
        expect(nameToWire(readName(wire, 0).name)).toEqual(wire);
      }),
    );
  });

  it('never take a dot within a label for a border', () => {
    const { name } = readName(Buffer.from('\x0bapi.example\x03com\0', 'latin1'), 0);
    expect(name).toBe('api\\046example.com');
    expect(isPlainName(name)).toBe(false);
    expect(isPlainName('a_b.x-y.com')).toBe(true);
    expect(isPlainName('a b.com')).toBe(false);
    expect(isPlainName('')).toBe(false);
  });

  it.each([
    ['a pointer to itself', Buffer.from([0xc0, 0])],
    ['a pointer ahead', Buffer.from([0xc0, 2, 0])],
    ['a reserved label type', Buffer.from([0x80, 0])],
    ['no end', Buffer.from([1, 97])],
    ['a label past the end', Buffer.from([9, 97, 0])],
  ])('refuse %s', (_, wire) => {
    expect(() => readName(wire, 0)).toThrow(WireError);
  });

  it('refuse more than 255 octets', () => {
    const label = 'a'.repeat(63);
    expect(() => nameToWire([label, label, label, label].join('.'))).toThrow(WireError);
    expect(() => nameToWire('a..b')).toThrow(WireError);
  });

  it('lie within a zone by whole labels', () => {
    expect(isWithin('a.corp.example', 'corp.example')).toBe(true);
    expect(isWithin('corp.example', 'corp.example')).toBe(true);
    expect(isWithin('evilcorp.example', 'corp.example')).toBe(false);
    expect(isWithin('anything', '')).toBe(true);
  });
});
