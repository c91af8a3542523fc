import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { ProblemSubject } from '../../../src/lib/problem.js';
import { parseYaml } from '../../../src/lib/yaml.js';

const problem = (text: string) => parseYaml(text, 'f.yaml').problems[0];

describe('YAML', () => {
  it.each<[string, unknown]>([
    ['', null],
    ['# only a comment', null],
    ['a: off\nb: no', { a: 'off', b: 'no' }],
    ['%YAML 1.1\n---\na: off', { a: false }],
    ['m: 0x7f003fff', { m: 0x7f003fff }],
    ['- 2001:db8::1\n- 10.0.0.1:80', ['2001:db8::1', '10.0.0.1:80']],
    ['a: &x [1]\nb: *x', { a: [1], b: [1] }],
  ])('%j', (text, value) => expect(parseYaml(text, 'f')).toMatchObject({ value, problems: [] }));

  it.each<[string, number, number, RegExp]>([
    ['allow:\n  - *.github.com', 2, 5, /quotes/],
    ['a: 1\nb: 2\na: 3', 3, 1, /one of the two/],
    ['a: [2001:db8::/32]:443', 1, 19, /quotes/],
    ['a:\n\t- b', 2, 1, /spaces/],
    ['a: 1\n---\nb: 2', 1, 1, /---/],
    ['a: &a [*a]', 1, 1, /alias/],
    ['a: !nope b', 1, 4, /quotes/],
    ['a: "x', 1, 6, /correct the YAML/],
  ])('%j is refused at %i:%i', (text, line, column, remedy) => {
    expect(problem(text)).toMatchObject({ file: 'f.yaml', line, column });
    expect(problem(text)?.remedy).toMatch(remedy);
  });

  it('tells of an unquoted * and still gives the text that was meant', () =>
    expect(parseYaml('- *.a.org:443', 'f')).toMatchObject({ value: ['*.a.org:443'], problems: [{}] }));

  it('is no bomb', () => {
    const bomb = ['a: &a [1,1,1,1,1,1,1,1,1]'];
    for (const [i, name] of [...'bcdefghij'].entries())
      bomb.push(`${name}: &${name} [${new Array(9).fill(`*${'abcdefghij'[i]}`).join(',')}]`);
    expect(problem(bomb.join('\n'))?.remedy).toMatch(/anchors/);
    expect(problem(`a: ${'x'.repeat(5_000_000)}`)?.remedy).toMatch(/split/);
  });

  it('keeps __proto__ a key like others', () => {
    const { value } = parseYaml('__proto__: { polluted: 1 }', 'f');
    expect(Object.keys(value as object)).toEqual(['__proto__']);
    expect(({} as { polluted?: number }).polluted).toBeUndefined();
  });

  it('places a pointer: values, texts within them, keys, and what is not there', () => {
    const yaml = parseYaml(
      'allow:\n  - "a.org:0"\n  - a.org:0\n  - >-\n    a.org:0\nmatch: { nme: x }\n',
      'f',
    );
    const place = (pointer: string, column?: number, about?: ProblemSubject) => {
      const [placed] = yaml.place([
        {
          detail: 'x',
          remedy: 'y',
          pointer,
          ...(column !== undefined && { column }),
          ...(about && { about }),
        },
      ]);
      return [placed?.line, placed?.column];
    };
    expect(place('/allow/0')).toEqual([2, 5]);
    expect(place('/allow/0', 7)).toEqual([2, 12]);
    expect(place('/allow/1', 7)).toEqual([3, 11]);
    expect(place('/allow/2', 7)).toEqual([4, 5]);
    expect(place('/match/nme')).toEqual([6, 15]);
    expect(place('/match/nme', undefined, { kind: 'key' })).toEqual([6, 10]);
    expect(place('/match/name')).toEqual([6, 8]);
    expect(place('/nope/deep')).toEqual([1, 1]);
    expect(place('')).toEqual([1, 1]);
  });

  it('never throws', () => {
    const near = fc.string({
      unit: fc.constantFrom(
        'a',
        ':',
        ' ',
        '-',
        '\n',
        '*',
        '&',
        '[',
        ']',
        '{',
        '}',
        '"',
        '!',
        '?',
        '|',
        '%',
        '\t',
        '#',
        '\0',
      ),
    });
    fc.assert(
      fc.property(fc.oneof(fc.string({ unit: 'binary' }), near), (text) => {
        const yaml = parseYaml(text, 'f');
        yaml.place([{ detail: 'x', remedy: 'y', pointer: '/a/0' }]);
        if (yaml.value === undefined) expect(yaml.problems.length).toBeGreaterThan(0);
        for (const { line, column } of yaml.problems)
          expect(Math.min(line ?? 0, column ?? 0)).toBeGreaterThan(0);
      }),
      { numRuns: 400 },
    );
  });
});

it('a merge key without a map is a problem, in YAML 1.1', () => {
  const { value, problems } = parseYaml('%YAML 1.1\n---\n<<: *a\n', 'x.yaml');
  expect(value).toBeUndefined();
  expect(problems.length).toBeGreaterThan(0);
  expect(parseYaml('%YAML 1.1\n---\n<<: 3\n', 'x.yaml').problems).toMatchObject([
    { detail: expect.stringContaining('<<') },
  ]);
});
