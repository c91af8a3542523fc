/** Addresses, networks and ranges, one a line, with comments: FireHOL netsets, Spamhaus DROP text, most lists. */
import type { Collector } from '../collect.js';
import { type BodyParser, octetLines } from './lines.js';
import { addRange } from './range-octets.js';

const SPACE = 32;
const HASH = 35;
const SLASH = 47;
const SEMICOLON = 59;

const isBlank = (octet: number | undefined): boolean => octet === SPACE || octet === 9 || octet === 13;
const isMark = (octet: number | undefined): boolean => octet === HASH || octet === SEMICOLON;

/** "#…", ";…" or "//…" from `at` on. */
const isComment = (octets: Uint8Array, at: number): boolean =>
  isMark(octets[at]) || (octets[at] === SLASH && octets[at + 1] === SLASH);

/** The end of what stands before a comment (which a blank precedes) and the blanks at the end. */
function contentEnd(octets: Uint8Array, start: number, end: number): number {
  let stop = end;
  for (let i = start + 1; i < end; i++)
    if (isBlank(octets[i - 1]) && isComment(octets, i)) {
      stop = i;
      break;
    }
  while (stop > start && isBlank(octets[stop - 1])) stop -= 1;
  return stop;
}

function line(octets: Buffer, start: number, end: number, into: Collector): void {
  let from = start;
  while (from < end && isBlank(octets[from])) from += 1;
  if (from === end || isComment(octets, from)) return;
  const until = contentEnd(octets, from, end);
  const fault = addRange(octets, from, until, into);
  if (fault === '') into.entries += 1;
  else into.refuse(octets.toString('utf8', from, until), fault);
}

export const netset = (into: Collector): BodyParser => octetLines(line, into);
