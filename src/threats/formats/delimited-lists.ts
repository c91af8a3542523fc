/** Lists of cells: CSV, and the tab-separated lists of DShield and ipsum. */
import { formatAddress, parseCidr } from '../../lib/ip.js';
import { BELOW, SELF } from '../name-table.js';
import type { BodyParser, Collector, FormatOptions } from './collector.js';
import { textLines } from './line-lists.js';
import { addRangeText, nameOf, takeValue } from './listed-values.js';

/** In order of preference; compared in lower case, blanks and dashes as underscores. */
const VALUE_COLUMNS = [
  'dst_ip',
  'ioc_value',
  'ioc',
  'indicator',
  'ip_address',
  'ip',
  'address',
  'cidr',
  'network',
  'src_ip',
  'domain',
  'hostname',
  'host',
  'fqdn',
  'value',
];
/** The last line of abuse.ch's lists: its count shows whether the body lost its middle or its end. */
const TRAILER = /^#\s*END\s+\(?(\d+)\s+entries/i;

/** The cells of one record; undefined when a quote is not closed, or when text follows a closing quote. */
function cells(text: string, delimiter: string): string[] | undefined {
  const out: string[] = [];
  let at = 0;
  for (;;) {
    while (text[at] === ' ') at += 1;
    const cell = text[at] === '"' ? quoted(text, at) : bare(text, at, delimiter);
    if (!cell) return undefined;
    out.push(cell.value);
    at = cell.end;
    while (text[at] === ' ') at += 1;
    if (at >= text.length) return out;
    if (text[at] !== delimiter) return undefined;
    at += 1;
  }
}

interface Cell {
  readonly value: string;
  readonly end: number;
}

function quoted(text: string, start: number): Cell | undefined {
  let value = '';
  for (let from = start + 1; ; ) {
    const quote = text.indexOf('"', from);
    if (quote < 0) return undefined;
    value += text.slice(from, quote);
    if (text[quote + 1] !== '"') return { value, end: quote + 1 };
    value += '"';
    from = quote + 2;
  }
}

function bare(text: string, start: number, delimiter: string): Cell {
  const found = text.indexOf(delimiter, start);
  const end = found < 0 ? text.length : found;
  return { value: text.slice(start, end).trim(), end };
}

const plainName = (cell: string): string =>
  cell
    .trim()
    .toLowerCase()
    .replace(/[\s-]+/g, '_');

/** The position of the wanted column in a row of column names; -1 when the row has no such name. */
function headerColumn(row: readonly string[], wanted: string | undefined): number {
  const names = row.map(plainName);
  if (wanted !== undefined) return names.indexOf(plainName(wanted));
  const known = VALUE_COLUMNS.find((name) => names.includes(name));
  return known === undefined ? -1 : names.indexOf(known);
}

const hasAddress = (cell: string): boolean => /^\d{1,3}(?:\.\d{1,3}){3}(?:[:/]\d+)?$/.test(cell);

/** The column of a list without a header: the first with an address, else the first with a name. */
function guessColumn(row: readonly string[]): number {
  const address = row.findIndex(hasAddress);
  return address >= 0 ? address : row.findIndex((cell) => cell.includes('.') && nameOf(cell) !== undefined);
}

/** Comma-separated lists (RFC 4180, one record a line) of which one column is read: Feodo Tracker, ThreatFox and others. */
class CsvReader {
  readonly #delimiter: string;
  readonly #wanted: string | undefined;
  readonly #flags: number;
  #column: number;
  #rows = 0;

  constructor(options: FormatOptions) {
    this.#delimiter = options.delimiter ?? ',';
    this.#wanted = typeof options.column === 'string' ? options.column : undefined;
    this.#column = typeof options.column === 'number' ? options.column - 1 : -1;
    this.#flags = options.subdomains === false ? SELF : SELF | BELOW;
  }

  line(text: string, into: Collector): void {
    if (text.startsWith('#')) this.#comment(text, into);
    else this.#record(text, into);
  }

  #comment(text: string, into: Collector): void {
    const promised = TRAILER.exec(text)?.[1];
    if (promised !== undefined && Number(promised) !== this.#rows)
      into.fault = `line ${into.line} announces ${promised} entries, and the list has ${this.#rows}`;
    if (this.#column < 0) this.#column = this.#header(text.replace(/^#+\s*/, ''));
  }

  #header(text: string): number {
    const row = cells(text, this.#delimiter);
    return row && row.length > 1 ? headerColumn(row, this.#wanted) : -1;
  }

  #record(text: string, into: Collector): void {
    const row = cells(text, this.#delimiter);
    if (!row) {
      into.refuse(text, 'no record: a quote is not closed or text follows it');
      return;
    }
    // A header comes before all records, and has no value.
    if (this.#rows === 0 && headerColumn(row, this.#wanted) >= 0) {
      if (this.#column < 0) this.#column = headerColumn(row, this.#wanted);
      return;
    }
    this.#rows += 1;
    this.#value(row, text, into);
  }

  #value(row: readonly string[], text: string, into: Collector): void {
    if (this.#column < 0 && this.#wanted === undefined) this.#column = guessColumn(row);
    const cell = row[this.#column]?.trim();
    if (cell === undefined || cell === '') into.refuse(text, this.#missing());
    else takeValue(cell, into, this.#flags);
  }

  #missing(): string {
    if (this.#column >= 0) return `nothing in column ${this.#column + 1}`;
    return this.#wanted === undefined ? 'no column has an address or a name' : `no column "${this.#wanted}"`;
  }
}

export const csv = (into: Collector, options: FormatOptions): BodyParser => {
  const reader = new CsvReader(options);
  return textLines((text) => reader.line(text, into), into);
};

const isHashComment = (text: string): boolean => text.startsWith('#');

/** "start TAB end TAB prefix length TAB …": the three must agree. */
function dshieldLine(text: string, into: Collector): void {
  if (isHashComment(text) || /^start\tend\t/i.test(text)) return;
  const [start = '', end = '', length = ''] = text.split('\t').map((cell) => cell.trim());
  const range = parseCidr(`${start}/${length}`);
  if (!range) into.refuse(text, 'no network in the first three columns');
  else if (formatAddress(range.family, range.hi) !== end)
    into.refuse(text, `the network ${start}/${length} does not end at ${end}`);
  else {
    addRangeText(`${start}/${length}`, into);
    into.entries += 1;
  }
}

export const dshield = (into: Collector): BodyParser => textLines(dshieldLine, into);

const SCORED = /^(\S+)\s+(\d{1,9})$/;
const DEFAULT_SCORE = 3;

/** "address TAB number of lists that contain it". */
function ipsumLine(text: string, into: Collector, minScore: number): void {
  if (isHashComment(text)) return;
  const [, address = '', score = ''] = SCORED.exec(text) ?? [];
  if (address === '') {
    into.refuse(text, 'no address and score');
    return;
  }
  if (Number(score) < minScore) {
    into.skip(text, `below the score ${minScore}`);
    return;
  }
  const fault = addRangeText(address, into);
  if (fault === '') into.entries += 1;
  else into.refuse(text, fault);
}

export const ipsum = (into: Collector, options: FormatOptions): BodyParser =>
  textLines((text) => ipsumLine(text, into, options.minScore ?? DEFAULT_SCORE), into);
