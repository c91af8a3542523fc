/** Names, one a line: plain, `*.name` or `.name`; addresses among them are taken as such. */
import type { Collector } from '../collect.js';
import { BELOW, SELF } from '../names.js';
import { type BodyParser, textLines } from './lines.js';
import type { FormatOptions } from './options.js';
import { takeValue } from './value.js';

/** A comment behind the name needs a blank before it; "#" and "!" begin one at the line's start. */
export const uncomment = (text: string): string =>
  /^(?:[#;!]|\/\/)/.test(text) ? '' : text.replace(/\s+(?:[#;]|\/\/).*$/, '');

/**
 * A listed name stands for all below it too, wildcard or not: whoever controls evil.example controls its children, and
 * tools that read wildcard lists (dnscrypt-proxy, `*.name`) match the name itself as well.
 */
function line(text: string, into: Collector, options: FormatOptions): void {
  const content = uncomment(text);
  if (content === '') return;
  const wildcard = /^(?:\*\.|\.)(.+)$/.exec(content);
  const flags = options.subdomains === false && !wildcard ? SELF : SELF | BELOW;
  takeValue(wildcard?.[1] ?? content, into, flags);
}

export const domains = (into: Collector, options: FormatOptions): BodyParser =>
  textLines((text) => line(text, into, options), into);
