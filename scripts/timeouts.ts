/**
 * The table of time-outs in docs/architecture.md: scripts/timeouts.json names the constants, what each bounds, and which others are shorter;
 * the values are read from the sources. `npm run flows -- --write` writes the table.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import ts from 'typescript';
import rows from './timeouts.json' with { type: 'json' };

const SRC = join(import.meta.dirname, '..', 'src');

export interface Timeout {
  /** Below src. */
  readonly file: string;
  /** A constant, or `CONSTANT.field`, of milliseconds; of seconds if its name ends so. */
  readonly name: string;
  readonly bounds: string;
  /** Names of shorter ones, after their file where others have the same name. */
  readonly longerThan: readonly string[];
}
export const TIMEOUTS = rows.map(
  ([file, name, bounds, longerThan]) => ({ file, name, bounds, longerThan }) as Timeout,
);

/** The number of a literal, a product, or a field of an object. */
function numberOf(node: ts.Expression | undefined, field: string | undefined): number | undefined {
  if (node === undefined) return undefined;
  if (ts.isNumericLiteral(node))
    return field === undefined ? Number(node.text.replaceAll('_', '')) : undefined;
  if (ts.isAsExpression(node)) return numberOf(node.expression, field);
  if (ts.isBinaryExpression(node) && node.operatorToken.kind === ts.SyntaxKind.AsteriskToken) {
    const [a, b] = [numberOf(node.left, field), numberOf(node.right, field)];
    return a === undefined || b === undefined ? undefined : a * b;
  }
  if (!ts.isObjectLiteralExpression(node)) return undefined;
  const found = node.properties.find((p) => ts.isPropertyAssignment(p) && p.name.getText() === field);
  return found && ts.isPropertyAssignment(found) ? numberOf(found.initializer, undefined) : undefined;
}

/** In milliseconds; undefined: the file has no such constant, or it is no number. */
export function millisecondsOf({ file, name }: Pick<Timeout, 'file' | 'name'>): number | undefined {
  const [constant, field] = name.split('.');
  const text = readFileSync(join(SRC, file), 'utf8');
  for (const node of ts.createSourceFile(file, text, ts.ScriptTarget.ES2022, true).statements) {
    if (!ts.isVariableStatement(node)) continue;
    const found = node.declarationList.declarations.find((d) => d.name.getText() === constant);
    const value = found && numberOf(found.initializer, field);
    if (value !== undefined) return constant?.endsWith('_SECONDS') ? value * 1_000 : value;
  }
  return undefined;
}

const isNamed = ({ file, name }: Timeout, words: string): boolean =>
  words === name || words === `${file.split('/').at(-1)} ${name}`;

/** Constants that are not there, and those that are not longer than the ones that have to be shorter. */
export function timeoutProblems(all: readonly Timeout[] = TIMEOUTS): readonly string[] {
  return all.flatMap((one) => {
    const value = millisecondsOf(one);
    const place = `src/${one.file}: ${one.name}`;
    if (value === undefined) return [`${place} is no number: see scripts/timeouts.json`];
    return one.longerThan.flatMap((words) => {
      const shorter = all.filter((other) => isNamed(other, words));
      const [other] = shorter;
      if (!other || shorter.length > 1) return [`${place}: "${words}" names ${shorter.length} time-outs`];
      return (millisecondsOf(other) ?? 0) < value
        ? []
        : [`${place} must be longer than ${words} (src/${other.file})`];
    });
  });
}

const shown = (ms: number): string =>
  ms < 1_000 ? `${ms} ms` : ms % 3_600_000 === 0 ? `${ms / 3_600_000} h` : `${ms / 1_000} s`;

export function timeoutTable(): string {
  const lines = TIMEOUTS.map((one) => {
    const longer = one.longerThan.map((words) => `\`${words.split(' ').at(-1)}\``).join(', ');
    return `| ${one.bounds} | ${shown(millisecondsOf(one) ?? 0)} | \`${one.file}\` \`${one.name}\` | ${longer} |`;
  });
  return ['| what it bounds | time | constant | longer than |', '| --- | --- | --- | --- |', ...lines].join(
    '\n',
  );
}
