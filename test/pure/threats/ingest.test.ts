/** What an update may and may not do to the version in force. */
import { describe, expect, it } from 'vitest';
import { formatRange, parseCidr, type Range } from '../../../src/lib/ip.js';
import { nat64Ranges } from '../../../src/lib/special-use.js';
import {
  decodeSnapshot,
  encodeSnapshot,
  type FeedData,
  SnapshotError,
} from '../../../src/threats/feed-data.js';
import {
  type MergeResult,
  mergeFeeds,
  netTexts,
  type ProtectedRange,
  singleTexts,
} from '../../../src/threats/merge.js';
import { sharedRanges } from '../../../src/threats/shared-ranges.js';
import { ThreatIndex } from '../../../src/threats/threat-index.js';
import { type LoadExtras, load, NOW } from './feed-shape.js';

/** Many single addresses, as a feed lists them. */
const list = (count: number, from = 0): string =>
  Array.from(
    { length: count },
    (_, i) => `198.${51 + ((from + i) >> 16)}.${((from + i) >> 8) & 255}.${(from + i) & 255}`,
  ).join('\n');

async function accepted(body: string, extras: LoadExtras = {}): Promise<FeedData> {
  const outcome = await load(body, extras);
  if (!outcome.ok) throw new Error(outcome.refusal.reason);
  return outcome.data;
}

async function refusal(body: string, extras: LoadExtras = {}): Promise<string> {
  const outcome = await load(body, extras);
  return outcome.ok
    ? 'accepted'
    : `${outcome.refusal.code}${outcome.refusal.line === undefined ? '' : `:${outcome.refusal.line}`}`;
}

const range = (text: string): Range => parseCidr(text) as Range;
const texts = (merged: MergeResult): string[] =>
  [merged.v4, merged.v6].flatMap(({ members }) => [...singleTexts(members), ...netTexts(members)]);

describe('limits', () => {
  it('bad lines: few are told, many refuse, a person may take them', async () => {
    const bad = (count: number): string => `${list(95)}\n${'x y z\n'.repeat(count)}`;
    expect(await refusal(bad(5), { format: 'netset' })).toBe('accepted');
    expect(await refusal(bad(6), { format: 'netset' })).toBe('bad-lines:96');
    expect(await refusal(bad(6), { format: 'netset', accept: true })).toBe('accepted');
    expect(await refusal(bad(6), { format: 'netset', guards: { maxBadRatio: 0.1 } })).toBe('accepted');
  });

  it('too few, too many', async () => {
    expect(await refusal('# nothing today\n')).toBe('too-few');
    expect(await refusal('# nothing today\n', { guards: { minEntries: 0 } })).toBe('accepted');
    expect(await refusal('', { guards: { minEntries: 0 } })).toBe('format');
    expect(await refusal(list(11), { guards: { maxEntries: 10 } })).toBe('too-many');
    expect(await refusal(list(11), { guards: { maxEntries: 10 }, accept: true })).toBe('too-many');
  });

  it('wide networks: refused by line, unless nothing of them is public', async () => {
    expect(await refusal('192.0.2.7\n0.0.0.0/1')).toBe('too-wide:2');
    expect(await refusal('192.0.2.7\n0.0.0.0/1', { accept: true })).toBe('too-wide:2');
    expect(await refusal('0.0.0.0/0')).toBe('too-wide:1');
    expect(await refusal('1.0.0.0-9.255.255.255')).toBe('too-wide:1');
    expect(await refusal('224.0.0.0/3\n10.0.0.0/8')).toBe('accepted');
    expect(await refusal('2000::/3')).toBe('too-wide:1');
    expect(await refusal('2a00::/15')).toBe('too-wide:1');
    expect(await refusal('44.0.0.0/7', { guards: { widest4: 7 } })).toBe('accepted');
  });

  it('space: many networks, none too wide, together too much', async () => {
    const eights = Array.from({ length: 9 }, (_, i) => `${20 + i}.0.0.0/8`).join('\n');
    expect(await refusal(eights)).toBe('too-much-space');
    expect(await refusal(eights, { guards: { maxAddresses4: 2 ** 32 } })).toBe('accepted');
  });

  it('shrink and growth, against the version in force', async () => {
    const before = await accepted(list(1000));
    expect(await refusal(list(500), { before })).toBe('accepted');
    expect(await refusal(list(499), { before })).toBe('shrink');
    expect(await refusal(list(499), { before, accept: true })).toBe('accepted');
    expect(await refusal(list(499), { before, guards: { maxShrink: 0.9 } })).toBe('accepted');
    expect(await refusal(list(14_000), { before })).toBe('accepted');
    expect(await refusal(list(14_001), { before })).toBe('growth');
    expect(await refusal(list(14_001), { before, accept: true })).toBe('accepted');
    // Short lists come and go.
    expect(await refusal(list(1), { before: await accepted(list(90)) })).toBe('accepted');
  });

  it('error bodies leave a version in force as it is', async () => {
    const before = await accepted(list(1000));
    for (const body of ['', 'error code: 520', '{"status":500}', 'Could not connect: \n', '<html>']) {
      expect((await load(body, { before })).ok).toBe(false);
      // Not even a person's word makes a list of these.
      expect((await load(body, { before, accept: true })).ok).toBe(false);
    }
    expect(await refusal('# none\n', { before })).toBe('too-few');
  });
});

