#!/usr/bin/env node
'use strict';
/**
 * dist/main.js: loads the part of the program that has the command (see build.mjs).
 *
 * The service, and the commands that only send requests, are one script each. V8's code of a script is kept in a file, so that V8 need not
 * compile its functions at each start. V8 executes what is in the file, and a changed byte ends the process: the code counts only if no
 * other user than root can have written it, and if its hash shows that this Node made it from this script. V8 itself refuses code that was
 * made with other flags. Where there is no valid code, the script is compiled, and a process of root writes a new file: the service once
 * the work of its start is done, a command when it ends.
 */
const { constants: FILE, ...fs } = require('node:fs');
const { createRequire } = require('node:module');
const { dirname, join } = require('node:path');
const vm = require('node:vm');

/** Replaced by the build. */
const QUICK = [];
/** As of the unit (CacheDirectory=). A folder that does not exist is not made. */
const FOLDER = process.env.CACHE_DIRECTORY || '/var/cache/drawbridge';
const WRITTEN_BY_OTHERS = 0o022;
const HASH_BYTES = 32;
/** Published by the service (run-service.ts). */
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
    fd = fs.openSync(file, FILE.O_RDONLY | FILE.O_NOFOLLOW | FILE.O_NONBLOCK);
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
    fs.chmodSync(next, 0o644); // whatever the umask is: commands of other users read it
    fs.renameSync(next, file);
  } catch {
    fs.rmSync(next, { force: true }); // the next start tries again
  }
}

/** `whenUsed` calls its argument once the functions that are needed have been compiled. */
function load(name, flags, whenUsed) {
  const filename = join(__dirname, 'parts', name);
  const file = join(FOLDER, `${name}.code`);
  const source = fs.readFileSync(filename);
  const setFlags = () => flags !== '' && require('node:v8').setFlagsFromString(flags);
  setFlags();
  const cachedData = readCode(file, source);
  const script = new vm.Script(source.toString('latin1'), { filename, ...(cachedData && { cachedData }) });
  if (!cachedData || script.cachedDataRejected)
    whenUsed(() => {
      setFlags();
      writeCode(file, source, script);
    });
  const module = { exports: {} };
  script.runInThisContext()(module.exports, createRequire(filename), module, filename, dirname(filename));
}

function atRest(write) {
  const { subscribe, unsubscribe } = require('node:diagnostics_channel');
  const once = () => {
    unsubscribe(AT_REST, once);
    write();
  };
  subscribe(AT_REST, once);
}

const command = process.argv[2];
if (process.sourceMapsEnabled) {
  import('./parts/main.js'); // Node applies source maps to modules only
} else if (command === 'run') {
  // The code is written when the service has set this flag (lib/thread.ts): it must be set when the code is read, too.
  load('service.cjs', '--semi-space-growth-factor=1', atRest);
} else if (QUICK.includes(command)) {
  // The version needs few functions: its process does not write, as the code would stay without those of the other commands.
  load('quick.cjs', '', (write) => !/version|-V/.test(command) && process.on('exit', write));
} else import('./parts/main.js');
