/** The small state on a full disk. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { SmallState } from '../../../src/store/small-state.js';

let disk: string;
let said: string[];
const note = (_: object, message: string): void => void said.push(message);
const log = { debug: note, info: note, warn: note, error: note };
beforeEach(() => {
  disk = mkdtempSync(join(tmpdir(), 'drawbridge-full-'));
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=512k', 'drawbridge-test', disk]);
  said = [];
});
afterEach(() => {
  // A connection is open until its statements are collected.
  execFileSync('umount', ['-l', disk]);
  rmSync(disk, { recursive: true });
});
const fill = (): Buffer => execFileSync('sh', ['-c', 'cat /dev/zero > "$0/ballast" 2>&1 || true', disk]);
const free = (): void => rmSync(join(disk, 'ballast'));

it('is reported once, keeps what it had, and is written when there is room', async () => {
  const state = await SmallState.open(disk, log);
  await state.set('a', 'before', '1');
  fill();
  await state.set('a', 'large', 'x'.repeat(300_000));
  await state.set('a', 'small', '2');
  expect([state.fault !== '', said]).toEqual([true, [expect.stringContaining('cannot be written')]]);
  free();
  await state.set('a', 'large', undefined);
  state[Symbol.dispose]();
  expect(state.fault).toBe('');
  const next = await SmallState.open(disk, log);
  expect(Object.fromEntries(next.take('a'))).toEqual({ before: '1', small: '2' });
  next[Symbol.dispose]();
});

it('is read by a service that starts meanwhile, whether the one before was stopped or killed', async () => {
  const stopped = await SmallState.open(disk, log);
  await stopped.set('a', 'k', '1');
  stopped[Symbol.dispose]();
  const killed = await SmallState.open(disk, log);
  await killed.set('a', 'l', '2');
  fill();
  const state = await SmallState.open(disk, log);
  expect(Object.fromEntries(state.take('a'))).toEqual({ k: '1', l: '2' });
  free();
  state[Symbol.dispose]();
  killed[Symbol.dispose]();
});

it('a first start on it works without', async () => {
  fill();
  const state = await SmallState.open(disk, log);
  await state.set('a', 'k', '1');
  expect(said).toEqual([expect.stringContaining('cannot be written')]);
  state[Symbol.dispose]();
});