describe('a poisoned feed', () => {
  const protect: ProtectedRange[] = [
    { label: 'resolver of this host', range: range('198.51.100.53/32') },
    { label: 'exception: our relay', range: range('203.0.113.0/28') },
    { label: 'Docker network web', range: range('2001:db8:1::/64') },
  ];

  it('never blocks what is protected, and says what it took out', async () => {
    const feed = await accepted(
      '198.51.100.0/24\n203.0.113.7\n172.17.0.0/16\n127.0.0.1\n2001:db8::/32\nfe80::/10\n192.0.2.1',
    );
    const merged = mergeFeeds({ feeds: [feed], protect });
    const all = texts(merged);
    expect(all).toContain('192.0.2.1');
    for (const gone of ['203.0.113.7', '172.17.0.0/16', '127.0.0.1', '198.51.100.0/24', '2001:db8::/32'])
      expect(all).not.toContain(gone);
    expect(merged.v4.addresses).toBe(1 + 255);
    expect(merged.subtracted).toEqual(
      expect.arrayContaining([
        { feed: 'test', label: 'resolver of this host', lines: 1, line: 1, listed: '198.51.100.0/24' },
        { feed: 'test', label: 'exception: our relay', lines: 1, line: 2, listed: '203.0.113.7' },
        { feed: 'test', label: 'Docker network web', lines: 1, line: 5, listed: '2001:db8::/32' },
        { feed: 'test', label: 'special-use space', lines: 1, line: 3, listed: '172.17.0.0/16' },
      ]),
    );
  });

  it('lists IPv4 behind translators, too, in whole networks, but for exceptions; no limit counts that', async () => {
    const feed = await accepted('192.0.2.0/25\n203.0.113.66\n2600:9000::1');
    const nat64 = nat64Ranges(['2001:db8:64::/96']);
    const excepted = [{ label: 'an exception', range: range('2001:db8:64::c000:200/121') }];
    const merged = mergeFeeds({ feeds: [feed], protect: excepted, nat64 });
    expect(texts(merged).sort()).toEqual([
      '192.0.2.0/25',
      '2001:db8:64::cb00:7142',
      '203.0.113.66',
      '2600:9000::1',
      '64:ff9b::c000:200/121',
      '64:ff9b::cb00:7142',
    ]);
    expect([merged.entries, merged.translated]).toEqual([3, 3]);
    const index = new ThreatIndex(nat64);
    index.put(feed);
    index.protect(excepted, []);
    const hits = (text: string) => index.blockedAddress(text)?.listed;
    for (const text of [
      '64:ff9b::cb00:7142',
      '2001:db8:64::cb00:7142',
      '2002:cb00:7142::1',
      '2600:1::5efe:cb00:7142',
    ])
      expect([text, hits(text)]).toEqual([text, '203.0.113.66']);
    expect([hits('2001:db8:64::c000:201'), hits('64:ff9b::c000:201'), hits('64:ff9b::808:808')]).toEqual([
      undefined,
      '192.0.2.0/25',
      undefined,
    ]);
  });

  it('does not take down a CDN, a resolver or half a CDN', async () => {
    const outcome = await load('104.16.0.0/12\n8.8.8.8\n9.9.9.0/24\n172.64.0.0/14\n104.16.9.9\n192.0.2.1');
    if (!outcome.ok) throw new Error(outcome.refusal.reason);
    const all = texts(mergeFeeds({ feeds: [outcome.data], protect: [] }));
    expect(all.filter((text) => /^(104|172)\./.test(text))).toEqual([]);
    expect(all).not.toContain('8.8.8.8');
    expect(mergeFeeds({ feeds: [outcome.data], protect: [] }).v4.addresses).toBe(1 + 256 - 3);
    expect(outcome.report.known.map(({ label }) => label)).toEqual(
      expect.arrayContaining(['Cloudflare', 'Google Public DNS', 'Quad9']),
    );
    const narrow = await load('104.16.9.9');
    expect(narrow.report.known).toMatchObject([{ label: 'Cloudflare', withheld: 0, inside: 1 }]);
    expect(narrow.ok && texts(mergeFeeds({ feeds: [narrow.data], protect: [] }))).toEqual(['104.16.9.9']);
  });

  it('does not take down a cloud: wide lines do not count; single addresses do, and are told by their number', async () => {
    const wide = [
      '3.16.0.0/12',
      '34.64.0.0/11',
      '20.32.0.0/12',
      '47.96.0.0/13',
      '51.254.0.0/15',
      '65.108.0.0/16',
    ];
    const six = ['2600:1f10::/28', '2a01:4f8::/32', '2603:1000::/24', '2001:41d0::/32'];
    const singles = Array.from({ length: 3000 }, (_, i) => `3.64.${i >> 8}.${i & 255}`);
    const outcome = await load([...wide, ...six, ...singles, '192.0.2.1', '2400:3200::7'].join('\n'));
    if (!outcome.ok) throw new Error(outcome.refusal.reason);
    const merged = mergeFeeds({ feeds: [outcome.data], protect: [] });
    expect([merged.v4.addresses, merged.v6.addresses]).toEqual([singles.length + 1, 1]);
    const told = outcome.report.known.map(({ label, withheld, inside }) => [label, [withheld, inside]]);
    expect(Object.fromEntries(told)).toEqual({
      'Amazon Web Services': [2, singles.length],
      Google: [1, 0],
      'Microsoft Azure': [expect.any(Number), 0],
      'Alibaba Cloud': [1, 1],
      OVH: [2, 0],
      Hetzner: [2, 0],
    });
    for (const { samples } of outcome.report.known) expect(samples.length).toBeLessThanOrEqual(5);
    const index = new ThreatIndex();
    index.put(outcome.data);
    expect(index.address('3.17.0.1')[0]?.spared).toMatch(/a cloud/);
    expect(index.blockedAddress('3.64.0.1')?.line).toBe(wide.length + six.length + 2);
  });

  it('all of the clouds at once are too much space for any feed', async () => {
    const four = sharedRanges()
      .filter(({ range }) => range.family === 4)
      .map(({ range }) => formatRange(range));
    expect(await load(four.join('\n'))).toMatchObject({ ok: false, refusal: { code: 'too-much-space' } });
  });

  it('ranges to warn of are told and blocked', async () => {
    const known = [{ label: 'a cloud', range: range('192.0.2.0/24'), rule: 'warn' as const }];
    const outcome = await load('192.0.2.0/24', { known });
    expect(outcome.report.known).toMatchObject([{ label: 'a cloud', withheld: 0, inside: 1 }]);
    expect(outcome.ok && texts(mergeFeeds({ feeds: [outcome.data], protect: [] }))).toEqual(['192.0.2.0/24']);
  });

  it('names: public suffixes and single labels are listed, and never blocked', async () => {
    const outcome = await load('com\nco.uk\ngithub.io\nevil.example\nevil.github.io\ns3.amazonaws.com\n', {
      format: 'domains',
    });
    if (!outcome.ok) throw new Error(outcome.refusal.reason);
    expect(outcome.report.suffixes.samples.map(({ text }) => text)).toEqual([
      'com',
      'co.uk',
      'github.io',
      's3.amazonaws.com',
    ]);
    const index = new ThreatIndex();
    index.put(outcome.data);
    expect(index.blockedName('example.com')).toBeUndefined();
    expect(index.name('example.com')).toMatchObject([
      { listed: 'com', line: 1, spared: expect.stringContaining('suffix') },
    ]);
    expect(index.blockedName('www.evil.example')).toMatchObject({ listed: 'evil.example', line: 4 });
    expect(index.blockedName('evil.github.io')?.line).toBe(5);
    expect(index.blockedName('good.github.io')).toBeUndefined();
  });
});

