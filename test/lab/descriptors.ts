/** A process without descriptors: the limit (RLIMIT_NOFILE) bounds their numbers, and those that are open stay open. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Lab } from './lab.js';
import { alive, end, run, startDaemon, tail, waitFor } from './process.js';

/**
 * Lowers the soft limit of a running process so that it may open `spare` more; disposing sets it back. The process has all
 * that it had.
 */
export async function limitDescriptors(pid: number, spare: number): Promise<AsyncDisposable> {
  const before = softLimit(pid);
  await setSoftLimit(pid, lowest(pid, spare));
  return {
    [Symbol.asyncDispose]: async () => {
      if (alive(pid)) await setSoftLimit(pid, before);
    },
  };
}

function softLimit(pid: number): string {
  const [, soft] = /^Max open files\s+(\S+)/m.exec(readFileSync(`/proc/${pid}/limits`, 'utf8')) ?? [];
  if (soft === undefined) throw new Error(`/proc/${pid}/limits names no limit of open files`);
  return soft;
}
async function setSoftLimit(pid: number, soft: string): Promise<void> {
  await run(['prlimit', '--pid', String(pid), `--nofile=${soft}:`], { check: true });
}

/** The limit below which `spare` numbers are free: a new descriptor gets the lowest of them. */
function lowest(pid: number, spare: number): string {
  const open = new Set(readdirSync(`/proc/${pid}/fd`).map(Number));
  let limit = 0;
  for (let free = 0; free < spare || open.has(limit); limit++) free += open.has(limit) ? 0 : 1;
  return String(limit);
}

/** Connects to a port again and again, and holds what it gets without a word. */
const HOLD = `
const { connect } = require('node:net');
const [port, count] = process.argv.slice(1).map(Number);
const hold = () => {
  const socket = connect(port, '127.0.0.1');
  socket.on('error', () => undefined);
  socket.on('close', () => setTimeout(hold, 50));
};
for (let n = 0; n < count; n++) hold();
console.log('holding');
`;

/** From a process of HOST that has no token. `port`: of 127.0.0.1. */
export async function holdConnections(lab: Lab, port: number, count: number): Promise<AsyncDisposable> {
  const log = join(lab.dir, 'connections.log');
  const argv = lab.view.inside([process.execPath, '-e', HOLD, String(port), String(count)]);
  const pid = startDaemon(argv, log, lab.view.env);
  await waitFor('the connections', () => tail(log).includes('holding'), 20_000);
  return { [Symbol.asyncDispose]: () => end(pid, 5_000) };
}
