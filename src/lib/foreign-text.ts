/**
 * Characters that no text of other people brings to a person as they are: controls and escapes, characters that reverse the direction of a
 * line or have no width, separators of lines and paragraphs, halves of surrogate pairs, and private characters. They end lines, command
 * a terminal, or show another text than the one that is there. General categories of Unicode (UAX #44, 5.7.1).
 */
const UNSHOWN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}\p{Co}]/gu;

/** The text with `instead` in place of each such character. */
export const shown = (text: string, instead: (char: string) => string = () => '\ufffd'): string =>
  text.replace(UNSHOWN, instead);

/** As JSON writes a character that is not to stand there itself (RFC 8259, 7): one escape, or two beyond U+FFFF. */
export const jsonEscape = (char: string): string =>
  Array.from(
    { length: char.length },
    (_, at) => `\\u${char.charCodeAt(at).toString(16).padStart(4, '0')}`,
  ).join('');

/** A value as JSON for a terminal or a file: the same to who parses it, and no character of `UNSHOWN` but the ends of its own lines. */
export const shownJson = (value: unknown, indent?: number): string =>
  shown(JSON.stringify(value, undefined, indent), (char) => (char === '\n' ? char : jsonEscape(char)));
