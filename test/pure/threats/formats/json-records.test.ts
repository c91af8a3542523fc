/** Tables, NDJSON and whole documents. */
import { describe, expect, it } from 'vitest';
import { destinationsOf } from '../../../../src/threats/formats/json-records.js';
import { names, parsed, ranges4 } from '../feed-shape.js';

describe('tables', () => {
  it('CSV: header as a row or a comment, quotes, ports, kinds that are not for us', async () => {
    const found = await parsed(
      '# "first_seen_utc", "ioc_id", "ioc_value", "ioc_type"\n' +
        '"2026-01-01", "1", "192.0.2.7:443", "ip:port"\n"2026-01-01", "2", "evil.example", "domain"\n' +
        '"2026-01-01", "3", "http://x.example/y", "url"\n"2026-01-01", "4", "d41d8cd98f00b204e9800998ecf8427e", "md5_hash"\n' +
        '"2026-01-01", "5", "[2001:db8::7]:80", "ip:port"\n"2026, "6"\n',
    );
    expect([ranges4(found), names(found), found.v6.count]).toEqual([['192.0.2.7'], ['evil.example'], 1]);
    expect([found.unsupported.count, found.bad.count]).toEqual([2, 1]);
  });

  it('CSV: a column by name or number, another delimiter, none at all', async () => {
    const rows = 'when;source;target\n1;192.0.2.1;192.0.2.2\n';
    expect(ranges4(await parsed(rows, 'csv', { delimiter: ';', column: 'target' }))).toEqual(['192.0.2.2']);
    expect(ranges4(await parsed('1,192.0.2.1,192.0.2.2', 'csv', { column: 3 }))).toEqual(['192.0.2.2']);
    expect(ranges4(await parsed('x,192.0.2.1,9\ny,192.0.2.3,9', 'csv'))).toEqual(['192.0.2.1', '192.0.2.3']);
    expect((await parsed('a,b\n1,2', 'csv', { column: 'none' })).bad.samples[0]?.reason).toBe(
      'no column "none"',
    );
  });

  it('CSV: a trailer that counts must be right', async () => {
    const rows = '"dst_ip","port"\n"192.0.2.1","1"\n"192.0.2.2","1"\n';
    expect((await parsed(`${rows}# END 2 entries`)).fault).toBeUndefined();
    expect((await parsed(`${rows}# END 3 entries`)).fault).toMatch(/3 entries, and the list has 2/);
  });

  it('DShield: the three columns must agree', async () => {
    const found = await parsed(
      'Start\tEnd\tmask\n192.0.2.0\t192.0.2.255\t24\t9\tX\n198.51.100.0\t198.51.100.127\t24\t9\tX\n',
      'dshield',
    );
    expect([ranges4(found), found.bad.count]).toEqual([['192.0.2.0-192.0.2.255'], 1]);
  });

  it('ipsum: by score', async () => {
    const text = '# c\n192.0.2.1\t9\n192.0.2.2\t2\n192.0.2.3\tx\n';
    const found = await parsed(text, 'ipsum');
    expect([ranges4(found), found.skipped.count, found.bad.count]).toEqual([['192.0.2.1'], 1, 1]);
    expect(ranges4(await parsed(text, 'ipsum', { minScore: 1 }))).toEqual(['192.0.2.1', '192.0.2.2']);
  });
});

describe('NDJSON', () => {
  const records = ['{"cidr":"192.0.2.0/24","sblid":"SBL1"}', '{"cidr":"2001:db8::/32","sblid":"SBL2"}'];
  const metadata = '{"type":"metadata","records":2}';
  it('the metadata line may stand anywhere', async () => {
    for (const lines of [
      [metadata, ...records],
      [...records, metadata],
      [records[0], metadata, records[1]],
    ])
      expect(await parsed(lines.join('\n'))).toMatchObject({ entries: 2, fault: undefined });
  });
  it('a wrong count, a missing line and two of them are faults', async () => {
    expect((await parsed([records[0], metadata].join('\n'))).fault).toMatch(
      /promises 2 records, and there are 1/,
    );
    expect((await parsed(records.join('\n'), 'spamhaus')).fault).toMatch(/missing/);
    expect((await parsed([...records, metadata, metadata].join('\n'))).fault).toMatch(/more than one/);
    expect((await parsed(records.join('\n'), 'ndjson')).fault).toBeUndefined();
  });
});

