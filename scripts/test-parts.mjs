/**
 * Builds the threads and processes of the service for a run of vitest, from the sources as they are. The TypeScript loader would take 0.7 s of processor
 * time at each start of one, and tests start some hundred.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { build } from 'esbuild';
import { commonjs, ROOT, STARTED } from './bundles.mjs';

/** Two levels below the root, as modules of src are: packages and files next to src have the same paths from there. */
const FOLDER = join(ROOT, 'node_modules', '.parts-');

export default async function setup() {
  const outdir = mkdtempSync(FOLDER);
  const remove = () => rmSync(outdir, { recursive: true, force: true });
  process.once('exit', remove);
  const entryPoints = STARTED.map((file) => ({ in: `src/${file}.ts`, out: file.split('/')[1] }));
  await build({ ...commonjs, entryPoints, outdir });
  process.env.BUILT_PARTS = outdir;
}
