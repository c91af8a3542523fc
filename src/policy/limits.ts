import type { Parsed, Problem } from '../lib/problem.js';
import { parseRate, parseSize } from '../lib/units.js';
import { DAY_MS, HOUR_MS, WEEK_MS } from './quota.js';

/** What a container may use, from `drawbridge.limit`. */
export interface Limits {
  readonly rateBitsPerSecond?: number;
  /** Connections open at one time. */
  readonly connections?: number;
  readonly quota?: { readonly bytes: number; readonly periodMs: number };
}

const PERIODS: Readonly<Record<string, number>> = { hour: HOUR_MS, day: DAY_MS, week: WEEK_MS };
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
  const periodMs = PERIODS[period];
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
