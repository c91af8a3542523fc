/** YAML text to a value, with the place of everything in it. */
import {
  type Alias,
  Composer,
  type CST,
  type Document,
  isAlias,
  isCollection,
  isMap,
  isScalar,
  isSeq,
  Lexer,
  LineCounter,
  type Node,
  Parser,
  Scalar,
  visit,
  type YAMLError,
} from 'yaml';
import { shownKey, unescapePointer } from './json.js';
import { clipped, type Problem, shownProblem } from './problem.js';

/** Bounds of a YAML text, checked on its tokens before any code walks it by recursion. Pure. */

/** Lists and configurations need five; the reader goes down by recursion, and a stack that ends within it may end the process. */
const MAX_DEPTH = 64;
/** Each is looked up by a walk through the document. */
const MAX_ALIAS_TOKENS = 100;
/** Each key is compared with all before it. */
const MAX_KEYS = 5000;
/** Faults of syntax that are reported; the text after them is not read. */
const MAX_FAULTS = 100;

interface Tokens {
  readonly tokens: readonly CST.Token[];
  readonly lines: LineCounter;
  /** Where the text became too deep; it was not read further. */
  readonly tooDeep?: CST.Token;
}
interface Excess {
  readonly problem: Problem;
  /** Its offset in the text. */
  readonly offset: number;
}

/** The text's syntax, without meaning. The parser closes what is open by recursion: what is open is bounded, too. */
function readTokens(text: string): Tokens {
  const lines = new LineCounter();
  const tokens: CST.Token[] = [];
  lines.addNewLine(0);
  const parser = new Parser(lines.addNewLine);
  let faults = 0;
  for (const token of read(parser, text)) {
    tokens.push(token);
    if (token.type === 'error' && ++faults === MAX_FAULTS) break;
  }
  const tooDeep = isTooDeep(parser) ? parser.stack.at(-1) : undefined;
  return { tokens, lines, ...(tooDeep && { tooDeep }) };
}

/** The document itself, and a scalar, are on the stack as well. */
const isTooDeep = ({ stack }: Parser): boolean => stack.length > MAX_DEPTH + 2;

/** As `Parser.parse`, until it is too deep. */
function* read(parser: Parser, text: string): Generator<CST.Token, void> {
  for (const lexeme of new Lexer().lex(text)) {
    yield* parser.next(lexeme);
    if (isTooDeep(parser)) return;
  }
  yield* parser.end();
}

const excess = (token: CST.Token, detail: string, remedy: string): Excess => ({
  problem: { detail, remedy },
  offset: 'offset' in token ? token.offset : 0,
});

const levels = (token: CST.Token): Excess =>
  excess(token, `the file has more than ${MAX_DEPTH} levels`, 'use fewer levels');

function children(token: CST.Token): readonly CST.Token[] {
  if (token.type === 'document') return token.value ? [token.value] : [];
  if (!('items' in token)) return [];
  return token.items.flatMap(({ key, value }) => [key, value].filter((t) => t !== null && t !== undefined));
}

/** A "!" with a blank after it: the parser removes it without an error, and an entry that denies would permit. */
function bareTag(token: CST.Token): CST.SourceToken | undefined {
  if (!('items' in token)) return undefined;
  for (const { start, sep } of token.items) {
    const found = [...start, ...(sep ?? [])].find(({ type, source }) => type === 'tag' && source === '!');
    if (found) return found;
  }
  return undefined;
}

/** The first place where the text is more than a list or a configuration ever is; undefined: nowhere. */
function excessOf({ tokens, tooDeep }: Tokens): Excess | undefined {
  if (tooDeep) return levels(tooDeep);
  const open = tokens.map((token) => ({ token, depth: 0 }));
  let aliases = 0;
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const { token, depth } = next;
    if (depth > MAX_DEPTH) return levels(token);
    if (token.type === 'alias' && ++aliases > MAX_ALIAS_TOKENS)
      return excess(
        token,
        `the file has more than ${MAX_ALIAS_TOKENS} aliases`,
        'put entries that begin with * in quotes',
      );
    const tag = bareTag(token);
    if (tag) return excess(tag, 'a ! alone is a tag of YAML, which would be left out', QUOTE_MARK);
    if ('items' in token && token.type !== 'block-seq' && token.items.length > MAX_KEYS && isMapToken(token))
      return excess(token, `a map has more than ${MAX_KEYS} keys`, 'write a list');
    for (const child of children(token)) open.push({ token: child, depth: depth + 1 });
  }
  return undefined;
}

