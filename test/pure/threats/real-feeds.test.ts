/** Every real file loads or is refused for its reason, with the counts that an independent tool gives. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { formatRange, parseCidr } from '../../../src/lib/ip.js';
import { mergeFeeds, netTexts, singleTexts, toMembers } from '../../../src/threats/merge.js';
import { mergeSorted } from '../../../src/threats/range-algebra.js';
import { sharedRanges } from '../../../src/threats/shared-ranges.js';
import { haveReal, load, realFeed } from './feed-shape.js';
import { clean, hasIprange, oracle } from './iprange.js';

const V4: Readonly<Record<string, number>> = {
  'edge/threatfox_2025-05-01T14_before-expiry.txt': 136103,
  'edge/threatfox_2025-05-01T15_after-expiry.txt': 27167,
  'ipv4/bitwire_inbound_networks.txt': 213288,
  'ipv4/firehol_level1.netset': 1817,
  'ipv4/firehol_level4.netset': 121091,
  'ipv4/ipsum_level3.txt': 14217,
  'ipv4/isc.sans.edu-aa.txt': 130573,
  'ipv4/threatfox_ips.txt': 19863,
  'ipv4/urlhaus_ips.txt': 4867,
  'spamhaus/drop.txt': 1698, // 1699 lines, one twice
  'spamhaus/edrop.txt': 322,
};

const canCompare = hasIprange();

it.skipIf(!canCompare && !haveReal)('made lists: the same networks as iprange', async () => {
  const address = fc.integer({ min: 0x0b00_0000, max: 0x63ff_ffff });
  const line = fc.tuple(address, fc.integer({ min: 20, max: 32 })).map(([value, prefix]) => {
    const base = prefix === 32 ? value : (value >>> (32 - prefix)) << (32 - prefix);
    const octets = [24, 16, 8, 0].map((shift) => (base >>> shift) & 255).join('.');
    return prefix === 32 ? octets : `${octets}/${prefix}`;
  });
  // Few addresses under many prefixes, so that they nest, repeat and touch.
  const near = line.map((text) => text.replace(/^\d+\.\d+\.\d+/, (head) => `11.0.${head.length % 4}`));
  const aligned = (text: string): boolean => parseCidr(text) !== undefined;
  const lists = fc.array(fc.oneof(line, near.filter(aligned)), { minLength: 1, maxLength: 300 });
  for (const list of fc.sample(lists, 20)) {
    const outcome = await load(list.join('\n'), { guards: { maxAddresses4: 2 ** 32 } });
    if (!outcome.ok) throw new Error(outcome.refusal.reason);
    const members = toMembers(mergeSorted(outcome.data.v4));
    const mine = [...singleTexts(members), ...netTexts(members)].sort();
    expect(mine).toEqual(oracle(list.join('\n')).sort());
  }
});

describe.skipIf(!haveReal)('real lists of IPv4 addresses', () => {
  it('has its oracle: apt-get install iprange', () => expect(canCompare).toBe(true));

  for (const [file, entries] of Object.entries(V4))
    it(`${file}: the same networks as iprange`, { timeout: 30_000 }, async () => {
      const outcome = await load(realFeed(file));
      if (!outcome.ok) throw new Error(outcome.refusal.reason);
      expect(outcome.data.counts.entries).toBe(entries);
      const members = toMembers(mergeSorted(outcome.data.v4));
      const mine = [...singleTexts(members), ...netTexts(members)].sort();
      const theirs = oracle(clean(realFeed(file).toString('latin1'))).sort();
      expect(mine.length).toBe(theirs.length);
      expect(mine.find((text, i) => text !== theirs[i])).toBeUndefined();
    });

  it('all of malicious-ip together: the same 454k networks as iprange', { timeout: 60_000 }, async () => {
    const parts = ['aa', 'ab', 'ac', 'ad', 'ae'].map((part) =>
      realFeed(`ipv4/malicious-ip_full-${part}.txt`),
    );
    const outcome = await load(Buffer.concat(parts));
    if (!outcome.ok) throw new Error(outcome.refusal.reason);
    expect(outcome.data.counts.entries).toBe(552293);
    const members = toMembers(mergeSorted(outcome.data.v4));
    const mine = [...singleTexts(members), ...netTexts(members)].sort();
    const theirs = oracle(Buffer.concat(parts).toString('latin1')).sort();
    expect(mine.length).toBe(theirs.length);
    expect(mine.find((text, i) => text !== theirs[i])).toBeUndefined();
  });
});

const OTHERS: readonly (readonly [string, string, number])[] = [
  ['ipv4/dshield_block.txt', 'dshield', 20],
  ['ipv4/feodo_ipblocklist.csv', 'csv', 28],
  ['ipv6/bitwire_inbound_ipv6.txt', 'netset', 1117],
  ['ipv6/bitwire_outbound_ipv6.txt', 'netset', 450],
  ['ipv6/x4bnet_datacenter_ipv6.txt', 'netset', 8752],
  ['ipv6/x4bnet_vpn_ipv6.txt', 'netset', 498],
  ['spamhaus/drop_ipv6.txt', 'netset', 51],
  ['spamhaus/drop_v4.json', 'spamhaus', 1669], // 1670 records, one twice
  ['spamhaus/drop_v4_2025-04.json', 'spamhaus', 1406],
  ['domains/blp_ransomware.adblock', 'adblock', 1904],
  ['domains/blp_ransomware.hosts', 'hosts', 1904],
  ['domains/hagezi_fake.adblock', 'adblock', 7355],
  ['domains/hagezi_fake.hosts', 'hosts', 14043],
  ['domains/hagezi_fake.unbound.conf', 'resolver', 7355],
  ['domains/hagezi_fake.wildcard', 'domains', 7355],
  ['domains/someonewhocares.hosts', 'hosts', 12974],
  ['domains/stevenblack_plain.txt', 'domains', 140626],
  ['domains/urlhaus_hostfile_domains.txt', 'domains', 384],
];

const NEVER_BLOCK = [
  'amazon-aws',
  'cisco_top1000',
  'cloudflare',
  'fastly',
  'google-gcp',
  'microsoft-azure',
  'multicast',
  'public-dns-v4',
  'public-dns-v6',
  'rfc1918',
  'rfc3849',
  'rfc5735',
  'rfc6598',
  'rfc6761',
  'second-level-tlds',
  'tlds',
];

const REFUSED: readonly (readonly [string, string, RegExp])[] = [
  ['edge/asn_drop_zero-byte.txt', 'format', /empty \(0 octets\)/],
  ['edge/drop_zero-byte.txt', 'format', /empty \(0 octets\)/],
  ['edge/malicious-domains-ac_zero-byte.txt', 'format', /empty \(0 octets\)/],
  ['edge/malicious-ip_full-af_zero-byte.txt', 'format', /empty \(0 octets\)/],
  ['edge/drop_body-could-not-connect.txt', 'format', /no line of it looks like/],
  ['edge/drop_body-error-520.txt', 'format', /no line of it looks like/],
  ['edge/drop_body-json-500.txt', 'format', /none of the known kinds/],
  ['edge/firehol_feodo_empty.ipset', 'too-few', /0 entries/],
  ['edge/firehol_sslbl_empty.ipset', 'too-few', /0 entries/],
  ['neverblock/misp_common-ioc-false-positive.json', 'too-few', /69 of kinds that cannot be blocked/],
  ['spamhaus/asn_drop.json', 'too-few', /201 of kinds that cannot be blocked/],
];

describe.skipIf(!haveReal)('real lists of other kinds', () => {
  for (const [file, format, entries] of OTHERS)
    it(`${file} is ${format} with ${entries} entries`, { timeout: 30_000 }, async () => {
      const outcome = await load(realFeed(file), {
        guards: { maxAddresses4: 2 ** 32, maxAddresses6: 2 ** 128 },
      });
      if (!outcome.ok) throw new Error(outcome.refusal.reason);
      expect([outcome.data.format, outcome.data.counts.entries]).toEqual([format, entries]);
      expect(outcome.report.bad).toEqual([]);
    });

  for (const file of NEVER_BLOCK)
    it(`neverblock/misp_${file}.json: every item of the warninglist`, { timeout: 30_000 }, async () => {
      const body = realFeed(`neverblock/misp_${file}.json`);
      const guards = { maxAddresses4: 2 ** 32, maxAddresses6: 2 ** 128, widest6: 0 };
      const outcome = await load(body, { guards });
      if (!outcome.ok) throw new Error(outcome.refusal.reason);
      const { list } = JSON.parse(body.toString()) as { list: string[] };
      const items = new Set(list.map((item) => item.toLowerCase().replace(/^\.|\.$/g, '')));
      expect([outcome.data.format, outcome.data.counts.entries]).toEqual(['misp', items.size]);
      expect(outcome.report.bad).toEqual([]);
    });

  for (const [file, code, reason] of REFUSED)
    it(`${file} is refused, with or without a version in force`, async () => {
      const first = await load(realFeed('spamhaus/drop.txt'));
      const before = first.ok ? first.data : undefined;
      for (const extras of [{}, { before }]) {
        const outcome = await load(realFeed(file), extras as never);
        expect(outcome.ok).toBe(false);
        if (!outcome.ok) {
          expect(outcome.refusal.code).toBe(code);
          expect(outcome.refusal.reason).toMatch(reason);
        }
      }
    });

  it('named formats refuse error bodies too', async () => {
    for (const file of ['edge/drop_body-error-520.txt', 'edge/drop_body-json-500.txt'])
      for (const format of [
        'netset',
        'csv',
        'spamhaus',
        'hosts',
        'domains',
        'ipsum',
        'dshield',
        'misp',
        'stix',
      ]) {
        const outcome = await load(realFeed(file), { format });
        expect([file, format, outcome.ok]).toEqual([file, format, false]);
      }
  });

  it('isc.sans.edu: 499 malformed lines are counted, with their lines', async () => {
    const outcome = await load(realFeed('ipv4/isc.sans.edu-aa.txt'));
    if (!outcome.ok) throw new Error(outcome.refusal.reason);
    expect(outcome.data.counts.bad).toBe(499);
    expect(outcome.report.bad[0]).toMatchObject({ line: 1, text: '1..218.28' });
  });

  it('a legitimate fall from 136k to 27k needs a person, and then counts', async () => {
    const first = await load(realFeed('edge/threatfox_2025-05-01T14_before-expiry.txt'));
    if (!first.ok) throw new Error(first.refusal.reason);
    const body = realFeed('edge/threatfox_2025-05-01T15_after-expiry.txt');
    const second = await load(body, { before: first.data });
    expect(second.ok ? '' : second.refusal.code).toBe('shrink');
    const accepted = await load(body, { before: first.data, accept: true });
    expect(accepted.ok && accepted.data.counts.entries).toBe(27167);
  });

  it('firehol_level1: Docker’s pools and all special space stay free', async () => {
    const outcome = await load(realFeed('ipv4/firehol_level1.netset'));
    if (!outcome.ok) throw new Error(outcome.refusal.reason);
    const merged = mergeFeeds({ feeds: [outcome.data], protect: [] });
    const texts = [...netTexts(merged.v4.members), ...singleTexts(merged.v4.members)];
    expect(
      texts.filter((text) => /^(10|127|0|2[2-5]\d)\.|^172\.(1[6-9]|2\d|3[01])\.|^192\.168\./.test(text)),
    ).toEqual([...texts.filter((text) => /^22[0-3]\./.test(text))]);
    expect(merged.subtracted.map(({ listed }) => listed)).toEqual(
      expect.arrayContaining(['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', '224.0.0.0/3']),
    );
  });

  it('drop.txt: two prefixes within a CDN’s range are told, and blocked', async () => {
    const outcome = await load(realFeed('spamhaus/drop.txt'));
    expect(outcome.report.known).toMatchObject([{ label: 'Cloudflare', withheld: 0, inside: 2 }]);
  });

  it('the built-in CDN ranges are those that MISP’s warninglists have', () => {
    for (const [label, file] of [
      ['Cloudflare', 'neverblock/misp_cloudflare.json'],
      ['Fastly', 'neverblock/misp_fastly.json'],
    ] as const) {
      const { list } = JSON.parse(realFeed(file).toString()) as { list: string[] };
      const mine = sharedRanges()
        .filter((known) => known.label === label)
        .map(({ range }) => formatRange(range));
      expect(mine.sort()).toEqual([...list].sort());
    }
  });
});
