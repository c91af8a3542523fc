import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Problem } from '../../../src/lib/problem.js';
import { entryFromObject } from '../../../src/policy/entry-object.js';
import { listFromObject } from '../../../src/policy/list-parse.js';
import { cyclicLists, type List } from '../../../src/policy/policy.js';

const canonical = (value: unknown): string => {
  const parsed = entryFromObject(value);
  return parsed.ok
    ? parsed.value.canonical
    : `refused: ${parsed.problems.map((problem) => problem.detail).join('; ')}`;
};
const faults = (value: unknown): readonly Problem[] => {
  const parsed = entryFromObject(value);
  return parsed.ok ? [] : parsed.problems;
};

describe('the object form', () => {
  it.each<[unknown, string]>([
    [{ to: 'a.org' }, 'a.org'],
    [{ to: 'ssh.github.com', ports: 443, tls: 'off', comment: 'ssh' }, 'ssh.github.com:443 tls=off'],
    [{ to: 'a.org', ports: 443, tls: false }, 'a.org:443 tls=off'],
    [{ to: 'a.org', ports: [80, '8000-8100'] }, 'a.org:80,8000-8100'],
    [{ to: 'a.org', ports: '80, 443', proto: 'udp' }, 'a.org:80,443/udp'],
    [{ to: 'a.org:443/udp' }, 'a.org:443/udp'],
    [{ to: '*.com', broad: true, private: true, quic: 'deny' }, '*.com private broad quic=deny'],
    [{ to: '10.0.0.53', ports: 53, proto: 'udp', dns: 'direct' }, '10.0.0.53:53/udp dns=direct'],
    [{ to: '2001:db8::/32', ports: 443 }, '[2001:db8::/32]:443'],
    [{ to: 'list:npm', comment: 'packages' }, 'list:npm'],
    [{ to: 'a.org', private: false, broad: false }, 'a.org'],
    ['a.org:443', 'a.org:443'],
  ])('%j is %s', (value, text) => expect(canonical(value)).toBe(text));

  it('keeps comment and expires', () =>
    expect(entryFromObject({ to: 'a.org', comment: 'why', expires: '2030-01-01T00:00:00Z' })).toMatchObject({
      ok: true,
      value: { comment: 'why', expires: '2030-01-01T00:00:00Z' },
    }));

  it.each<[unknown, string, RegExp]>([
    [{ 'a.org': 443 }, '', /"a\.org:443" in quotes/],
    [{ any: 443 }, '', /"any:443" in quotes/],
    [{ to: 'a.org', port: 443 }, '/port', /keys of an entry/],
    [{}, '', /to:/],
    [{ to: 7 }, '/to', /space/],
    [{ to: 127.1 }, '/to', /127\.0\.0\.1/],
    [{ to: true }, '/to', /quotes/],
    [{ to: 'a.org', ports: 0 }, '/ports', /1-65535/],
    [{ to: 'a.org', ports: 70000 }, '/ports', /1-65535/],
    [{ to: 'a.org', ports: 4.5 }, '/ports', /1-65535/],
    [{ to: 'a.org', ports: [] }, '/ports', /remove it/],
    [{ to: 'a.org', ports: {} }, '/ports', /443/],
    [{ to: 'a.org:80', ports: 443 }, '/to', /one place/],
    [{ to: 'a.org:80/udp', proto: 'udp' }, '/to', /one place/],
    [{ to: 'a.org', proto: 'http' }, '/proto', /tcp/],
    [{ to: 'a.org', proto: 'udp' }, '/to', /ports/],
    [{ to: 'a.org', tls: 'on' }, '/tls', /off/],
    [{ to: 'a.org', private: 'yes' }, '/private', /true/],
    [{ to: 'a.org', expires: '2030-01-01' }, '/expires', /UTC/],
    [{ to: 'list:npm', ports: 443 }, '/ports', /list itself/],
    [{ to: '*.com' }, '/to', /broad/],
    [[], '', /quotes/],
    [null, '', /quotes/],
    [443, '', /directly after the destination/],
  ])('%j is refused at %s', (value, pointer, remedy) => {
    const [problem] = faults(value);
    expect(problem?.pointer ?? '').toBe(pointer);
    expect(problem?.remedy).toMatch(remedy);
  });

  it('tells every problem at once', () =>
    expect(faults({ to: 'a.org', ports: 0, proto: 'x', tls: 1 }).map(({ pointer }) => pointer)).toEqual([
      '/ports',
      '/proto',
      '/tls',
    ]));

  it.each([{ toString: null, valueOf: null }, ['off'], 'constructor', '__proto__', true, null])(
    'refuses tls: %j',
    (tls) => expect(faults({ to: 'a.org', tls })).toMatchObject([{ pointer: '/tls' }]),
  );

  it('never throws', () => {
    const keyed = fc.record(
      {
        to: fc.anything(),
        ports: fc.anything(),
        proto: fc.anything(),
        tls: fc.anything(),
        expires: fc.anything(),
      },
      { requiredKeys: [] },
    );
    fc.assert(fc.property(fc.oneof(fc.anything(), keyed), (value) => void entryFromObject(value)));
  });
});

