import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { canonicalName, isPublicSuffix, nameMatches } from '../../../src/lib/dns-name.js';

const label63 = 'a'.repeat(63);

describe('canonicalName', () => {
  it.each([
    ['API.GitHub.com', 'api.github.com'],
    ['api.github.com.', 'api.github.com'],
    ['bücher.example', 'xn--bcher-kva.example'],
    ['BÜCHER。Example', 'xn--bcher-kva.example'],
    ['faß.de', 'xn--fa-hia.de'],
    ['XN--BCHER-KVA.example', 'xn--bcher-kva.example'],
    ['_dmarc.a_b.org', '_dmarc.a_b.org'],
    ['r3---sn-x.googlevideo.com', 'r3---sn-x.googlevideo.com'],
    [`${label63}.org`, `${label63}.org`],
    ['\u212Aelvin.org', 'kelvin.org'],
  ])('%s is %s', (text, name) => expect(canonicalName(text)).toEqual({ ok: true, value: name }));

  it.each([
    '',
    '.',
    'a..org',
    '.a.org',
    'a.org..',
    'localhost',
    '127.1',
    '１２７。１',
    'a.0x7f',
    'a.0x',
    'a.1',
    '10.0.0.1',
    '%41.org',
    '％41.org',
    'a b.org',
    'a\u3000b.org',
    'a/b.org',
    'a@b.org',
    'a*b.org',
    'a:b.org',
    '::1',
    '[::1].org',
    'xn--a.org',
    'xn--zzzzzz9999.org',
    `${label63}a.org`,
    `${`${label63}.`.repeat(4)}org`,
    'a\0.org',
  ])('%j is refused, with a remedy', (text) => {
    const parsed = canonicalName(text);
    expect(parsed.ok).toBe(false);
    if (!parsed.ok) expect(parsed.problems[0]?.remedy).toBeTruthy();
  });

  it('takes one label where the caller does', () => {
    expect(canonicalName('Corp', 1)).toEqual({ ok: true, value: 'corp' });
    expect(canonicalName('123', 1).ok).toBe(false);
  });

  it('does not decode a text that is too long for any name, and shows its beginning only', () => {
    const parsed = canonicalName(`xn--${'bcxamp'.repeat(10_000)}`);
    expect(parsed).toMatchObject({ ok: false, problems: [{ detail: expect.stringMatching(/^.{0,100}$/) }] });
    // Characters that the mapping removes do not count.
    expect(canonicalName(`api${'\u00ad'.repeat(900)}.example.com`)).toEqual({
      ok: true,
      value: 'api.example.com',
    });
  });

  it('takes 253 octets, and no more', () => {
    const long = `${`${'a'.repeat(49)}.`.repeat(5)}abc`;
    expect(long.length).toBe(253);
    expect(canonicalName(long).ok).toBe(true);
    expect(canonicalName(`b${long}`).ok).toBe(false);
  });

  it('never throws, and what it gives is a fixed point', () => {
    const near = fc.string({
      unit: fc.constantFrom('a', 'B', '1', '.', '-', '_', 'ü', 'ß', '。', '%', '٣', '\u00ad', 'xn--'),
    });
    fc.assert(
      fc.property(fc.oneof(fc.string({ unit: 'binary' }), near), (text) => {
        const once = canonicalName(text);
        if (!once.ok) return;
        expect(once.value).toMatch(/^[a-z0-9_-]+(\.[a-z0-9_-]+)+$/);
        expect(canonicalName(once.value)).toEqual(once);
      }),
    );
  });
});

describe('nameMatches', () => {
  it.each([
    ['exact', 'github.com', true],
    ['exact', 'api.github.com', false],
    ['below', 'github.com', false],
    ['below', 'api.github.com', true],
    ['below', 'a.b.github.com', true],
    ['both', 'github.com', true],
    ['both', 'api.github.com', true],
    ['both', 'evilgithub.com', false],
    ['below', 'github.com.evil.org', false],
  ] as const)('%s github.com against %s: %s', (match, asked, is) =>
    expect(nameMatches({ match, name: 'github.com' }, asked)).toBe(is),
  );
});

describe('isPublicSuffix', () => {
  it.each(['com', 'co.uk', 'github.io', 'ck', 'foo.ck', 's3.amazonaws.com', 'compute.amazonaws.com'])(
    '%s is one',
    (name) => expect(isPublicSuffix(name)).toBe(true),
  );
  it.each(['github.com', 'www.ck', 'corp', 'internal', 'npmjs.org', 'githubusercontent.com', 'a.github.io'])(
    '%s is none',
    (name) => expect(isPublicSuffix(name)).toBe(false),
  );
});
