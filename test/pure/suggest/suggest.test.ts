import { describe, expect, it } from 'vitest';
import { parseEntry } from '../../../src/policy/entry-parse.js';
import type { List } from '../../../src/policy/policy.js';
import type { Recorded } from '../../../src/suggest/needs.js';
import { suggestionText } from '../../../src/suggest/suggestion-text.js';
import { DAY, inputOf, NOW, placeOf, policy, SHIPPED, seen, suggested, texts } from './sample.js';

const recordOf = (more: Partial<Recorded>): { record: Recorded } => ({ record: more as Recorded });
const leftOf = (s: ReturnType<typeof suggested>) => s.left.map((l) => `${l.entry}: ${l.why}`);

describe('entries', () => {
  it.each<[readonly string[], readonly string[]]>([
    [['a.org:443'], ['a.org']],
    [['a.org:80', 'a.org:443', 'a.org:443/udp'], ['a.org']],
    [['a.org:443', 'a.org:8443'], ['a.org:443,8443']],
    [['a.org:8000', 'a.org:8001', 'a.org:8002'], ['a.org:8000-8002']],
    [['a.org:53/udp'], []],
    [['a.org:123/udp'], ['a.org:123/udp']],
    [['a.org:5000', 'a.org:5000/udp'], ['a.org:5000/tcp+udp']],
    [
      ['a.org:5000', 'a.org:443/udp'],
      ['a.org:443/udp', 'a.org:5000'],
    ],
    [
      ['10.0.0.5:5432', '10.0.0.6:5432'],
      ['10.0.0.5:5432', '10.0.0.6:5432'],
    ],
    [['10.0.0.5:443'], ['10.0.0.5:443']],
    [['[2001:db8::1]:443'], ['[2001:db8::1]:443']],
    [['192.0.2.1/icmp'], ['192.0.2.1/icmp']],
    [['192.0.2.1/47'], ['192.0.2.1/gre']],
  ])('%j gives %j', (rows, entries) => expect(texts(suggested(rows))).toEqual(entries));

  it('ports are written where another one of the name is refused', () => {
    const threat = seen('a.org:443', { verdict: 'threat' });
    expect(texts(suggested(['a.org:80', threat]))).toEqual(['a.org:80']);
  });

  it('has how often, since when and over how many starts', () => {
    const [entry] = suggested([
      'a.org',
      seen('a.org:443', { count: 1, first: NOW - 9 * DAY, starts: 3 }),
    ]).entries;
    expect(entry).toMatchObject({
      count: 42,
      starts: 12,
      first: '2026-11-21T12:00:00Z',
      last: '2026-11-30T11:00:00Z',
      comment: '42 times since 2026-11-21T12:00:00Z, last 2026-11-30T11:00:00Z, in 12 of 17 starts',
      risk: null,
    });
  });

  it('an address that has a name is covered by the name', () => {
    const bare = seen('203.0.113.1:443');
    expect(texts(suggested([seen('a.org'), bare]))).toEqual(['a.org']);
    expect(texts(suggested([bare]))).toEqual(['203.0.113.1:443']);
  });

  it('an address that many parties share is left for a person to decide, with the reason', () => {
    const found = suggested([
      '104.16.132.229:443',
      '192.0.2.7:443',
      seen('1.1.1.1:853', { verdict: 'deny' }),
    ]);
    expect(texts(found)).toEqual(['192.0.2.7:443']);
    const reason = (of: string) => expect.stringContaining(`many parties share the address: ${of} (a `);
    expect(found.left).toMatchObject([
      { entry: '1.1.1.1:853', why: reason('Cloudflare 1.1.1.1'), action: 'decide' },
      { entry: '104.16.132.229:443', why: reason('Cloudflare'), action: 'decide' },
    ]);
    const present = suggested(['104.16.132.229:443'], { policy: policy('104.16.132.229:443') });
    expect(present.entries).toMatchObject([{ risk: expect.stringContaining('a CDN') }]);
  });

  it('of a target that is left, each entry counts what it permits, and all together what was used', () => {
    const found = suggested([
      seen('[2600:9000:101::1]:7100', { count: 5 }),
      seen('[2600:9000:101::1]:19', { count: 2 }),
      seen('[2600:9000:101::1]:123/udp', { count: 4 }),
      seen('[2600:9000:101::1]/icmp', { count: 1 }),
    ]);
    expect(found.entries).toEqual([]);
    expect(found.left.map(({ entry, count }) => [entry, count])).toEqual([
      ['2600:9000:101::1/icmp', 1],
      ['[2600:9000:101::1]:123/udp', 4],
      ['[2600:9000:101::1]:19,7100', 7],
    ]);
  });

  it('an address that only a resolver of the container gave for a name is shown, also where an entry permits the name', () => {
    const at = { address: '192.0.2.66', port: 443, proto: 'tcp' };
    const own = [{ name: 'a.org', ...at, count: 3, first: NOW - 2 * DAY, last: NOW - DAY }];
    const record = { ...inputOf([]).record, seen: [seen('a.org')], own };
    for (const text of ['', 'a.org']) {
      const found = suggested(['a.org'], { record, policy: policy(text) });
      expect(texts(found)).toEqual(['a.org']);
      expect(found.left).toMatchObject([
        {
          entry: '192.0.2.66:443',
          count: 0, // the connections of an address are among those of the name
          last: '2026-11-29T12:00:00Z',
          action: 'none',
          why: expect.stringMatching(/^used as a\.org \(3 times, counted there\), and only/),
        },
      ]);
      expect(suggestionText('web', [found], 'list')).toContain('192.0.2.66:443: used as a.org');
    }
  });

  it('neighbours that need no entry get none, and others are named', () => {
    const rows = [seen('172.18.0.3:5432'), seen('172.18.0.4:6379'), seen('172.18.0.1:8125/udp')];
    const kind = 'neighbour' as const;
    const place = (entry: string, free = false) => ({ entry, kind, name: null, free, warning: null });
    const places = [place('container:db:5432'), place('container:cache:6379', true), place('host:8125/udp')];
    const found = suggested(rows, { places });
    expect(texts(found)).toEqual(['container:db:5432', 'host:8125/udp']);
    expect(found.notes).toContain('container:cache: permitted without an entry (neighbours, eastWest)');
  });
});

