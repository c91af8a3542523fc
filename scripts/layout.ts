/**
 * npm run layout [-- MODULE…]: measures the layout of src against the bounds of scripts/layout.json, and prints one line for
 * each module. Ends with 1 when a bound is exceeded. Options: --lines (the comment lines with a word of the private idiom),
 * --single (the files that exactly one other file imports).
 */
import { readdirSync, readFileSync } from 'node:fs';
import { basename, dirname, join, normalize, relative } from 'node:path';
import ts from 'typescript';
import bounds from './layout.json' with { type: 'json' };

const ROOT = join(import.meta.dirname, '..');
const SRC = join(ROOT, 'src');

interface SourceFile {
  /** From the root of the repository. */
  readonly path: string;
  readonly module: string;
  readonly lines: number;
  /** Paths of the files of src that it imports or starts as a thread. */
  readonly imports: ReadonlySet<string>;
  readonly packages: ReadonlySet<string>;
  readonly comments: readonly { readonly line: number; readonly text: string }[];
}

const IDIOM = new RegExp(`\\b(?:${bounds.idiom.join('|')})\\b`, 'i');
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
  const packages = new Set<string>();
  for (const [, specifier = ''] of text.matchAll(
    /(?:from|import|import\(|URL\(|startThread\()\s*'([^'\n]+)'/g,
  )) {
    const target = normalize(join(dirname(path), specifier)).replace(/\.js$/, '.ts');
    if (specifier.startsWith('.')) {
      if (all.has(target) && target !== path) imports.add(target);
    } else if (!specifier.startsWith('node:')) packages.add(packageOf(specifier));
  }
  const [, second = ''] = path.split('/');
  const lines = text.split('\n').length - 1;
  return {
    path,
    module: second.replace(/\.ts$/, ''),
    lines,
    imports,
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

const percent = (part: number, whole: number): number => (whole === 0 ? 0 : (100 * part) / whole);
const isIdiom = ({ text }: { readonly text: string }): boolean => IDIOM.test(text);

function importersOf(files: readonly SourceFile[]): ReadonlyMap<string, readonly string[]> {
  const importers = new Map<string, string[]>(files.map((f) => [f.path, []]));
  for (const f of files) for (const target of f.imports) importers.get(target)?.push(f.path);
  return importers;
}

/** Names that more than one file has. */
function sameNames(files: readonly SourceFile[]): readonly string[] {
  const counts = new Map<string, number>();
  for (const f of files) counts.set(basename(f.path), (counts.get(basename(f.path)) ?? 0) + 1);
  return [...counts].filter(([, n]) => n > 1).map(([name]) => name);
}

/** Dependencies of package.json that src does not import. */
function unusedPackages(files: readonly SourceFile[]): readonly string[] {
  const manifest = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as {
    readonly dependencies: Readonly<Record<string, string>>;
  };
  const used = new Set(files.flatMap((f) => [...f.packages]));
  return Object.keys(manifest.dependencies).filter((name) => !used.has(name));
}

/** What exceeds its bound, as sentences. */
export function layoutProblems(files: readonly SourceFile[]): readonly string[] {
  const importers = importersOf(files);
  const single = files.filter((f) => importers.get(f.path)?.length === 1);
  const comments = files.flatMap((f) => f.comments);
  const idiom = comments.filter(isIdiom);
  const same = sameNames(files);
  const share = percent(single.length, files.length);
  const words = percent(idiom.length, comments.length);
  return [
    ...(files.length > bounds.files ? [`${files.length} files, at most ${bounds.files}`] : []),
    ...(share > bounds.oneImporterPercent
      ? [
          `${share.toFixed(1)} % of the files have one importer, at most ${bounds.oneImporterPercent} %: see --single`,
        ]
      : []),
    ...files
      .filter((f) => f.lines > bounds.lines)
      .map((f) => `${f.path}: ${f.lines} lines, at most ${bounds.lines}`),
    ...(same.length > bounds.sameName ? [`file names in more than one module: ${same.join(', ')}`] : []),
    ...(words > bounds.idiomPercent
      ? [
          `${words.toFixed(1)} % of the comment lines have a word of the list in scripts/layout.json: see --lines`,
        ]
      : []),
    ...unusedPackages(files).map((name) => `package.json: src does not import ${name}`),
  ];
}

function main(args: readonly string[]): void {
  const files = sourceFiles();
  const importers = importersOf(files);
  const wanted = args.filter((a) => !a.startsWith('--'));
  const shown = files.filter((f) => wanted.length === 0 || wanted.includes(f.module));
  const row = (name: string, part: readonly SourceFile[]): string => {
    const single = part.filter((f) => importers.get(f.path)?.length === 1).length;
    const comments = part.flatMap((f) => f.comments);
    const longest = Math.max(0, ...part.map((f) => f.lines));
    const lines = part.reduce((sum, f) => sum + f.lines, 0);
    const idiom = percent(comments.filter(isIdiom).length, comments.length).toFixed(1);
    const cells = [part.length, lines, longest, single, comments.length].map((n) => String(n).padStart(8));
    return `${name.padEnd(12)}${cells.join('')}${idiom.padStart(8)} %`;
  };
  console.log('module         files   lines longest  single comments   idiom');
  for (const name of new Set(shown.map((f) => f.module)))
    console.log(
      row(
        name,
        shown.filter((f) => f.module === name),
      ),
    );
  console.log(row('all', shown));
  if (args.includes('--single'))
    for (const f of shown) {
      const [only, ...others] = importers.get(f.path) ?? [];
      if (only !== undefined && others.length === 0) console.log(`${f.path} (${f.lines}) ← ${only}`);
    }
  if (args.includes('--lines'))
    for (const f of shown)
      for (const c of f.comments.filter(isIdiom)) console.log(`${f.path}:${c.line}: ${c.text}`);
  const problems = layoutProblems(files);
  for (const problem of problems) console.error(problem);
  process.exitCode = problems.length > 0 ? 1 : 0;
}

main(process.argv.slice(2));
