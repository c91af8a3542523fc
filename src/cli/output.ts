import { styleText } from 'node:util';
import type { ContainerBody } from '../api/schemas.js';
import { shown, shownJson } from '../lib/foreign-text.js';
import { bracketed, counted } from '../lib/units.js';
import type { Host } from './host.js';

/** Spaces between two columns. */
const GAP = 2;
/** A column is not squeezed below this width. */
const NARROWEST = 12;

export type Terminal = Pick<Host, 'stdout' | 'stderr' | 'isTerminal' | 'columns' | 'colours'>;

/** What a command prints: JSON when asked for, else tables on a terminal and tab-separated lines in a pipe. */
export class Output {
  readonly #host: Terminal;
  readonly isJson: boolean;

  constructor(host: Terminal, isJson: boolean) {
    this.#host = host;
    this.isJson = isJson;
  }

  get isTerminal(): boolean {
    return this.#host.isTerminal;
  }

  /** The result: `value` as JSON, or what `text` prints. */
  show(value: unknown, text: () => void): void {
    if (this.isJson) this.#host.stdout.write(`${shownJson(value, 2)}\n`);
    else text();
  }

  line(text: string): void {
    this.#host.stdout.write(`${printable(text)}\n`);
  }

  /** A line that begins with a verdict or a state, which has its colour on a terminal. */
  verdict(word: string, rest: string): void {
    this.#host.stdout.write(`${this.#coloured(printable(word))}${printable(rest)}\n`);
  }

  /** In addition to the result, on stderr. */
  note(text: string): void {
    this.#host.stderr.write(`${printable(text)}\n`);
  }

  /** On a terminal a relative time ("3 minutes ago"), in a pipe RFC 3339. */
  time(time: string): string {
    return this.#host.isTerminal ? relativeTime(time, Date.now()) : time;
  }

  /** On a terminal "for another 9 min", in a pipe "until" and RFC 3339. */
  until(time: string): string {
    return this.#host.isTerminal ? remainingTime(time, Date.now()) : `until ${time}`;
  }

  /** On a terminal "5 GB", in a pipe the exact number of bytes. */
  size(bytes: number): string {
    return this.#host.isTerminal ? sizeText(bytes) : `${bytes} B`;
  }

  /**
   * Print a table. If it is empty, print `none` instead (terminal only): a sentence with the next step. The columns `spare` are left out on a
   * terminal that is too narrow for the table.
   */
  table(
    head: readonly string[],
    rows: readonly (readonly string[])[],
    none?: string,
    spare: readonly string[] = [],
  ): void {
    if (rows.length === 0 && none !== undefined) {
      this.note(none);
      return;
    }
    if (!this.#host.isTerminal) {
      for (const row of rows) this.line(row.map((cell) => cell.replace(/\s+/g, ' ')).join('\t'));
      return;
    }
    const all = [head, ...rows].map((row) => row.map((cell) => shown(cell)));
    const natural = head.map((_, i) => Math.max(...all.map((row) => widthOf(row[i] ?? ''))));
    const widths = fitted(natural, this.#host.columns);
    if (spare.length > 0 && widths.some((width, i) => width < (natural[i] ?? 0))) {
      const isKept = (_: unknown, i: number): boolean => !spare.includes(head[i] ?? '');
      this.table(
        head.filter(isKept),
        rows.map((row) => row.filter(isKept)),
      );
      return;
    }
    for (const [n, row] of all.entries()) {
      const colour = (text: string, column: number): string =>
        n > 0 && STATES.has(head[column] ?? '') ? this.#coloured(text, row[column]) : text;
      for (const line of rowLines(row, widths, colour)) this.#host.stdout.write(`${line}\n`);
    }
  }

  /** The text in the colour of its first word, or of that of `whole`. */
  #coloured(text: string, whole = text): string {
    const colour = this.#host.colours?.stdout === true && !this.isJson ? colourOf(whole) : undefined;
    return colour === undefined || text === '' ? text : painted(colour, text);
  }

