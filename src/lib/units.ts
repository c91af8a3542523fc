/** Durations, sizes, rates, times and addresses as people write them. */
import type { Parsed } from './problem.js';

const refuse = (detail: string, remedy: string): Parsed<never> => ({
  ok: false,
  problems: [{ detail, remedy }],
});

const UNIT_MS = { w: 604_800_000, d: 86_400_000, h: 3_600_000, m: 60_000, s: 1_000, ms: 1 } as const;
/** Units descend, each at most once. */
const DURATION = /^(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+)s)?(?:(\d+)ms)?$/;
export const DURATION_PATTERN = '^(0|(\\d+w)?(\\d+d)?(\\d+h)?(\\d+m)?(\\d+s)?(\\d+ms)?)$';
const DURATION_REMEDY = 'write it like 30s, 10m, 1h30m or 7d';

/** "1h30m" to milliseconds; "0" is nothing. */
export function parseDuration(text: string): Parsed<number> {
  if (text === '0') return { ok: true, value: 0 };
  const match = text === '' ? null : DURATION.exec(text);
  if (!match) return refuse(`"${text}" is not a duration`, DURATION_REMEDY);
  const units = Object.values(UNIT_MS);
  const value = match.slice(1).reduce((sum, count, i) => sum + Number(count ?? 0) * (units[i] ?? 0), 0);
  return Number.isSafeInteger(value) ? { ok: true, value } : refuse(`"${text}" is too long`, DURATION_REMEDY);
}

/** "1m30s" for 90,000: what `parseDuration` reads. */
export function durationText(ms: number): string {
  let rest = ms;
  const parts = Object.entries(UNIT_MS).map(([unit, size]) => {
    const count = Math.floor(rest / size);
    rest -= count * size;
    return count > 0 ? `${count}${unit}` : '';
  });
  return parts.join('') || '0';
}

const SIZE_UNITS: Readonly<Record<string, number>> = {
  B: 1,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
  KIB: 2 ** 10,
  MIB: 2 ** 20,
  GIB: 2 ** 30,
  TIB: 2 ** 40,
};
export const SIZE_PATTERN = '^\\d+(\\.\\d+)?(B|[KMGTkmgt]i?[Bb])$';

/** "512MB" to bytes. Decimal, as disks and Docker's own output count; "512MiB" is binary. */
export function parseSize(text: string): Parsed<number> {
  const [, count = '', unit = ''] = /^(\d+(?:\.\d+)?)([a-z]+)$/i.exec(text) ?? [];
  const factor = SIZE_UNITS[unit.toUpperCase()];
  const value = factor === undefined ? Number.NaN : Math.round(Number(count) * factor);
  return Number.isSafeInteger(value)
    ? { ok: true, value }
    : refuse(`"${text}" is not a size`, 'write it like 512MB, 2GB or 64MiB');
}

const RATE_UNITS: Readonly<Record<string, number>> = { bit: 1, kbit: 1e3, mbit: 1e6, gbit: 1e9 };

/** "20mbit" to bits per second, in tc's units (tc(8): decimal). */
export function parseRate(text: string): Parsed<number> {
  const [, count = '', unit = ''] = /^(\d+(?:\.\d+)?)([a-z]+)$/.exec(text) ?? [];
  const factor = RATE_UNITS[unit];
  const value = factor === undefined ? 0 : Math.round(Number(count) * factor);
  return value > 0 && Number.isSafeInteger(value)
    ? { ok: true, value }
    : refuse(`"${text}" is not a rate`, 'write it like 500kbit, 20mbit or 1gbit');
}

const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z$/;

/** RFC 3339 in UTC ("Z") to milliseconds since the epoch. */
export function parseTime(text: string): Parsed<number> {
  const value = TIME.test(text) ? Date.parse(text) : Number.NaN;
  // Date.parse carries 30 February over into March.
  const exists = !Number.isNaN(value) && new Date(value).toISOString().slice(0, 19) === text.slice(0, 19);
  return exists
    ? { ok: true, value }
    : refuse(`"${text}" is not a time`, 'write it in UTC, like 2030-12-31T23:59:59Z');
}

/** RFC 3339 in UTC, or a duration before `now`, such as 1h, to milliseconds since the epoch. */
export function parseSince(text: string, now: number): Parsed<number> {
  const duration = parseDuration(text);
  if (duration.ok) return { ok: true, value: now - duration.value };
  const time = parseTime(text);
  return time.ok
    ? time
    : refuse(
        `"${text}" is neither a time nor a duration`,
        'write 1h, 2d12h, or a time in UTC like 2030-12-31T23:59:59Z',
      );
}

const RFC_3339 = /^(\d{4}-\d\d-\d\d)T\d\d:\d\d(:\d\d(\.\d{1,9})?)?(Z|[+-]\d\d:\d\d)$/;
const CLOCK = /^(?:(yesterday|today|tomorrow) )?([01]?\d|2[0-3]):([0-5]\d)$/;
const DAYS: Readonly<Record<string, number>> = { yesterday: -1, today: 0, tomorrow: 1 };
const MOMENT_REMEDY =
  'write a duration like 2h30m, a time like 2030-12-31T23:59:59Z or 2030-12-31T23:59+01:00, or today 14:30';

/**
 * A time before now (-1) or after it (1), in ms since the epoch: a duration from now, RFC 3339 with its zone, or a clock time of today,
 * yesterday or tomorrow in the zone of this process. A clock time that does not exist on that day, or twice, is refused.
 */
export function parseMoment(text: string, now: number, way: -1 | 1): Parsed<number> {
  const duration = parseDuration(text);
  if (duration.ok) return { ok: true, value: now + way * duration.value };
  const value = clockTime(text, now) ?? (isDate(text) ? Date.parse(text) : Number.NaN);
  if (Number.isNaN(value)) return refuse(`"${text}" is not a time`, MOMENT_REMEDY);
  if ((value - now) * way >= 0) return { ok: true, value };
  return refuse(`"${text}" is ${way > 0 ? 'over' : 'still ahead'}`, MOMENT_REMEDY);
}

/** Date.parse carries 30 February over into March. */
function isDate(text: string): boolean {
  const day = RFC_3339.exec(text)?.[1];
  return day !== undefined && parseTime(`${day}T00:00:00Z`).ok;
}

/** Undefined: not of this form, or not exactly one time. */
function clockTime(text: string, now: number): number | undefined {
  const [all, day = 'today', hours, minutes] = CLOCK.exec(text) ?? [];
  if (all === undefined) return undefined;
  const date = new Date(now);
  date.setDate(date.getDate() + (DAYS[day] ?? 0));
  date.setHours(Number(hours), Number(minutes), 0, 0);
  const shows = (ms: number): boolean => {
    const at = new Date(ms);
    return at.getHours() === Number(hours) && at.getMinutes() === Number(minutes);
  };
  const value = date.getTime();
  const isOnce = shows(value) && !shows(value - UNIT_MS.h) && !shows(value + UNIT_MS.h);
  return isOnce ? value : undefined;
}

/** An address before a port: IPv6 in brackets (RFC 3986, 3.2.2). Other text stays as it is. */
export const bracketed = (address: string): string => (address.includes(':') ? `[${address}]` : address);

/** "1 change", "2 changes". */
export const counted = (n: number, noun: string, plural = `${noun}s`): string =>
  `${n} ${n === 1 ? noun : plural}`;
