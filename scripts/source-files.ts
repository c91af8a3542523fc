/** The files of src, with what they import and their comments: for npm run layout and npm run flows. */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize, relative } from 'node:path';
import ts from 'typescript';

const ROOT = join(import.meta.dirname, '..');
const SRC = join(ROOT, 'src');

export interface SourceFile {
  /** From the root of the repository. */
  readonly path: string;
  readonly module: string;
  readonly lines: number;
  /** Paths of the files of src that it imports. */
  readonly imports: ReadonlySet<string>;
  /** Paths of the files of src that it starts as a thread or a process: these are entry points. */
  readonly starts: ReadonlySet<string>;
  readonly packages: ReadonlySet<string>;
  readonly comments: readonly { readonly line: number; readonly text: string }[];
}

/** `package` or `@scope/package` of an import. */
const packageOf = (specifier: string): string =>
  specifier
    .split('/')
    .slice(0, specifier.startsWith('@') ? 2 : 1)
    .join('/');

/** Each line of a comment that has a letter in it. Shebangs and directives of tools are no comments. */
function commentLines(text: string): SourceFile['comments'] {
  const found: { line: number; text: string }[] = [];
  const file = ts.createSourceFile('x.ts', text, ts.ScriptTarget.ES2022, true);
  const seen = new Set<number>();
  const take = (ranges: readonly ts.CommentRange[] | undefined): void => {
    for (const range of ranges ?? []) {
      if (seen.has(range.pos)) continue;
      seen.add(range.pos);
      const first = file.getLineAndCharacterOfPosition(range.pos).line + 1;
      text
        .slice(range.pos, range.end)
        .split('\n')
        .forEach((line, i) => {
          if (/[a-z]/i.test(line) && !/biome-ignore|@ts-/.test(line))
            found.push({ line: first + i, text: line.trim() });
        });
    }
  };
  const visit = (node: ts.Node): void => {
    take(ts.getLeadingCommentRanges(text, node.getFullStart()));
    take(ts.getTrailingCommentRanges(text, node.getEnd()));
    for (const child of node.getChildren(file)) visit(child);
  };
  visit(file);
  return found.sort((a, b) => a.line - b.line);
}

function read(path: string, all: ReadonlySet<string>): SourceFile {
  const text = readFileSync(join(ROOT, path), 'utf8');
  const imports = new Set<string>();
  const starts = new Set<string>();
  const packages = new Set<string>();
  for (const [, keyword, specifier = ''] of text.matchAll(
    /(from|import|import\(|URL\(|startThread\()\s*'([^'\n]+)'/g,
  )) {
    const target = normalize(join(dirname(path), specifier)).replace(/\.js$/, '.ts');
    if (specifier.startsWith('.')) {
      if (all.has(target) && target !== path)
        (keyword === 'URL(' || keyword === 'startThread(' ? starts : imports).add(target);
    } else if (!specifier.startsWith('node:')) packages.add(packageOf(specifier));
  }
  const [, second = ''] = path.split('/');
  const lines = text.split('\n').length - 1;
  return {
    path,
    module: second.replace(/\.ts$/, ''),
    lines,
    imports,
    starts,
    packages,
    comments: commentLines(text),
  };
}

export function sourceFiles(): readonly SourceFile[] {
  const paths = readdirSync(SRC, { recursive: true, encoding: 'utf8' })
    .filter((p) => p.endsWith('.ts'))
    .map((p) => relative(ROOT, join(SRC, p)))
    .sort();
  const all = new Set(paths);
  return paths.map((p) => read(p, all));
}
