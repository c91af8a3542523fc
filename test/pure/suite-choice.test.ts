/** A path or a suite that no longer exists would silently leave a part of the tests to the nightly run. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { expect, it, vi } from 'vitest';
import {
  CHURN,
  changedFiles,
  chosenFor,
  NIGHTLY_ONLY,
  ON_ANY_ENGINE,
  ON_ENGINE_28,
  ON_ENGINE_28_ALWAYS,
  TOGETHER,
  TOUCHED,
} from '../../scripts/suite-choice.js';

const ROOT = join(import.meta.dirname, '../..');
const isSuite = (name: string): boolean => existsSync(join(ROOT, 'test', `${name}.test.ts`));
const added = (...changed: string[]): string[] => {
  const { suites, engine28, node24 } = chosenFor(changed);
  return [...suites, ...(engine28 ? ['engine28'] : []), ...(node24 ? ['node24'] : [])].sort();
};

it('names suites and paths that exist', () => {
  const together = Object.entries(TOGETHER).flatMap(([group, files]) =>
    files.map((file) => `${group.split('/')[0]}/${file}`),
  );
  const live = ON_ENGINE_28.filter((name) => !name.endsWith('/'));
  const names = [...NIGHTLY_ONLY, CHURN, ...ON_ENGINE_28_ALWAYS, ...ON_ANY_ENGINE, ...together, ...live];
  expect(names.filter((name) => !isSuite(name))).toEqual([]);
  const paths = TOUCHED.flatMap(([begin]) => begin);
  const begins = (path: string): boolean =>
    existsSync(join(ROOT, path)) ||
    readdirSync(join(ROOT, dirname(path))).some((file) => file.startsWith(basename(path)));
  expect(paths.filter((path) => !begins(path))).toEqual([]);
});

it('runs on Engine 28 at each commit only what a nightly run has there', () => {
  const inNightly = (name: string): boolean =>
    ON_ENGINE_28.some((wanted) => name.startsWith(wanted)) && !ON_ANY_ENGINE.includes(name);
  expect(ON_ENGINE_28_ALWAYS.filter((name) => !inNightly(name))).toEqual([]);
});

it('adds what a change touches, and everything when that is not known', () => {
  expect(added()).toEqual([]);
  expect(added('src/api/routes.ts', 'README.md')).toEqual([]);
  expect(added('src/docker/watch.ts')).toEqual(['engine28']);
  expect(added('src/namespaces/sandboxes.ts')).toEqual(['engine28']);
  expect(added('package-lock.json')).toEqual(expect.arrayContaining(['engine28', 'node24']));
  expect(added('test/live/legitimate-packages.test.ts')).toEqual(['live/legitimate-packages']);
  const all = [...NIGHTLY_ONLY, CHURN];
  expect(chosenFor(undefined)).toMatchObject({ suites: new Set(all), engine28: true, node24: true });
  expect(added('scripts/suites.ts')).toEqual([...all, 'engine28', 'node24'].sort());
});

it('compares with the parent commit, with files that are not committed; without a parent it does not know', () => {
  const dir = mkdtempSync(join(tmpdir(), 'drawbridge-choice-'));
  const git = (...args: string[]): void => {
    const who = ['-c', 'user.name=a', '-c', 'user.email=a@b.test'];
    expect(spawnSync('git', [...who, ...args], { cwd: dir }).status, args.join(' ')).toBe(0);
  };
  vi.stubEnv('BASE', '');
  try {
    expect(changedFiles(dir)).toBeUndefined();
    git('init', '-q');
    writeFileSync(join(dir, 'a'), '1');
    git('add', '.');
    git('commit', '-qm', 'one');
    expect(changedFiles(dir)).toBeUndefined();
    writeFileSync(join(dir, 'b'), '1');
    git('add', '.');
    git('commit', '-qm', 'two');
    writeFileSync(join(dir, 'c'), '1');
    expect(changedFiles(dir)).toEqual(['b', 'c']);
    git('mv', 'b', 'd');
    expect(changedFiles(dir)).toEqual(['d', 'c']);
  } finally {
    vi.unstubAllEnvs();
    rmSync(dir, { recursive: true, force: true });
  }
});
