/** One value of an indicator, whatever wraps it: CSV cells, JSON fields. */
import { canonicalName } from '../../lib/dns-name.js';
import type { Collector } from '../collect.js';
import { BELOW, SELF } from '../names.js';
import { addRangeText } from './range-octets.js';

/** Plain A-labels, two or more, whose last is no number: what nearly every line is, told by one look. */
const PLAIN = /^(?=.{4,253}$)(?:[a-z0-9_](?:[a-z0-9_-]{0,62})\.)+[a-z][a-z0-9-]{1,62}$/;
const HAS_ACE = /(?:^|\.)xn--/;

/** The canonical form of a name; undefined: it is none. One label is a name here (and never blocked: a suffix). */
export function nameOf(text: string): string | undefined {
  if (PLAIN.test(text) && !HAS_ACE.test(text)) return text;
  if (text.length > 300) return undefined;
  const name = canonicalName(text, 1);
  return name.ok ? name.value : undefined;
}

/** '' when collected, else what is wrong. */
export function addName(text: string, flags: number, into: Collector): string {
  const name = nameOf(text);
  if (name === undefined) return 'no domain name';
  into.names.add(name, flags, into.line);
  return '';
}

const URL_TEXT = /^[a-z][a-z0-9+.-]*:\/\//i;
const HASH = /^(?:[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64}|[0-9a-f]{128})$/i;
const WITH_PORT = /^(?:([0-9.]+)|\[([0-9a-f:.]+)\]):\d{1,5}$/i;
const ADDRESS_LIKE = /^(?:[0-9.]+|[0-9a-f.]*:[0-9a-f.:]*)(?:[/-]|$)/i;
const ENDS_IN_LETTERS = /\.[a-z][a-z0-9-]*\.?$/i;

/** The address of "192.0.2.7:443" or "[2001:db8::1]:443"; the text itself otherwise. */
function withoutPort(text: string): string {
  const match = WITH_PORT.exec(text);
  return match ? (match[1] ?? match[2] ?? text) : text;
}

/**
 * Collects an address, network, range, address:port (the whole address: whoever controls one port controls it) or name.
 * URLs are refused: what a URL names is one page, and its host may serve a million others.
 */
export function addValue(text: string, flags: number, into: Collector): string {
  const address = withoutPort(text);
  if (ADDRESS_LIKE.test(address) && !ENDS_IN_LETTERS.test(address)) return addRangeText(address, into);
  return addName(text, flags, into);
}

/** Why a value that is no address and no name is nothing for us; undefined: it may be one. */
function unusable(text: string): string | undefined {
  if (URL_TEXT.test(text)) return 'a URL: its host may serve others';
  return HASH.test(text) ? 'a file hash' : undefined;
}

/** Collects, refuses or counts one value and keeps the books. */
export function takeValue(text: string, into: Collector, flags: number = SELF | BELOW): void {
  const reason = unusable(text);
  if (reason !== undefined) {
    into.cannot(text, reason);
    return;
  }
  const fault = addValue(text, flags, into);
  if (fault === '') into.entries += 1;
  else into.refuse(text, fault);
}
