/** One answer on every release of Node: its tables of Unicode differ, and Node 24 checks A-labels no longer. */
import { createHash } from 'node:crypto';
import { domainToASCII } from 'node:url';
import { describe, expect, it } from 'vitest';
import { canonicalName, decodePunycode } from '../../../src/lib/dns-name.js';

const answerTo = (text: string): string => {
  const name = canonicalName(text);
  return name.ok ? name.value : '-';
};
function digest(texts: Iterable<string>): string {
  const hash = createHash('sha256');
  for (const text of texts) hash.update(`${answerTo(text)}\n`);
  return hash.digest('hex');
}

/** Planes 0 to 3 and the tags; no release assigns others. */
function* everyCodePoint(): Generator<string> {
  for (let c = 0x80; c < 0xe0200; c++) {
    if (c === 0xd800) c = 0xe000;
    if (c === 0x40000) c = 0xe0000;
    yield `a${String.fromCodePoint(c)}b.org`;
  }
}
/** The same numbers on each run and each host (a linear congruential generator). */
function numbers(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}
/** First code points of blocks whose rules differ: Latin, combining, Hebrew, Arabic, Indic, joiners, CJK, mathematics. */
const BLOCKS = [
  0x61, 0xe0, 0x300, 0x5d0, 0x660, 0x6f0, 0x900, 0xf70, 0x1e00, 0x2000, 0x3040, 0xac00, 0xff00, 0x1d400,
];
function* mixtures(count: number): Generator<string> {
  const next = numbers(7);
  for (let i = 0; i < count; i++) {
    const length = 1 + next(6);
    const one = (): string => String.fromCodePoint((BLOCKS[next(BLOCKS.length)] ?? 0x61) + next(48));
    yield `${Array.from({ length }, one).join('')}.org`;
  }
}
function* aLabels(count: number): Generator<string> {
  const next = numbers(11);
  const alphabet = 'abcdefghijklmnopqrstuvwxyz0123456789-';
  const one = (): string => alphabet[next(alphabet.length)] ?? '';
  for (let i = 0; i < count; i++) yield `xn--${Array.from({ length: 1 + next(9) }, one).join('')}.org`;
}

// Computed on Node 20.20, 22.23 and 24.21 alike. Another value means that this release answers differently: find the code
// points, and add them to dns-name.ts. Do not replace the value.
describe('names have one answer on every release of Node', () => {
  it('for each code point', () => {
    expect(digest(everyCodePoint())).toBe('3395d72482dbf92fd62b4fee1cae560b01d4e78fae9666df905f0202e4b932cb');
  });
  it('for mixtures of scripts, combining marks and joiners', () => {
    expect(digest(mixtures(100_000))).toBe(
      '518f3616504741070b5be23a3caa4e6fdac734cf99ebb7f680869b0c60a26b9c',
    );
  });
  it('for A-labels of any content', () => {
    expect(digest(aLabels(200_000))).toBe('0d9046574ed4d677523450c85a85c69fdf2287a0974944f05101bfe210927a7a');
  });
});

describe('A-labels are checked by decoding and encoding', () => {
  // RFC 3492, section 7.1, in lower case where the encoder maps to it.
  it.each([
    ['egbpdaj6bu4bxfgehfvwxn', 'ليهمابتكلموشعربي؟'],
    ['ihqwcrb4cv8a8dqg056pqjye', '他们为什么不说中文'],
    ['4dbcagdahymbxekheh6e0a7fei0b', 'למההםפשוטלאמדבריםעברית'],
    ['n8jok5ay5dzabd5bym9f0cm5685rrjetr6pdxa', 'なぜみんな日本語を話してくれないのか'],
    ['3b-ww4c5e180e575a65lsy2b', '3年b組金八先生'],
    ['bcher-kva', 'bücher'],
    ['ls8h', '\u{1f4a9}'],
  ])('%s is %s', (encoded, text) => expect(decodePunycode(encoded)).toBe(text));
  it.each(['zzzzzz9999', 'ü', 'A', 'b', '99999999999999999999999999999', '-b'])(
    '%s encodes nothing',
    (encoded) => expect(decodePunycode(encoded)).toBeUndefined(),
  );

  it.each([
    ['xn--.org', 'nothing encoded'],
    ['xn--abc-.org', 'no character that needs it'],
    ['xn--a-yoc.org', 'a code point that no name has'],
    ['xn--ab-m1t.org', 'a joiner where none is permitted'],
    ['xn--a-ecp.ru', 'a digit that a name has in another form'],
    ['xn--a.org', 'a control character'],
    ['xn--ab-4bf.org', 'a letter that only newer tables have'],
    ['ok.xn--zzzzzz9999.org', 'in the middle'],
  ])('%s is refused: %s', (text) => expect(answerTo(text)).toBe('-'));
  it('where the encoder gives one, the name with it is accepted as it is', () => {
    for (const text of mixtures(20_000)) {
      const name = answerTo(text);
      if (name === '-') continue;
      expect(answerTo(name)).toBe(name);
      expect(domainToASCII(name)).toBe(name);
    }
  });
});

it('characters that releases map differently are refused on each', () => {
  for (const text of ['STRA\u1e9eE.de', '\u10a0.org', '\u{2ebf0}.org', '\u088f.org'])
    expect(answerTo(text)).toBe('-');
  expect(answerTo('straße.de')).toBe('xn--strae-oqa.de');
});