describe('documents', () => {
  it('MISP: events with objects; types that are not for us; domain|ip gives the name only', async () => {
    const event = {
      Event: {
        Attribute: [
          { type: 'ip-dst', value: '192.0.2.1', to_ids: true },
          { type: 'ip-dst|port', value: '192.0.2.2|443' },
          { type: 'domain|ip', value: 'evil.example|192.0.2.3' },
          { type: 'ip-src', value: '192.0.2.4', to_ids: false },
          { type: 'domain', value: 'gone.example', deleted: true },
          { type: 'url', value: 'http://x.example/y' },
        ],
        Object: [{ Attribute: [{ type: 'hostname', value: 'c2.example' }] }],
      },
    };
    const found = await parsed(JSON.stringify({ response: [event] }));
    expect([ranges4(found), names(found)]).toEqual([
      ['192.0.2.1', '192.0.2.2'],
      ['evil.example', 'c2.example'],
    ]);
    expect([found.skipped.count, found.unsupported.count]).toEqual([2, 1]);
  });

  it('STIX: newest versions of indicators in force', async () => {
    const indicator = (id: string, pattern: string, extra: object = {}) => ({
      type: 'indicator',
      id: `indicator--${id}`,
      pattern,
      pattern_type: 'stix',
      modified: '2026-01-01T00:00:00Z',
      ...extra,
    });
    const objects = [
      { type: 'identity', id: 'identity--1' },
      indicator('1', "[ipv4-addr:value = '192.0.2.1']"),
      indicator('1', "[ipv4-addr:value = '192.0.2.9']", { modified: '2025-01-01T00:00:00Z' }),
      indicator('2', "[domain-name:value = 'evil.example' OR ipv4-addr:value ISSUBSET '198.51.100.0/24']"),
      indicator('3', "[ipv4-addr:value = '192.0.2.3']", { revoked: true }),
      indicator('4', "[ipv4-addr:value = '192.0.2.4']", { valid_until: '2026-01-02T00:00:00Z' }),
      indicator('5', "[file:hashes.MD5 = 'd41d8cd98f00b204e9800998ecf8427e']"),
      indicator('6', "[ipv4-addr:value = '192.0.2.6'] AND [domain-name:value = 'x.example']"),
    ];
    const found = await parsed(JSON.stringify({ type: 'bundle', objects }));
    expect([ranges4(found), names(found)]).toEqual([
      ['192.0.2.1', '198.51.100.0-198.51.100.255'],
      ['evil.example'],
    ]);
    expect([found.skipped.count, found.unsupported.count]).toEqual([2, 2]);
  });

  it.each([
    ["[ipv4-addr:value IN ('192.0.2.1', '192.0.2.2')]", ['192.0.2.1', '192.0.2.2']],
    ["[domain-name:value='a.example'] OR [domain-name:value = 'b.example']", ['a.example', 'b.example']],
    ["[domain-name:value = 'it\\'s.example']", ["it's.example"]],
    ["[domain-name:value LIKE '%.example']", undefined],
    ["[NOT ipv4-addr:value = '192.0.2.1']", undefined],
    ["[ipv4-addr:value = '192.0.2.1'] WITHIN 5 SECONDS", undefined],
    ["[url:value = 'http://x.example']", undefined],
    ["[ipv4-addr:value = '192.0.2.1'", undefined],
    ['', undefined],
  ])('STIX pattern %j', (pattern, values) => expect(destinationsOf(pattern)).toEqual(values));

  it('CrowdSec: bans on addresses and ranges', async () => {
    const decision = (value: string, extra: object = {}) => ({
      duration: '3h',
      scope: 'Ip',
      type: 'ban',
      value,
      ...extra,
    });
    const found = await parsed(
      JSON.stringify({
        new: [
          decision('192.0.2.1'),
          decision('198.51.100.0/24', { scope: 'Range' }),
          decision('192.0.2.2', { type: 'captcha' }),
          decision('XX', { scope: 'Country' }),
          decision('192.0.2.3', { duration: '-1h' }),
        ],
        deleted: null,
      }),
    );
    expect(ranges4(found)).toEqual(['192.0.2.1', '198.51.100.0-198.51.100.255']);
    expect([found.unsupported.count, found.skipped.count]).toEqual([2, 1]);
  });

  it('one page of several is no whole list', async () => {
    expect((await parsed('{"more":true,"next":"2","objects":[]}')).fault).toMatch(/name the format "taxii"/);
  });

  it('a document that was cut is a fault', async () => {
    expect((await parsed('{"list": ["192.0.2.1", "192.', 'misp')).fault).toMatch(/cut/);
  });
});
