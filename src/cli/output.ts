import type { Host } from './host.js';

/** What a command prints: JSON when asked for, else tables on a terminal and tab-separated lines in a pipe. */
export class Output {
  readonly #host: Pick<Host, 'stdout' | 'stderr' | 'isTerminal'>;
  readonly isJson: boolean;

  constructor(host: Pick<Host, 'stdout' | 'stderr' | 'isTerminal'>, isJson: boolean) {
    this.#host = host;
    this.isJson = isJson;
  }

  /** The result: `value` as JSON, or what `text` prints. */
  show(value: unknown, text: () => void): void {
    if (this.isJson) this.#host.stdout.write(`${JSON.stringify(value, undefined, 2)}\n`);
    else text();
  }

  line(text: string): void {
    this.#host.stdout.write(`${printable(text)}\n`);
  }

  /** Beside the result, on stderr. */
  note(text: string): void {
    this.#host.stderr.write(`${printable(text)}\n`);
  }

  table(head: readonly string[], rows: readonly (readonly string[])[]): void {
    if (!this.#host.isTerminal) {
      for (const row of rows) this.line(row.map((cell) => cell.replace(/\s+/g, ' ')).join('\t'));
      return;
    }
    const all = [head, ...rows].map((row) => row.map(printable));
    const widths = head.map((_, i) => Math.max(...all.map((row) => (row[i] ?? '').length)));
    for (const row of all)
      this.line(
        row
          .map((cell, i) => cell.padEnd(widths[i] ?? 0))
          .join('  ')
          .trimEnd(),
      );
  }
}

/** Names and labels are other people's: no escape sequence of theirs reaches the terminal. */
export function printable(text: string): string {
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g, '\ufffd');
}
