#!/usr/bin/env node
/**
 * Builds dist: src and the packages that it imports, as few files. Node loads them in a third of the time that hundreds of modules take, and
 * the service keeps 20 MiB less. `node scripts/build.mjs [--noCheck] [--packages FOLDER]`; --noCheck leaves out the check of types, --packages
 * copies the packages that are not inside dist to FOLDER.
 *   dist/main.js           loads one of the next three (scripts/launcher.cjs)
 *   dist/parts/service.cjs the service (`run` without options before it): one script, so that V8 can keep its code
 *   dist/parts/quick.cjs   the commands that only send requests to the service: one file, without the loader of ES modules, which takes
 *                          a tenth of their time
 *   dist/parts/main.js     every command
 *   dist/parts/            what they load on use; and one script for each thread and for the process that starts tools, which take 30 ms
 *                          less of processor time than with the loader of ES modules
 *   dist/NOTICE            the licences of the packages that are inside
 * The names of functions stay, so that a stack names them. The source of each position is in the map next to the file.
 */
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { isBuiltin } from 'node:module';
import { dirname, join, relative } from 'node:path';
import { parseArgs } from 'node:util';
import { build } from 'esbuild';
import { common, commonjs, IMPORT_META_URL, partOf, ROOT, STARTED } from './bundles.mjs';

const DIST = join(ROOT, 'dist');
/** Commands of quick.cjs. They use nothing of the host, because an error of a module of its own would be of another class there. */
const QUICK = [
  'status',
  'ps',
  'inspect',
  'explain',
  'scan',
  'plan',
  'version',
  'pause',
  'lockdown',
  'nodes',
  'tokens',
];
const QUICK_GROUPS = /\/((status|completion)-command|(inspect|admin)-commands)\.js$/;
/** What quick.cjs loads on use. They return plain objects and throw nothing. */
const SHARED = ['config/load', 'lib/yaml'];
/** Packages that the service loads on use only: files of their own next to service.cjs. */
const ON_USE = ['undici', 'ioredis'];
const NO_COMMANDS = 'const QUICK = [];';
const NO_BUILTINS = 'const BUILTINS = [];';
const NO_PACKAGES = 'const PACKAGES = [];';
/** The package debug colours its output with it, where it is installed. */
const NOT_NEEDED = ['supports-color'];
/** Those that a start of the service loads. */
const AT_START = ['koffi', 'libsql'];
/** What a start of the service does not load. */
const LATER = ['node:inspector', 'node:readline/promises', 'https', 'node:https', 'node:http2', 'node:tls'];
/** For packages in the form of CommonJS. */
const COMMONJS =
  "import{createRequire as createRequire_}from'node:module';const require=createRequire_(import.meta.url),__dirname=import.meta.dirname,__filename=import.meta.filename;";

const fail = (why) => {
  throw new Error(`build: ${why}`);
};

const { values: options } = parseArgs({
  options: { noCheck: { type: 'boolean' }, packages: { type: 'string' } },
});
if (!options.noCheck)
  execFileSync(
    process.execPath,
    [join(ROOT, 'node_modules/typescript/bin/tsc'), '-p', 'tsconfig.build.json', '--noEmit'],
    { cwd: ROOT, stdio: 'inherit' },
  );
