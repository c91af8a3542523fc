import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { LastRun } from '../../../src/ops/last-run.js';

let state: string;
const said: object[] = [];
const log = { warn: (facts: object) => void said.push(facts), debug: () => undefined };
const file = (): string => join(state, 'running.json');
beforeEach(() => {
  state = mkdtempSync(join(tmpdir(), 'drawbridge-run-'));
  said.length = 0;
});
afterEach(() => rmSync(state, { recursive: true }));

it('a run that was stopped leaves nothing to tell', () => {
  const run = new LastRun(state, log);
  expect(run.warning).toBeUndefined();
  run[Symbol.dispose]();
  expect(existsSync(file())).toBe(false);
  expect(new LastRun(state, log).ended).toBeNull();
  expect(said).toEqual([]);
});

it('the next start tells the fault by which a run has ended, once', () => {
  new LastRun(state, log).fault('TypeError: x is not a function, at y.ts:1:2');
  const next = new LastRun(state, log);
  expect(next.ended).toMatch(/^a fault ended it at \S+Z: TypeError: x is not a function, at y\.ts:1:2$/);
  expect(next.warning).toContain('was not stopped');
  expect(said).toHaveLength(1);
  next[Symbol.dispose]();
  expect(new LastRun(state, log).ended).toBeNull();
});

it('the next start tells a kill from a restart of the host', () => {
  new LastRun(state, log);
  expect(new LastRun(state, log).ended).toMatch(/^it was killed .* had run since \S+Z$/);
  writeFileSync(file(), readFileSync(file(), 'utf8').replace(/"boot":"[^"]*"/, '"boot":"other"'));
  expect(new LastRun(state, log).ended).toMatch(/^the host was started again or lost power/);
});

it.each(['', '{"started":', '{}', 'null', '\0\0\0'])('a file with %j is no stop: it is damaged', (text) => {
  writeFileSync(file(), text);
  expect(new LastRun(state, log).ended).toBe('why it ended is not known, because running.json is damaged');
  expect(new LastRun(state, log).ended).toMatch(/^it was killed/);
});

it('one that cannot be read is no stop either, and a full disk leaves what it had', () => {
  mkdirSync(file());
  expect(new LastRun(state, log).ended).toContain('damaged');
  rmSync(file(), { recursive: true });
  const run = new LastRun(state, log);
  symlinkSync('/dev/full', `${file()}.tmp`);
  run.fault('a fault that the disk does not take');
  rmSync(`${file()}.tmp`);
  expect(new LastRun(state, log).ended).toMatch(/^it was killed/);
});

it('a folder that cannot be written keeps no service from its start', () => {
  expect(new LastRun(join(state, 'missing'), log).ended).toBeNull();
});
