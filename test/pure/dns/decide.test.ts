import { describe, expect, it } from 'vitest';
import { followChain, refusedAnswer } from '../../../src/dns/answer-filter.js';
import type { Query } from '../../../src/dns/client-query.js';
import { decide } from '../../../src/dns/decide.js';

import { classIn, rcode, type } from '../../../src/dns/dns-constants.js';
import type { NameDecision } from '../../../src/dns/names-policy.js';
import { QueryPipeline, type QueryPipelineOptions } from '../../../src/dns/query-pipeline.js';
import { nameToWire, type ResourceRecord, reverseAddress } from '../../../src/dns/wire.js';
import { parseCidr, type Range } from '../../../src/lib/ip.js';
import { publicRanges } from '../../../src/lib/special-use.js';

import { NO_THREATS, type ThreatHit } from '../../../src/policy/threat.js';

const HIT: ThreatHit = {
  feed: 'f',
  listed: 'bad.example',
  line: 3,
  positions: 'line',
  since: 0,
  spared: null,
};
const allowed: NameDecision = {
  allow: true,
  entries: [],
  sets: [{ v4: 's4', v6: 's6' }],
  allowPrivate: false,
};
const refused: NameDecision = { allow: false, entries: [], sets: [], allowPrivate: false };
/** Names that entries allow; what leads around the resolver among them, and names below it. */
const ALLOWED = [
  'api.github.com',
  'api.bad.example',
  'use-application-dns.net',
  'x.use-application-dns.net',
  'resolver.arpa',
  '_dns.resolver.arpa',
];
const policy = {
  decide: (_: string, name: string) => (ALLOWED.includes(name) ? allowed : refused),
  deniedName: () => undefined,
  localName: (_: string, name: string) => (name === 'db' ? ['10.1.0.5', 'fd00::5'] : undefined),
  localAddress: (_: string, address: string) => (address === '10.1.0.5' ? 'db.app_default' : undefined),
  searchDomains: () => ['corp.example', 'lan'],
  threats: {
    ...NO_THREATS,
    blockedName: (name: string) => (['bad.example', 'api.bad.example'].includes(name) ? HIT : undefined),
    blockedAddress: (address: string) => (address === '198.51.100.66' ? HIT : undefined),
  },
};
const query = (name: string, number: number = type.A, klass = classIn): Query => ({
  id: 1,
  name,
  asked: name,
  type: number,
  class: klass,
  recursionDesired: true,
  authenticData: false,
  checkingDisabled: false,
});
const of = (name: string, number?: number, klass?: number) => decide(policy, 'c', query(name, number, klass));

it('a name that is denied is not resolved for open connections, nor asked of any server', async () => {
  const asked: string[] = [];
  const pipeline = new QueryPipeline({
    policy,
    upstream: {
      resolve: async ({ name }: { readonly name: string }) => {
        asked.push(name);
        throw new Error('no answer');
      },
    },
    log: { debug: () => undefined },
  } as unknown as QueryPipelineOptions);
  for (const name of ['other.example', 'bad.example', 'api.github.com'])
    await pipeline.learn('c', name, type.A);
  expect(asked).toEqual(['api.github.com']);
});

describe('a person may be asked', () => {
  const mayBeAsked = (name: string, reason?: string): boolean => {
    const says = reason === undefined ? refused : { ...refused, reason };
    const action = decide(
      { ...policy, decide: (_, n) => (ALLOWED.includes(n) ? allowed : says) },
      'c',
      query(name),
    );
    return action.kind === 'deny' && action.mayBeAsked === true;
  };
  it('about a name that no entry permits', () => expect(mayBeAsked('new.example.org')).toBe(true));
  it.each([
    ['a name that a feed lists', 'bad.example'],
    ['a name of one label', 'db2'],
    ['a name with a search suffix', 'api.github.com.lan'],
    ['a name that leads around the resolver', 'mask.resolver.arpa'],
    ['a name with bytes that no entry matches', 'a\u0000b.org'],
    ['an allowed name', 'api.github.com'],
  ])('not about %s', (_, name) => expect(mayBeAsked(name)).toBe(false));
  it('not about a name that is denied for another reason', () =>
    expect(mayBeAsked('new.example.org', 'its quota is reached')).toBe(false));
});