describe('numbered names', () => {
  const numbers = (name: string, count = 3) =>
    Array.from({ length: count }, (_, i) => name.replace('#', `${i + 1}`));

  it.each<[string, string]>([
    ['a#.cdn.example.com', '*.cdn.example.com'],
    ['a#-x.example.com', '*.example.com'],
  ])('%s gives %s', (name, entry) => expect(texts(suggested(numbers(name)))).toEqual([entry]));

  it.each<string>([
    'a#.github.io',
    'a#.co.uk',
    'b#.s3.amazonaws.com',
    'a#.com',
    'x.a#.example.com',
    'a#b1c.example.com',
  ])('%s are not joined', (name) =>
    expect(texts(suggested(numbers(name)))).not.toContain(expect.stringMatching('\\*')),
  );

  it('two are not joined, nor those with other ports, nor over a name that is refused', () => {
    expect(texts(suggested(numbers('a#.example.com', 2)))).toEqual(['a1.example.com', 'a2.example.com']);
    expect(texts(suggested(['a1.example.com', 'a2.example.com', 'a3.example.com:8443']))).toHaveLength(3);
    const refused = seen('a9.example.com', { verdict: 'deny' });
    expect(texts(suggested([...numbers('a#.example.com'), refused]))).toHaveLength(3);
  });

  it('a name that was seen once, or only resolved, is covered by the others', () => {
    const once = seen('a4.example.com', { count: 1, starts: 1 });
    const found = suggested([...numbers('a#.example.com'), once, seen('a5.example.com/dns')]);
    expect(texts(found)).toEqual(['*.example.com']);
    expect(found.left).toEqual([]);
    expect(found.entries[0]?.comment).toMatch(/^4 numbered names, /);
  });
});

describe('lists', () => {
  it('are recognised when they explain several names', () => {
    const rows = [
      'registry.npmjs.org',
      'nodejs.org',
      'github.com',
      'api.github.com',
      'codeload.github.com',
      'a.org',
    ];
    const found = suggested(rows);
    expect(found.lists.map((l) => [l.list, l.covers])).toEqual([
      ['npm', ['nodejs.org', 'registry.npmjs.org']],
    ]);
    expect(found.notes[0]).toBe('npm explains 2 of 6 destinations');
  });

  it('larger than what was used warrants are offered, and their names are entries', () => {
    const found = suggested(['github.com', 'api.github.com']);
    expect([found.lists, texts(found)]).toEqual([[], ['api.github.com', 'github.com']]);
    expect(found.offered).toEqual([{ list: 'github', size: 11, covers: ['api.github.com', 'github.com'] }]);
  });

  it('one name, other ports, and lists that open much are not enough', () => {
    expect(suggested(['registry.npmjs.org']).lists).toEqual([]);
    const ports = suggested(['registry.npmjs.org:80', 'nodejs.org:8080']);
    expect(ports.lists).toEqual([]);
    expect(suggested(['slack.com', 'files.slack.com']).lists).toEqual([]);
    const wide = listOf('wide', ['any:443', 'a.org', 'b.org']);
    expect(suggested(['a.org', 'b.org'], { lists: wide }).lists).toEqual([]);
  });

  it('a list that denies what was used is not chosen', () => {
    const lists = listOf('mine', ['a.org', 'b.org', '!c.org']);
    expect(suggested(['a.org', 'b.org'], { lists }).lists).toHaveLength(1);
    expect(suggested(['a.org', 'b.org', 'c.org'], { lists }).lists).toEqual([]);
  });

  it('those of its labels stay', () => {
    const found = suggested([seen('registry.npmjs.org', { verdict: 'allow' })], {
      policy: policy('', ['npm']),
    });
    expect(found.lists).toEqual([
      { list: 'npm', comment: 'now in its labels', covers: ['registry.npmjs.org'] },
    ]);
    expect(found.entries).toEqual([]);
  });
});

