import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Problem } from '../../../src/lib/problem.js';
import type { DestEntry, Entry } from '../../../src/policy/entry.js';
import { parseEntries, parseEntry } from '../../../src/policy/entry-parse.js';
import { effectivePorts } from '../../../src/policy/entry-ports.js';

const canonicals = (text: string): readonly string[] => {
  const parsed = parseEntries(text);
  if (!parsed.ok) throw new Error(parsed.problems.map((problem) => problem.detail).join('; '));
  return parsed.value.map((entry) => entry.canonical);
};
const problems = (text: string): readonly Problem[] => {
  const parsed = parseEntries(text);
  return parsed.ok ? [] : parsed.problems;
};
const dest = (text: string): DestEntry => {
  const parsed = parseEntry(text);
  if (!parsed.ok || parsed.value.kind !== 'dest') throw new Error(`${text} is no destination`);
  return parsed.value;
};
const classes = (text: string): readonly string[] =>
  effectivePorts(dest(text)).map(({ proto, number, ports }) =>
    [proto, ...(number === undefined ? [] : [number]), ...ports.map(({ lo, hi }) => `${lo}-${hi}`)].join(' '),
  );

describe('entries that are good', () => {
  it.each<[string, Partial<DestEntry>]>([
    ['api.github.com', { target: { kind: 'name', match: 'exact', name: 'api.github.com' } }],
    ['*.github.com', { target: { kind: 'name', match: 'below', name: 'github.com' } }],
    ['.github.com', { target: { kind: 'name', match: 'both', name: 'github.com' } }],
    ['140.82.112.3', { target: { kind: 'address', range: { family: 4, lo: 0x8c527003n, hi: 0x8c527003n } } }],
    ['10.1.0.0/16', { target: { kind: 'address', range: { family: 4, lo: 0x0a010000n, hi: 0x0a01ffffn } } }],
    ['container:db:5432', { target: { kind: 'container', name: 'db' }, ports: [{ lo: 5432, hi: 5432 }] }],
    ['host:8125/udp', { target: { kind: 'host' }, ports: [{ lo: 8125, hi: 8125 }], proto: 'udp' }],
    ['any:443', { target: { kind: 'any' }, ports: [{ lo: 443, hi: 443 }] }],
  ])('%s', (text, wanted) => expect(dest(text)).toMatchObject({ ...wanted, canonical: text }));

  it.each<[string, readonly string[]]>([
    ['10.0.0.5-10.0.0.9:22', ['10.0.0.5-10.0.0.9:22']],
    ['[2001:db8::/32]:443', ['[2001:db8::/32]:443']],
    ['list:npm', ['list:npm']],
    ['a.org:80,443, b.org', ['a.org:80,443', 'b.org']],
    ['10.0.0.1:80,10.0.0.2:80', ['10.0.0.1:80', '10.0.0.2:80']],
    ['a.org:80,8000-8100/udp,b.org', ['a.org:80,8000-8100/udp', 'b.org']],
    ['a.org:80,443 private, b.org', ['a.org:80,443 private', 'b.org']],
    ['a.org:443,\n  b.org,\r\n\nc.org', ['a.org:443', 'b.org', 'c.org']],
    ['', []],
    [' \n ', []],
    ['2001:db8::1', ['2001:db8::1']],
    ['2001:DB8::/32/udp', ['2001:db8::/32/udp']],
    ['2001:db8::1-2001:db8::9', ['2001:db8::1-2001:db8::9']],
    ['[2001:db8::1]', ['2001:db8::1']],
    ['10.0.0.0-10.0.0.255', ['10.0.0.0/24']],
    ['10.0.0.1/32', ['10.0.0.1']],
    ['a.org:443,80,81/tcp', ['a.org:80-81,443']],
    ['BÜCHER.example.:443', ['xn--bcher-kva.example:443']],
    ['a.org quic=deny tls=off private', ['a.org private tls=off quic=deny']],
    ['10.0.0.53:53/udp dns=direct', ['10.0.0.53:53/udp dns=direct']],
    ['*.com broad', ['*.com broad']],
    ['.co.uk broad', ['.co.uk broad']],
    ['0.0.0.0/0 broad', ['0.0.0.0/0 broad']],
    ['10.0.0.1-11.0.0.0', ['10.0.0.1-11.0.0.0']], // as many as a /8 has
    ['10.0.0.0-11.0.0.0 broad', ['10.0.0.0-11.0.0.0 broad']],
    ['8.0.0.0/8', ['8.0.0.0/8']],
    ['2600::/16', ['2600::/16']],
    ['github.io', ['github.io']],
    ['*.githubusercontent.com', ['*.githubusercontent.com']],
    [
      '10.0.0.1/icmp, 10.0.0.1/sctp, 10.0.0.1/gre, 10.0.0.1/esp',
      ['10.0.0.1/icmp', '10.0.0.1/sctp', '10.0.0.1/gre', '10.0.0.1/esp'],
    ],
    ['10.0.0.1/ip-0, 10.0.0.1/ip-255, 10.0.0.1/ip-47', ['10.0.0.1/ip-0', '10.0.0.1/ip-255', '10.0.0.1/gre']],
    ['10.0.0.1:5000/tcp+udp', ['10.0.0.1:5000/tcp+udp']],
    ['a.org/icmp', ['a.org/icmp']],
    [
      '7-eleven.com, 1.1.1.1.example.com, 10-0-0-1.example.com',
      ['7-eleven.com', '1.1.1.1.example.com', '10-0-0-1.example.com'],
    ],
  ])('%j is %j', (text, wanted) => expect(canonicals(text)).toEqual(wanted));
});

