/**
 * npm run layout [-- MODULE…]: measures the layout of src against the bounds of scripts/layout.json, and prints one line for
 * each module, and the part of each that enforces. Ends with 1 when a bound is exceeded, or an import is against the order of the modules. Options: --lines (the comment lines
 * with a word of the private idiom), --single (the files that exactly one other file imports).
 */
import { readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import bounds from './layout.json' with { type: 'json' };
import { type SourceFile, sourceFiles } from './source-files.js';

const ROOT = join(import.meta.dirname, '..');
const IDIOM = new RegExp(`\\b(?:${bounds.idiom.join('|')})\\b`, 'i');

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

/** Names of the exported classes. Classes of errors do not count: a file may export one for each fault that it reports. */
const classesOf = ({ text }: SourceFile): readonly string[] =>
  [...text.matchAll(/^export (?:abstract )?class (\w+)/gm)]
    .map(([, name = '']) => name)
    .filter((name) => !name.endsWith('Error'));

/** Dependencies of package.json that src does not import. */
function unusedPackages(files: readonly SourceFile[]): readonly string[] {
  const manifest = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as {
    readonly dependencies: Readonly<Record<string, string>>;
  };
  const used = new Set(files.flatMap((f) => [...f.packages]));
  return Object.keys(manifest.dependencies).filter((name) => !used.has(name));
}

/** Imports of a module above, of a file outside of the modules, and of packages, folders and files that only other files may import. Imports of types count. */
function orderProblems(files: readonly SourceFile[]): readonly string[] {
  const floors = new Map(bounds.order.map((name, i) => [name, i]));
  const floorOf = (path: string): number =>
    path.split('/').length > 2 ? (floors.get(path.split('/')[1] ?? '') ?? -1) : floors.size;
  const only = Object.entries(bounds.only);
  return files.flatMap(({ path, imports, packages }) => [
    ...(floorOf(path) < 0 ? [`${path}: its module is not in the order of scripts/layout.json`] : []),
    ...[...imports]
      .filter((target) => floorOf(target) > floorOf(path))
      .map((target) => `${path}: imports ${target}, which is above it`),
    ...only
      .filter(
        ([name]) =>
          packages.has(name) ||
          [...imports].some((target) => name.startsWith('src/') && target.startsWith(name)),
      )
      .filter(([, places]) => !places.some((place) => path.startsWith(place)))
      .map(([name, places]) => `${path}: only ${places.join(', ')} may import ${name}`),
  ]);
}

/** Each place of a source text (a regular expression), as the start of a sentence. */
const placesOf = ({ path, text }: SourceFile, wanted: string, flags = 'g'): readonly string[] =>
  [...text.matchAll(new RegExp(wanted, flags))].map(
    ({ 0: found, index }) => `${path}:${text.slice(0, index).split('\n').length}: ${found}`,
  );

/** Source text that only the files of `in` may have, for which one function exists. */
function onceProblems(files: readonly SourceFile[]): readonly string[] {
  return bounds.once.flatMap(({ text, use, in: places }) =>
    files
      .filter(({ path }) => !places.includes(path))
      .flatMap((f) => placesOf(f, text).map((place) => `${place}: use ${use} of ${places.join(' or ')}`)),
  );
}

/** Words of iptables and ipset in files that every backend renders. Comments count. */
function neutralProblems(files: readonly SourceFile[]): readonly string[] {
  const { in: folder, except, words } = bounds.neutral;
  return files
    .filter(({ path }) => path.startsWith(folder) && !except.some((place) => path.startsWith(place)))
    .flatMap((f) =>
      placesOf(f, words, 'gi').map((place) => `${place}: a word of one backend: see ${folder}render/`),
    );
}

/** One circle of imports, if there is any. */
function circleProblems(files: readonly SourceFile[]): readonly string[] {
  const imports = new Map(files.map((f) => [f.path, f.imports]));
  const isDone = new Set<string>();
  const search = (path: string, way: readonly string[]): readonly string[] | undefined => {
    if (way.includes(path)) return [...way.slice(way.indexOf(path)), path];
    if (isDone.has(path)) return undefined;
    for (const target of imports.get(path) ?? []) {
      const circle = search(target, [...way, path]);
      if (circle !== undefined) return circle;
    }
    isDone.add(path);
    return undefined;
  };
  for (const { path } of files) {
    const circle = search(path, []);
    if (circle !== undefined) return [`a circle of imports: ${circle.join(' → ')}`];
  }
  return [];
}

/** The service without what reports: the files that enforce, which is what an audit of the enforcement reads. */
function corePart(files: readonly SourceFile[]): readonly SourceFile[] {
  const byPath = new Map(files.map((f) => [f.path, f]));
  const found = new Set<SourceFile>();
  const add = (path: string): void => {
    const file = byPath.get(path);
    if (file === undefined || found.has(file)) return;
    found.add(file);
    for (const target of file.loads) add(target);
  };
  add(bounds.core.entry);
  return files.filter((f) => found.has(f));
}

/** What exceeds its bound or is against the order, as sentences. */
export function layoutProblems(files: readonly SourceFile[]): readonly string[] {
  const importers = importersOf(files);
  const single = files.filter((f) => importers.get(f.path)?.length === 1);
  const comments = files.flatMap((f) => f.comments);
  const idiom = comments.filter(isIdiom);
  const same = sameNames(files);
  const share = percent(single.length, files.length);
  const words = percent(idiom.length, comments.length);
  return [
    ...(share > bounds.oneImporterPercent
      ? [
          `${share.toFixed(1)} % of the files have one importer, at most ${bounds.oneImporterPercent} %: see --single`,
        ]
      : []),
    ...files
      .filter((f) => f.lines > bounds.lines)
      .map((f) => `${f.path}: ${f.lines} lines, at most ${bounds.lines}`),
    ...files
      .map((f) => [f.path, classesOf(f)] as const)
      .filter(([, classes]) => classes.length > bounds.classes)
      .map(([path, classes]) => `${path}: exports ${classes.join(', ')}: at most ${bounds.classes} classes`),
    ...(same.length > bounds.sameName ? [`file names in more than one module: ${same.join(', ')}`] : []),
    ...(words > bounds.idiomPercent
      ? [
          `${words.toFixed(1)} % of the comment lines have a word of the list in scripts/layout.json: see --lines`,
        ]
      : []),
    ...unusedPackages(files).map((name) => `package.json: src does not import ${name}`),
    ...orderProblems(files),
    ...onceProblems(files),
    ...neutralProblems(files),
    ...circleProblems(files),
    ...corePart(files)
      .filter((f) => bounds.core.without.includes(f.module))
      .map((f) => `${bounds.core.entry}: loads ${f.path}, which is not part of the enforcement`),
  ];
}

/** Words and signs, comments included. */
const tokensOf = ({ text }: SourceFile): number => text.match(/\w+|[^\s\w]/g)?.length ?? 0;

function printCore(files: readonly SourceFile[]): void {
  const core = corePart(files);
  const row = (name: string, part: readonly SourceFile[], whole: readonly SourceFile[]): string => {
    const counts = [part, whole].flatMap((some) => [
      some.length,
      some.reduce((sum, f) => sum + f.lines, 0),
      some.reduce((sum, f) => sum + tokensOf(f), 0),
    ]);
    const share = percent(counts[2] ?? 0, counts[5] ?? 0).toFixed(0);
    return `${name.padEnd(14)}${counts.map((n) => String(n).padStart(9)).join('')}${share.padStart(6)} %`;
  };
  console.log(`\nthe enforcement: what ${bounds.core.entry} loads, and all of src`);
  console.log('module            files    lines   tokens    files    lines   tokens   share');
  for (const name of new Set(files.map((f) => f.module))) {
    const inModule = (f: SourceFile): boolean => f.module === name;
    console.log(row(name, core.filter(inModule), files.filter(inModule)));
  }
  console.log(row('all', core, files));
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
  if (wanted.length === 0) printCore(files);
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

if (process.argv[1] === import.meta.filename) main(process.argv.slice(2));