function isMapToken(token: CST.Token): boolean {
  return token.type === 'block-map' || (token.type === 'flow-collection' && token.start.source === '{');
}

/** A configuration is a page or two; a list of thousands of entries is some hundred kB. */
const MAX_BYTES = 4_000_000;
/** How many nodes aliases may come to (the "billion laughs" of YAML). */
const MAX_ALIASES = 100;

export interface YamlFile {
  /** Undefined when the text is no YAML; null when it is empty. May be set together with problems, to find more of them. */
  readonly value: unknown;
  /** Of the YAML itself, placed. */
  readonly problems: readonly Problem[];
  /** Gives problems that carry a pointer into `value` their file, line and column. */
  place(problems: readonly Problem[]): readonly Problem[];
}

interface Spot {
  readonly node: Node | undefined;
  /** The pointer led all the way there. */
  readonly found: boolean;
}

type Parent = Node | null | undefined;

function child(parent: Parent, step: string): { key: Node | undefined; value: Parent } | undefined {
  if (isSeq(parent)) {
    const item = parent.items[Number(step)] as Parent;
    return item ? { key: undefined, value: item } : undefined;
  }
  if (!isMap(parent)) return undefined;
  const pair = parent.items.find(({ key }) => String(isScalar(key) ? key.value : key) === step);
  return pair ? { key: pair.key as Node, value: pair.value as Parent } : undefined;
}

/** The node at a JSON pointer, or the nearest above it; a map's key when its value is not there or is unknown. */
function spotOf(document: Document, pointer: string, wantKey: boolean): Spot {
  const steps = pointer.split('/').slice(1).map(unescapePointer);
  let node: Parent = document.contents as Parent;
  let spot: Node | undefined = node ?? undefined;
  for (const [index, step] of steps.entries()) {
    const next = child(isAlias(node) ? (node as Alias).resolve(document) : node, step);
    if (!next) return { node: spot, found: false };
    const last = index === steps.length - 1;
    spot = (wantKey && last ? next.key : undefined) ?? next.value ?? next.key ?? spot;
    node = next.value;
  }
  return { node: spot, found: true };
}

/** A column within the text of a scalar counts only where source and value run side by side: plain and quoted. */
function shift(node: Node | undefined, problem: Problem, found: boolean): number {
  if (!found || !isScalar(node) || problem.column === undefined || (problem.line ?? 1) > 1) return 0;
  if (node.type === Scalar.PLAIN) return problem.column - 1;
  const quoted = node.type === Scalar.QUOTE_DOUBLE || node.type === Scalar.QUOTE_SINGLE;
  return quoted ? problem.column : 0;
}

function placer(document: Document, lines: LineCounter, file: string) {
  return (problem: Problem): Problem => {
    const { node, found } = spotOf(document, problem.pointer ?? '', problem.about?.kind === 'key');
    const start = node?.range?.[0] ?? 0;
    const { pointer, ...unpointed } = shownProblem(problem);
    const shown = pointer === undefined || !isShown(pointer) ? unpointed : { ...unpointed, pointer };
    const { line, col } = lines.linePos(start + shift(node, problem, found));
    return { ...shown, file, line: Math.max(line, 1), column: Math.max(col, 1) };
  };
}

/** A step that is no key but a line of some other file is shown nowhere; file, line and column are. */
const isShown = (pointer: string): boolean =>
  pointer
    .split('/')
    .slice(1)
    .map(unescapePointer)
    .every((step) => /^\d+$/.test(step) || shownKey(step) === step);

const QUOTE_MARK = 'put the entry in quotes: YAML reads a ! without quotes as a tag';
const QUOTE_STAR = 'put it in quotes: YAML reads a * without quotes as an alias';

function remedyFor(error: YAMLError): string {
  if (error.code === 'DUPLICATE_KEY') return 'keep one of the two';
  if (error.code === 'BAD_ALIAS') return QUOTE_STAR;
  if (error.code === 'TAG_RESOLVE_FAILED' || error.message.startsWith('Tags and anchors')) return QUOTE_MARK;
  if (error.code === 'TAB_AS_INDENT') return 'indent with spaces';
  return 'correct the YAML here; put entries with [ ] * ! { } or "# " in quotes';
}

