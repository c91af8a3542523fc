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
const LINK_POLL_MS = { first: 4, growth: 1.1, most: 50 };
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

/** What packet sockets send passes no hook of IP, and a table at the device takes a device. */
async function closeFrames(path: string): Promise<void> {
  let pause = LINK_POLL_MS.first;
  for (const end = performance.now() + LINKED_WITHIN_MS; performance.now() < end; await delay(pause)) {
    try {
      const devices = await linksAt(path);
      if (devices.length > 0) return await layLan(exec, path, lanClosedFramesProgram(devices));
    } catch {
      return; // gone, opened or judged since; before Linux 5.16 the table with its rules reports that there is no such hook
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
