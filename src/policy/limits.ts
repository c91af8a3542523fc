import type { Parsed, Problem } from '../lib/problem.js';
import { parseDuration, parseRate, parseSize } from '../lib/units.js';

/** Periods of a quota, and limits as people read them. Pure. */

export const HOUR_MS = 3_600_000;
export const DAY_MS = 24 * HOUR_MS;
export const WEEK_MS = 7 * DAY_MS;
/** The epoch was a Thursday; weeks begin on Monday (ISO 8601). */
const MONDAY_MS = -3 * DAY_MS;

/** For how long a person may be asked, ms: a client that waits for longer has given up (docs/ask.md). */
const ASK_MS = { least: 1_000, most: 300_000 } as const;

/** "10s": how long a denied connection waits for a person. */
export function parseAsk(text: string): Parsed<number> {
  const parsed = parseDuration(text.trim());
  if (!parsed.ok || (parsed.value >= ASK_MS.least && parsed.value <= ASK_MS.most)) return parsed;
  const problem = { detail: `"${text}" is not between 1s and 5m`, remedy: 'write a time such as 10s' };
  return { ok: false, problems: [problem] };
}

interface Period {
  /** Milliseconds since the epoch. */
  readonly start: number;
  readonly end: number;
}

/** The hour, day or week (UTC) in which a time lies. */
export function periodAt(now: number, periodMs: number): Period {
  const origin = periodMs === WEEK_MS ? MONDAY_MS : 0;
  const start = Math.floor((now - origin) / periodMs) * periodMs + origin;
  return { start, end: start + periodMs };
}

const NAMES: Readonly<Record<number, string>> = { [HOUR_MS]: 'hour', [DAY_MS]: 'day', [WEEK_MS]: 'week' };
const SIZES = [
  ['TB', 1e12],
  ['TiB', 2 ** 40],
  ['GB', 1e9],
  ['GiB', 2 ** 30],
  ['MB', 1e6],
  ['MiB', 2 ** 20],
  ['KB', 1e3],
  ['KiB', 2 ** 10],
] as const;
const RATES = [
  ['gbit', 1e9],
  ['mbit', 1e6],
  ['kbit', 1e3],
] as const;

type Unit = readonly [string, number];
const inUnit = (n: number, units: readonly Unit[], least: string): string => {
  const [name, size] = units.find(([, u]) => n >= u && n % u === 0) ?? [least, 1];
  return `${n / size}${name}`;
};

/** "5GB/day", as it is written in a label. */
export const quotaText = ({ bytes, periodMs }: NonNullable<Limits['quota']>): string =>
  `${inUnit(bytes, SIZES, 'B')}/${NAMES[periodMs] ?? `${periodMs}ms`}`;

/** "rate=20mbit, connections=200, quota=5GB/day" */
export function limitsText({ rateBitsPerSecond, connections, quota }: Limits): string {
  return [
    ...(rateBitsPerSecond === undefined ? [] : [`rate=${inUnit(rateBitsPerSecond, RATES, 'bit')}`]),
    ...(connections === undefined ? [] : [`connections=${connections}`]),
    ...(quota === undefined ? [] : [`quota=${quotaText(quota)}`]),
  ].join(', ');
}

/** "00:00 UTC", with its day unless it is the next midnight. */
export function untilText(end: number, now: number): string {
  const iso = new Date(end).toISOString();
  const time = `${iso.slice(11, 16)} UTC`;
  return end - now <= DAY_MS ? time : `${iso.slice(0, 10)} ${time}`;
}

/** What a container may use, from `drawbridge.limit`. */
export interface Limits {
  readonly rateBitsPerSecond?: number;
  /** Connections open at one time. */
  readonly connections?: number;
  readonly quota?: { readonly bytes: number; readonly periodMs: number };
}

const PERIODS = new Map([
  ['hour', HOUR_MS],
  ['day', DAY_MS],
  ['week', WEEK_MS],
]);
const REMEDY = 'write it like rate=20mbit, connections=200, quota=5GB/day';

const refuse = (detail: string, remedy = REMEDY): Parsed<never> => ({
  ok: false,
  problems: [{ detail, remedy }],
});

function parseConnections(text: string): Parsed<number> {
  const value = /^[1-9]\d{0,8}$/.test(text) ? Number(text) : 0;
  return value > 0 ? { ok: true, value } : refuse(`"${text}" is not a number of connections`);
}

function parseQuota(text: string): Parsed<{ bytes: number; periodMs: number }> {
  const [amount = '', period = '', more] = text.split('/');
  const bytes = parseSize(amount);
  const periodMs = PERIODS.get(period);
  if (!bytes.ok) return bytes;
  if (periodMs === undefined || more !== undefined || bytes.value === 0)
    return refuse(`"${text}" is not a quota`, 'write it like 5GB/day; periods are hour, day and week');
  return { ok: true, value: { bytes: bytes.value, periodMs } };
}

const READERS = {
  rate: (text: string) => mapped(parseRate(text), (rateBitsPerSecond): Limits => ({ rateBitsPerSecond })),
  connections: (text: string) => mapped(parseConnections(text), (connections): Limits => ({ connections })),
  quota: (text: string) => mapped(parseQuota(text), (quota): Limits => ({ quota })),
} as const;

function mapped<T>(parsed: Parsed<T>, make: (value: T) => Limits): Parsed<Limits> {
  return parsed.ok ? { ok: true, value: make(parsed.value) } : parsed;
}

function parseOne(piece: string, seen: Set<string>): Parsed<Limits> {
  const [key = '', value = '', more] = piece.split('=').map((part) => part.trim());
  if (!Object.hasOwn(READERS, key) || more !== undefined) return refuse(`"${piece}" is not a limit`);
  if (seen.has(key)) return refuse(`${key} is written twice`, 'remove one of the two');
  seen.add(key);
  return READERS[key as keyof typeof READERS](value);
}

/** "rate=20mbit, connections=200, quota=5GB/day" (commas or newlines); every problem at once. */
export function parseLimits(text: string): Parsed<Limits> {
  const seen = new Set<string>();
  const pieces = text.split(/[,\n]/).map((piece) => piece.trim());
  const parsed = pieces.filter((piece) => piece !== '').map((piece) => parseOne(piece, seen));
  if (parsed.length === 0) return refuse('no limit is given');
  const problems: Problem[] = parsed.flatMap((one) => (one.ok ? [] : one.problems));
  if (problems.length > 0) return { ok: false, problems };
  return { ok: true, value: Object.assign({}, ...parsed.map((one) => (one.ok ? one.value : {}))) };
}
