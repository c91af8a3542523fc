import type { Host } from './host.js';
import { relativeTime, remainingTime, sizeText, wrapped } from './text.js';

/** Spaces between two columns. */
const GAP = 2;
/** A column is not squeezed below this width. */
const NARROWEST = 12;

type Terminal = Pick<Host, 'stdout' | 'stderr' | 'isTerminal' | 'columns'>;

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
    if (this.isJson) this.#host.stdout.write(`${JSON.stringify(value, undefined, 2)}\n`);
    else text();
  }

  line(text: string): void {
    this.#host.stdout.write(`${printable(text)}\n`);
  }

  /** In addition to the result, on stderr. */
  note(text: string): void {
    this.#host.stderr.write(`${printable(text)}\n`);
  }

  /** On a terminal as people say it ("3 minutes ago"), in a pipe RFC 3339. */
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

  /** Print a table. If it is empty, print `none` instead (terminal only), which says what to do. */
  table(head: readonly string[], rows: readonly (readonly string[])[], none?: string): void {
    if (rows.length === 0 && none !== undefined) {
      this.note(none);
      return;
    }
    if (!this.#host.isTerminal) {
      for (const row of rows) this.line(row.map((cell) => cell.replace(/\s+/g, ' ')).join('\t'));
      return;
    }
    const all = [head, ...rows].map((row) => row.map(printable));
    const widths = fitted(
      head.map((_, i) => Math.max(...all.map((row) => (row[i] ?? '').length))),
      this.#host.columns,
    );
    for (const row of all) for (const line of rowLines(row, widths)) this.line(line);
  }

  /** A line of prose: wrapped on a terminal, with its further lines indented. */
  prose(text: string, indent = 0): void {
    const { isTerminal, columns } = this.#host;
    const space = ' '.repeat(indent);
    const width = (columns ?? Number.POSITIVE_INFINITY) - indent;
    const lines = isTerminal && width > NARROWEST && Number.isFinite(width) ? wrapped(text, width) : [text];
    for (const line of lines) this.line(`${space}${line}`);
  }
}

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

function rowLines(row: readonly string[], widths: readonly number[]): readonly string[] {
  const cells = row.map((cell, i) => wrapped(cell, widths[i] ?? cell.length));
  const height = Math.max(1, ...cells.map((lines) => lines.length));
  return Array.from({ length: height }, (_, at) =>
    cells
      .map((lines, i) => (lines[at] ?? '').padEnd(widths[i] ?? 0))
      .join(' '.repeat(GAP))
      .trimEnd(),
  );
}

/** Names and labels are other people's: no escape sequence of theirs reaches the terminal. */
export function printable(text: string): string {
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g, '\ufffd');
}
