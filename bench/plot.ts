/** Draws a curve of the results as SVG. It follows the colour scheme of the reader, light or dark. */
import { type Curve, shownNumber } from './results.js';

const WIDTH = 720;
const HEIGHT = 380;
const LEFT = 84;
const RIGHT = 40;
const BOTTOM = 56;
const TITLE = 28;
const LEGEND_LINE = 20;
/** One colour a line, for a light and a dark background; a line has a dash pattern of its own, too. */
const COLOURS: readonly (readonly [light: string, dark: string])[] = [
  ['#0969da', '#58a6ff'],
  ['#bc4c00', '#f0883e'],
  ['#1a7f37', '#3fb950'],
  ['#8250df', '#bc8cff'],
  ['#bf3989', '#f778ba'],
  ['#57606a', '#8b949e'],
];
const DASHES = ['', '7 4', '2 4', '10 3 2 3', '4 2', '1 3'];

interface Axis {
  readonly ticks: readonly { readonly at: number; readonly label: string }[];
  /** The place of a value, from 0 to 1. */
  place(value: number): number;
}

/** From 0, with steps of 1, 2 or 5 times a power of ten. */
function linearAxis(values: readonly number[]): Axis {
  const highest = Math.max(...values, 0) || 1;
  const rough = highest / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = ([1, 2, 5, 10].find((s) => s * power >= rough) ?? 10) * power;
  const count = Math.ceil(highest / step - 1e-9);
  const top = count * step;
  const ticks = Array.from({ length: count + 1 }, (_, i) => i * step);
  return {
    ticks: ticks.map((value) => ({ at: value / top, label: shownNumber(Number(value.toPrecision(6))) })),
    place: (value) => value / top,
  };
}

/** Powers of ten; zero has a place one power below the lowest value. */
function logAxis(values: readonly number[]): Axis {
  const positive = values.filter((v) => v > 0);
  const hasZero = positive.length < values.length;
  const lowest = Math.floor(Math.log10(Math.min(...positive, Number.MAX_VALUE)) + 1e-9) - (hasZero ? 1 : 0);
  const highest = Math.max(Math.ceil(Math.log10(Math.max(...positive, 10 ** lowest)) - 1e-9), lowest + 1);
  const place = (value: number): number =>
    value <= 0 ? 0 : (Math.log10(value) - lowest) / (highest - lowest);
  const powers = Array.from({ length: highest - lowest + 1 }, (_, i) => 10 ** (lowest + i));
  return {
    ticks: powers.map((value, i) => ({
      at: place(value),
      label: hasZero && i === 0 ? '0' : shownNumber(value),
    })),
    place,
  };
}

const ESCAPES: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' };
const escaped = (text: string): string => text.replace(/[&<>"]/g, (c) => ESCAPES[c] ?? c);
const px = (value: number): string => String(Math.round(value * 10) / 10);

const styles = (): string => {
  const colours = (scheme: 0 | 1): string => COLOURS.map((c, i) => `--c${i}:${c[scheme]}`).join(';');
  return [
    `svg{--bg:#ffffff;--ink:#1f2328;--grid:#d1d9e0;${colours(0)}}`,
    `@media (prefers-color-scheme:dark){svg{--bg:#0d1117;--ink:#e6edf3;--grid:#30363d;${colours(1)}}}`,
    'text{font:13px system-ui,sans-serif;fill:var(--ink)}',
    '.title{font-weight:600;font-size:14px}',
    '.grid{stroke:var(--grid);stroke-width:1}',
  ].join('\n');
};

/** The legend: one entry a line of the curve, in rows of two. */
function legend(curve: Curve): readonly string[] {
  return curve.lines.map((line, i) => {
    const x = LEFT + (i % 2) * ((WIDTH - LEFT - RIGHT) / 2);
    const y = TITLE + 16 + Math.floor(i / 2) * LEGEND_LINE;
    return `<line x1="${px(x)}" x2="${px(x + 28)}" y1="${px(y - 4)}" y2="${px(y - 4)}" ${stroke(i)}/><text x="${px(x + 36)}" y="${px(y)}">${escaped(line.label)}</text>`;
  });
}

function stroke(index: number): string {
  const dash = DASHES[index % DASHES.length];
  return `stroke="var(--c${index % COLOURS.length})" stroke-width="2.5" fill="none"${dash ? ` stroke-dasharray="${dash}"` : ''}`;
}

/** The y axis is logarithmic, too, where a logarithmic curve covers more than two powers of ten. */
function axesOf({ lines, log }: Curve): { readonly x: Axis; readonly y: Axis; readonly isYLog: boolean } {
  const all = lines.flatMap((line) => line.points);
  const xs = all.map(([x]) => x);
  const ys = all.map(([, y]) => y);
  const isYLog = log === true && Math.min(...ys) > 0 && Math.max(...ys) / Math.min(...ys) > 100;
  return { x: log ? logAxis(xs) : linearAxis(xs), y: isYLog ? logAxis(ys) : linearAxis(ys), isYLog };
}

/** The text of an SVG file. */
export function plot(curve: Curve): string {
  const { x, y, isYLog } = axesOf(curve);
  const top = TITLE + 16 + Math.ceil(curve.lines.length / 2) * LEGEND_LINE;
  const across = (at: number): string => px(LEFT + at * (WIDTH - LEFT - RIGHT));
  const up = (at: number): string => px(HEIGHT - BOTTOM - at * (HEIGHT - BOTTOM - top));
  const xGrid = x.ticks.map(
    ({ at, label }) =>
      `<line class="grid" x1="${across(at)}" x2="${across(at)}" y1="${up(0)}" y2="${up(1)}"/><text x="${across(at)}" y="${HEIGHT - BOTTOM + 18}" text-anchor="middle">${label}</text>`,
  );
  const yGrid = y.ticks.map(
    ({ at, label }) =>
      `<line class="grid" x1="${across(0)}" x2="${across(1)}" y1="${up(at)}" y2="${up(at)}"/><text x="${LEFT - 8}" y="${px(Number(up(at)) + 4)}" text-anchor="end">${label}</text>`,
  );
  const lines = curve.lines.map((line, i) => {
    const points = line.points.map(([px0, py0]) => [across(x.place(px0)), up(y.place(py0))] as const);
    const dots = points.map(
      ([cx, cy]) => `<circle cx="${cx}" cy="${cy}" r="3.5" fill="var(--c${i % COLOURS.length})"/>`,
    );
    return `<polyline points="${points.map((p) => p.join(',')).join(' ')}" ${stroke(i)}/>${dots.join('')}`;
  });
  const yTitle = `${escaped(curve.y)}${isYLog ? ' (logarithmic)' : ''}`;
  const xTitle = `${escaped(curve.x)}${curve.log ? ' (logarithmic)' : ''}`;
  return `${[
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${escaped(curve.label)}">`,
    `<style>${styles()}</style>`,
    `<rect width="${WIDTH}" height="${HEIGHT}" fill="var(--bg)"/>`,
    `<text class="title" x="${LEFT}" y="20">${escaped(curve.label)}</text>`,
    ...legend(curve),
    ...xGrid,
    ...yGrid,
    ...lines,
    `<text x="${px((LEFT + WIDTH - RIGHT) / 2)}" y="${HEIGHT - 14}" text-anchor="middle">${xTitle}</text>`,
    `<text transform="translate(16 ${px((top + HEIGHT - BOTTOM) / 2)}) rotate(-90)" text-anchor="middle">${yTitle}</text>`,
    '</svg>',
  ].join('\n')}\n`;
}
