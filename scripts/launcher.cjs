#!/usr/bin/env node
'use strict';
/**
 * dist/main.js: loads the part of the program that has the command (see build.mjs).
 *
 * The service is one script. V8's code of it is kept in a file, so that V8 need not compile its functions at each start. V8 executes what
 * is in the file, and a changed byte ends the process: the code counts only if no other user than root can have written it, and if its hash
 * shows that this Node made it from this script. V8 itself refuses code that was made with other flags. Where there is no valid code, the
 * script is compiled, and the service writes a new file once the work of its start is done. For a command, loading node:crypto takes as
 * long as its code would save.
 */
const fs = require('node:fs');
const { dirname, join } = require('node:path');

/** All are replaced by the build. */
const QUICK = [];
const BUILTINS = [];
const PACKAGES = [];
/** Parts of Node that its functions load on use only: of `listen`, of streams of files, and of a comparison. */
const ON_USE = [
  () => require('node:cluster'),
  () => fs.ReadStream,
  () => require('node:util').isDeepStrictEqual({}, {}),
];
/** As of the unit (CacheDirectory=). A folder that does not exist is not made. */
const FOLDER = process.env.CACHE_DIRECTORY || '/var/cache/drawbridge';
const { O_RDONLY, O_NOFOLLOW, O_NONBLOCK } = fs.constants;
const WRITTEN_BY_OTHERS = 0o022;
const HASH_BYTES = 32;
/**
 * Flags of V8 that the service runs with. V8 refuses code that was made with other flags, so that they are set when code is read and when
 * it is written. The service itself changes the first one at times (lib/thread.ts).
 *
 * By the second one, V8 optimizes a function after seven times as much bytecode as by default (`interrupt_budget` of its
 * flag-definitions.h). Most functions of a start run for some ms only, and those of a service at rest once a second: to optimize them costs
 * more than is saved, a quarter of the processor time of a start and a fifth at rest. What answers names under load is optimized some ms
 * later. Later versions than that of Node 20 have other flags for it.
 *
 * V8 refuses the code that Node has of its own modules, too, so that they are loaded before: afterwards it takes twice the time.
 * src/lib/thread.ts has the same flags, for the modules of threads.
 */
const FLAGS = [
  '--semi-space-growth-factor=1',
  ...(process.versions.v8.startsWith('11.') ? ['--interrupt-budget=500000'] : []),
].join(' ');
/**
 * The size to which the heap may grow before V8 marks it for the first time. Left to itself, V8 lowers its first limit with each collection
 * of young objects, and marks some 50 MB next to 1,000 containers just before the service is ready. The collection at rest (core-service.ts)
 * sets an ordinary limit.
 */
const START_HEAP_BYTES = 96 * 1024 * 1024;
/** Published by the service (core-service.ts). */
const AT_REST = 'drawbridge:at rest';

const isRoots = ({ uid, mode }) => uid === 0 && (mode & WRITTEN_BY_OTHERS) === 0;
const isFolderRoots = () => {
  const folder = fs.lstatSync(FOLDER);
  return folder.isDirectory() && isRoots(folder);
};

/** Depends on everything that the code depends on, except the flags of V8, and on the code itself. */
function hashOf(source, code) {
  const { version, versions, arch } = process;
  const hash = require('node:crypto').createHash('sha256');
  hash.update(`${version} ${versions.v8} ${arch} ${source.length}\n`);
  return hash.update(source).update(code).digest();
}

/** The code of this script. Undefined when there is none, or when another user could have written it. */
function readCode(file, source) {
  let fd;
  try {
    if (!isFolderRoots()) return undefined;
    fd = fs.openSync(file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
    const found = fs.fstatSync(fd);
    if (!found.isFile() || !isRoots(found)) return undefined;
    const content = fs.readFileSync(fd);
    const code = content.subarray(HASH_BYTES);
    return hashOf(source, code).equals(content.subarray(0, HASH_BYTES)) ? code : undefined;
  } catch {
    return undefined; // there is no file yet, or it cannot be read
  } finally {
    if (fd !== undefined) fs.closeSync(fd);
  }
}

/** A file that a crash leaves incomplete has another hash. */
function writeCode(file, source, script) {
  const next = `${file}.${process.pid}`;
  try {
    if (process.geteuid() !== 0 || !isFolderRoots()) return;
    const code = script.createCachedData();
    fs.writeFileSync(next, Buffer.concat([hashOf(source, code), code]), { flag: 'wx', mode: 0o600 });
    fs.renameSync(next, file);
  } catch {
    fs.rmSync(next, { force: true }); // the next start tries again
  }
}

function atRest(write) {
  const { subscribe, unsubscribe } = require('node:diagnostics_channel');
  const once = () => {
    unsubscribe(AT_REST, once);
    write();
  };
  subscribe(AT_REST, once);
}

/**
 * Let the heap grow to START_HEAP_BYTES. V8 reads flags for its first limit before it reads this script, and Node's own code does not fit
 * to them, so that it is compiled: 20 ms. Each full collection sets the next limit, as a multiple of the objects that remain; one of the
 * first objects takes 5 ms. `gc` exists in a context of its own only.
 */
function raiseHeapLimit({ getHeapStatistics, setFlagsFromString }) {
  if (!process.versions.v8.startsWith('11.')) return; // of Node 20, as the flag above
  const { runInNewContext } = require('node:vm');
  const percent = Math.round((100 * START_HEAP_BYTES) / getHeapStatistics().used_heap_size);
  setFlagsFromString('--expose-gc');
  setFlagsFromString(`--heap-growing-percent=${percent}`);
  try {
    runInNewContext('gc')();
  } finally {
    setFlagsFromString('--heap-growing-percent=0');
    setFlagsFromString('--no-expose-gc');
  }
}

/** One that is missing or broken is reported by the service, which needs it. */
function loadIfThere(from, name) {
  try {
    from(name);
  } catch {
    return;
  }
}

function loadService() {
  const { createRequire } = require('node:module');
  const v8 = require('node:v8');
  const { setFlagsFromString } = v8;
  const { Script } = require('node:vm');
  const filename = join(__dirname, 'parts', 'service.cjs');
  const file = join(FOLDER, 'service.cjs.code');
  const requireOfService = createRequire(filename);
  const source = fs.readFileSync(filename);
  raiseHeapLimit(v8);
  for (const name of BUILTINS) require(name);
  for (const name of PACKAGES) loadIfThere(requireOfService, name);
  for (const load of ON_USE) load();
  setFlagsFromString(FLAGS);
  const cachedData = readCode(file, source);
  const script = new Script(source.toString('latin1'), { filename, ...(cachedData && { cachedData }) });
  if (!cachedData || script.cachedDataRejected)
    atRest(() => {
      setFlagsFromString(FLAGS);
      writeCode(file, source, script);
    });
  const module = { exports: {} };
  script.runInThisContext()(module.exports, requireOfService, module, filename, dirname(filename));
}

const [, , command, first = '', ...further] = process.argv;
/** The command that is run or, where a later word than its name is written, completed. */
const named = command === '__complete' && further.length > 0 && !first.startsWith('-') ? first : command;
if (QUICK.includes(named)) require('./parts/quick.cjs');
// Node applies source maps to modules only.
else if (command === 'run' && !process.sourceMapsEnabled) loadService();
else import('./parts/main.js');
