import { randomBytes } from 'node:crypto';
import { statSync } from 'node:fs';
import { constants, type FileHandle, link, open, unlink } from 'node:fs/promises';
import { connect, createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { errorCode, ignoreMissing } from '../lib/problem.js';
import { StoreError } from './store-error.js';

/**
 * Exclusive use of a folder: a listening unix socket named `lock` in it. The kernel closes the socket when its process
 * ends, also after kill -9 and a reboot, so a socket that refuses connections is stale. This works across pid and network
 * namespaces, where a pid identifies nothing.
 */
export interface FolderLock {
  /** Throws when the lock file was removed or replaced: another instance may be writing. */
  verify(): void;
  release(): Promise<void>;
}

const NAME = 'lock';
const TAKEOVER = 'lock.takeover';
const ATTEMPTS = 5;

export async function lockFolder(dir: string): Promise<FolderLock> {
  const handle = await open(dir, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    return await acquire(dir, handle);
  } catch (e) {
    await handle.close();
    throw e;
  }
}

/** Returns the description that the lock owner sends, or undefined when the folder is not locked or does not exist. Changes nothing. */
export async function lockHolder(dir: string): Promise<string | undefined> {
  let handle: FileHandle;
  try {
    handle = await open(dir, constants.O_RDONLY | constants.O_DIRECTORY);
  } catch (e) {
    ignoreMissing(e);
    return undefined;
  }
  try {
    return await probe(viaHandle(handle, NAME));
  } finally {
    await handle.close();
  }
}

async function acquire(dir: string, handle: FileHandle): Promise<FolderLock> {
  const own = `${NAME}.${randomBytes(6).toString('hex')}`;
  const server = await listen(viaHandle(handle, own));
  const ownId = identity(join(dir, own));
  try {
    await place(dir, handle, own);
  } catch (e) {
    await closeServer(server);
    throw e;
  } finally {
    await unlink(join(dir, own)).catch(ignoreMissing);
  }
  return lockOf(dir, handle, server, ownId);
}

/** Links the own socket as the lock. A stale lock is removed first. */
async function place(dir: string, handle: FileHandle, own: string): Promise<void> {
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    if (await tryLink(join(dir, own), join(dir, NAME))) return;
    await removeStale(dir, handle, { name: NAME, own });
  }
  throw lockedError(dir, 'another process that is starting');
}

/**
 * Removes a socket file if its process has ended. Throws if the process is alive. Only one process removes a given file: it links its own socket
 * under a name that contains the identity of that file. A process that is late finds another identity, and does not remove the new file.
 */
async function removeStale(
  dir: string,
  handle: FileHandle,
  { name, own }: { readonly name: string; readonly own: string },
): Promise<void> {
  const id = identity(join(dir, name));
  await refuseIfAlive(dir, handle, name);
  if (id === undefined) return;
  const claim = `${TAKEOVER}.${id}`;
  if (!(await tryLink(join(dir, own), join(dir, claim)))) {
    await removeStale(dir, handle, { name: claim, own });
    return;
  }
  try {
    if (identity(join(dir, name)) === id) await unlink(join(dir, name));
  } finally {
    await unlink(join(dir, claim)).catch(ignoreMissing);
  }
}

async function refuseIfAlive(dir: string, handle: FileHandle, name: string): Promise<void> {
  const holder = await probe(viaHandle(handle, name));
  if (holder !== undefined) throw lockedError(dir, holder);
}

function lockOf(dir: string, handle: FileHandle, server: Server, ownId: string | undefined): FolderLock {
  const path = join(dir, NAME);
  return {
    verify: () => {
      if (ownId !== undefined && identity(path) === ownId) return;
      throw new StoreError('locked', {
        detail: `${path} is no longer this process's lock`,
        remedy: `Restart the service, and let no two instances share ${dir}`,
      });
    },
    release: async () => {
      if (identity(path) === ownId) await unlink(path);
      await closeServer(server);
      await handle.close();
    },
  };
}

function lockedError(dir: string, holder: string): StoreError {
  return new StoreError('locked', {
    detail: `${dir} is in use by ${holder}`,
    remedy:
      'Stop that instance (drawbridge teardown, or systemctl stop drawbridge), or give this one a folder of its own ' +
      'with `state:` in its configuration',
  });
}

/** A path through an open folder: sun_path has 107 bytes, and the path of the folder may be longer. */
function viaHandle(handle: FileHandle, name: string): string {
  return `/proc/self/fd/${handle.fd}/${name}`;
}

function listen(path: string): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = createServer((socket) =>
      socket.on('error', () => socket.destroy()).end(`process ${process.pid}`),
    );
    server.on('error', reject); // also later, when a connection cannot be accepted: the lock is held without
    server.listen(path, () => resolve(server.unref()));
  });
}

/** Returns the description of the lock owner, a general one when it accepts but sends nothing, or undefined for a stale lock. */
function probe(path: string): Promise<string | undefined> {
  return new Promise((resolve, reject) => {
    let text = '';
    const socket = connect(path).setTimeout(500);
    const done = (holder: string | undefined) => {
      socket.destroy();
      resolve(holder);
    };
    socket.on('data', (d) => {
      text = (text + d.toString()).slice(0, 64);
    });
    socket.on('end', () => done(text || 'another process'));
    socket.on('timeout', () => done(text || 'another process, which does not answer'));
    socket.on('error', (e) => {
      const code = errorCode(e);
      if (code === 'ECONNREFUSED' || code === 'ENOENT') done(undefined);
      else if (code === 'EAGAIN' || code === 'ECONNRESET' || code === 'EPIPE') done('another process');
      else reject(e);
    });
  });
}

async function tryLink(from: string, to: string): Promise<boolean> {
  try {
    await link(from, to);
    return true;
  } catch (e) {
    if (errorCode(e) === 'EEXIST') return false;
    throw e;
  }
}

/** Identifies a file by inode and mtime, because inode numbers are reused. */
function identity(path: string): string | undefined {
  try {
    const s = statSync(path, { bigint: true });
    return `${s.ino}-${s.mtimeNs}`;
  } catch (e) {
    ignoreMissing(e);
    return undefined;
  }
}

function closeServer(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve());
  });
}
