/** What a YAML text may come to, told from its tokens before anything walks it by recursion. Pure. */
import { type CST, Lexer, LineCounter, Parser } from 'yaml';
import type { Problem } from './problem.js';

/** Ours need five; the reader goes down by recursion, and a stack that ends within it may end the process. */
const MAX_DEPTH = 64;
/** Each is looked up by a walk through the document. */
const MAX_ALIASES = 100;
/** Each key is compared with all before it. */
const MAX_KEYS = 5000;
/** Faults of syntax that are told; what stands behind them is not read. */
const MAX_FAULTS = 100;

export interface Tokens {
  readonly tokens: readonly CST.Token[];
  readonly lines: LineCounter;
  /** Where the text became too deep; it was not read further. */
  readonly tooDeep?: CST.Token;
}
export interface Excess {
  readonly problem: Problem;
  /** Where it stands in the text. */
  readonly offset: number;
}

/** The text's syntax, without meaning. The parser closes what is open by recursion: what is open is bounded, too. */
export function readTokens(text: string): Tokens {
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

/** The first place where the text is more than a list or a configuration ever is; undefined: nowhere. */
export function excessOf({ tokens, tooDeep }: Tokens): Excess | undefined {
  if (tooDeep) return levels(tooDeep);
  const open = tokens.map((token) => ({ token, depth: 0 }));
  let aliases = 0;
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const { token, depth } = next;
    if (depth > MAX_DEPTH) return levels(token);
    if (token.type === 'alias' && ++aliases > MAX_ALIASES)
      return excess(
        token,
        `the file has more than ${MAX_ALIASES} aliases`,
        'put entries that begin with * in quotes',
      );
    if ('items' in token && token.type !== 'block-seq' && token.items.length > MAX_KEYS && isMap(token))
      return excess(token, `a map has more than ${MAX_KEYS} keys`, 'write a list');
    for (const child of children(token)) open.push({ token: child, depth: depth + 1 });
  }
  return undefined;
}

function isMap(token: CST.Token): boolean {
  return token.type === 'block-map' || (token.type === 'flow-collection' && token.start.source === '{');
}
