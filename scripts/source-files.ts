/** The files of src, with what they import and their comments: for npm run layout and npm run flows. */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize, relative } from 'node:path';

const ROOT = join(import.meta.dirname, '..');
const SRC = join(ROOT, 'src');

export interface SourceFile {
  /** From the root of the repository. */
  readonly path: string;
  readonly module: string;
  readonly text: string;
  readonly lines: number;
  /** Paths of the files of src that it imports. */
  readonly imports: ReadonlySet<string>;
  /** Paths of the files of src that it starts as a thread or a process: these are entry points. */
  readonly starts: ReadonlySet<string>;
  /** What it imports or starts when it runs: without imports of types alone. */
  readonly loads: ReadonlySet<string>;
  readonly packages: ReadonlySet<string>;
  readonly comments: readonly { readonly line: number; readonly text: string }[];
}

/** `package` or `@scope/package` of an import. */
const packageOf = (specifier: string): string =>
  specifier
    .split('/')
    .slice(0, specifier.startsWith('@') ? 2 : 1)
    .join('/');

/** A comment, a string or a regular expression, or what begins or ends a template or a block. A slash is no division where no operand is before it. */
const TOKEN =
  /\/\/.*|\/\*[\s\S]*?\*\/|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|[`{}]|(?<=(?:[(,=:[!&|?{};+*>~^%<-]|\b(?:return|typeof|case|in|of|void|await|yield)\b|^)\s*)\/(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\[\n])+\//gm;
/** Where a part of a template ends: in a block or for good. */
const TEMPLATE = /\\[\s\S]|`|\$\{/g;

/** Each line of a comment that has a letter in it. Directives of tools are no comments. The compiler would take ten times as long. */
export function commentLines(text: string): SourceFile['comments'] {
  const found: { line: number; text: string }[] = [];
  /** One for each open block: whether a template goes on behind it. */
  const blocks: boolean[] = [];
  let [at, line, counted] = [0, 1, 0];
  const next = (pattern: RegExp): string | undefined => {
    pattern.lastIndex = at;
    const [token] = pattern.exec(text) ?? [];
    at = pattern.lastIndex;
    return token;
  };
  const skipTemplate = (): void => {
    let token = next(TEMPLATE);
    while (token?.startsWith('\\')) token = next(TEMPLATE);
    if (token === '${') blocks.push(true);
  };
  for (let token = next(TOKEN); token !== undefined; token = next(TOKEN)) {
    if (token === '{') blocks.push(false);
    else if (token === '`' || (token === '}' && blocks.pop())) skipTemplate();
    else if (/^\/[/*]/.test(token)) {
      for (; counted < at - token.length; counted++) if (text[counted] === '\n') line++;
      for (const [i, part] of token.split('\n').entries())
        if (/[a-z]/i.test(part) && !/biome-ignore|@ts-/.test(part))
          found.push({ line: line + i, text: part.trim() });
    }
  }
  return found;
}

function targetsOf(path: string, text: string, all: ReadonlySet<string>) {
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
  return { imports, starts, packages };
}

const OF_TYPES = /^(?:import|export) type [^;]*? from '[^']+';/gm;

function read(path: string, all: ReadonlySet<string>): SourceFile {
  const text = readFileSync(join(ROOT, path), 'utf8');
  const loaded = targetsOf(path, text.replace(OF_TYPES, ''), all);
  const [, second = ''] = path.split('/');
  const lines = text.split('\n').length - 1;
  return {
    path,
    module: second.replace(/\.ts$/, ''),
    text,
    lines,
    ...targetsOf(path, text, all),
    loads: new Set([...loaded.imports, ...loaded.starts]),
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
