/** Names in one form everywhere: A-labels, lower case, no trailing dot. */
import { domainToASCII } from 'node:url';
import { getPublicSuffix, parse } from 'tldts';
import { UNSETTLED } from './idna-versions.js';
import { parseAddress } from './ip-address.js';
import type { Parsed } from './problem.js';
import { decodePunycode } from './punycode.js';

export type NameMatch = 'exact' | 'below' | 'both';

/** RFC 1035 2.3.4: octets of a label, and of a name without the root's dot. */
const MAX_LABEL = 63;
const MAX_NAME = 253;
/** UTF-16 units of a name as it is written: several can become one octet, but a long text is not decoded (Punycode is quadratic). */
const MAX_WRITTEN = 4 * MAX_NAME;
const ASCII_NAME = /^[a-z0-9_.-]*$/i;
const LABEL = /^[a-z0-9_-]+$/;
/** What the URL standard takes for the end of an IPv4 address: a last label of digits, or 0x and hex digits. */
const NUMBER = /^(\d+|0x[0-9a-f]*)$/;

const refuse = (detail: string, remedy: string): Parsed<never> => ({
  ok: false,
  problems: [{ detail, remedy }],
});

/** UTS-46 (nontransitional) to A-labels; '' when it cannot be. Only ever given letters, digits, - _ . and non-ASCII. */
function toAscii(text: string): string {
  const isPlain = ASCII_NAME.test(text) && !/(^|\.)xn--/i.test(text);
  if (isPlain) return text.toLowerCase();
  // domainToASCII percent-decodes and reads IPv4 forms like a URL's host: keep other ASCII from it, and numbers out after.
  if (/[^a-z0-9_.\u0080-\u{10ffff}-]/iu.test(text) || UNSETTLED.test(text)) return '';
  const written = text.toLowerCase();
  const labels = domainToASCII(text)
    .split('.')
    .map((label) => (written.includes(label) ? label : composed(label)));
  return labels.every(isSoundLabel) ? labels.join('.') : '';
}

/** Compose what a U-label was mapped to (NFC): Node 20 leaves some sequences with combining marks as they are. */
function composed(label: string): string {
  const unicode = label.startsWith('xn--') ? decodePunycode(label.slice(4)) : undefined;
  return unicode === undefined ? label : domainToASCII(unicode.normalize('NFC'));
}

/**
 * An A-label must be what its U-label encodes to (RFC 5891, section 5.4): domainToASCII of Node 24 no longer checks this. Labels
 * of other kinds are not looked into.
 */
function isSoundLabel(label: string): boolean {
  if (!label.startsWith('xn--')) return true;
  const unicode = decodePunycode(label.slice(4));
  if (unicode === undefined || UNSETTLED.test(unicode) || !isSoundBidi(unicode)) return false;
  return domainToASCII(unicode) === label;
}

/** Blocks whose letters are written from right to left. */
const RTL = String.raw`\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff\u{10800}-\u{10fff}\u{1e800}-\u{1efff}`;
const HAS_RTL = new RegExp(`[${RTL}]`, 'u');
const RTL_LETTER = String.raw`(?=\p{L})[${RTL}]`;
const EUROPEAN_DIGIT = '0-9\u06f0-\u06f9';
const ARABIC_DIGIT = '\u0660-\u0669';
/** RFC 5893, section 2, for labels from right to left; letters of the other direction and symbols are not accepted at all. */
const RTL_LABEL = new RegExp(
  `^${RTL_LETTER}(?:(?:${RTL_LETTER}|\\p{Mn}|[${EUROPEAN_DIGIT}${ARABIC_DIGIT}-])*(?:${RTL_LETTER}|[${EUROPEAN_DIGIT}${ARABIC_DIGIT}]))?\\p{Mn}*$`,
  'u',
);
const BOTH_DIGITS = new RegExp(
  `[${EUROPEAN_DIGIT}].*[${ARABIC_DIGIT}]|[${ARABIC_DIGIT}].*[${EUROPEAN_DIGIT}]`,
  'u',
);

/** The Bidi rule: Node 20 and 22 do not check all of it. */
function isSoundBidi(label: string): boolean {
  return !HAS_RTL.test(label) || (RTL_LABEL.test(label) && !BOTH_DIGITS.test(label));
}

function labelFault(labels: readonly string[]): string | undefined {
  if (labels.some((label) => label === '')) return 'has an empty label';
  const long = labels.find((label) => label.length > MAX_LABEL);
  if (long) return `has a label of ${long.length} octets, and ${MAX_LABEL} is the limit`;
  if (labels.some((label) => !LABEL.test(label))) return 'has characters that are not allowed in a name';
  if (NUMBER.test(labels.at(-1) ?? '')) return 'ends in a number, as addresses do';
  return undefined;
}

/**
 * Canonical form of a name that a person wrote. Upper case, one trailing dot and U-labels are fine.
 * @param minLabels 2 for entries ("at least two labels"), 1 for zones and search domains.
 */
export function canonicalName(text: string, minLabels: 1 | 2 = 2): Parsed<string> {
  if (text.length > MAX_WRITTEN)
    return refuse(
      `"${text.slice(0, 40)}…" has ${text.length} characters`,
      `a name has at most ${MAX_NAME} octets`,
    );
  const name = toAscii(text).replace(/\.$/, '');
  if (name === '')
    return refuse(`"${text}" is not a domain name`, 'write letters, digits, "-" and "_" in labels');
  if (parseAddress(name)) return refuse(`"${text}" is another form of the address ${name}`, `write ${name}`);
  if (name.length > MAX_NAME)
    return refuse(
      `"${text.slice(0, 40)}…" has ${name.length} octets`,
      `a name has at most ${MAX_NAME} octets`,
    );
  const labels = name.split('.');
  const fault = labelFault(labels);
  if (fault) return refuse(`"${text}" ${fault}`, 'write a domain name such as api.example.com');
  if (labels.length < minLabels)
    return refuse(`"${text}" has only one label`, 'write the full name, such as api.example.com');
  return { ok: true, value: name };
}

/** Both canonical. "below": one or more labels below `name`; "both": that, and `name` itself. */
export function nameMatches(
  target: { readonly match: NameMatch; readonly name: string },
  asked: string,
): boolean {
  if (asked === target.name) return target.match !== 'below';
  return target.match !== 'exact' && asked.endsWith(`.${target.name}`);
}

const PSL_OPTIONS = { allowPrivateDomains: true, validateHostname: false } as const;

function listedSuffix(name: string): boolean {
  const { publicSuffix, isIcann, isPrivate } = parse(name, PSL_OPTIONS);
  // Neither part: the implied rule "*", by which any unknown last label is a suffix.
  return publicSuffix === name && (isIcann === true || isPrivate === true);
}

/** In the list to keep cookies apart; every name below is the operator's own, and no stranger can register one. */
const OPERATORS_OWN: readonly string[] = ['githubusercontent.com'];

/**
 * The name is a suffix that the public suffix list holds (private part too), or one whose children it holds by a
 * wildcard rule ("*.ck"): strangers register below it, so an entry for all of it needs `broad`.
 */
export function isPublicSuffix(name: string): boolean {
  if (OPERATORS_OWN.includes(name)) return false;
  const child = `any.${name}`;
  return listedSuffix(name) || (getPublicSuffix(child, PSL_OPTIONS) === child && listedSuffix(child));
}
