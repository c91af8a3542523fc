/** Periods of a quota, and limits as people read them. Pure. */
import type { Limits } from './limits.js';

export const HOUR_MS = 3_600_000;
export const DAY_MS = 24 * HOUR_MS;
export const WEEK_MS = 7 * DAY_MS;
/** The epoch was a Thursday; weeks begin on Monday (ISO 8601). */
const MONDAY_MS = -3 * DAY_MS;

export interface Period {
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

/** "5GB/day", as a label says it. */
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