describe('lookup', () => {
  it('addresses: the most specific line, since when, and why not', async () => {
    const index = new ThreatIndex();
    index.put(await accepted('# c\n198.51.100.0/24\n198.51.100.7\n2001:db8::/32\n10.1.2.3'));
    expect(index.address('198.51.100.7')).toEqual([
      { feed: 'test', listed: '198.51.100.7', line: 3, positions: 'line', since: NOW, spared: null },
    ]);
    expect(index.address('198.51.100.8')[0]).toMatchObject({ listed: '198.51.100.0/24', line: 2 });
    expect(index.blockedAddress('2001:db8::1')?.line).toBe(4);
    expect(index.address('10.1.2.3')[0]?.spared).toBe('special-use space');
    expect(index.address('192.0.2.1')).toEqual([]);
    expect(index.address('no address')).toEqual([]);
    index.protect([{ label: 'exception: relay', range: range('198.51.100.7/32') }], []);
    expect(index.address('198.51.100.7')[0]?.spared).toBe('exception: relay');
    expect(index.blockedAddress('198.51.100.7')).toBeUndefined();
    index.remove('test');
    expect(index.address('198.51.100.8')).toEqual([]);
  });

  it('names: exact, below, the feed’s own exceptions, and ours', async () => {
    const index = new ThreatIndex();
    index.put(
      await accepted('||evil.example^\n@@||good.evil.example^\n||deep.evil.example^', { format: 'adblock' }),
    );
    expect(index.blockedName('evil.example')?.line).toBe(1);
    expect(index.blockedName('a.deep.evil.example')?.line).toBe(3);
    expect(index.name('x.good.evil.example')[0]?.spared).toMatch(/exception/);
    expect(index.blockedName('notevil.example')).toBeUndefined();
    index.protect([], [{ label: 'exception', name: 'deep.evil.example', match: 'both' }]);
    expect(index.blockedName('a.deep.evil.example')).toBeUndefined();
    expect(index.blockedName('evil.example')?.line).toBe(1);
    const hosts = new ThreatIndex();
    hosts.put(await accepted('0.0.0.0 evil.example', { format: 'hosts' }));
    expect([hosts.blockedName('evil.example')?.line, hosts.blockedName('www.evil.example')]).toEqual([
      1,
      undefined,
    ]);
  });

  it('what stays listed keeps its date; what comes back gets a new one', async () => {
    const later = NOW + 3_600_000;
    const at = { options: { now: later }, guards: { maxShrink: 1 } };
    const first = await accepted('198.51.100.7\n192.0.2.1\nevil.example\n2001:db8::1', { format: 'domains' });
    const second = await accepted('2001:db8::1\nworse.example\nevil.example\n198.51.100.7\n198.51.100.8', {
      format: 'domains',
      before: first,
      ...at,
    });
    const index = new ThreatIndex();
    index.put(second);
    const since = (hits: readonly { since: number }[]): number | undefined => hits[0]?.since;
    expect(since(index.address('198.51.100.7'))).toBe(NOW);
    expect(since(index.address('198.51.100.8'))).toBe(later);
    expect(since(index.address('2001:db8::1'))).toBe(NOW);
    expect(since(index.name('evil.example'))).toBe(NOW);
    expect(since(index.name('worse.example'))).toBe(later);
  });
});

