/** Names in one form everywhere: A-labels, lower case, no trailing dot. */
import { domainToASCII } from 'node:url';
import { getDomain, getPublicSuffix, parse } from 'tldts';
import { parseAddress } from './ip.js';
import type { Parsed } from './problem.js';

/**
 * Code points that IDNA mapping (UTS #46) does not answer alike in all releases of Node that are supported: what Unicode 15.1
 * to 17 assigned, and what Unicode 16 began to map (U+1E9E is "ss" for Node 20 and "ß" for Node 24: another name). A name
 * with one of them would be allowed on one host and refused, or mean another name, on the next.
 */
const RANGES = `
4c0 88f 897 c5c cdc 10a0-10c5 115f-1160 17b4-17b5 1806 180e 1acf-1add 1ae0-1aeb 1b4e-1b4f 1b7f 1c89-1c8a
1e9e 2061-2063 206a-206f 20c1 2132 2183 2427-2429 2b96 3164 31e4-31e5 a7cb-a7cf a7d2 a7d4 a7da-a7dc a7f1
fbc3-fbd2 fd90-fd91 fdc8-fdce ffa0 105c0-105f3 10940-10959 10d40-10d65 10d69-10d85 10d8e-10d8f
10ec2-10ec7 10ed0-10ed8 10efa-10efc 11380-11389 1138b 1138e 11390-113b5 113b7-113c0 113c2 113c5
113c7-113ca 113cc-113d5 113d7-113d8 113e1-113e2 116d0-116e3 11b60-11b67 11bc0-11be1 11bf0-11bf9
11db0-11ddb 11de0-11de9 11f5a 13460-143fa 16100-16139 16d40-16d79 16ea0-16eb8 16ebb-16ed3 16ff2-16ff6
187f8-187ff 18cff 18d09-18d1e 18d80-18df2 1cc00-1ccfc 1cd00-1ceb3 1ceba-1ced0 1cee0-1cef0 1d173-1d17a
1e5d0-1e5fa 1e5ff 1e6c0-1e6de 1e6e0-1e6f5 1e6fe-1e6ff 1f6d8 1f777-1f77a 1f8b2-1f8bb 1f8c0-1f8c1
1f8d0-1f8d8 1fa54-1fa57 1fa89-1fa8a 1fa8e-1fa8f 1fabe 1fac6 1fac8 1facd 1fadc 1fadf 1fae9-1faea 1faef
1fbcb-1fbef 1fbfa 2b73a-2b73f 2cea2-2cead 2ebf0-2ee5d 2f868 2f874 2f91f 2f95f 2f9bf 323b0-33479`;

const codePoint = (hex: string): string => String.raw`\u{${hex}}`;
const members = RANGES.trim()
  .split(/\s+/)
  .map((range) => range.split('-').map(codePoint).join('-'));

/** Matches text that has such a code point. */
const UNSETTLED = new RegExp(`[${members.join('')}]`, 'u');

/** Decodes Punycode (RFC 3492). Node has no decoder of its own that is not deprecated. */
const BASE = 36;
const T_MIN = 1;
const T_MAX = 26;
const SKEW = 38;
const DAMP = 700;
const FIRST_BIAS = 72;
const FIRST_CODE_POINT = 0x80;
const LAST_CODE_POINT = 0x10ffff;

/** "a" to "z" are 0 to 25, "0" to "9" are 26 to 35; undefined for any other character. */
function digitOf(character: string | undefined): number | undefined {
  if (character === undefined || !/^[a-z0-9]$/.test(character)) return undefined;
  const value = Number.parseInt(character, BASE);
  return value < 10 ? value + 26 : value - 10;
}

/** RFC 3492, section 6.1. */
function adapt(delta: number, count: number, isFirst: boolean): number {
  let left = isFirst ? Math.floor(delta / DAMP) : Math.floor(delta / 2);
  left += Math.floor(left / count);
  let k = 0;
  for (; left > Math.floor(((BASE - T_MIN) * T_MAX) / 2); k += BASE) left = Math.floor(left / (BASE - T_MIN));
  return k + Math.floor(((BASE - T_MIN + 1) * left) / (left + SKEW));
}

const threshold = (k: number, bias: number): number => Math.min(T_MAX, Math.max(T_MIN, k - bias));

/** Read one generalized variable-length integer at `at`; undefined when it is cut off, broken or too large. */
function readInteger(text: string, at: number, bias: number): { value: number; next: number } | undefined {
  let value = 0;
  let weight = 1;
  for (let k = BASE, next = at; ; k += BASE) {
    const digit = digitOf(text[next++]);
    if (digit === undefined) return undefined;
    value += digit * weight;
    if (value > Number.MAX_SAFE_INTEGER / BASE) return undefined;
    const t = threshold(k, bias);
    if (digit < t) return { value, next };
    weight *= BASE - t;
  }
}

/** @param text lower case, without the prefix "xn--". Undefined when it encodes nothing. */
export function decodePunycode(text: string): string | undefined {
  const delimiter = text.lastIndexOf('-');
  const output = [...text.slice(0, Math.max(0, delimiter))];
  const basic = output.length;
  let codePoint = FIRST_CODE_POINT;
  let index = 0;
  let bias = FIRST_BIAS;
  for (let at = delimiter + 1; at < text.length; ) {
    const read = readInteger(text, at, bias);
    if (read === undefined) return undefined;
    const count = output.length + 1;
    bias = adapt(read.value, count, output.length === basic);
    const sum = index + read.value;
    codePoint += Math.floor(sum / count);
    index = sum % count;
    if (codePoint > LAST_CODE_POINT || (codePoint >= 0xd800 && codePoint <= 0xdfff)) return undefined;
    output.splice(index++, 0, String.fromCodePoint(codePoint));
    at = read.next;
  }
  return output.join('');
}

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

/** Blocks of letters that are written from right to left. */
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
  const dot = asked.length - target.name.length - 1;
  // no text is made for a comparison: a policy may have hundreds of names
  return target.match !== 'exact' && dot >= 0 && asked[dot] === '.' && asked.endsWith(target.name);
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
 * The name is a suffix on the public suffix list (private part too), or its children are by a
 * wildcard rule ("*.ck"): strangers register below it, so an entry for all of it needs `broad`.
 */
export function isPublicSuffix(name: string): boolean {
  if (OPERATORS_OWN.includes(name)) return false;
  const child = `any.${name}`;
  return listedSuffix(name) || (getPublicSuffix(child, PSL_OPTIONS) === child && listedSuffix(child));
}

/** The name that one registrant has, with this name below it or equal to it; undefined: the name is a public suffix (private part too). */
export const registrableDomain = (name: string): string | undefined =>
  isPublicSuffix(name) ? undefined : (getDomain(name, PSL_OPTIONS) ?? undefined);
