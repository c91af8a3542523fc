/** Tab-separated lists with fixed columns: DShield's block list, and ipsum's scores. */
import { formatAddress } from '../../lib/ip-address.js';
import { parseCidr } from '../../lib/ip-range.js';
import type { Collector } from '../collect.js';
import { type BodyParser, textLines } from './lines.js';
import type { FormatOptions } from './options.js';
import { addRangeText } from './range-octets.js';

const isComment = (text: string): boolean => text.startsWith('#');

/** "start TAB end TAB prefix length TAB …": the three must say the same. */
function dshieldLine(text: string, into: Collector): void {
  if (isComment(text) || /^start\tend\t/i.test(text)) return;
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

/** "address TAB number of lists that have it". */
function ipsumLine(text: string, into: Collector, minScore: number): void {
  if (isComment(text)) return;
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
