import { describe, expect, it } from 'vitest';
import { asksForAnotherHello, MAX_HELLO, readHelloRecords } from '../../../src/connections/client-hello.js';
import { Random } from '../../fuzz/random.js';
import {
  earlyData,
  encryptedHello,
  extension,
  helloFor,
  helloMessage,
  padding,
  records,
  serverNames,
} from './hello-maker.js';

const read = (bytes: Buffer) => readHelloRecords(bytes);
const nameIn = (bytes: Buffer): unknown => {
  const reading = read(bytes);
  return reading.kind === 'read' ? reading.value.name : reading;
};
const refusedFor = (bytes: Buffer): string => {
  const reading = read(bytes);
  return reading.kind === 'refused' ? `${reading.why}: ${reading.detail}` : reading.kind;
};

describe('the name in a hello', () => {
  it('is read from one record, and where the hello ends', () => {
    const hello = helloFor('Api.Example.com');
    const reading = read(Buffer.concat([hello, Buffer.from('more')]));
    expect(reading).toEqual({
      kind: 'read',
      value: { name: { kind: 'name', name: 'api.example.com' }, encrypted: undefined, hasEarlyData: false },
      end: hello.length,
    });
  });
  it.each([1, 2, 3, 5, 17, 100])('is read from records of %i bytes', (size) => {
    const bytes = records(helloMessage(serverNames('api.example.com')), size);
    expect(nameIn(bytes)).toEqual({ kind: 'name', name: 'api.example.com' });
  });
  it('is none without the extension, and in a hello without any', () => {
    expect(nameIn(records(helloMessage(padding(10))))).toEqual({ kind: 'none' });
    const message = helloMessage();
    const short = Buffer.from(message.subarray(0, message.length - 2));
    short.writeUIntBE(short.length - 4, 1, 3);
    expect(nameIn(records(short))).toEqual({ kind: 'none' });
  });
  it.each([
    ['192.0.2.1', 'an address as name'],
    ['2001:db8::1', 'an address as name'],
    ['0x7f.1', 'an address as name'],
    ['a.example.1', 'an address as name'],
    ['a.example.', 'no host name'],
    ['a..example', 'no host name'],
    ['a b.example', 'no host name'],
    ['a.example\0.evil.example', 'no host name'],
    ['', 'no host name'],
    ['bücher.example', 'no host name'],
    [`${'a'.repeat(64)}.example`, 'no host name'],
  ])('%j is %s', (name, why) => {
    expect(nameIn(helloFor(name))).toMatchObject({ kind: 'invalid', why });
  });
  it('of which there are two is refused by name', () => {
    expect(nameIn(records(helloMessage(serverNames('a.example', 'b.example'))))).toEqual({
      kind: 'invalid',
      text: 'a.example',
      why: 'several server names',
    });
  });
});

describe('a hello that is not complete', () => {
  it('needs more bytes at every length, and never fewer than it has', () => {
    const whole = records(helloMessage(serverNames('api.example.com')), 50);
    for (let length = 0; length < whole.length; length++) {
      const reading = read(whole.subarray(0, length));
      expect(reading.kind).toBe('more');
      if (reading.kind === 'more') expect(reading.need).toBeGreaterThan(length);
    }
  });
});

