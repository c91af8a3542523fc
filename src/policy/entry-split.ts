import type { Problem } from '../lib/problem.js';

/** One entry's text, trimmed, with where it stands (1-based). */
export interface Piece {
  readonly text: string;
  readonly line: number;
  readonly column: number;
}

/** What follows a comma that belongs to ports: digits[-digits], then "," "/" blank or the end. */
const PORTS_GO_ON = /^\d+(-\d+)?(?=[,/ \t]|$)/;

/** Offsets of the commas that separate entries in one line. */
function separators(line: string): number[] {
  return [...line.matchAll(/,/g)]
    .map((match) => match.index)
    .filter((index) => !PORTS_GO_ON.test(line.slice(index + 1)));
}

function piecesOf(line: string, number: number): Piece[] {
  const cuts = [-1, ...separators(line), line.length];
  return cuts.slice(1).map((end, index) => {
    const start = (cuts[index] ?? -1) + 1;
    const raw = line.slice(start, end);
    return { text: raw.trim(), line: number, column: start + 1 + raw.length - raw.trimStart().length };
  });
}

/** Splits at newlines and separating commas. Blank lines and a comma at a line's end are fine, ",," is not. */
export function splitEntries(text: string): { pieces: readonly Piece[]; problems: readonly Problem[] } {
  const pieces: Piece[] = [];
  const problems: Problem[] = [];
  for (const [index, line] of text.split(/\r\n|\n|\r/).entries()) {
    const found = piecesOf(line, index + 1);
    const last = found.at(-1)?.text === '' ? found.pop() : undefined;
    if (last && found.length === 0) continue;
    for (const piece of found) {
      if (piece.text !== '') pieces.push(piece);
      else
        problems.push({
          detail: 'there is nothing before the comma',
          remedy: 'remove the comma',
          line: piece.line,
          column: piece.column,
        });
    }
  }
  return { pieces, problems };
}