describe('decide', () => {
  it.each(['bad.example', 'api.bad.example'])('threats beat entries: %s', (name) => {
    for (const t of [type.A, type.MX, type.ANY])
      expect(of(name, t)).toMatchObject({ kind: 'deny', verdict: 'threat', counted: true });
  });

  it.each([type.A, type.AAAA, type.MX, type.SRV, type.HTTPS, 65_280, type.ANY])(
    'forwards type %i of an allowed name',
    (t) => {
      expect(of('api.github.com', t)).toEqual({ kind: 'forward', decision: allowed });
    },
  );

  it.each([
    'example.org',
    'xapi.github.com',
    'github',
    '',
    'api.github.com\\000',
    'api\\046github.com',
    'resolver.arpa',
  ])('denies "%s"', (name) => {
    expect(of(name).kind).toBe('deny');
  });

  it.each(ALLOWED.slice(2))('denies %s and what is below it even where an entry allows the name', (name) => {
    for (const t of [type.A, type.SVCB])
      expect(of(name, t)).toMatchObject({ kind: 'deny', reason: expect.stringContaining('bypass') });
  });

  it('does not count what a search list made of an allowed or local name', () => {
    expect(of('api.github.com.corp.example')).toMatchObject({ kind: 'deny', counted: false });
    expect(of('db.lan')).toMatchObject({ kind: 'deny', counted: false });
    expect(of('evil.lan')).toMatchObject({ kind: 'deny', counted: true });
    expect(of('lan')).toMatchObject({ kind: 'deny', counted: true });
  });

  it('answers neighbours and loopback, by family', () => {
    expect(of('db')).toEqual({ kind: 'addresses', addresses: ['10.1.0.5'] });
    expect(of('db', type.AAAA)).toEqual({ kind: 'addresses', addresses: ['fd00::5'] });
    expect(of('db', type.MX)).toEqual({ kind: 'addresses', addresses: [] });
    expect(of('localhost')).toEqual({ kind: 'addresses', addresses: ['127.0.0.1'] });
    expect(of('x.localhost', type.AAAA)).toEqual({ kind: 'addresses', addresses: ['::1'] });
  });

  it('answers the reverse of neighbours, and denies other addresses', () => {
    expect(of('5.0.1.10.in-addr.arpa', type.PTR)).toEqual({ kind: 'pointer', name: 'db.app_default' });
    expect(of('6.0.1.10.in-addr.arpa', type.PTR).kind).toBe('deny');
  });

  it('refuses other classes and types that are not for queries', () => {
    expect(of('api.github.com', type.TXT, 3)).toMatchObject({ kind: 'refuse', rcode: rcode.REFUSED });
    expect(of('api.github.com', type.AXFR)).toMatchObject({ kind: 'refuse', rcode: rcode.NOTIMP });
    expect(of('api.github.com', type.OPT)).toMatchObject({ kind: 'refuse', rcode: rcode.NOTIMP });
  });
});

describe('reverse names', () => {
  it('read both families', () => {
    expect(reverseAddress('5.0.1.10.in-addr.arpa')).toBe('10.1.0.5');
    expect(reverseAddress(`5.${'0.'.repeat(27)}8.b.d.0.1.0.0.2.ip6.arpa`)).toBeUndefined();
    expect(reverseAddress(`5.${'0.'.repeat(23)}8.b.d.0.1.0.0.2.ip6.arpa`)).toBe('2001:db8::5');
    expect(reverseAddress('0.1.10.in-addr.arpa')).toBeUndefined();
    expect(reverseAddress('example.com')).toBeUndefined();
  });
});

