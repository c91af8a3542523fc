import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Config, type ConfigSources, readConfig } from '../../../src/config/config.js';
import type { Problem } from '../../../src/lib/problem.js';

const file = (text: string) => ({ name: 'c.yaml', text });
const good = (sources: ConfigSources): Config => {
  const parsed = readConfig(sources);
  if (!parsed.ok) throw new Error(parsed.problems.map((problem) => problem.detail).join('\n'));
  return parsed.value;
};
const bad = (sources: ConfigSources): readonly Problem[] => {
  const parsed = readConfig(sources);
  return parsed.ok ? [] : parsed.problems;
};

/** The example of the specification, with what it leaves open filled in. */
const WHOLE = `
docker: { socket: /var/run/docker.sock }
node: ""
default: observe
baseline: []
unattributed: { mode: observe, lists: [] }
networks: { manage: ["*"], ignore: [] }
eastWest: {}
allowlists: /etc/drawbridge/allowlists
state: /var/lib/drawbridge
store: { redis: "" }
api: { listen: "unix:/run/drawbridge/api.sock", tokens: [] }
dns:
  upstreams: []
  zones: {}
  minTtl: 5s
  maxTtl: 1d
  grace: 1h
labels: { trustImages: [] }
deny: reject
failure: closed
threats:
  maxEntries: 2000000
  catalogue: false
  exceptions: []
  feeds: []
flows: { keep: 7d, maxSize: 512MB }
log: { level: info, format: json }
kernel: { prefix: DB, markMask: 0x7f003fff, queues: [53, 54] }
`;

describe('defaults', () => {
  it('no file, an empty file and the whole file with its defaults are the same', () => {
    const none = good({});
    expect(good({ file: file('') })).toEqual(none);
    expect(good({ file: file('# nothing\n') })).toEqual(none);
    expect(good({ file: file(WHOLE) })).toEqual(none);
    expect(none).toMatchObject({
      default: 'observe',
      failure: 'closed',
      dns: { minTtlMs: 5_000, maxTtlMs: 86_400_000, graceMs: 3_600_000 },
      flows: { keepMs: 604_800_000, maxSizeBytes: 512_000_000 },
      canary: { everyMs: 60_000, ready: false },
      kernel: { prefix: 'DB', markMask: 0x7f003fff, queues: [53, 54] },
      networks: { manage: ['*'], ignore: [] },
    });
  });
  it('a key with nothing behind it is a key left out', () =>
    expect(good({ file: file('dns:\nbaseline:\nlog:\n  level:\n') })).toEqual(good({})));
  it('feeds, zones and exceptions', () =>
    expect(
      good({
        file: file(`
dns: { zones: { CORP.example.: { upstreams: [10.0.0.53, "[2001:db8::53]:53"], private: true }, lan: {} } }
threats:
  exceptions: [ { to: 192.0.2.7, reason: our own relay } ]
  feeds:
    - { name: firehol-level1, url: "https://example.org/firehol_level1.netset" }
eastWest: { "shop_*": allow }
`),
      }),
    ).toMatchObject({
      dns: {
        zones: {
          'corp.example': { upstreams: ['10.0.0.53', '[2001:db8::53]:53'], private: true },
          lan: { upstreams: [], private: false },
        },
      },
      threats: {
        exceptions: [{ to: '192.0.2.7' }],
        feeds: [{ name: 'firehol-level1', format: 'auto', everyMs: 3_600_000, action: 'block' }],
      },
      eastWest: { 'shop_*': 'allow' },
    }));

  it('a feed says all that is known of feeds, in the units of the service', () => {
    const text = `
threats:
  feeds:
    - name: c2
      url: https://feeds.example/c2.csv
      format: csv
      every: 30m
      minInterval: 10m
      action: observe
      direction: outbound
      hosts: ["web-*"]
      column: dst_ip
      delimiter: ";"
      minScore: 5
      subdomains: false
      member: c2.csv
      header: { name: Auth-Key, file: /etc/drawbridge/c2.key, prefix: "Bearer " }
      proxy: http://proxy.example:3128
      allowPrivate: true
      timeout: 20s
      maxSize: 1MiB
      maxUnpacked: 2MiB
      guards: { minEntries: 0, maxShrink: 1 }
`;
    expect(good({ file: file(text) }).threats.feeds).toEqual([
      {
        name: 'c2',
        url: 'https://feeds.example/c2.csv',
        format: 'csv',
        everyMs: 1_800_000,
        minIntervalMs: 600_000,
        action: 'observe',
        direction: 'outbound',
        hosts: ['web-*'],
        options: { column: 'dst_ip', delimiter: ';', minScore: 5, subdomains: false, member: 'c2.csv' },
        auth: { header: 'Auth-Key', file: '/etc/drawbridge/c2.key', prefix: 'Bearer ' },
        proxy: 'http://proxy.example:3128',
        allowPrivate: true,
        timeoutMs: 20_000,
        maxSize: 2 ** 20,
        maxUnpacked: 2 ** 21,
        guards: { minEntries: 0, maxShrink: 1 },
      },
    ]);
  });
});