rmSync(DIST, { recursive: true, force: true });
const EMPTY = { contents: 'module.exports = {}' };
/** Commander starts a program for a command that is a file of its own. There is none, and the module takes 5 ms of each command. */
const noPrograms = {
  name: 'no-programs',
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /^node:child_process$/ }, ({ importer }) =>
      /node_modules\/commander\//.test(importer) ? { path: 'child_process', namespace: 'empty' } : undefined,
    );
    onLoad({ filter: /./, namespace: 'empty' }, () => EMPTY);
  },
};
/** A shebang is no statement of a function. */
const noShebang = {
  name: 'no-shebang',
  setup({ onLoad }) {
    onLoad({ filter: /src\/main\.ts$/ }, ({ path }) => ({
      contents: readFileSync(path, 'utf8').replace(/^#!.*/, ''),
      loader: 'ts',
    }));
  },
};
/** Leaves out what the commands of quick.cjs do not use. */
const quickOnly = {
  name: 'quick-only',
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /^\./ }, ({ kind, path }) => {
      if (kind !== 'dynamic-import' || QUICK_GROUPS.test(path)) return undefined;
      const shared = SHARED.find((file) => path.endsWith(`/${file}.js`));
      if (shared !== undefined) return { path: `./${shared.split('/')[1]}.cjs`, external: true };
      return { path, namespace: 'absent' };
    });
    onLoad({ filter: /./, namespace: 'absent' }, ({ path }) => ({
      contents: `throw new Error(${JSON.stringify(`${path} is not part of quick.cjs`)})`,
    }));
  },
};
/** Leaves packages of ON_USE out. */
const onUse = {
  name: 'on-use',
  setup({ onResolve }) {
    onResolve({ filter: new RegExp(`^(${ON_USE.join('|')})$`) }, ({ path, kind }) =>
      kind === 'entry-point' ? undefined : { path: `./${path}.cjs`, external: true },
    );
  },
};
/** Fastify and docker-modem load these for listeners and engines that the service does not have: 7 ms. */
const lazyBuiltins = {
  name: 'lazy-builtins',
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /^(node:)?(https|http2)$/ }, ({ path, importer, namespace }) =>
      namespace !== 'lazy' && /node_modules\/(fastify|docker-modem)\//.test(importer)
        ? { path, namespace: 'lazy' }
        : undefined,
    );
    onLoad({ filter: /./, namespace: 'lazy' }, ({ path }) => ({
      contents: `module.exports = new Proxy({}, { get: (_, key) => require(${JSON.stringify(path)})[key] });`,
    }));
  },
};
const [{ metafile }, quick, service, onItsOwn] = await Promise.all([
  build({
    ...common,
    entryPoints: [
      { in: 'src/main.ts', out: 'parts/main' },
      { in: 'src/run-service.ts', out: 'parts/run-service' }, // what the service loads, under a name
    ],
    outdir: 'dist',
    chunkNames: 'parts/[name]-[hash]',
    splitting: true,
    format: 'esm',
    banner: { js: COMMONJS },
    plugins: [noPrograms],
  }),
  build({
    ...commonjs,
    outdir: 'dist',
    entryPoints: [{ in: 'src/main.ts', out: 'parts/quick' }],
    plugins: [noPrograms, quickOnly],
  }),
  build({
    ...commonjs,
    outdir: 'dist',
    entryPoints: [{ in: 'src/main.ts', out: 'parts/service' }],
    // scripts/launcher.cjs calls it.
    banner: { js: `(function(exports,require,module,__filename,__dirname){${IMPORT_META_URL}` },
    footer: { js: '})' },
    plugins: [noPrograms, noShebang, onUse, lazyBuiltins],
  }),
  build({
    ...commonjs,
    outdir: 'dist',
    entryPoints: [
      ...[...SHARED, ...STARTED].map(partOf),
      ...ON_USE.map((name) => ({ in: name, out: `parts/${name}` })),
    ],
  }),
]);
/** A package that any start of the service loads takes as long as it takes to compile, because V8 keeps the code of service.cjs only. */
const seen = new Set();
function checkStatic(file, chain) {
  if (seen.has(file)) return;
  seen.add(file);
  for (const { path, kind } of service.metafile.inputs[file]?.imports ?? []) {
    if (kind === 'dynamic-import') continue;
    if (ON_USE.some((name) => path === `./${name}.cjs`))
      fail(`each start loads ${path}: ${[...chain, file].join(' → ')}`);
    checkStatic(path, [...chain, file]);
  }
}
checkStatic('src/run-service.ts', []);
const launcher = readFileSync(join(ROOT, 'scripts/launcher.cjs'), 'utf8');
const commands = `const QUICK = ${JSON.stringify([...QUICK, '--version', '-V'])};`;
const used = service.metafile.outputs['dist/parts/service.cjs'].imports.map(({ path }) => path);
const builtins = [...new Set(used.filter((name) => isBuiltin(name) && !LATER.includes(name)))];
for (const list of [NO_COMMANDS, NO_BUILTINS, NO_PACKAGES])
  if (!launcher.includes(list)) fail(`scripts/launcher.cjs does not have: ${list}`);
