/**
 * An earlier version of Drawbridge, built from the history of this repository into a cache folder, for tests of upgrades. It has
 * the packages of its own lock file; no script of a package runs.
 */
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { run } from './process.js';

const ROOT = join(import.meta.dirname, '..', '..');
const CACHE = '/var/cache/drawbridge';
const TSC = join(ROOT, 'node_modules', 'typescript', 'bin', 'tsc');

/** Whether the commit is in this clone: a shallow one has no history. */
export async function hasCommit(commit: string): Promise<boolean> {
  return (await run(['git', '-C', ROOT, 'cat-file', '-e', `${commit}^{commit}`])).code === 0;
}

async function build(commit: string, dir: string): Promise<void> {
  const archive = join(dir, 'source.tar');
  await run(['git', '-C', ROOT, 'archive', '-o', archive, commit], { check: true });
  await run(['tar', '-xf', archive, '-C', dir], { check: true });
  rmSync(archive);
  const install = ['npm', 'ci', '--omit=dev', '--ignore-scripts', '--no-audit', '--no-fund'];
  await run(['env', '-C', dir, ...install], { check: true, timeoutMs: 300_000 });
  // the types of Node, which it had as a package of development
  symlinkSync(join(ROOT, 'node_modules', '@types'), join(dir, 'types'));
  const compile = [process.execPath, TSC, '-p', join(dir, 'tsconfig.build.json'), '--noCheck'];
  await run([...compile, '--typeRoots', join(dir, 'types')], { check: true, timeoutMs: 300_000 });
}

/** Arguments that start the version of this commit, from the cache folder or built; throws when it cannot be built. */
export async function formerVersion(commit: string): Promise<readonly string[]> {
  const folder = join(CACHE, `version-${commit}`);
  const program = [process.execPath, join(folder, 'dist', 'main.js')];
  if (existsSync(folder)) return program;
  mkdirSync(CACHE, { recursive: true });
  const dir = mkdtempSync(join(CACHE, 'build-'));
  try {
    await build(commit, dir);
    renameSync(dir, folder); // whole or not at all
  } catch (e) {
    if (!existsSync(folder)) throw e;
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
  return program;
}
