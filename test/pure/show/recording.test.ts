/** The recording of the demo: docs/demo.svg, and what makes it of a terminal's output. */
import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { LAB_CAST } from '../../../scripts/show/cast.js';
import { svgOf } from '../../../scripts/show/recording.js';

/** Texts of the elements; throws where a tag is not closed in its order or a character is not escaped. */
function textOf(svg: string): string {
  const open: string[] = [];
  const shown = svg.replaceAll(
    /<(\/?)([a-z]+)((?: [a-zA-Z:-]+="[^"<>]*")*)(\/?)>/g,
    (_, end, name, _a, alone) => {
      if (end === '/') expect(open.pop()).toBe(name);
      else if (alone === '') open.push(name as string);
      return '';
    },
  );
  expect(open).toEqual([]);
  expect(shown).not.toMatch(/[<>]|&(?!(amp|lt|gt);)/);
  return shown.replaceAll('&lt;', '<').replaceAll('&gt;', '>').replaceAll('&amp;', '&');
}

it('colours, weight and special characters of a terminal become an SVG', () => {
  const svg = svgOf('\u001b[1mDraw\u001b[0m <a> & b\n\n  \u001b[31m✗\u001b[0m \u001b[2mdenied\u001b[0m\n');
  expect(textOf(svg)).toContain('Draw <a> & b');
  expect(svg).toContain('<tspan class="b">Draw</tspan> &lt;a&gt;');
  expect(svg).toContain('<tspan class="r">✗</tspan> <tspan class="d">denied</tspan>');
});

it('a longer line is cut with a sign, and an unknown sequence is refused', () => {
  expect(textOf(svgOf('x'.repeat(500)))).toMatch(/[^x]x{131}…\n/);
  expect(textOf(svgOf('x'.repeat(132)))).toMatch(/[^x]x{132}\n/);
  expect(() => svgOf('\u001b[35mviolet')).toThrow('35');
});

it('docs/demo.svg is whole, small, refers to nothing outside, and shows each container of the demo', () => {
  const svg = readFileSync('docs/demo.svg', 'utf8');
  expect(svg.length).toBeLessThan(200_000);
  expect(svg.replace('http://www.w3.org/2000/svg', '')).not.toMatch(/href=|url\(|@import|<script|<image/);
  const text = textOf(svg);
  for (const { name, what } of LAB_CAST.filter(({ attempts }) => attempts.length > 0))
    expect(text).toContain(`${name}  ${what}`);
  expect(text).toContain('as they were, line by line, before Drawbridge came');
  expect(readFileSync('README.md', 'utf8')).toContain('(docs/demo.svg)');
});
