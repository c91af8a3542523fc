/** A terminal's output as an SVG: text with the colours and the weight of its escape sequences, readable on light and dark. */

interface Style {
  readonly bold: boolean;
  readonly dim: boolean;
  readonly colour: string | undefined;
}
const PLAIN: Style = { bold: false, dim: false, colour: undefined };
const COLOURS: Readonly<Record<string, string>> = { 31: 'r', 32: 'g', 33: 'y' };

const COLUMN = 7.83;
const LINE = 18;
const MARGIN = 16;
const COLUMNS = 132;

function styleAfter(style: Style, code: string): Style {
  if (code === '' || code === '0') return PLAIN;
  if (code === '1') return { ...style, bold: true };
  if (code === '2') return { ...style, dim: true };
  const colour = COLOURS[code];
  if (colour === undefined)
    throw new Error(`the escape sequence ESC[${code}m is not known to this recording`);
  return { ...style, colour };
}

const escaped = (text: string): string =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');

function span(text: string, { bold, dim, colour }: Style): string {
  const classes = [bold ? 'b' : '', dim ? 'd' : '', colour ?? ''].filter((c) => c !== '').join(' ');
  return classes === '' ? escaped(text) : `<tspan class="${classes}">${escaped(text)}</tspan>`;
}

/** Splits at escape sequences; the odd parts are their codes. */
function parts(line: string): readonly string[] {
  return line.split(/\u001b\[([0-9]*)m/);
}

function svgLine(line: string, row: number): string {
  let style = PLAIN;
  let width = 0;
  const spans: string[] = [];
  for (const [i, part] of parts(line).entries()) {
    if (i % 2 === 1) {
      style = styleAfter(style, part);
      continue;
    }
    const shown = [...part].slice(0, Math.max(0, COLUMNS - width)).join('');
    const isCut = shown.length < part.length && width < COLUMNS;
    width += [...part].length;
    if (shown !== '') spans.push(span(isCut ? `${shown.slice(0, -1)}…` : shown, style));
  }
  return spans.length === 0
    ? ''
    : `<text x="${MARGIN}" y="${MARGIN + (row + 1) * LINE}">${spans.join('')}</text>`;
}

const CSS = `
    text { font: 13px ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace; white-space: pre; fill: #1f2328 }
    rect { fill: #f6f8fa; stroke: #d1d9e0 }
    .b { font-weight: bold } .d { fill: #59636e } .r { fill: #b3261e } .g { fill: #116329 } .y { fill: #7d4e00 }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 } rect { fill: #0d1117; stroke: #3d444d }
      .d { fill: #9198a1 } .r { fill: #ff7b72 } .g { fill: #56d364 } .y { fill: #e3b341 }
    }`;

export function svgOf(output: string): string {
  const lines = output.replaceAll('\r', '').trimEnd().split('\n');
  const width = Math.ceil(COLUMNS * COLUMN + 2 * MARGIN);
  const height = (lines.length + 1) * LINE + 2 * MARGIN;
  const text = lines.map(svgLine).filter((line) => line !== '');
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" xml:space="preserve">
  <title>The output of scripts/demo</title>
  <style>${CSS}
  </style>
  <rect x="0.5" y="0.5" width="${width - 1}" height="${height - 1}" rx="6"/>
  ${text.join('\n  ')}
</svg>
`;
}