/** The message with a byte behind its extensions, which its length has. */
function longer(message: Buffer): Buffer {
  const out = Buffer.concat([message, Buffer.alloc(1)]);
  out.writeUIntBE(out.length - 4, 1, 3);
  return out;
}
describe('what is no hello', () => {
  it.each([
    ['HTTP', Buffer.from('GET / HTTP/1.1\r\n\r\n'), /^not-tls/],
    ['SSH', Buffer.from('SSH-2.0-OpenSSH\r\n'), /^not-tls/],
    ['the hello of SSL 2', Buffer.from('802e0103010015', 'hex'), /^not-tls/],
    ['an alert', Buffer.from('15030100020228', 'hex'), /^not-tls/],
    ['a record of no bytes', Buffer.from('1603010000', 'hex'), /^not-tls/],
    ['a record that is too long', Buffer.from('1603014001', 'hex'), /^not-tls/],
    ['another message', Buffer.from('160301000402000000', 'hex'), /^not-tls/],
  ])('%s is refused', (_, bytes, why) => {
    expect(refusedFor(bytes)).toMatch(why);
  });
  it.each([
    [
      'an extension twice',
      records(helloMessage(serverNames('a.example'), serverNames('b.example'))),
      /extension 0 twice/,
    ],
    [
      'bytes after the name',
      records(helloMessage(extension(0, Buffer.from('0003000000ff', 'hex')))),
      /malformed/,
    ],
    ['an empty list of names', records(helloMessage(extension(0, Buffer.from('0000', 'hex')))), /malformed/],
    [
      'a name of another type',
      records(helloMessage(extension(0, Buffer.from('000401000161', 'hex')))),
      /type 1/,
    ],
    ['an inner hello', records(helloMessage(extension(0xfe0d, Buffer.from([1])))), /inner hello/],
    ['ESNI', records(helloMessage(extension(0xffce, Buffer.alloc(4)))), /before ECH/],
    [
      'another record type within',
      Buffer.concat([
        records(helloMessage(serverNames('a.example')).subarray(0, 20)),
        records(Buffer.from([1]), 1, 23),
      ]),
      /malformed/,
    ],
    [
      'a message behind it in its record',
      records(Buffer.concat([helloMessage(serverNames('a.example')), Buffer.from([1, 0, 0, 0])])),
      /goes on after it/,
    ],
    ['bytes behind the extensions', records(longer(helloMessage(serverNames('a.example')))), /the hello/],
  ])('%s is malformed', (_, bytes, why) => {
    expect(refusedFor(bytes)).toMatch(why);
  });
  it('is too large at once, by what it announces', () => {
    expect(
      refusedFor(records(helloMessage(serverNames('a.example'), padding(MAX_HELLO))).subarray(0, 9)),
    ).toMatch(/too-large/);
  });
});

describe('extensions', () => {
  it('show early data and the number of an encrypted hello', () => {
    const reading = read(records(helloMessage(serverNames('a.example'), encryptedHello(77), earlyData)));
    expect(reading).toMatchObject({ value: { hasEarlyData: true, encrypted: { configId: 77 } } });
  });
});

describe('the answer of a server', () => {
  const retry = Buffer.concat([
    Buffer.from('16030300580200005403 03'.replace(/ /g, ''), 'hex'),
    Buffer.from('cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c', 'hex'),
  ]);
  it('asks for another hello by its random alone', () => {
    expect(asksForAnotherHello(retry)).toBe(true);
    const hello = Buffer.from(retry);
    hello[20] = 0;
    expect(asksForAnotherHello(hello)).toBe(false);
    expect(asksForAnotherHello(Buffer.from('15030300020228', 'hex'))).toBe(false);
  });
  it('is not known from fewer bytes', () => {
    for (let n = 0; n < retry.length; n++) expect(asksForAnotherHello(retry.subarray(0, n))).toBeUndefined();
  });
  it('counts as asking when it is split so that it cannot be recognized', () => {
    expect(asksForAnotherHello(Buffer.from('160303000402000054', 'hex'))).toBe(true);
  });
});

describe('bytes of any kind', () => {
  it('are read or refused, never with an exception', () => {
    const random = new Random(12);
    const seeds = [
      helloFor('api.example.com'),
      records(helloMessage(serverNames('x.example'), encryptedHello(1), earlyData), 40),
    ];
    for (let round = 0; round < 3_000; round++) {
      const bytes = Buffer.from(seeds[round % 2] as Buffer);
      for (let n = random.below(6); n >= 0; n--) bytes[random.below(bytes.length)] = random.below(256);
      const cut = bytes.subarray(0, random.below(bytes.length + 1));
      expect(['more', 'read', 'refused']).toContain(read(cut).kind);
    }
  });
});
