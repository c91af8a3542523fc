import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { build } from 'esbuild';

/** In the folder of the packages: those with a library of their own for each platform stay outside of the bundle. */
const FOLDER = join(import.meta.dirname, '..', '..', 'node_modules', '.cache', 'test-programs');
const EXTERNAL = ['koffi', 'libsql'];
/** For packages in the form of CommonJS. */
const REQUIRE =
  "import{createRequire as createRequire_}from'node:module';const require=createRequire_(import.meta.url);";
let count = 0;

/**
 * A program of the tests with what it imports as one file: through tsx each start takes half a second of processor time more. Either the
 * name of a file of this folder, or a `text`, which imports by the paths of this folder. The file is removed when this process ends.
 */
export async function bundled(program: string | { readonly text: string }): Promise<string> {
  mkdirSync(FOLDER, { recursive: true });
  const outfile = join(FOLDER, `${process.pid}-${count++}.mjs`);
  process.once('exit', () => rmSync(outfile, { force: true })); // modules of tests are loaded once for all files
  await build({
    ...(typeof program === 'string'
      ? { entryPoints: [join(import.meta.dirname, program)] }
      : { stdin: { contents: program.text, resolveDir: import.meta.dirname, loader: 'ts' } }),
    outfile,
    bundle: true,
    platform: 'node',
    format: 'esm',
    external: EXTERNAL,
    banner: { js: REQUIRE },
  });
  return outfile;
}
