import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { build } from 'esbuild';
import { afterAll } from 'vitest';

/** In the folder of the packages, which stay outside of the bundle. */
const FOLDER = join(import.meta.dirname, '..', '..', 'node_modules', '.cache', 'test-programs');

/**
 * A program of the tests and what it imports of src as one file, for tests that start it again and again: through tsx each start takes
 * half a second of processor time more. Call it when the module of the test is loaded: the file is removed after its tests.
 */
export async function bundled(program: string): Promise<string> {
  mkdirSync(FOLDER, { recursive: true });
  const outfile = join(FOLDER, `${process.pid}-${program.replaceAll('/', '-').replace(/ts$/, 'mjs')}`);
  afterAll(() => rmSync(outfile, { force: true }));
  const entryPoints = [join(import.meta.dirname, program)];
  await build({ entryPoints, outfile, bundle: true, platform: 'node', format: 'esm', packages: 'external' });
  return outfile;
}