function listOf(name: string, allow: readonly string[]): ReadonlyMap<string, List> {
  const entries = allow.flatMap((text) => {
    const parsed = parseEntry(text);
    return parsed.ok ? [parsed.value] : [];
  });
  return new Map([[name, { name, source: 'store', allow: entries }]]);
}

describe('what is left out, and why', () => {
  it.each<[ReturnType<typeof seen>, RegExp]>([
    [seen('a.org', { verdict: 'threat' }), /^a\.org: a threat feed lists it/],
    [seen('a.org', { known: true }), /^a\.org: marked as known and refused$/],
    [
      seen('a.org', { verdict: 'deny' }),
      /^a\.org: denied now; drawbridge allow shop-web-1 a\.org permits it$/,
    ],
    [seen('a.org', { verdict: 'ask' }), /^a\.org: denied now/],
    [seen('a.org/dns'), /^a\.org: only resolved/],
    [seen('a.org', { count: 1, starts: 1 }), /^a\.org: seen once, in one of 17 starts$/],
    [seen('pastebin.com'), /^pastebin\.com: anyone can receive data there: pastes/],
    [seen('b.s3.amazonaws.com'), /^b\.s3\.amazonaws\.com: anyone can have a name below s3\.amazonaws\.com/],
    [seen('storage.googleapis.com:443'), /with the bucket in the path/],
  ])('%j', (row, why) => {
    const found = suggested([row]);
    expect(texts(found)).toEqual([]);
    expect(leftOf(found)).toEqual([expect.stringMatching(why)]);
  });

  it('denied destinations are suggested when they are asked for', () => {
    const options = { includeDenied: true, unusedMs: 30 * DAY };
    expect(texts(suggested([seen('a.org', { verdict: 'deny' })], { options }))).toEqual(['a.org']);
    expect(texts(suggested([seen('a.org', { verdict: 'threat' })], { options }))).toEqual([]);
  });

  it('what a deny entry covers, what no entry can permit, and what is not to be permitted', () => {
    const found = suggested(['gist.example.com'], { policy: policy('*.example.org, !*.example.com') });
    expect(leftOf(found)).toEqual([
      expect.stringMatching(/^gist\.example\.com: !\*\.example\.com denies it/),
    ]);
    expect(texts(found)).toContain('!*.example.com');
    const row = seen('169.254.169.254:80');
    const warned = suggested([row], { places: [{ ...placeOf(row, []), warning: 'metadata' }] });
    expect(leftOf(warned)).toEqual(['169.254.169.254:80: metadata']);
    expect(leftOf(suggested([row], { places: [{ ...placeOf(row, []), entry: null }] }))).toEqual([
      '169.254.169.254:80/tcp: no entry can permit it',
    ]);
  });

  it('a container that started once has no oddities', () =>
    expect(texts(suggested([seen('a.org', { count: 1, starts: 1 })], recordOf({ starts: 1 })))).toEqual([
      'a.org',
    ]));

  it('the last verdict counts, but a threat always does', () => {
    const at = (verdict: 'allow' | 'deny', last: number) => seen('a.org', { verdict, last: NOW - last });
    expect(texts(suggested([at('deny', 2), at('allow', 1)]))).toEqual(['a.org']);
    expect(texts(suggested([at('deny', 1), at('allow', 2)]))).toEqual([]);
  });

  it('only what was used within the time', () => {
    const old = seen('old.org', { last: NOW - 5 * DAY });
    const options = { withinMs: DAY, includeDenied: false, unusedMs: 30 * DAY };
    expect(texts(suggested(['a.org', old], { options }))).toEqual(['a.org']);
  });
});

