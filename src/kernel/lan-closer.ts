/**
 * The thread that closes new sandboxes to what would leave through macvlan and ipvlan links. It does nothing else: some 90 ms
 * are left before a container's first instruction, and the main thread may be busier than that.
 */
import { watch } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { parentPort } from 'node:worker_threads';
import { lanClosedFramesProgram } from '../desired/lan-program.js';
import { exec } from './exec.js';
import type { CloserRequest } from './lan-closer-client.js';
import { closeLan, layLan, linksAt } from './lan-rules.js';

const port = parentPort;
if (!port) throw new Error('kernel/lan-closer runs in a worker thread only');

const POLL_MS = 1;
/** From a sandbox's file to the namespace that is mounted on it. */
const MADE_WITHIN_MS = 1_000;
/** From the namespace to its link. */
const LINKED_WITHIN_MS = 3_000;
const LINK_POLL_MS = { first: 4, growth: 1.1, most: 25 };
/** Reading links that change, or a command of nft, may fail once. */
const MOST_FAILURES = 5;
const watched = new Set<string>();
let armed = false;

async function close(path: string): Promise<void> {
  for (const end = performance.now() + MADE_WITHIN_MS; performance.now() < end; await delay(POLL_MS)) {
    try {
      closeLan(path);
      return closeFrames(path);
    } catch (e) {
      if ((e as NodeJS.ErrnoException).code === 'ENOENT') return; // it was the file's end that was told
    }
  }
}

/**
 * What packet sockets send passes no hook of IP, and a table at the device takes a device. It fails for good where the namespace
 * has gone, has been opened or is evaluated by its own rules since; before Linux 5.16 there is no such hook, and the table with
 * the container's rules reports it.
 */
async function closeFrames(path: string): Promise<void> {
  let pause = LINK_POLL_MS.first;
  let failures = 0;
  for (const end = performance.now() + LINKED_WITHIN_MS; performance.now() < end; await delay(pause)) {
    try {
      const devices = await linksAt(path);
      if (devices.length > 0) return await layLan(exec, path, lanClosedFramesProgram(devices));
    } catch {
      if (++failures === MOST_FAILURES) return;
    }
    pause = Math.min(pause * LINK_POLL_MS.growth, LINK_POLL_MS.most);
  }
}

function follow(folder: string): void {
  if (watched.has(folder)) return;
  watched.add(folder);
  const watcher = watch(folder, (event, name) => {
    if (armed && event === 'rename' && name !== null) void close(join(folder, name));
  });
  watcher.on('error', () => {
    watcher.close(); // the folder went: it is told again when it is back
    watched.delete(folder);
  });
}

port.on('message', ({ folder, arm }: CloserRequest) => {
  if (folder !== undefined) follow(folder);
  if (arm !== undefined) armed = arm;
});
