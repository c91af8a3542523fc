/** No output shows a character of other people's text that commands a terminal, ends a line or changes what is seen. */
import { stripVTControlCharacters } from 'node:util';
import fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';
import { Output } from '../../../src/cli/output.js';
import { jsonEscape, shown, shownJson } from '../../../src/lib/foreign-text.js';
import { tame } from '../../../src/policy/labels.js';

/** One of each class: control, escape, C1, soft hyphen, Arabic mark, zero width, joiner, marks of direction, separators, tag, private use. */
const HOSTILE = [
  '\u0007',
  '\u001b',
  '\u009b',
  '\u00ad',
  '\u061c',
  '\u200b',
  '\u200d',
  '\u200e',
  '\u200f',
  '\u2028',
  '\u2029',
  '\u202e',
  '\u2060',
  '\u2066',
  '\ufeff',
  '\ue000',
  '\u{e0041}',
  '\u{10fffd}',
  '\ud800',
];
const UNSHOWN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}\p{Co}]/u;
const TEXT = `a${HOSTILE.join('b')}c`;
const ends = (text: string): string => text.replaceAll('\n', '');

it('each class has one replacement a character, and other text stays', () => {
  for (const char of HOSTILE) expect(shown(`a${char}b`)).toBe('a\ufffdb');
  const fine = 'caf\u00e9 \u65e5\u672c\u8a9e \u{1f600} \u05d0 a-z_0.9';
  expect(shown(fine)).toBe(fine);
  expect(tame(TEXT)).not.toMatch(UNSHOWN);
});

it('JSON of any value parses to that value, and has none of these characters', () => {
  const values = fc.dictionary(fc.string({ unit: 'binary' }), fc.array(fc.string({ unit: 'binary' })));
  fc.assert(
    fc.property(values, fc.constantFrom(undefined, 2), (value, indent) => {
      const text = shownJson(value, indent);
      expect(ends(text)).not.toMatch(UNSHOWN);
      expect(JSON.parse(text)).toEqual(JSON.parse(JSON.stringify(value)));
    }),
  );
  expect(jsonEscape('\u{e0041}')).toBe('\\udb40\\udc41');
});

describe.each([true, false])('the command, on a terminal: %s', (isTerminal) => {
  let text = '';
  beforeEach(() => {
    text = '';
  });
  const stream = {
    write: (more: string): boolean => {
      text += more;
      return true;
    },
  };
  const host = { stdout: stream, stderr: stream, isTerminal, columns: 60 };
  const outputOf = (isJson: boolean): Output => new Output(host as never, isJson);

  it.each([
    ['a table', (out: Output) => out.table(['NAME', TEXT], [['web', TEXT]])],
    ['a line', (out: Output) => out.line(TEXT)],
    ['a verdict', (out: Output) => out.verdict(TEXT, TEXT)],
    ['a note', (out: Output) => out.note(TEXT)],
    ['prose', (out: Output) => out.prose(TEXT)],
    ['a prompt', (out: Output) => out.prompt(TEXT)],
  ])('%s', (_, print) => {
    print(outputOf(false));
    expect(text).toContain('\ufffd');
    expect(ends(text).replaceAll('\t', '')).not.toMatch(UNSHOWN);
  });

  it('the line that is replaced', () => {
    outputOf(false).replaceLine(TEXT);
    expect(stripVTControlCharacters(text.replace('\r', ''))).not.toMatch(UNSHOWN);
  });

  it('JSON, with the characters for who parses it', () => {
    outputOf(true).show({ name: TEXT }, () => undefined);
    expect(ends(text)).not.toMatch(UNSHOWN);
    expect(JSON.parse(text)).toEqual({ name: TEXT });
  });

  it('a cell of a table never begins a line', () => {
    outputOf(false).table(['NAME', 'IMAGE'], [['web', 'a\nforged  image\tx']]);
    const lines = text.split('\n').filter((line) => line !== '');
    expect(lines).toHaveLength(isTerminal ? 2 : 1);
    expect(lines.at(-1)).toMatch(/^web/);
  });
});