describe('the present policy', () => {
  const long = recordOf({ since: NOW - 40 * DAY });

  it('permitted destinations keep their entries, with the risk of each', () => {
    const rows = [seen('api.a.org', { verdict: 'allow' }), seen('pastebin.com', { verdict: 'allow' })];
    const found = suggested(rows, { policy: policy('*.a.org, pastebin.com') });
    expect(found.entries.map((e) => [e.entry, e.count, e.risk !== null])).toEqual([
      ['*.a.org', 41, false],
      ['pastebin.com', 41, true],
    ]);
    expect(found.left).toEqual([]);
  });

  it('entries that were not used for long are to be removed', () => {
    const rows = [
      seen('old.org', { verdict: 'allow', first: NOW - 39 * DAY, last: NOW - 35 * DAY }),
      seen('a.org'),
    ];
    const found = suggested(rows, { ...long, policy: policy('old.org, never.org, a.org') });
    expect(found.remove).toEqual([
      { entry: 'never.org', from: 'its label drawbridge.allow', unusedSince: '2026-10-21T12:00:00Z' },
      { entry: 'old.org', from: 'its label drawbridge.allow', unusedSince: '2026-10-26T12:00:00Z' },
    ]);
    expect(texts(found)).toEqual(['a.org']);
  });

  it('lists, too, but none that denies something', () => {
    const found = suggested(['a.org'], { ...long, policy: policy('', ['npm', 'slack']) });
    expect(found.remove.map((r) => r.entry)).toEqual(['list:npm', 'list:slack']);
    const lists = listOf('mine', ['b.org', '!c.org']);
    const kept = suggested(['a.org'], { ...long, lists, policy: { ...policy(''), lists: ['mine'] } });
    expect(kept.remove).toEqual([]);
  });

  it.each<[string, Partial<Recorded>, RegExp]>([
    ['the recording is young', {}, /no entry is to be removed: recorded since 2026-11-20/],
    [
      'it has a gap',
      {
        since: NOW - 40 * DAY,
        gaps: [{ from: NOW - 3 * DAY, to: NOW - 2 * DAY, reason: 'the service was not running' }],
      },
      /no entry is to be removed: the record .* has gaps\nnot recorded from .*: the service was not running/,
    ],
  ])('no removal while %s', (_, record, note) => {
    const found = suggested(['a.org'], { ...recordOf(record), policy: policy('never.org') });
    expect(found.remove).toEqual([]);
    expect(texts(found)).toEqual(['a.org', 'never.org']);
    expect(found.notes.join('\n')).toMatch(note);
  });

  it('an entry for addresses does not let a name resolve', () => {
    const at = { address: '10.0.0.7', verdict: 'allow', entry: '10.0.0.0/8' } as const;
    const rows = [seen('db.a.org:5432', at), seen('db.a.org/dns')];
    expect(texts(suggested(rows, { policy: policy('10.0.0.0/8') }))).toContain('db.a.org:5432');
    expect(texts(suggested([seen('db.a.org:5432', at)], { policy: policy('10.0.0.0/8') }))).toEqual([
      '10.0.0.0/8',
    ]);
  });

  it('lost records and a container that is gone are said', () => {
    const found = suggested(['a.org'], { ...recordOf({ dropped: 7 }), policy: undefined });
    expect(found.notes.join('\n')).toMatch(
      /does not exist now(.|\n)*7 flows of this host could not be recorded/,
    );
  });
});

describe('stability', () => {
  it('is the time since the last new destination, and the starts since then at least', () => {
    const rows = [
      seen('a.org', { first: NOW - 9 * DAY }),
      seen('b.org', { first: NOW - 3 * DAY, starts: 5 }),
    ];
    expect(suggested(rows).stable).toEqual({
      since: '2026-11-27T12:00:00Z',
      for: '3 days',
      starts: 4,
      enough: true,
      text: 'nothing new for 3 days, and at least 4 starts (17 starts recorded since 2026-11-20T12:00:00Z)',
    });
  });
  it('of a young recording is not enough; many starts are', () => {
    const young = { since: NOW - 3_600_000, starts: 2 };
    const { stable } = suggested([seen('a.org', { first: NOW - 60_000, starts: 1 })], recordOf(young));
    expect(stable).toMatchObject({ enough: false, for: '1 minute' });
    expect(stable.text).toMatch(/; recording since 2026-11-30T11:00:00Z only$/);
    expect(suggested(['a.org'], recordOf({ ...young, starts: 12 })).stable.enough).toBe(true);
    expect(suggested([], recordOf({ since: null })).stable.text).toBe('nothing is recorded of it');
    expect(suggested([], {}).stable.text).toBe('no destination in 10 days, 17 starts');
  });
});

it('the lists that ship are all known here', () => expect(SHIPPED.size).toBeGreaterThan(30));
