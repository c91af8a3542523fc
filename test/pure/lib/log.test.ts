import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { limitedLog } from '../../../src/lib/log.js';

type Line = readonly [level: string, fields: object, message: string | undefined];
const lines: Line[] = [];
const noted = (level: string) => (fields: object, message?: string) =>
  void lines.push([level, fields, message]);
const log = limitedLog({
  debug: noted('debug'),
  info: noted('info'),
  warn: noted('warn'),
  error: noted('error'),
});
const withMessage = (message: string): number => lines.filter((line) => line[2] === message).length;

beforeEach(() => {
  vi.useFakeTimers();
  lines.length = 0;
});
afterEach(() => {
  vi.advanceTimersByTime(3_600_000);
  vi.useRealTimers();
});

it('lets a burst through, then says how many lines were left out', () => {
  for (let i = 0; i < 34_701; i++) log.warn({ line: `garbage ${i}` }, 'flooded');
  expect(withMessage('flooded')).toBe(50);
  vi.advanceTimersByTime(10_000);
  expect(lines.at(-1)).toEqual([
    'warn',
    { message: 'flooded', count: 34_651, seconds: 10 },
    'lines with this message were left out: there were too many',
  ]);
  vi.advanceTimersByTime(60_000);
  expect(lines).toHaveLength(51);
});

it('leaves lines for other messages, levels and objects', () => {
  for (let i = 0; i < 1_000; i++) log.warn({ container: 'loud' }, 'about one');
  expect(withMessage('about one')).toBe(10);
  log.warn({ container: 'quiet' }, 'about one');
  log.error({ container: 'loud' }, 'about one');
  log.warn({ container: 'loud' }, 'about another');
  expect(lines.slice(10).map((line) => [line[0], line[2]])).toEqual([
    ['warn', 'about one'],
    ['error', 'about one'],
    ['warn', 'about another'],
  ]);
});

it('bounds one message about ever new objects', () => {
  for (let i = 0; i < 100_000; i++) log.info({ container: `c${i}` }, 'churn');
  expect(withMessage('churn')).toBe(50);
});

it('lets a line a second through under a lasting flood', () => {
  for (let i = 0; i < 600; i++) {
    for (let n = 0; n < 10; n++) log.warn({}, 'lasting');
    vi.advanceTimersByTime(100);
  }
  expect(withMessage('lasting')).toBeGreaterThanOrEqual(100);
  expect(withMessage('lasting')).toBeLessThanOrEqual(111);
});

it('does not limit debug lines', () => {
  for (let i = 0; i < 1_000; i++) log.debug({}, 'wanted');
  expect(lines).toHaveLength(1_000);
});
