/** Times, sizes and counts as people write them. Pure. */
const UNITS: readonly (readonly [ms: number, noun: string, short?: string])[] = [
  [86_400_000, 'day'],
  [3_600_000, 'hour', 'h'],
  [60_000, 'minute', 'min'],
];
const SECOND = [1_000, 'second', 's'] as const;
/** Beyond so many days (ms) a date says more than a count of days. */
const LONGEST_MS = 60 * 86_400_000;

/** "3 minutes ago", "in 9 min"; a date where it is long ago or far ahead. Text that is no time stays as it is. */
export function relativeTime(time: string, now: number): string {
  const ms = Date.parse(time) - now;
  if (Number.isNaN(ms)) return time;
  const distance = Math.abs(ms);
  if (distance > LONGEST_MS) return time.slice(0, 'YYYY-MM-DD'.length);
  const [size, noun, short] = UNITS.find(([unit]) => distance >= unit) ?? SECOND;
  const n = Math.floor(distance / size);
  if (ms >= 0) return `in ${short === undefined ? counted(n, noun) : `${n} ${short}`}`;
  return n === 0 ? 'just now' : `${counted(n, noun)} ago`;
}

/** "for another 9 min"; "until" a date where it is far ahead. */
export function remainingTime(time: string, now: number): string {
  const ms = Date.parse(time) - now;
  if (ms < 0) return 'ended';
  const text = relativeTime(time, now);
  return text.startsWith('in ') ? `for another ${text.slice('in '.length)}` : `until ${text}`;
}

const SIZES = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'] as const;

/** Decimal, as drawbridge.limit and Docker write sizes: "5 GB", "1.5 MB". */
export function sizeText(bytes: number): string {
  let [value, unit] = [bytes, 0];
  for (; value >= 1000 && unit < SIZES.length - 1; unit++) value /= 1000;
  return `${Number(value.toFixed(value < 10 ? 1 : 0))} ${SIZES[unit]}`;
}

/** "1 change", "2 changes". */
export const counted = (n: number, noun: string, plural = `${noun}s`): string =>
  `${n} ${n === 1 ? noun : plural}`;

/** Words in lines of at most `width` characters; what is longer than a line is broken. */
export function wrapped(text: string, width: number): readonly string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ').flatMap((w) => pieces(w, width))) {
    if (line !== '' && line.length + 1 + word.length > width) {
      lines.push(line);
      line = word;
    } else line = line === '' ? word : `${line} ${word}`;
  }
  return [...lines, line];
}

const pieces = (word: string, width: number): readonly string[] =>
  word.length <= width ? [word] : (word.match(new RegExp(`.{1,${width}}`, 'gsu')) ?? []);