describe('snapshots', () => {
  it('come back as they were', async () => {
    const data = await accepted('198.51.100.0/24\nevil.example\n2001:db8::/32\n192.0.2.1\n104.16.0.0/13', {
      format: 'domains',
    });
    expect(decodeSnapshot(encodeSnapshot(data))).toEqual(data);
    const empty = await accepted('# none\n', { guards: { minEntries: 0 } });
    expect(decodeSnapshot(encodeSnapshot(empty))).toEqual(empty);
  });

  it('refuse damage anywhere', async () => {
    const { gunzipSync, gzipSync } = await import('node:zlib');
    const octets = gunzipSync(
      encodeSnapshot(await accepted('198.51.100.0/24\nevil.example', { format: 'domains' })),
    );
    for (let at = 0; at < octets.length; at += 7) {
      const damaged = Buffer.from(octets);
      damaged[at] = (damaged[at] as number) ^ 1;
      expect(() => decodeSnapshot(gzipSync(damaged))).toThrow(SnapshotError);
    }
    for (const cut of [0, 5, 12, octets.length - 1])
      expect(() => decodeSnapshot(gzipSync(octets.subarray(0, cut)))).toThrow(SnapshotError);
    expect(() => decodeSnapshot(Buffer.from('no gzip'))).toThrow(SnapshotError);
  });
});