describe('rebinding', () => {
  const rules = {
    allowPrivate: false,
    covers: (a: string) => a === '10.1.0.9',
    hostAddresses: new Set(['203.0.113.1', '45.46.0.1']),
    inside: publicRanges(['45.45.0.0/24', '2a0b:45::/64'].map((text) => parseCidr(text) as Range)),
    threats: policy.threats,
  };
  it.each([
    '10.0.0.1',
    '127.0.0.1',
    '169.254.169.254',
    '0.0.0.0',
    '::1',
    'fe80::1',
    'fd00::1',
    '::ffff:1.2.3.4',
    '203.0.113.1',
    '45.45.0.7',
    '2a0b:45::7',
    '64:ff9b::2d2d:7',
    '2002:2d2d:7::1',
    '45.46.0.1',
    '64:ff9b::2d2e:1',
    '2002:2d2e:1::1',
  ])('refuses %s', (address) => {
    expect(refusedAnswer(address, rules)).toBeDefined();
  });
  it('refuses what a feed lists, whatever the entries say', () => {
    for (const allowPrivate of [false, true])
      expect(refusedAnswer('198.51.100.66', { ...rules, allowPrivate })).toMatchObject({
        verdict: 'threat',
        reason: expect.stringMatching(
          /threat feed f lists bad\.example \(line 3, since 1970-01-01T00:00:00Z\)/,
        ),
      });
  });
  it('lets pass what is public, covered by an address entry, or meant', () => {
    expect(refusedAnswer('198.51.100.1', rules)).toBeUndefined();
    expect(refusedAnswer('45.45.1.7', rules)).toBeUndefined();
    expect(refusedAnswer('10.1.0.9', rules)).toBeUndefined();
    expect(refusedAnswer('10.0.0.1', { ...rules, allowPrivate: true })).toBeUndefined();
    expect(refusedAnswer('::ffff:10.0.0.1', { ...rules, allowPrivate: true })).toBeDefined();
  });
});

describe('chains', () => {
  const rr = (name: string, number: number, data: Buffer): ResourceRecord => ({
    name,
    type: number,
    class: classIn,
    ttl: 9,
    data,
  });
  const cname = (from: string, to: string): ResourceRecord => rr(from, type.CNAME, nameToWire(to));
  const a = (name: string): ResourceRecord => rr(name, type.A, Buffer.from([198, 51, 100, 1]));

  it('keep the asked name and its aliases, in any order and case, and drop strangers', () => {
    const chain = followChain('a.x', type.A, [
      a('C.x'),
      cname('b.x', 'c.x'),
      cname('A.x', 'B.x'),
      a('evil.x'),
      a('a.x'),
    ]);
    expect(chain.names).toEqual(['a.x', 'b.x', 'c.x']);
    expect(chain.records.map((r) => r.name)).toEqual(['C.x', 'b.x', 'A.x']);
    expect(chain.complete).toBe(true);
  });

  it('take a DNAME only where it owns a part of the chain, and records of the asked type only at its end', () => {
    const dname = (owner: string): ResourceRecord => rr(owner, type.DNAME, nameToWire('elsewhere.y'));
    const aaaa = rr('b.x', type.AAAA, Buffer.alloc(16, 1));
    const answers = [
      dname('x'),
      dname('evil.x'),
      dname('a.x'),
      cname('a.x', 'b.x'),
      a('b.x'),
      aaaa,
      a('a.x'),
    ];
    const { records } = followChain('a.x', type.A, answers);
    expect(records.map((r) => [r.name, r.type])).toEqual([
      ['x', type.DNAME],
      ['a.x', type.CNAME],
      ['b.x', type.A],
    ]);
  });

  it('say when they bite their tail or have no end', () => {
    expect(followChain('a.x', type.A, [cname('a.x', 'b.x'), cname('b.x', 'a.x')]).broken).toBe(true);
    const long = Array.from({ length: 40 }, (_, i) => cname(`n${i}.x`, `n${i + 1}.x`));
    expect(followChain('n0.x', type.A, long).broken).toBe(true);
    expect(followChain('a.x', type.A, [cname('a.x', 'b.x')])).toMatchObject({
      complete: false,
      broken: false,
      end: 'b.x',
    });
  });
});
