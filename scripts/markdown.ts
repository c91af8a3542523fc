/** Lines and sentences of Markdown: `npm run docs -- --wrap` wraps lines, and the check of the documentation refuses what is too long. */

/**
 * Characters of a line of the source. A row of a table is exempt, because Markdown cannot wrap it: its cells have a bound. So is
 * what a program prints: a block of code with the language `console` or none.
 */
export const MOST_CHARACTERS = 120;
/** Words of a sentence. */
export const MOST_WORDS = 40;
/** Characters of a cell: what is longer is a paragraph, or an item of a list. */
export const MOST_IN_CELL = 400;

/** One paragraph, item of a list or heading, as its lines; or lines that are kept as they are. */
interface Block {
  readonly kind: 'text' | 'code' | 'table' | 'other';
  /** Number of its first line, from 1. */
  readonly at: number;
  readonly lines: readonly string[];
}

const FENCE = /^\s*(```|~~~)/;
const OUTPUT = /^\s*(```|~~~)(console)?$/;
const ITEM = /^(\s*(?:> ?)*)(?:[-*+]|\d+[.)])\s+/;
const OTHER = /^\s*(#|<|>|\[[^\]]+\]:|-{3,}$|={3,}$|$)/;
/** A word that would begin a block of its own at the begin of a line. */
const MARKER = /^([-+*]|\d+[.)]|#+|[|<>].*|=+|-+|```.*)$/;

export function blocksOf(text: string): readonly Block[] {
  const blocks: { kind: Block['kind']; at: number; lines: string[] }[] = [];
  let fence = false;
  let goesOn: Block['kind'] | undefined;
  for (const [index, line] of text.split('\n').entries()) {
    const isFence = FENCE.test(line);
    const kind =
      isFence || fence ? 'code' : /^\s*\|/.test(line) ? 'table' : OTHER.test(line) ? 'other' : 'text';
    const last = blocks.at(-1);
    const isSame = kind === goesOn && kind !== 'other' && !(kind === 'text' && ITEM.test(line));
    if (isSame && last) last.lines.push(line);
    else blocks.push({ kind, at: index + 1, lines: [line] });
    if (isFence) fence = !fence;
    goesOn = isFence && !fence ? undefined : kind;
    if (kind === 'text' && / {2}$|\\$/.test(line)) goesOn = undefined; // a hard line break
  }
  return blocks;
}

/** Words of a text. A span of code is not divided, because names in it are looked for within a line. */
const wordsOf = (text: string): readonly string[] => text.match(/(?:`[^`]*`|[^\s`])+|`/g) ?? [];

/** Breaks the words into lines. `first` and `rest` are the indents of the first line and of the others. */
export function wrap(words: readonly string[], first = '', rest = first): readonly string[] {
  const lines: string[] = [];
  let line = first;
  let count = 0;
  for (let i = 0; i < words.length; i++) {
    let chunk = words[i] ?? '';
    while (MARKER.test(words[i + 1] ?? '')) chunk += ` ${words[++i]}`;
    if (count > 0 && line.length + 1 + chunk.length > MOST_CHARACTERS) {
      lines.push(line);
      line = rest;
      count = 0;
    }
    line += count === 0 ? chunk : ` ${chunk}`;
    count++;
  }
  return count > 0 ? [...lines, line] : lines;
}

/** The text with each paragraph wrapped that has a longer line. What it renders to stays the same. */
export function wrapped(text: string): string {
  return blocksOf(text)
    .flatMap(({ kind, lines }) => {
      if (kind !== 'text' || lines.every((line) => line.length <= MOST_CHARACTERS)) return lines;
      const [head = '', ...more] = lines;
      const marker = ITEM.exec(head)?.[0] ?? /^\s*/.exec(head)?.[0] ?? '';
      const rest = /^\s*/.exec(more[0] ?? ' '.repeat(marker.length))?.[0] ?? '';
      const end = / {2}$|\\$/.exec(lines.at(-1) ?? '')?.[0].trim() === '' ? '  ' : '';
      const words = wordsOf([head.slice(marker.length), ...more].join(' '));
      const out = wrap(words, marker, rest);
      return [...out.slice(0, -1), `${out.at(-1)}${end}`];
    })
    .join('\n');
}

/** Text that is read as one sentence after the other: without the addresses of links, each span of code as one word. */
const prose = (text: string): string =>
  text
    .replaceAll(/<!--.*?-->/gs, ' ')
    .replaceAll(/!?\[((?:`[^`]*`|[^\]`])*)\]\([^)\s]*\)/g, '$1')
    .replaceAll(/`[^`]*`/g, 'code')
    .replaceAll(/\*\*|__/g, '');

/** Abbreviations, after which a sentence goes on. */
const ABBREVIATION = /(?:\b(?:e\.g|i\.e|etc|vs|cf|No|approx)|^\S)\.$/;

export function sentencesOf(text: string): readonly string[] {
  const found: string[] = [];
  let words: string[] = [];
  const all = prose(text)
    .split(/\s+/)
    .filter((word) => word !== '');
  for (const [i, word] of all.entries()) {
    words.push(word);
    const next = all[i + 1] ?? '';
    const isEnd =
      word === '·' || // between the items of a list in one line
      (/[.!?]["”’)\]]*$/.test(word) &&
        !ABBREVIATION.test(word) &&
        /^["“‘([]*[\p{Lu}\d]|^["“([]*code|^\*/u.test(next));
    if (!isEnd && next !== '') continue;
    found.push(words.join(' '));
    words = [];
  }
  return found;
}

const cellsOf = (row: string): readonly string[] =>
  row
    .replaceAll('\\|', '¦')
    .split('|')
    .slice(1, -1)
    .map((cell) => cell.trim());

/** What is too long in one page, with its place. */
export function lengthProblems({
  path,
  text,
}: {
  readonly path: string;
  readonly text: string;
}): readonly string[] {
  return blocksOf(text).flatMap(({ kind, at, lines }) => {
    const isFree = kind === 'table' || (kind === 'code' && OUTPUT.test(lines[0] ?? ''));
    const long = lines.flatMap((line, i) =>
      line.length > MOST_CHARACTERS && !isFree
        ? [`${path}:${at + i}: ${line.length} characters, at most ${MOST_CHARACTERS}: npm run docs -- --wrap`]
        : [],
    );
    if (kind === 'code') return long;
    const parts: (readonly [number, string])[] =
      kind === 'table'
        ? lines.flatMap((line, i) => cellsOf(line).map((cell) => [at + i, cell] as const))
        : [[at, lines.join(' ').replace(ITEM, '$1')]];
    const cells = kind === 'table' ? parts.filter(([, cell]) => cell.length > MOST_IN_CELL) : [];
    return [
      ...long,
      ...cells.map(
        ([n, cell]) => `${path}:${n}: a cell of ${cell.length} characters, at most ${MOST_IN_CELL}`,
      ),
      ...parts.flatMap(([n, part]) =>
        sentencesOf(part)
          .filter((sentence) => sentence.split(' ').length > MOST_WORDS)
          .map(
            (s) =>
              `${path}:${n}: a sentence of ${s.split(' ').length} words, at most ${MOST_WORDS}: "${s.slice(0, 60)}…"`,
          ),
      ),
    ];
  });
}
