#!/usr/bin/env node
/**
 * Builds dist: src and the packages that it imports, as few files. Node loads them in a third of the time that hundreds of modules take, and
 * the service keeps 20 MiB less. `node scripts/build.mjs [--noCheck]`; --noCheck leaves out the check of types.
 *   dist/main.js    the command          dist/parts/   what it loads on use, the threads, the process that starts tools
 *   dist/NOTICE     the licences of the packages that are inside
 * The names of functions stay, so that a stack names them. The source of each position is in the map next to the file.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { build } from 'esbuild';

const ROOT = join(import.meta.dirname, '..');
const DIST = join(ROOT, 'dist');
/** Started by path: see startThread (lib/thread.ts) and kernel/tool-process.ts. */
const STARTED = ['config/list-thread', 'kernel/sandbox-thread', 'kernel/tool-runner', 'threats/feed-worker'];
/** For packages in the form of CommonJS. */
const COMMONJS =
  "import{createRequire as createRequire_}from'node:module';const require=createRequire_(import.meta.url),__dirname=import.meta.dirname,__filename=import.meta.filename;";

const fail = (why) => {
  throw new Error(`build: ${why}`);
};

if (!process.argv.includes('--noCheck'))
  execFileSync(
    process.execPath,
    [join(ROOT, 'node_modules/typescript/bin/tsc'), '-p', 'tsconfig.build.json', '--noEmit'],
    { cwd: ROOT, stdio: 'inherit' },
  );
rmSync(DIST, { recursive: true, force: true });
const { metafile } = await build({
  absWorkingDir: ROOT,
  entryPoints: [
    { in: 'src/main.ts', out: 'main' },
    { in: 'src/run-service.ts', out: 'parts/run-service' }, // what the service loads, under a name
    ...STARTED.map((file) => ({ in: `src/${file}.ts`, out: `parts/${file.split('/')[1]}` })),
  ],
  outdir: 'dist',
  chunkNames: 'parts/[name]-[hash]',
  bundle: true,
  splitting: true,
  format: 'esm',
  platform: 'node',
  target: 'node20',
  external: ['koffi'], // it has a library of its own for each platform
  banner: { js: COMMONJS },
  minifySyntax: true,
  minifyWhitespace: true,
  lineLimit: 160,
  legalComments: 'none', // see NOTICE
  sourcemap: true,
  sourcesContent: false,
  metafile: true,
  logLevel: 'warning',
});

// Paths that modules make from import.meta.url are right in dist/parts.
for (const file of Object.keys(metafile.outputs['dist/main.js'].inputs))
  if (file.startsWith('src/') && readFileSync(join(ROOT, file), 'utf8').includes('import.meta.url'))
    fail(`${file} is part of dist/main.js: paths from its place would be wrong there`);
// A character beyond Latin-1 would make V8 keep two bytes for each character of the file.
for (const file of Object.keys(metafile.outputs).filter((name) => name.endsWith('.js')))
  if (/[^\u0000-\u00ff]/.test(readFileSync(join(ROOT, file), 'utf8'))) fail(`${file} is not in Latin-1`);

const packages = new Set(
  Object.keys(metafile.inputs).flatMap((file) => /^.*node_modules\/(?:@[^/]+\/)?[^/]+/.exec(file) ?? []),
);
const notices = [...packages].sort().map((folder) => {
  const { name, version, license } = JSON.parse(readFileSync(join(ROOT, folder, 'package.json'), 'utf8'));
  const texts = readdirSync(join(ROOT, folder)).filter((file) => /^(licen[cs]e|copying|notice)/i.test(file));
  return [
    `${'='.repeat(80)}\n${name} ${version} (${license})\n`,
    ...texts.sort().map((file) => readFileSync(join(ROOT, folder, file), 'utf8').trim()),
  ].join('\n');
});
mkdirSync(DIST, { recursive: true });
writeFileSync(join(DIST, 'NOTICE'), `${notices.join('\n\n')}\n`);