describe('sources: flag > environment > file > default', () => {
  const sources = {
    file: file('dns: { grace: 2h, minTtl: 10s, maxTtl: 2d }'),
    env: { DRAWBRIDGE_DNS_GRACE: '3h', DRAWBRIDGE_DNS_MIN_TTL: '20s' },
    flags: { 'dns.grace': '4h' },
  };
  it('each has its turn', () =>
    expect(good(sources).dns).toMatchObject({
      graceMs: 14_400_000,
      minTtlMs: 20_000,
      maxTtlMs: 172_800_000,
    }));

  it('texts take the type of their key', () =>
    expect(
      good({
        env: {
          DRAWBRIDGE_BASELINE: 'npm, github',
          DRAWBRIDGE_NETWORKS_MANAGE: '["a*", b]',
          DRAWBRIDGE_KERNEL_MARKMASK: '0xffff',
          DRAWBRIDGE_KERNEL_QUEUES: '1,2',
          DRAWBRIDGE_EASTWEST: '{ "a_*": allow }',
          DRAWBRIDGE_EAST_WEST: '{ "a_*": policy }',
          DRAWBRIDGE_NODE: '5',
          DRAWBRIDGE_LABELS_TRUSTIMAGES: '',
          DRAWBRIDGE_CONFIG: '/some/file',
          PATH: '/bin',
        },
      }),
    ).toMatchObject({
      baseline: ['npm', 'github'],
      networks: { manage: ['a*', 'b'] },
      kernel: { markMask: 0xffff, queues: [1, 2] },
      eastWest: { 'a_*': 'policy' },
      node: '5',
      labels: { trustImages: [] },
    }));

  it('every wrong one is told by its name', () => {
    const problems = bad({
      env: { DRAWBRIDGE_DNS_GRACE: 'soon', DRAWBRIDGE_DEFALT: 'enforce' },
      flags: { 'log.level': 'loud', nope: '1' },
    });
    const details = problems.map(({ detail }) => detail).join('\n');
    for (const name of [
      'DRAWBRIDGE_DNS_GRACE: dns.grace',
      'DRAWBRIDGE_DEFALT',
      '--log.level: log.level',
      '--nope',
    ])
      expect(details).toContain(name);
    expect(problems).toHaveLength(4);
    for (const { file: where } of problems) expect(where).toBeUndefined();
  });
});