  /** A line of prose: wrapped on a terminal, with its further lines indented. */
  prose(text: string, indent = 0): void {
    const space = ' '.repeat(indent);
    for (const line of this.#wrapped(text, this.#host.columns, indent)) this.line(`${space}${line}`);
  }

  /** Text that a person decides about, for terminals only: wrapped also where the width is unknown, and `isTitle` to stand out. */
  prompt(text: string, { indent = 0, isTitle = false } = {}): void {
    const space = ' '.repeat(indent);
    for (const line of this.#wrapped(printable(text), this.#width, indent)) {
      const shown = isTitle && this.#host.colours?.stdout === true ? painted('bold', line) : line;
      this.#host.stdout.write(`${space}${shown}\n`);
    }
  }

  /** One line of a terminal in place of the line that the cursor is in; empty: clear it. What does not fit into it is left out. */
  replaceLine(text: string): void {
    const [line = ''] = this.#wrapped(printable(text), this.#width - 1, INDENT.length);
    this.#host.stdout.write(`\r\u001b[K${line === '' ? '' : INDENT}${line}`);
  }

  get #width(): number {
    return this.#host.columns || USUAL_COLUMNS;
  }

  #wrapped(text: string, columns: number | undefined, indent: number): readonly string[] {
    const width = (columns ?? Number.POSITIVE_INFINITY) - indent;
    return this.#host.isTerminal && width > NARROWEST && Number.isFinite(width)
      ? wrapped(text, width)
      : [text];
  }
}
const INDENT = '  ';
/** Of a terminal that does not report its width. */
const USUAL_COLUMNS = 80;

/** Columns that contain a mode, a coverage, a verdict or an outcome. */
const STATES = new Set(['MODE', 'PROTECTION', 'COVERAGE', 'VERDICT', 'STATE', 'RESULT', 'OUTCOME']);
type Colour = 'green' | 'yellow' | 'red' | 'gray';
const COLOURS: Readonly<Record<Colour, readonly string[]>> = {
  green: ['enforce', 'enforced', 'full', 'allow', 'ok', 'current', 'done', 'good'],
  yellow: [
    'observe',
    'partial',
    'would-deny',
    'ask',
    'warning',
    'later',
    'undone',
    'unknown',
    'out',
    'paused',
    'labels',
    'lists',
  ],
  red: [
    'none',
    'unenforced',
    'deny',
    'threat',
    'failed',
    'refused',
    'stale',
    'broken',
    'closed',
    'lockdown',
    'not',
    'silent',
    'alert',
  ],
  gray: ['off', 'never'],
};

function colourOf(text: string): Colour | undefined {
  const word = /^[a-z-]+/.exec(text.toLowerCase())?.[0] ?? '';
  const found = Object.entries(COLOURS).find(([, words]) => words.includes(word));
  return found?.[0] as Colour | undefined;
}

/** The terminal was asked before (Host.colours): styleText would ask standard output of this process. */
export const painted = (colour: Colour | 'bold', text: string): string =>
  styleText(colour, text, { validateStream: false });

/** Columns of a terminal that a text takes. Until `loadWidths`, each character counts as one. */
let widthOf = (text: string): number => text.length;

/** Count wide and combining characters as terminals show them. Loaded for terminals only: it takes some ms. */
export async function loadWidths(): Promise<void> {
  widthOf = (await import('string-width')).default;
}

const padded = (text: string, shown: string, width: number): string =>
  shown + ' '.repeat(Math.max(0, width - widthOf(text)));

/** Widths that fit into the terminal, as far as they can: the widest columns give way. */
function fitted(natural: readonly number[], columns: number | undefined): readonly number[] {
  const widths = [...natural];
  if (columns === undefined) return widths;
  const room = columns - GAP * (widths.length - 1);
  for (let over = widths.reduce((a, b) => a + b, 0) - room; over > 0; over--) {
    const widest = widths.indexOf(Math.max(...widths));
    if ((widths[widest] ?? 0) <= NARROWEST) break;
    widths[widest] = (widths[widest] ?? 0) - 1;
  }
  return widths;
}

function rowLines(
  row: readonly string[],
  widths: readonly number[],
  colour: (text: string, column: number) => string,
): readonly string[] {
  const cells = row.map((cell, i) => wrapped(cell, widths[i] ?? widthOf(cell)));
  const height = Math.max(1, ...cells.map((lines) => lines.length));
  return Array.from({ length: height }, (_, at) =>
    cells
      .map((lines, i) => padded(lines[at] ?? '', colour(lines[at] ?? '', i), widths[i] ?? 0))
      .join(' '.repeat(GAP))
      .trimEnd(),
  );
}

