/** YAML text to a value, with the place of everything in it. */
import {
  type Alias,
  Composer,
  type Document,
  isAlias,
  isCollection,
  isMap,
  isScalar,
  isSeq,
  type LineCounter,
  type Node,
  Scalar,
  visit,
  type YAMLError,
} from 'yaml';
import { shownKey, UNKNOWN_KEY, unescapePointer } from './json.js';
import { clipped, type Problem } from './problem.js';
import { type Excess, excessOf, readTokens } from './yaml-bounds.js';

/** A configuration is a page or two; a list of thousands of entries is some hundred kB. */
const MAX_BYTES = 4_000_000;
/** How many nodes aliases may come to (the "billion laughs" of YAML). */
const MAX_ALIASES = 100;

export interface YamlFile {
  /** Undefined when the text is no YAML; null when it is empty. May be there beside problems, to find more of them. */
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

const isUnknownKey = (problem: Problem): boolean => problem.detail.startsWith(UNKNOWN_KEY);

function placer(document: Document, lines: LineCounter, file: string) {
  return (problem: Problem): Problem => {
    const { node, found } = spotOf(document, problem.pointer ?? '', isUnknownKey(problem));
    const start = node?.range?.[0] ?? 0;
    const { pointer, ...unpointed } = problem;
    const shown = pointer === undefined || isShown(pointer) ? problem : unpointed;
    const { line, col } = lines.linePos(start + shift(node, problem, found));
    return { ...shown, file, line: Math.max(line, 1), column: Math.max(col, 1) };
  };
}

/** A step that is no key but a line of some other file is shown nowhere; the place says where it is. */
const isShown = (pointer: string): boolean =>
  pointer
    .split('/')
    .slice(1)
    .map(unescapePointer)
    .every((step) => /^\d+$/.test(step) || shownKey(step) === step);

const QUOTE_STAR = 'put it in quotes: YAML reads a * without quotes as an alias';

function remedyFor(error: YAMLError): string {
  if (error.code === 'DUPLICATE_KEY') return 'keep one of the two';
  if (error.code === 'BAD_ALIAS') return QUOTE_STAR;
  if (error.code === 'TAB_AS_INDENT') return 'indent with spaces';
  return 'correct the YAML here; put entries with [ ] * { } or "# " in quotes';
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
 * was meant, so that what else is wrong in the file is told, too.
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

function toValue(document: Document): { value: unknown } | undefined {
  try {
    return { value: document.toJS({ maxAliasCount: MAX_ALIASES }) };
  } catch (error) {
    if (error instanceof ReferenceError) return undefined;
    throw error;
  }
}

/** Reads YAML 1.2 (or 1.1 where the file says %YAML 1.1). Never throws on any text; duplicate keys are problems. */
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
  return whole
    ? { value: whole.value, problems, place }
    : unusable(file, 'the aliases expand to too many values', 'write them out without anchors');
}