describe('what stops the start, with its path and remedy', () => {
  it.each<[string, number, number, RegExp, RegExp]>([
    ['defualt: enforce', 1, 1, /unknown key defualt/, /did you mean "default"/],
    ['dns: { graze: 1h }', 1, 8, /dns\.graze/, /did you mean "grace"/],
    ['zzzzzz: 1', 1, 1, /zzzzzz/, /keys that are valid here are docker/],
    ['default: enforced', 1, 10, /default: "enforced"/, /observe or enforce or off/],
    ['default: true', 1, 10, /default: true/, /observe or enforce or off/],
    ['baseline: npm', 1, 11, /baseline/, /\[npm\]/],
    ['baseline: [a/b]', 1, 12, /baseline\[0\]/, /npm/],
    ['dns: { grace: 5 }', 1, 15, /dns\.grace: 5/, /1h/],
    ['state: /var/../proc/drawbridge', 1, 8, /is in a file system of the kernel/, /folder on a disk/],
    ['dns: { minTtl: 2d }', 1, 16, /minTtl 2d is above/, /lower/],
    ['dns: { upstreams: [dns.google] }', 1, 20, /dns\.google/, /10\.0\.0\.53/],
    ['dns: { upstreams: ["10.0.0.1:99999"] }', 1, 20, /99999/, /10\.0\.0\.53/],
    ['dns: { zones: { "a..b": {} } }', 1, 25, /empty label/, /domain name/],
    ['dns: { zones: { a.org: {}, A.org: {} } }', 1, 35, /twice/, /one of the two/],
    ['dns: { zones: { lan: { upstreams: [x.y] } } }', 1, 36, /x\.y/, /10\.0\.0\.53/],
    ['eastWest: { a: deny }', 1, 16, /eastWest\.a/, /allow or policy/],
    ['flows: { maxSize: 5 }', 1, 19, /flows\.maxSize/, /512MB/],
    ['kernel: { queues: [53, 53] }', 1, 19, /kernel\.queues/, /\[53,54\]/],
    ['kernel: { markMask: -1 }', 1, 21, /kernel\.markMask/, /0x7f003fff/],
    ['kernel: { prefix: drawbridge }', 1, 19, /kernel\.prefix/, /DB/],
    ['store: { redis: "http://x" }', 1, 17, /store\.redis/, /redis:/],
    ['store: { redis: "redis://h:x" }', 1, 17, /"h:x" is not a host/, /redis:/],
    ['store: { redis: "redis://:%zz@h" }', 1, 17, /a % is not followed by two hex digits/, /redis:/],
    ['store: { redis: "redis+sentinel://a,b" }', 1, 17, /name of the master/, /MASTER/],
    ['kernel: { markMask: 0xff }', 1, 21, /0xff is too small/, /0x7f003fff/],
    ['kernel: { prefix: DOCKER }', 1, 19, /chains of another program/, /DB/],
    ['node: a b', 1, 7, /node/, /web-1/],
    [
      'api: { tokens: [{name: a b, role: read, token: 0123456789abcdef}] }',
      1,
      24,
      /is not a name/,
      /letters/,
    ],
    [
      'api: { tokens: [{name: a, role: read, token: "sha256:0123456789"}] }',
      1,
      46,
      /no SHA-256/,
      /sha256sum/,
    ],
    ['api: { tokens: [{name: a, role: read, token: "0123456789 abcdef"}] }', 1, 46, /characters/, /openssl/],
    // A map in place of a list is no list: nothing would be managed, and nothing said.
    ['networks: { manage: { "web_*": true } }', 1, 21, /networks\.manage/, /list/],
    ['baseline: { npm: true }', 1, 11, /baseline/, /npm|list/],
    ['api: { tokens: { length: [x] } }', 1, 16, /api\.tokens/, /./],
    ['dns: []', 1, 6, /dns/, /./],
    ['docker: { socket: docker.sock }', 1, 19, /docker\.socket/, /\/var\/run/],
    [
      'api: { listen: "example.org:80", tokens: [{name: a, role: read, token: 0123456789abcdef}] }',
      1,
      16,
      /example\.org/,
      /127\.0\.0\.1/,
    ],
    [
      'api: { tokens: [{name: a, role: root, token: 0123456789abcdef}] }',
      1,
      33,
      /role/,
      /read or write or admin/,
    ],
    ['api: { tokens: [{name: a, role: read, token: short}] }', 1, 46, /token/, /sha256/],
    ['threats: { exceptions: [{ to: 192.0.2.7 }] }', 1, 25, /reason is missing/, /relay/],
    ['threats: { exceptions: [{ to: "a.org:443", reason: x }] }', 1, 31, /a\.org:443/, /without ports/],
    ['threats: { feeds: [{ name: a, url: "ftp://x" }] }', 1, 36, /url/, /https/],
    [
      'threats: { feeds: [{ name: a, url: "https://x", format: nope }] }',
      1,
      57,
      /the format "nope" is not known/,
      /netset/,
    ],
    ['threats: { feeds: [{ name: a, url: "https://x", proxy: x }] }', 1, 56, /proxy/, /3128/],
    ['threats: { feeds: [{ name: a, url: "https://x", minscore: 1 }] }', 1, 49, /minscore/, /minScore/],
    [
      'threats: { feeds: [{ name: a, url: "https://x", guards: { maxShrink: 2 } }] }',
      1,
      70,
      /maxShrink/,
      /0.5/,
    ],
    ['[]', 1, 1, /not a map/, /keys/],
    ['a', 1, 1, /not a map/, /keys/],
    ['default: observe\ndefault: off', 2, 1, /unique/, /one of the two/],
    ['default: *x', 1, 10, /alias/, /quotes/],
  ])('%s', (text, line, column, detail, remedy) => {
    const [problem] = bad({ file: file(text) });
    expect(problem).toMatchObject({ file: 'c.yaml', line, column });
    expect(problem?.detail).toMatch(detail);
    expect(problem?.remedy).toMatch(remedy);
  });

  it('tells everything at once, shape and meaning', () => {
    const text =
      'defualt: off\ndns:\n  grace: soon\n  upstreams: [nope.]\n  zones: { "1.2": {} }\napi: { listen: "example.org:1" }\n';
    expect(
      bad({ file: file(text) })
        .map(({ line }) => line)
        .sort(),
    ).toEqual([1, 3, 4, 5, 6]);
  });

  it('never throws', () => {
    const value = fc.oneof(fc.jsonValue(), fc.constantFrom('off', '1h', 'a', [], {}));
    const keys = [
      'dns',
      'api',
      'threats',
      'kernel',
      'default',
      'networks',
      'eastWest',
      '__proto__',
      'constructor',
    ];
    const tree = fc.dictionary(
      fc.constantFrom(...keys),
      fc.oneof(
        value,
        fc.dictionary(fc.constantFrom('zones', 'tokens', 'feeds', 'listen', 'queues', 'toString'), value),
      ),
    );
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          tree.map((one) => JSON.stringify(one)),
        ),
        (text) => {
          for (const { detail, remedy, line } of bad({ file: file(text) }))
            expect(detail && remedy && line).toBeTruthy();
        },
      ),
      { numRuns: 300 },
    );
  });
});

describe('words that YAML 1.1 reads as booleans', () => {
  it('off is off', () =>
    expect(good({ file: file('%YAML 1.1\n---\ndefault: off\nunattributed: { mode: off }') })).toMatchObject({
      default: 'off',
      unattributed: { mode: 'off' },
    }));
});