describe('entries that are refused, each with its remedy', () => {
  it.each<[string, RegExp, number?]>([
    ['a.org:80, 443', /without a space: a\.org:80,443/, 11],
    ['10.1.2.3/16', /10\.1\.0\.0\/16 for the network/, 10],
    ['127.1', /127\.0\.0\.1/, 1],
    ['010.0.0.1', /write 10\.0\.0\.1/, 1],
    ['2001:db8::/32:443', /\[2001:db8::\/32\]:443/],
    ['db:5432', /container:db:5432/],
    ['https://a.org', /a\.org:443/],
    ['http://a.org/x?y', /a\.org:80/],
    ['https://a.org:8443/', /a\.org:8443/],
    ['list:npm:443', /list:npm/],
    ['10.0.0.1:8/icmp', /":8"/],
    ['*.com', /"\*\.com broad"/],
    ['.co.uk', /broad/],
    ['*.github.io', /broad/],
    ['*.ck', /broad/],
    ['8.0.0.0/7', /broad/],
    ['8.0.0.0-10.0.0.0', /broad/],
    ['2000::/15', /broad/],
    // One address more than the widest network that passes, wherever it begins.
    ['10.0.0.0-11.0.0.0', /broad/],
    ['9.255.255.255-10.255.255.255', /broad/],
    ['[2001::-2002::]', /broad/],
    ['a.org: 443', /a\.org:443/],
    ['a.org:', /a\.org:443/],
    ['a.org:0', /1-65535/, 7],
    ['a.org:70000', /1-65535/, 7],
    ['a.org:90-80', /80-90/, 7],
    ['a.org:443x', /1-65535/],
    ['a.org:080', /write 80/],
    ['a.org,443', /a\.org:443/, 6],
    ['a.org/udp', /:443\/udp/],
    ['a.org/tcp+udp', /tcp\+udp/],
    ['a.org/TCP', /\/tcp/],
    ['a.org/tcp/udp', /\/tcp\+udp/],
    ['a.org/443', /:443/],
    ['a.org/path', /path/],
    ['a.org/ip-256', /ip-255/],
    ['10.0.0.1:80/gre', /":80"/],
    ['10.0.0.0/33', /\/32/],
    ['10.0.0.0/255.0.0.0', /prefix length/],
    ['10.0.0.9-10.0.0.5', /10\.0\.0\.5-10\.0\.0\.9/],
    ['10.0.0.5-9', /10\.0\.0\.5-10\.0\.0\.9/],
    ['300.0.0.1', /0-255/],
    ['1.2.3.4.5', /four octets/],
    ['::ffff:10.0.0.1', /10\.0\.0\.1/],
    ['fe80::1%eth0', /fe80::1/],
    ['[10.0.0.1]:80', /without brackets/],
    ['[2001:db8::1', /\[2001:db8::1\]:443/],
    ['[2001:db8::1]443', /:PORTS/],
    ['2001:db8:::1', /RFC 4291/],
    ['*', /any/],
    ['api.*.com', /\*\.example\.com/, 5],
    ['*.*.com', /\*/],
    ['localhost:80', /host:80/],
    ['HOST', /host/],
    ['container::80', /container:NAME/],
    ['list:', /list:NAME/],
    ['list:npm broad', /list:npm/],
    ['a.org secret', /private, broad/],
    ['a.org dns=direct', /address/],
    ['a.org, b.org:443, a.org', /remove one/, 19],
    ['a.org, a.org.', /remove one/],
    ['a.org,,b.org', /remove the comma/, 7],
    [', a.org', /remove the comma/, 1],
    ['user@a.org', /domain name|labels/],
    ['0x7f.1', /domain name/],
  ])('%j', (text, remedy, column) => {
    const [problem] = problems(text);
    expect(problem).toBeDefined();
    expect(problem?.detail).toBeTruthy();
    expect(problem?.remedy).toMatch(remedy);
    if (column !== undefined) expect(problem).toMatchObject({ line: 1, column });
  });

  it('tells all of them at once, each at its place', () => {
    expect(problems('a.org\n b.org:0, 127.1\n\nc:1').map(({ line, column }) => [line, column])).toEqual([
      [2, 8],
      [2, 11],
      [4, 1],
    ]);
  });
});