/** Names and labels are other people's: no escape sequence of theirs reaches the terminal. */
export function printable(text: string): string {
  return shown(text, (char) => (char === '\n' || char === '\t' ? char : '\ufffd'));
}

/** Times, sizes and counts as people write them. Pure. */
const UNITS: readonly (readonly [ms: number, noun: string, short?: string])[] = [
  [86_400_000, 'day'],
  [3_600_000, 'hour', 'h'],
  [60_000, 'minute', 'min'],
];
const MINUTE_MS = 60_000;
const SECOND = [1_000, 'second', 's'] as const;
/** Times that are further away than this (ms) are shown as a date. */
const LONGEST_MS = 60 * 86_400_000;

/** "3 minutes ago", "in 9 min"; a date where it is long ago or far ahead. Text that is no time stays as it is. */
export function relativeTime(time: string, now: number): string {
  const ms = Date.parse(time) - now;
  if (Number.isNaN(ms)) return time;
  // A time that was just set is not shown as one unit less.
  const distance = ms > MINUTE_MS ? Math.round(ms / MINUTE_MS) * MINUTE_MS : Math.abs(ms);
  if (distance > LONGEST_MS) return time.slice(0, 'YYYY-MM-DD'.length);
  const [size, noun, short] = UNITS.find(([unit]) => distance >= unit) ?? SECOND;
  const n = Math.floor(distance / size);
  if (ms >= 0) return `in ${short === undefined ? counted(n, noun) : `${n} ${short}`}`;
  return n === 0 ? 'just now' : `${counted(n, noun)} ago`;
}

/** "for another 9 min"; "until" a date where it is far ahead. */
export function remainingTime(time: string, now: number): string {
  const ms = Date.parse(time) - now;
  if (ms < 0) return 'ended';
  const text = relativeTime(time, now);
  return text.startsWith('in ') ? `for another ${text.slice('in '.length)}` : `until ${text}`;
}

const SIZES = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'] as const;

/** Decimal, as drawbridge.limit and Docker write sizes: "5 GB", "1.5 MB". */
export function sizeText(bytes: number): string {
  let [value, unit] = [bytes, 0];
  for (; value >= 1000 && unit < SIZES.length - 1; unit++) value /= 1000;
  return `${Number(value.toFixed(value < 10 ? 1 : 0))} ${SIZES[unit]}`;
}

/** Words in lines of at most `width` columns; what is longer than a line is broken. */
function wrapped(text: string, width: number): readonly string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ').flatMap((w) => pieces(w, width))) {
    if (line !== '' && widthOf(line) + 1 + widthOf(word) > width) {
      lines.push(line);
      line = word;
    } else line = line === '' ? word : `${line} ${word}`;
  }
  return [...lines, line];
}

/** A word as it is, or in pieces that fit. A character with its accents stays in one piece. */
function pieces(word: string, width: number): readonly string[] {
  if (widthOf(word) <= width) return [word];
  const found: string[] = [];
  let piece = '';
  for (const { segment } of new Intl.Segmenter().segment(word)) {
    if (piece !== '' && widthOf(piece + segment) > width) {
      found.push(piece);
      piece = segment;
    } else piece += segment;
  }
  return [...found, piece];
}

type ModeSource = ContainerBody['modeSource'];

const REASONS = {
  api: 'set by a person or the API',
  label: 'label drawbridge.mode',
  default: 'default of the configuration',
  pause: 'paused',
  lockdown: 'lockdown',
  'broken label': 'a drawbridge label does not parse',
  'has entries': 'it has a drawbridge.allow or drawbridge.lists label',
  'store in doubt': 'store in doubt',
  unattributed: 'unattributed of the configuration',
  claim: 'a list, which claims it',
} satisfies Readonly<Record<ModeSource['kind'], string>>;

/** Why the mode is what it is. */
export const modeReason = ({ kind, name }: ModeSource): string =>
  name === null ? REASONS[kind] : `list ${name}, which claims it`;

interface Destination {
  readonly name: string | null;
  readonly address: string;
  readonly port: number;
  readonly proto: string;
}
/** The name if there is one, the address, and the port and protocol. */
export function destinationText({ name, address, port, proto }: Destination): string {
  if (proto === 'dns') return `${name ?? address} (DNS)`;
  const host = bracketed(address);
  const at = port > 0 ? `${host}:${port}/${proto}` : `${host}/${proto}`;
  return name === null ? at : `${name} ${at}`;
}
