/** One JSON object a line, as Spamhaus publishes DROP: a metadata object, anywhere, says how many records there are. */
import { type Fields, isRecord, shown } from '../../lib/json.js';
import type { Collector } from '../collect.js';
import { type BodyParser, textLines } from './lines.js';
import type { FormatOptions } from './options.js';
import { takeValue } from './value.js';

const VALUE_FIELDS = ['cidr', 'ip', 'address', 'indicator', 'ioc_value', 'domain', 'hostname', 'value'];

/** What stands on the line; undefined: no JSON. */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}

class NdjsonReader implements BodyParser {
  readonly #into: Collector;
  readonly #lines: BodyParser;
  readonly #field: string | undefined;
  readonly #needsCount: boolean;
  #records = 0;
  #promised: unknown;
  #metadata = 0;

  constructor(into: Collector, options: FormatOptions, needsCount: boolean) {
    this.#into = into;
    this.#field = typeof options.column === 'string' ? options.column : undefined;
    this.#needsCount = needsCount;
    this.#lines = textLines((text) => this.#line(text), into);
  }

  push(chunk: Uint8Array): void {
    this.#lines.push(chunk);
  }

  end(): void {
    this.#lines.end();
    if (this.#metadata > 1) this.#into.fault = 'there is more than one metadata line: two lists in one body';
    else if (this.#metadata === 0 && this.#needsCount)
      this.#into.fault = 'the metadata line with the record count is missing: the body was cut';
    else if (this.#metadata === 1 && this.#promised !== this.#records)
      this.#into.fault = `its metadata promises ${shown(this.#promised)} records, and there are ${this.#records}`;
  }

  #line(text: string): void {
    const value = parseJson(text);
    if (!isRecord(value)) this.#into.refuse(text, 'no JSON object');
    else if (value.type === 'metadata') {
      this.#metadata += 1;
      this.#promised = value.records;
    } else this.#record(value, text);
  }

  #record(record: Fields, text: string): void {
    this.#records += 1;
    const field = this.#field ?? VALUE_FIELDS.find((name) => typeof record[name] === 'string');
    const value = field === undefined ? undefined : record[field];
    if ('asn' in record && !('cidr' in record)) this.#into.cannot(text, 'an AS number, not an address');
    else if (typeof value === 'string') takeValue(value, this.#into);
    else this.#into.refuse(text, 'no field with an address or a name');
  }
}

export const ndjson = (into: Collector, options: FormatOptions): BodyParser =>
  new NdjsonReader(into, options, false);
export const spamhaus = (into: Collector, options: FormatOptions): BodyParser =>
  new NdjsonReader(into, options, true);
