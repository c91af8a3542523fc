/** Programs that send and receive on one core, each in a network namespace and a cgroup, whose processor time is measured. */
import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import type { Readable, Writable } from 'node:stream';
import { Cgroups } from '../src/kernel/cgroups.js';
import { commandOf } from '../test/lab/process.js';

const CORE = availableParallelism() - 1;
export const cgroups = new Cgroups();

export type Part = ChildProcessByStdio<Writable, Readable, null>;
/** All that were started, so that they can be ended. */
export const parts: Part[] = [];
/** Starts Node with these arguments. */
export function startPart(netns: string, cgroup: string, argv: readonly string[]): Part {
  const command = `echo $$ > ${cgroups.folder(cgroup)}/cgroup.procs && exec nsenter "$@"`;
  const pinned = [`--net=${netns}`, '--', 'taskset', '-c', String(CORE), process.execPath, ...argv];
  const part = spawn('sh', ['-c', command, 'sh', ...pinned], { stdio: ['pipe', 'pipe', 'inherit'] });
  part.setMaxListeners(0);
  parts.push(part);
  return part;
}
/** What it prints next. Rejects when it ends. */
export async function answerOf(part: Part): Promise<string> {
  const ended = once(part, 'exit').then(([code]) => {
    throw new Error(`a program of the bench ended with ${code}`);
  });
  const [text] = (await Promise.race([once(part.stdout, 'data'), ended])) as [Buffer];
  return text.toString();
}

/** Processor time of all processes that have been in a cgroup, ns. */
export const timeOf = (cgroup: string): number =>
  Number(/usage_usec (\d+)/.exec(readFileSync(`${cgroups.folder(cgroup)}/cpu.stat`, 'utf8'))?.[1]) * 1000;
const SOFTIRQ_THREAD = readdirSync('/proc').find(
  (pid) => /^\d+$/.test(pid) && commandOf(Number(pid)) === `ksoftirqd/${CORE}`,
);
/** Of the core's thread for software interrupts, ns. */
export const softirqTime = (): number =>
  Number(readFileSync(`/proc/${SOFTIRQ_THREAD}/schedstat`, 'utf8').split(' ')[0]);
