import { encode } from 'dns-packet';
import { beforeEach, describe, expect, it } from 'vitest';
import type { ReplyBasis, Revision } from '../../../src/dns/client-query.js';
import { KeptReplies, type QueryTime } from '../../../src/dns/kept-replies.js';
import { Ledger } from '../../../src/dns/ledger.js';
import { decodeMessage } from '../../../src/dns/wire.js';

const WALL = 1_700_000_000_000;
const at = (ms: number): QueryTime => ({ monotonic: 5_000 + ms, wall: WALL + ms });
const ADDRESSES = ['198.51.100.1', '198.51.100.2'];
const until = WALL + 3_600_000;

/** A query as bytes: its flags, spelling and EDNS can differ. */
const query = (
  id: number,
  change: { name?: string; type?: 'A' | 'AAAA'; flags?: number; edns?: number } = {},
) =>
  encode({
    type: 'query',
    id,
    flags: change.flags ?? 0x0100,
    questions: [{ type: change.type ?? 'A', name: change.name ?? 'hot.test' }],
    additionals:
      change.edns === undefined
        ? []
        : [
            {
              type: 'OPT',
              name: '.',
              udpPayloadSize: change.edns,
              extendedRcode: 0,
              ednsVersion: 0,
              flags: 0,
              flag_do: false,
              options: [],
            },
          ],
  });
const reply = (id: number, ttl = 60): Buffer =>
  encode({
    type: 'response',
    id,
    flags: 0x0180,
    questions: [{ type: 'A', name: 'hot.test' }],
    answers: ADDRESSES.map((data, n) => ({ type: 'A', name: 'hot.test', ttl: ttl + n, data })),
  });

/** The set of the kernel, of which each call of `ensure` is counted. */
class Sets {
  isWhole = true;
  fails = false;
  ensured = 0;

  repeated(): { ensure(): boolean } {
    return {
      ensure: () => {
        this.ensured++;
        if (this.fails) throw new Error('the kernel sent no acknowledgement');
        return this.isWhole;
      },
    };
  }
}

let revision: Revision;
let ledger: Ledger;
let sets: Sets;
let kept: KeptReplies;
const record = (name: string, address: string, end = until, container = 'c'): void =>
  void ledger.record({ container, name, address, until: end, shownUntil: end });

function basis(change: Partial<ReplyBasis> = {}, container = 'c'): ReplyBasis {
  return {
    revision,
    madeAt: at(0).monotonic,
    freshUntil: at(60_000).monotonic,
    permission: {
      members: new Map([['set', new Map(ADDRESSES.map((a) => [a, until]))]]),
      stamps: ledger.stamps(container, ADDRESSES),
      freshUntil: until - 5_000,
    },
    event: { container, name: 'hot.test', type: 'A', verdict: 'allow', reason: 'hot.test' },
    ...change,
  };
}
const keep = (change: Partial<ReplyBasis> = {}, message = query(1), bytes = reply(1)): void =>
  kept.keep('c', message, { bytes, basis: basis(change) }, revision);

/** The reply to a query somewhere in a greater buffer, as it is written into another one. */
function ask(ms: number, message = query(77), container = 'c', now = revision): Buffer | undefined {
  const bytes = Buffer.concat([Buffer.alloc(9, 0xee), message, Buffer.alloc(9, 0xee)]);
  const into = { bytes: Buffer.alloc(1300, 0xdd), at: 20 };
  const found = kept.answer(container, { bytes, start: 9, end: 9 + message.length }, now, at(ms), into);
  if (found === undefined) return undefined;
  expect(into.bytes.subarray(0, 20)).toEqual(Buffer.alloc(20, 0xdd));
  expect(into.bytes[20 + found.bytes.length]).toBe(0xdd);
  return into.bytes.subarray(20, 20 + found.bytes.length);
}

beforeEach(() => {
  revision = { policy: 1, resolvers: 1 };
  ledger = new Ledger({ perName: 3, perContainer: 100 });
  for (const address of ADDRESSES) record('hot.test', address);
  sets = new Sets();
  kept = new KeptReplies(sets);
});

describe('a kept reply', () => {
  it('is the same but for the ID: its TTLs do not tell its age', () => {
    keep();
    expect(ask(0)?.subarray(2)).toEqual(reply(1).subarray(2));
    const later = ask(12_500) ?? Buffer.alloc(0);
    expect(decodeMessage(later).id).toBe(77);
    expect(later.subarray(2)).toEqual(reply(1).subarray(2));
  });

  it('is forgotten with its time, also if nobody asks again', () => {
    keep();
    kept.purge(at(0).monotonic);
    expect(ask(0)).toBeDefined();
    kept.purge(at(60_000).monotonic);
    expect(ask(0)).toBeUndefined();
  });

  it('keeps its own bytes only, not the piece of memory that they were cut from', () => {
    keep();
    const space = { bytes: Buffer.alloc(1300), at: 0 };
    const { bytes } =
      kept.answer('c', { bytes: query(1), start: 0, end: query(1).length }, revision, at(0), space) ?? {};
    expect(bytes?.buffer.byteLength).toBe(reply(1).length);
  });

  it.each([
    ['another type', query(1, { type: 'AAAA' })],
    ['another spelling', query(1, { name: 'Hot.test' })],
    ['other flags: CD', query(1, { flags: 0x0110 })],
    ['other flags: AD', query(1, { flags: 0x0120 })],
    ['other flags: no RD', query(1, { flags: 0 })],
    ['EDNS', query(1, { edns: 1232 })],
    ['one byte more', Buffer.concat([query(1), Buffer.from([0])])],
    ['one byte less', query(1).subarray(0, -1)],
    ['nothing', Buffer.alloc(0)],
    ['one byte', Buffer.from([7])],
  ])('answers no query with %s', (_, message) => {
    keep();
    expect(ask(0, message)).toBeUndefined();
    expect(ask(0)).toBeDefined();
  });

  it('is for no other container', () => {
    keep();
    expect(ask(0, query(1), 'other')).toBeUndefined();
  });

  it('makes sure of the kernel before each reply', () => {
    keep();
    ask(0);
    ask(1);
    expect(sets.ensured).toBe(2);
  });
});

