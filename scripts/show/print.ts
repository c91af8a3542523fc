/** What the demo prints: colours on a terminal, plain lines in a pipe. */
const colours = (process.stdout.isTTY || process.env.FORCE_COLOR === '1') && !process.env.NO_COLOR;
const paint =
  (code: number) =>
  (text: string): string =>
    colours ? `\u001b[${code}m${text}\u001b[0m` : text;
export const bold = paint(1);
export const dim = paint(2);
const red = paint(31);
const green = paint(32);
const yellow = paint(33);

export const say = (text = ''): void => void process.stdout.write(`${text}\n`);
export const note = (text: string): void => say(`  ${text}`);
export const heading = (name: string, what: string): void => say(`\n${bold(name)}  ${dim(what)}`);
export const command = (text: string): void => say(`  ${bold(`$ ${text}`)}`);

/** passed: through. seen: through, though enforce would deny it. held: denied. lost: allowed, and nobody answered. */
export type Kind = 'passed' | 'seen' | 'held' | 'lost';
const SIGNS: Readonly<Record<Kind, string>> = {
  passed: green('✓'),
  seen: yellow('○'),
  held: red('✗'),
  lost: yellow('?'),
};

export function attemptLine(kind: Kind, to: string, outcome: string, why: string): void {
  say(`  ${SIGNS[kind]} ${to.padEnd(24)} ${outcome.padEnd(20)} ${dim(why)}`);
}

export function table(rows: readonly (readonly string[])[]): void {
  const widths = (rows[0] ?? []).map((_, i) => Math.max(...rows.map((row) => (row[i] ?? '').length)));
  for (const row of rows)
    note(
      row
        .map((cell, i) => cell.padEnd(widths[i] ?? 0))
        .join('  ')
        .trimEnd(),
    );
}

export const seconds = (ms: number): string => `${(ms / 1000).toFixed(1)} s`;
