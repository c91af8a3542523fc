/** Names, one a line: plain, `*.name` or `.name`; addresses among them are taken as such. */
import type { Collector } from '../collect.js';
import { BELOW, SELF } from '../names.js';
import { type BodyParser, textLines } from './lines.js';
import type { FormatOptions } from './options.js';
import { takeValue } from './value.js';

/** What stands before a comment. "#", ";", "//" and "!" begin one at the line's start, the first three behind a blank too. */
export function uncomment(text: string): string {
  if (/^(?:[#;!]|\/\/)/.test(text)) return '';
  // One blank, not a run of them: a long run would be walked once for each of its blanks.
  const comment = text.search(/\s(?:[#;]|\/\/)/);
  return comment < 0 ? text : text.slice(0, comment).trimEnd();
}

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
