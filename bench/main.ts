/**
 * npm run bench [-- --only NAME,NAME --keep]: runs all benches, one after the other, as root and alone on the machine. With
 * `--keep` each writes its results (bench/results.ts), its page in bench/results/ and the goals in docs/performance.md. `--docs` writes the pages.
 */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { writeDocs } from './docs.js';
import { BENCHES } from './goals.js';
import { KEEP } from './results.js';

const { values } = parseArgs({
  options: { ...KEEP, only: { type: 'string' }, docs: { type: 'boolean', default: false } },
});

function runBenches(): readonly string[] {
  const wanted = values.only?.split(',') ?? BENCHES.map((b) => b.name);
  const unknown = wanted.filter((name) => !BENCHES.some((b) => b.name === name));
  if (unknown.length > 0)
    throw new Error(`--only ${unknown.join(',')}: there are ${BENCHES.map((b) => b.name).join(', ')}`);
  for (const argv of [
    ['npm', 'run', '--silent', 'build', '--', '--noCheck'],
    ['npx', 'tsc', '-p', 'test/lab'],
  ] as const)
    if (started(argv) !== 0) throw new Error(`${argv.join(' ')} failed`);
  return wanted.filter((name) => {
    console.log(`— ${name}`);
    return started(['npx', 'tsx', `bench/${name}.ts`, ...(values.keep ? ['--keep'] : [])]) !== 0;
  });
}

const started = ([command, ...args]: readonly [string, ...string[]]): number =>
  spawnSync(command, args, { cwd: join(import.meta.dirname, '..'), stdio: 'inherit' }).status ?? 1;

if (values.docs) writeDocs();
else {
  const failed = runBenches();
  if (failed.length > 0) console.error(`failed: ${failed.join(', ')}`);
  process.exitCode = failed.length > 0 ? 1 : 0;
}