const list = (body: unknown, name = 'l') => listFromObject(name, 'folder', body);

describe('lists', () => {
  it('reads all fields', () =>
    expect(
      list({
        description: 'GitHub',
        match: {
          name: 'runner-*',
          image: 'ghcr.io/acme/*',
          labels: { 'com.docker.compose.project': 'ci' },
          network: 'ci_default',
        },
        mode: 'enforce',
        allow: [
          '.github.com',
          { to: 'ssh.github.com', ports: 443, tls: 'off' },
          '140.82.112.0/20:22',
          'list:fastly',
          'a.org:80,443, b.org',
        ],
      }),
    ).toMatchObject({
      ok: true,
      value: {
        name: 'l',
        source: 'folder',
        description: 'GitHub',
        match: { name: 'runner-*', network: 'ci_default' },
        mode: 'enforce',
        allow: [
          '.github.com',
          'ssh.github.com:443 tls=off',
          '140.82.112.0/20:22',
          'list:fastly',
          'a.org:80,443',
          'b.org',
        ].map((text) => ({ canonical: text })),
      },
    }));

  it("takes YAML's false for off", () =>
    expect(list({ mode: false, allow: [] })).toMatchObject({ value: { mode: 'off' } }));

  it.each<[unknown, string, RegExp]>([
    [[], '', /allow:/],
    ['a.org', '', /allow:/],
    [{ allow: 'a.org' }, '/allow', /\[|like/],
    [{ alow: ['a.org'] }, '/alow', /allow/],
    [{ mode: 'enforced' }, '/mode', /enforce or observe or off/],
    [{ match: {} }, '/match', /name/],
    [{ match: { nme: 'x' } }, '/match/nme', /name/],
    [{ match: { name: 7 } }, '/match/name', /./],
    [{ match: { name: 'x' }, ask: 'soon' }, '/ask', /10s|30s/],
    [{ match: { name: 'x' }, ask: '1h' }, '/ask', /10s/],
    [{ match: { name: 'x' }, ask: 10 }, '/ask', /./],
    [{ ask: '10s' }, '/ask', /match/],
    [{ allow: ['a.org:0'] }, '/allow/0', /1-65535/],
    [{ allow: ['a.org', { to: 'a.org' }] }, '/allow/1', /remove/],
    [{ allow: ['a.org, a.org:443, a.org'] }, '/allow/0', /remove/],
    [{ allow: [''] }, '/allow/0', /remove/],
    [{ allow: [{ 'a.org': 443 }] }, '/allow/0', /quotes/],
    [{ allow: [null] }, '/allow/0', /quotes/],
  ])('%j is refused at %s', (body, pointer, remedy) => {
    const parsed = list(body);
    const problem = parsed.ok ? undefined : parsed.problems[0];
    expect(problem?.pointer).toBe(pointer);
    expect(problem?.remedy).toMatch(remedy);
  });

  it('refuses a name that no list may have', () => expect(list({ allow: [] }, 'a/b').ok).toBe(false));

  it('tells every problem of a body at once', () => {
    const parsed = list({ mode: 'x', allow: ['127.1', { to: 'a.org', port: 1 }], foo: 1 });
    expect(parsed.ok ? [] : parsed.problems.map(({ pointer }) => pointer).sort()).toEqual([
      '/allow/0',
      '/allow/1/port',
      '/foo',
      '/mode',
    ]);
  });

  it('never throws', () => {
    const body = fc.record(
      { allow: fc.anything(), mode: fc.anything(), match: fc.anything() },
      { requiredKeys: [] },
    );
    fc.assert(fc.property(fc.oneof(fc.anything(), body), (value) => void list(value)));
  });
});

describe('cycles', () => {
  const of = (name: string, ...refs: string[]): readonly [string, List] => [
    name,
    {
      name,
      source: 'store',
      allow: refs.map((ref) => ({ kind: 'list', canonical: `list:${ref}`, list: ref })),
    },
  ];
  it('finds who includes itself, and nobody else', () => {
    const lists = new Map([
      of('a', 'b'),
      of('b', 'c'),
      of('c', 'a'),
      of('d', 'a'),
      of('e', 'e'),
      of('f', 'g', 'missing'),
      of('g'),
    ]);
    expect(cyclicLists(lists)).toEqual(['a', 'b', 'c', 'e']);
  });
  it('a diamond is none', () =>
    expect(cyclicLists(new Map([of('a', 'b', 'c'), of('b', 'd'), of('c', 'd'), of('d')]))).toEqual([]));
});

describe('tests of a list', () => {
  const read = (tests: unknown) => listFromObject('x', 'folder', { allow: ['a.org'], tests });

  it.each<[unknown, readonly [verdict: string, to: string]]>([
    [{ allow: 'A.org' }, ['allow', 'a.org:443']],
    [{ deny: 'pastebin.com:80' }, ['deny', 'pastebin.com:80']],
    [{ allow: 'pool.ntp.org:123/udp' }, ['allow', 'pool.ntp.org:123/udp']],
    [{ allow: '2001:db8::1' }, ['allow', '[2001:db8::1]:443']],
    [{ deny: '192.0.2.1/icmp' }, ['deny', '192.0.2.1/icmp']],
    [{ deny: '192.0.2.1/udp' }, ['deny', '192.0.2.1:443/udp']],
    [{ allow: 'container:db:5432' }, ['allow', 'container:db:5432']],
  ])('%j', (test, [verdict, to]) =>
    expect(read([test])).toMatchObject({ ok: true, value: { tests: [{ verdict, to: { canonical: to } }] } }),
  );

  it.each<[unknown, string, RegExp]>([
    ['x', '/tests', /not a list/],
    [[7], '/tests/0', /not a test/],
    [[{}], '/tests/0', /neither/],
    [[{ allow: 'a.org', deny: 'b.org' }], '/tests/0', /two tests/],
    [[{ allow: 'a.org', from: 'web' }], '/tests/0/from', /unknown key "from"/],
    [[{ deny: 7 }], '/tests/0/deny', /not a destination/],
    [[{ allow: 'a.org' }, { deny: '*.b.org' }], '/tests/1/deny', /several names/],
    [[{ deny: '10.0.0.0/8' }], '/tests/0/deny', /several addresses/],
    [[{ deny: 'a.org:80,443' }], '/tests/0/deny', /several ports/],
    [[{ deny: '!a.org' }], '/tests/0/deny', /begins with !/],
    [[{ deny: 'any:443' }], '/tests/0/deny', /every public address/],
    [[{ deny: 'list:npm' }], '/tests/0/deny', /is a list/],
    [[{ deny: 'a.org:443 tls=off' }], '/tests/0/deny', /flag/],
    [[{ deny: 'https://a.org' }], '/tests/0/deny', /URL/],
    [Array.from({ length: 1001 }, () => ({ deny: 'a.org' })), '/tests', /1000 is the limit/],
  ])('refuses %j', (tests, pointer, why) => {
    const parsed = read(tests);
    expect(parsed.ok).toBe(false);
    if (parsed.ok) return;
    expect(parsed.problems.map((p) => p.pointer)).toEqual([pointer]);
    expect(parsed.problems.map((p) => `${p.detail} ${p.remedy}`).join()).toMatch(why);
  });
});
