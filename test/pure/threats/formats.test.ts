/** Each format, by the lines that make it what it is, and by those that it must not take. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseAddress } from '../../../src/model/ip-address.js';
import { Collector } from '../../../src/threats/collect.js';
import { FORMAT_NAMES, formatNamed, parserFor } from '../../../src/threats/formats/formats.js';
import { scanV4, scanV6, stop } from '../../../src/threats/formats/ip-octets.js';
import { destinationsOf } from '../../../src/threats/formats/stix-pattern.js';
import { ALLOW, BELOW, SELF } from '../../../src/threats/names.js';
import { parseBody } from '../../../src/threats/parse.js';
import { NOW, names, parsed, ranges4 } from './shape.js';

const both = SELF | BELOW;
const flagsOf = (found: Collector): Record<string, number> =>
  Object.fromEntries(names(found).map((name, i) => [name, found.names.flagsAt(i)]));

describe('netset', () => {
  it('takes addresses, networks, ranges and comments of all kinds', async () => {
    const found = await parsed(
      '# head\n; also\n// and\n\n192.0.2.7\r\n 198.51.100.0/24 ; SBL1\n203.0.113.4-203.0.113.9\n' +
        '203.0.113.20 - 203.0.113.22 # note\n2001:db8::/32\n2001:DB8::1-2001:db8::5\n\t192.0.2.9\t# tab',
    );
    expect(ranges4(found)).toEqual([
      '192.0.2.7',
      '198.51.100.0-198.51.100.255',
      '203.0.113.4-203.0.113.9',
      '203.0.113.20-203.0.113.22',
      '192.0.2.9',
    ]);
    expect([found.v6.count, found.bad.count, found.entries]).toEqual([2, 0, 7]);
    expect([...found.v4.take().line]).toEqual([5, 6, 7, 8, 11]);
  });

  it.each([
    '1.2.3',
    '010.1.2.3',
    '1.2.3.4.5',
    '256.1.1.1',
    '1..2.3',
    '1.2.3.4/33',
    '1.2.3.4/08',
    '1.2.3.4/24',
    '0x7f.1.1.1',
    '16909060',
    'localhost',
    'example.org',
    '1.2.3.4 5.6.7.8',
    '1.2.3.9-1.2.3.4',
    '1.2.3.4-',
    '1.2.3.4/',
    '::ffff:1.2.3.4',
    'fe80::1%eth0',
    '2001:db8::/129',
    '2001:db8::1/64',
    ':::',
    '1:2:3:4:5:6:7:8:9',
    '1.2.3.4\u00a0',
    '１.2.3.4',
    '-A INPUT -j DROP',
    'add x 1.2.3.4',
  ])('refuses %j, and says which line', async (line) => {
    const found = await parsed(`192.0.2.1\n${line}\n`, 'netset');
    expect([found.entries, found.bad.count, found.bad.samples[0]?.line]).toEqual([1, 1, 2]);
  });

  it('survives a body without line feeds, a BOM, and a last line without one', async () => {
    expect((await parsed('\ufeff192.0.2.7')).entries).toBe(1);
    const long = await parsed(`192.0.2.7\n${'1'.repeat(200_000)}\n192.0.2.8`, 'netset');
    expect([long.entries, long.bad.count, long.bad.samples[0]?.line]).toEqual([2, 1, 2]);
    expect([...long.v4.take().line]).toEqual([1, 3]);
  });

  it('reads the same in chunks of any size', () => {
    const body = Buffer.from('# c\n192.0.2.7\r\n198.51.100.0/24 ; x\nbad\n\n2001:db8::/32');
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 9 }), { maxLength: 40 }), (sizes) => {
        const into = new Collector();
        const parser = parserFor('netset', into, { now: NOW });
        let at = 0;
        for (const size of [...sizes, body.length]) {
          parser.push(Uint8Array.from(body.subarray(at, at + size)));
          at = Math.min(at + size, body.length);
        }
        parser.end();
        expect([into.entries, into.bad.count, [...into.v4.take().line]]).toEqual([3, 1, [2, 3]]);
      }),
    );
  });
});

describe('addresses from octets agree with the model', () => {
  const v4ish = fc.oneof(
    fc.ipV4(),
    fc.stringMatching(/^[0-9.]{1,16}$/),
    fc.stringMatching(/^\d{1,4}\.\d{1,4}\.\d{1,4}\.\d{1,4}$/),
  );
  const v6ish = fc.oneof(
    fc.ipV6(),
    fc.stringMatching(/^[0-9a-f:]{2,40}$/),
    fc.stringMatching(/^([0-9a-f]{0,5}:){1,9}[0-9a-f.]{0,10}$/),
  );
  it('v4', () => {
    fc.assert(
      fc.property(v4ish, (text) => {
        const octets = Buffer.from(text);
        const value = scanV4(octets, 0, octets.length);
        const whole = value >= 0 && stop.at === octets.length;
        const model = parseAddress(text);
        expect(whole ? BigInt(value) : undefined).toBe(model?.family === 4 ? model.value : undefined);
      }),
      { numRuns: 2000 },
    );
  });
  it('v6', () => {
    const words = new Uint32Array(4);
    fc.assert(
      fc.property(v6ish, (text) => {
        const octets = Buffer.from(text);
        const ok = scanV6(octets, 0, octets.length, words);
        const model = parseAddress(text);
        const value = words.reduce((sum, word) => (sum << 32n) | BigInt(word), 0n);
        expect(ok ? value : undefined).toBe(model?.family === 6 ? model.value : undefined);
      }),
      { numRuns: 4000 },
    );
  });
});

describe('names', () => {
  it('plain, wildcard and dotted names stand for all below too', async () => {
    const found = await parsed(
      '# c\nevil.example\n*.worse.example # why\n.worst.example\nBÜCHER.example\n192.0.2.7',
    );
    expect(flagsOf(found)).toEqual({
      'evil.example': both,
      'worse.example': both,
      'worst.example': both,
      'xn--bcher-kva.example': both,
    });
    expect(ranges4(found)).toEqual(['192.0.2.7']);
  });

  it('subdomains: false keeps plain names to themselves', async () => {
    const found = await parsed('evil.example\n*.worse.example', 'domains', { subdomains: false });
    expect(flagsOf(found)).toEqual({ 'evil.example': SELF, 'worse.example': both });
  });

  it('URLs are no names: their host may serve others', async () => {
    const found = await parsed('http://cdn.example/a.exe\nevil.example', 'domains');
    expect([names(found), found.unsupported.count, found.bad.count]).toEqual([['evil.example'], 1, 0]);
  });

  it('hosts: exactly its names; boilerplate left out; no redirects of names to addresses', async () => {
    const text =
      '127.0.0.1 localhost\n::1 ip6-localhost\n255.255.255.255 broadcasthost\nfe80::1%lo0 localhost\n' +
      '0.0.0.0 0.0.0.0\n0.0.0.0 evil.example www.evil.example # both\n192.0.2.9 bank.example\n';
    const found = await parsed(text, 'hosts');
    expect(flagsOf(found)).toEqual({ 'evil.example': SELF, 'www.evil.example': SELF });
    expect(found.bad.samples).toMatchObject([{ line: 7, reason: 'sends names elsewhere, not nowhere' }]);
    expect(found.v4.count + found.v6.count).toBe(0);
    const wide = await parsed('0.0.0.0 evil.example', 'hosts', { subdomains: true });
    expect(flagsOf(wide)).toEqual({ 'evil.example': both });
  });

  it('AdBlock: whole hosts and their exceptions; all else counted', async () => {
    const rules = [
      '[Adblock Plus 2.0]',
      '! comment',
      '||evil.example^',
      '||all.example^$important',
      '@@||good.evil.example^',
      '||192.0.2.7^',
      '||third.example^$third-party',
      '||path.example/x^',
      'example.org##.ad',
      '/banner[0-9]/',
      '||bad..example^',
    ];
    const found = await parsed(rules.join('\n'));
    expect(flagsOf(found)).toEqual({
      'evil.example': both,
      'all.example': both,
      'good.evil.example': ALLOW,
    });
    expect(ranges4(found)).toEqual(['192.0.2.7']);
    expect([found.unsupported.count, found.bad.count]).toEqual([4, 1]);
  });

  it('dnsmasq and unbound', async () => {
    const dnsmasq = await parsed(
      'address=/a.example/b.example/\nlocal=/c.example/\nserver=/d.example/8.8.8.8\n',
    );
    expect(flagsOf(dnsmasq)).toEqual({ 'a.example': both, 'b.example': both, 'c.example': both });
    expect(dnsmasq.unsupported.count).toBe(1);
    const unbound = await parsed(
      'server:\nlocal-zone: "a.example." always_null\nlocal-zone: b.example transparent\n' +
        'local-data: "c.example A 0.0.0.0"\nlocal-data: "d.example A 192.0.2.7"\n',
    );
    expect(flagsOf(unbound)).toEqual({ 'a.example': both, 'b.example': ALLOW, 'c.example': SELF });
    expect(unbound.unsupported.count).toBe(1);
  });
});

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
    expect((await parsed(`${rows}# END 3 entries`)).fault).toMatch(/3 entries, and there are 2/);
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

  it('a document that was cut is a fault', async () => {
    expect((await parsed('{"list": ["192.0.2.1", "192.', 'misp')).fault).toMatch(/cut/);
  });
});

describe('detection', () => {
  const refused = async (body: string): Promise<string> => {
    const outcome = await parseBody(Buffer.from(body), { format: 'auto', maxSize: 1e6, now: NOW });
    return outcome.ok ? `read as ${outcome.format}` : outcome.reason;
  };
  it('tells what is no list', async () => {
    expect(await refused('<!DOCTYPE html><html>blocked</html>')).toMatch(/web page/);
    expect(await refused('{"error":"rate limited"}')).toMatch(/none of the known kinds/);
    expect(await refused('   \n\n')).toMatch(/empty/);
    expect(await refused('Too many requests, slow down please.')).toMatch(/looks like/);
  });
  it('a named format that does not exist is told', async () => {
    const outcome = await parseBody(Buffer.from('x'), { format: 'nope', maxSize: 1e6, now: NOW });
    expect(outcome).toMatchObject({ ok: false, reason: 'no such format: nope' });
  });
});

it('no parser throws, whatever the body', { timeout: 60_000 }, async () => {
  const line = fc.oneof(
    fc.string({ unit: 'binary', maxLength: 60 }),
    fc.ipV4(),
    fc.ipV6(),
    fc.domain(),
    fc.json({ maxDepth: 3 }),
    fc.constantFrom(
      '||',
      '@@||^',
      '"',
      '{',
      'address=/',
      '[ipv4-addr:value',
      '\t\t',
      '0.0.0.0',
      '#',
      '# END 9 entries',
    ),
  );
  const body = fc.oneof(
    fc.uint8Array({ maxLength: 400 }),
    fc.array(line, { maxLength: 8 }).map((lines) => Buffer.from(lines.join('\n'))),
  );
  const format = fc.constantFrom(...FORMAT_NAMES);
  await fc.assert(
    fc.asyncProperty(body, format, async (octets, name) => {
      const outcome = await parseBody(octets, { format: name, maxSize: 1e6, now: NOW });
      expect(typeof outcome.ok).toBe('boolean');
      if (outcome.ok && name !== 'auto') expect(outcome.format).toBe(formatNamed(name));
    }),
    { numRuns: 3000 },
  );
});
