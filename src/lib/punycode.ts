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