describe('what an entry permits', () => {
  it.each<[string, readonly string[]]>([
    ['a.org', ['tcp 80-80 443-443', 'udp 443-443']],
    ['a.org quic=deny', ['tcp 80-80 443-443']],
    ['a.org/tcp', ['tcp 80-80 443-443']],
    ['a.org:22', ['tcp 22-22']],
    ['a.org:443/udp', ['udp 443-443']],
    ['10.0.0.1', ['tcp', 'udp', 'icmp']],
    ['any', ['tcp', 'udp', 'icmp']],
    ['host', ['tcp', 'udp', 'icmp']],
    ['container:db', ['tcp', 'udp', 'icmp']],
    ['10.0.0.1/tcp', ['tcp']],
    ['10.0.0.1:53/tcp+udp', ['tcp 53-53', 'udp 53-53']],
    ['10.0.0.1/icmp', ['icmp']],
    ['10.0.0.1:9899/sctp', ['other 132 9899-9899']],
    ['10.0.0.1/gre', ['other 47']],
    ['10.0.0.1/esp', ['other 50']],
    ['10.0.0.1/ip-89', ['other 89']],
    ['10.0.0.1/ip-0', []],
  ])('%s: %j', (text, wanted) => expect(classes(text)).toEqual(wanted));
});

describe('properties', () => {
  const port = fc.integer({ min: 1, max: 65535 });
  const ports = fc
    .array(fc.tuple(port, port), { minLength: 1, maxLength: 4 })
    .map((list) =>
      list.map(([a, b]) => (a === b ? `${a}` : `${Math.min(a, b)}-${Math.max(a, b)}`)).join(','),
    );
  const octet = fc.integer({ min: 0, max: 255 });
  const v4 = fc.tuple(octet, octet, octet, octet).map((octets) => octets.join('.'));
  const group = fc.integer({ min: 0, max: 0xffff }).map((value) => value.toString(16));
  const v6 = fc.array(group, { minLength: 8, maxLength: 8 }).map((groups) => groups.join(':'));
  /** A label that begins with xn-- must be the encoding of something (RFC 5891, section 5.4). */
  const label = fc.stringMatching(/^[a-z][a-z0-9_-]{0,8}$/).filter((text) => !text.startsWith('xn--'));
  const name = fc.array(label, { minLength: 2, maxLength: 4 }).map((labels) => labels.join('.'));
  const plain = fc.oneof(
    v4,
    name,
    name.map((text) => `*.${text}`),
    name.map((text) => `.${text}`),
    fc.constantFrom('any', 'host', 'container:db'),
  );
  const target = fc.oneof(
    plain,
    v6.map((text) => `[${text}]`),
  );
  const proto = fc.constantFrom('', '/tcp', '/udp', '/tcp+udp', '/sctp');
  const flags = fc
    .subarray(['private', 'broad', 'tls=off', 'quic=deny'])
    .map((list) => list.map((flag) => ` ${flag}`).join(''));
  const text = fc.tuple(target, ports, proto, flags).map(([a, b, c, d]) => `${a}:${b}${c}${d} broad`);

  it('canonical text parses to itself', () => {
    fc.assert(
      fc.property(text, (written) => {
        const once = parseEntry(written);
        expect(once.ok).toBe(true);
        if (once.ok) expect(parseEntry(once.value.canonical)).toEqual(once);
      }),
    );
  });

  it('several entries are split where they were joined, at commas and at newlines', () => {
    fc.assert(
      fc.property(
        fc.uniqueArray(text, {
          minLength: 1,
          maxLength: 5,
          selector: (one) => (parseEntry(one) as { value?: Entry }).value?.canonical,
        }),
        fc.constantFrom(', ', ',\n', '\n', ' , '),
        (list, separator) => {
          expect(canonicals(list.join(separator)).length).toBe(list.length);
        },
      ),
    );
  });

  it('never throws, and every refusal has detail, remedy and place', () => {
    const near = fc.string({
      unit: fc.constantFrom(...'01259abz.:/-,*[] \n%=_', 'list:', 'host', 'any', 'container:', '::', '/udp'),
    });
    fc.assert(
      fc.property(fc.oneof(fc.string({ unit: 'binary' }), near), (written) => {
        const parsed = parseEntries(written);
        if (parsed.ok) {
          const again = canonicals(parsed.value.map(({ canonical }) => canonical).join('\n'));
          expect(again).toEqual(parsed.value.map(({ canonical }) => canonical));
          return;
        }
        for (const { detail, remedy, line, column } of parsed.problems) {
          expect(detail && remedy).toBeTruthy();
          expect(Math.min(line ?? 0, column ?? 0)).toBeGreaterThan(0);
        }
      }),
      { numRuns: 500 },
    );
  });
});