const main = launcher
  .replace(NO_COMMANDS, commands)
  .replace(NO_BUILTINS, `const BUILTINS = ${JSON.stringify(builtins)};`)
  .replace(NO_PACKAGES, `const PACKAGES = ${JSON.stringify(AT_START)};`);
writeFileSync(join(DIST, 'main.js'), main, { mode: 0o755 });
writeFileSync(join(DIST, 'package.json'), '{ "type": "commonjs" }\n');
writeFileSync(join(DIST, 'parts/package.json'), '{ "type": "module" }\n');

// A release has these packages alone.
const isThere = (name) =>
  isBuiltin(name) || /^(node:|\.\/)/.test(name) || [...common.external, ...NOT_NEEDED].includes(name);
for (const { outputs } of [metafile, quick.metafile, service.metafile, onItsOwn.metafile])
  for (const [file, { imports }] of Object.entries(outputs))
    for (const { path, external } of imports)
      if (external && !isThere(path)) fail(`${file} imports ${path}, which is not inside dist`);

// A character beyond Latin-1 would make V8 keep two bytes for each character of the file. Scripts are read as Latin-1, too.
const built = [{ metafile }, quick, service, onItsOwn].flatMap((b) => Object.keys(b.metafile.outputs));
for (const file of built.filter((name) => /\.c?js$/.test(name)))
  if (
    (/\.cjs$/.test(file) ? /[^\u0000-\u007f]/ : /[^\u0000-\u00ff]/).test(
      readFileSync(join(ROOT, file), 'utf8'),
    )
  )
    fail(`${file} is not in ASCII or Latin-1`);

const inputs = [metafile, onItsOwn.metafile].flatMap((m) => Object.keys(m.inputs));
const packages = new Set(inputs.flatMap((file) => /^.*node_modules\/(?:@[^/]+\/)?[^/]+/.exec(file) ?? []));
const notices = [...packages].sort().map((folder) => {
  const { name, version, license } = JSON.parse(readFileSync(join(ROOT, folder, 'package.json'), 'utf8'));
  const texts = readdirSync(join(ROOT, folder)).filter((file) => /^(licen[cs]e|copying|notice)/i.test(file));
  return [
    `${'='.repeat(80)}\n${name} ${version} (${license})\n`,
    ...texts.sort().map((file) => readFileSync(join(ROOT, folder, file), 'utf8').trim()),
  ].join('\n');
});
writeFileSync(join(DIST, 'NOTICE'), `${notices.join('\n\n')}\n`);

/** The folder of a package that another one imports, as Node finds it. */
function folderOf(name, importer) {
  for (let at = importer; ; at = dirname(at)) {
    const folder = join(at, 'node_modules', name);
    if (existsSync(folder)) return folder;
    if (at === ROOT) return undefined;
  }
}
const copied = new Set();
/** Copies a package and those that it imports. Of the binaries for other platforms, npm has installed none. */
function copyPackage(name, importer, isOptional, to) {
  const folder = folderOf(name, importer);
  if (folder === undefined && !isOptional) fail(`the package ${name} is missing`);
  if (folder === undefined || copied.has(folder)) return;
  copied.add(folder);
  cpSync(folder, join(to, relative(join(ROOT, 'node_modules'), folder)), { recursive: true });
  const { dependencies = {}, optionalDependencies = {} } = JSON.parse(
    readFileSync(join(folder, 'package.json'), 'utf8'),
  );
  for (const other of Object.keys({ ...dependencies, ...optionalDependencies }))
    copyPackage(other, folder, other in optionalDependencies, to);
}
if (options.packages !== undefined)
  for (const name of common.external) copyPackage(name, ROOT, false, options.packages);