describe('a kept reply is not sent any more', () => {
  it.each([
    ['under another revision', () => ask(0, query(2), 'c', { ...revision }), false],
    ['when its container was forgotten', () => kept.forget('c'), false],
    ['when all are dropped', () => kept.clear(), false],
    ['when another name keeps an address for longer', () => record('other.test', '198.51.100.2'), false],
    ['when the same name does', () => record('hot.test', '198.51.100.1', until + 1), false],
    ['when a flow extends an address', () => ledger.extend('c', '198.51.100.1', until + 1, WALL), false],
    [
      'when the ledger gives up one of its facts',
      () => {
        record('hot.test', '198.51.100.3', until + 1);
        record('hot.test', '198.51.100.4', until + 1);
      },
      false,
    ],
    ['when a fact was purged', () => ledger.purge(until + 60_000), false],
    ['when the ledger has forgotten the container', () => ledger.forget('c'), false],
    [
      'when the ledger has forgotten and recorded it again',
      () => {
        ledger.forget('c');
        for (const address of ADDRESSES) record('hot.test', address);
      },
      false,
    ],
    ['when the kernel has lost a member', () => (sets.isWhole = false), false],
    ['when the kernel does not answer', () => (sets.fails = true), false],
    ['(not so: another address is recorded)', () => record('other.test', '198.51.100.9'), true],
    [
      '(not so: another container records it)',
      () => record('hot.test', '198.51.100.1', until + 9, 'd'),
      true,
    ],
    ['(not so: the same is recorded again)', () => record('hot.test', '198.51.100.1'), true],
    ['(not so: another container is forgotten)', () => kept.forget('other'), true],
  ])('%s', (_, change, isSent) => {
    keep();
    expect(ask(0)).toBeDefined();
    change();
    expect(ask(1) !== undefined).toBe(isSent);
    sets.isWhole = true;
    sets.fails = false;
    expect(ask(2) !== undefined).toBe(isSent);
  });

  it('when the answer of the upstream has ended, or after five minutes', () => {
    keep({ freshUntil: at(3_000).monotonic });
    expect(ask(2_999)).toBeDefined();
    expect(ask(3_000)).toBeUndefined();
    keep({ freshUntil: Number.POSITIVE_INFINITY }, query(1), reply(1, 86_400));
    expect(ask(299_999)).toBeDefined();
    expect(ask(300_000)).toBeUndefined();
  });

  it('when the query would be recorded with a later end', () => {
    const permission = { ...basis().permission, freshUntil: WALL + 4_000 };
    keep({ permission });
    expect(ask(4_000)).toBeDefined();
    expect(ask(4_001)).toBeUndefined();
  });
});

describe('what is not kept', () => {
  it('replies of an earlier revision', () => {
    const early = basis();
    revision = { policy: 2, resolvers: 1 };
    kept.keep('c', query(1), { bytes: reply(1), basis: early }, revision);
    expect(ask(0)).toBeUndefined();
  });
  it('replies with an address that the ledger had no room for, or whose sets need more than the kernel', () => {
    keep({ permission: { ...basis().permission, stamps: ledger.stamps('c', ['198.51.100.77']) } });
    expect(ask(0)).toBeUndefined();
    kept = new KeptReplies({ repeated: () => undefined });
    keep();
    expect(ask(0)).toBeUndefined();
  });
  it('replies with an answer that may not be kept, and long queries', () => {
    keep({ freshUntil: at(0).monotonic });
    expect(ask(0)).toBeUndefined();
    const long = Buffer.concat([query(1), Buffer.alloc(600)]);
    keep({}, long);
    expect(ask(0, long)).toBeUndefined();
  });
  it('more than its share: a container loses its own oldest replies, and no other one does', () => {
    kept.keep('d', query(1), { bytes: reply(1), basis: basis({}) }, revision);
    const asked = Array.from({ length: 1_000 }, (_, i) => query(1, { name: `n${i}.test` }));
    for (const message of asked) keep({}, message);
    const found = asked.filter((message) => ask(0, message) !== undefined);
    expect(found.length).toBeGreaterThan(100);
    expect(found.length).toBeLessThan(400);
    expect(found.at(-1)).toEqual(asked.at(-1));
    expect(ask(0, query(3), 'd')).toBeDefined();
  });
});