/** The composer quotes the token that it cannot read, which may be a line of a file that is no YAML. */
const withoutSource = (message: string): string => clipped(message.split(`: "`)[0] ?? message, 120);

function syntaxProblem(error: YAMLError, lines: LineCounter, file: string): Problem {
  const { line, col } = lines.linePos(error.pos[0]);
  return {
    detail: `YAML: ${withoutSource(error.message)}`,
    remedy: remedyFor(error),
    file,
    line: Math.max(line, 1),
    column: Math.max(col, 1),
  };
}

/**
 * Aliases without an anchor: nearly always an entry such as *.github.com without its quotes. They become the text that
 * was meant, so that the other problems of the file are reported, too.
 */
function mendAliases(document: Document, lines: LineCounter, file: string): readonly Problem[] {
  const problems: Problem[] = [];
  visit(document, {
    Alias(_, node) {
      if (node.resolve(document)) return undefined;
      const { line, col } = lines.linePos(node.range?.[0] ?? 0);
      const detail = `*${clipped(node.source)} is an alias that is not defined`;
      problems.push({ detail, remedy: QUOTE_STAR, file, line, column: col });
      const meant = new Scalar(`*${node.source}`);
      if (node.range) meant.range = node.range;
      return meant;
    },
  });
  return problems;
}

function hasCycle(document: Document): boolean {
  let cyclic = false;
  visit(document, {
    Alias(_, node, path) {
      const target = node.resolve(document);
      if (isCollection(target) && path.includes(target)) cyclic = true;
    },
  });
  return cyclic;
}

const unusable = (file: string, detail: string, remedy: string): YamlFile => {
  const place = (problems: readonly Problem[]) => problems.map((p) => ({ ...p, file, line: 1, column: 1 }));
  return { value: undefined, problems: place([{ detail, remedy }]), place };
};

function tooMuch({ problem, offset }: Excess, lines: LineCounter, file: string): YamlFile {
  const { line, col } = lines.linePos(offset);
  const placed = { ...problem, file, line: Math.max(line, 1), column: Math.max(col, 1) };
  const place = (problems: readonly Problem[]) => problems.map((p) => ({ ...p, file, line: 1, column: 1 }));
  return { value: undefined, problems: [placed], place };
}

type Value = { readonly value: unknown } | { readonly detail: string; readonly remedy: string };
function toValue(document: Document): Value {
  try {
    return { value: document.toJS({ maxAliasCount: MAX_ALIASES }) };
  } catch (error) {
    if (error instanceof ReferenceError)
      return { detail: 'the aliases expand to too many values', remedy: 'write them out without anchors' };
    // YAML 1.1 has "<<", which takes over the keys of another map
    if (error instanceof Error && error.message.startsWith('Merge sources'))
      return { detail: 'the value of "<<" is no map', remedy: 'write the keys out' };
    throw error;
  }
}

/** Reads YAML 1.2 (or 1.1 where the file begins with %YAML 1.1). Never throws on any text; duplicate keys are problems. */
export function parseYaml(text: string, file: string): YamlFile {
  if (Buffer.byteLength(text) > MAX_BYTES)
    return unusable(file, `the file has more than ${MAX_BYTES} bytes`, 'split the file');
  const read = readTokens(text);
  const { lines } = read;
  const excess = excessOf(read);
  if (excess) return tooMuch(excess, lines, file);
  // a document even of a text without any: its faults hang on it
  const [document, second] = new Composer({ logLevel: 'error' }).compose(read.tokens, true, text.length);
  if (!document)
    return unusable(file, 'the file has no YAML document', 'write the content, or delete the file');
  if (second) return unusable(file, 'the file has more than one YAML document', 'remove what follows "---"');
  const errors = [...document.errors, ...document.warnings];
  const problems = [
    ...errors.map((error) => syntaxProblem(error, lines, file)),
    ...mendAliases(document, lines, file),
  ];
  const place = (found: readonly Problem[]) => found.map(placer(document, lines, file));
  if (errors.some(({ code }) => code !== 'DUPLICATE_KEY')) return { value: undefined, problems, place };
  if (hasCycle(document)) return unusable(file, 'an anchor contains itself', 'remove the alias');
  const whole = toValue(document);
  return 'value' in whole
    ? { value: whole.value, problems, place }
    : unusable(file, whole.detail, whole.remedy);
}
