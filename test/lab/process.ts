/** Child processes of the lab: argument arrays only, never a shell string. */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync, readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';

export interface Result {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}
export interface RunOptions {
  readonly input?: string | Buffer;
  /** Throw when the exit code is not 0. */
  readonly check?: boolean;
  readonly timeoutMs?: number;
  readonly env?: NodeJS.ProcessEnv;
}

function collect(child: ChildProcess): { stdout: Buffer[]; stderr: Buffer[] } {
  const out = { stdout: [] as Buffer[], stderr: [] as Buffer[] };
  child.stdout?.on('data', (d: Buffer) => out.stdout.push(d));
  child.stderr?.on('data', (d: Buffer) => out.stderr.push(d));
  return out;
}

/** Runs a command to its end. A signal counts as exit code 128; past `timeoutMs` (default 120 s) it is killed. */
export async function run(argv: readonly string[], options: RunOptions = {}): Promise<Result> {
  const [file, ...args] = argv;
  if (file === undefined) throw new Error('run: empty argument list');
  const result = await new Promise<Result>((resolve, reject) => {
    const child = spawn(file, args, {
      env: options.env ?? process.env,
      timeout: options.timeoutMs ?? 120_000,
      killSignal: 'SIGKILL',
      stdio: [options.input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'],
    });
    const out = collect(child);
    child.on('error', reject);
    child.on('close', (code) =>
      resolve({
        code: code ?? 128,
        stdout: Buffer.concat(out.stdout).toString(),
        stderr: Buffer.concat(out.stderr).toString(),
      }),
    );
    child.stdin?.on('error', () => undefined); // a command may end before it has read its input: its exit code tells
    child.stdin?.end(options.input);
  });
  if (options.check && result.code !== 0) {
    throw new Error(
      `${argv.join(' ')}: exit ${result.code}: ${result.stderr.trim() || result.stdout.trim()}`,
    );
  }
  return result;
}

/** Starts a long-running process in a session of its own, its output in the file `log`; it outlives this process. */
export function startDaemon(
  argv: readonly string[],
  log: string,
  env: NodeJS.ProcessEnv = process.env,
): number {
  const [file, ...args] = argv;
  if (file === undefined) throw new Error('startDaemon: empty argument list');
  const fd = openSync(log, 'a');
  try {
    const child = spawn(file, args, { env, detached: true, stdio: ['ignore', fd, fd] });
    child.on('error', () => undefined); // without a pid the throw below speaks
    child.unref();
    if (child.pid === undefined) throw new Error(`cannot start ${file}: is it installed?`);
    return child.pid;
  } finally {
    closeSync(fd);
  }
}

/** The last 2,000 characters of a log file. */
export const tail = (log: string): string => readFileSync(log, 'utf8').slice(-2000);

/** Kernel start time of a process (clock ticks since boot, field 22 of /proc/PID/stat): with the pid it is unique. */
export function startTime(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return fields[0] === 'Z' ? undefined : fields[19];
  } catch {
    return undefined; // no such process
  }
}
/** The program's name (/proc/PID/comm), undefined when there is no such process. */
export function commandOf(pid: number): string | undefined {
  try {
    return readFileSync(`/proc/${pid}/comm`, 'utf8').trim();
  } catch {
    return undefined; // no such process
  }
}
export const alive = (pid: number): boolean => startTime(pid) !== undefined;

/** A probe that takes long is paused for three times as long, up to this: it takes its time from what is waited for. */
const LONGEST_PAUSE_MS = 100;

/** Polls until `probe` gives something else than undefined or false; at least `everyMs` between two. */
export async function waitFor<T>(
  what: string,
  probe: () => Promise<T | undefined | false> | T | undefined | false,
  timeoutMs = 15_000,
  everyMs = 20,
): Promise<T> {
  const end = Date.now() + timeoutMs;
  while (Date.now() < end) {
    const began = performance.now();
    const value = await probe();
    if (value !== undefined && value !== false) return value;
    await delay(Math.max(everyMs, Math.min(3 * (performance.now() - began), LONGEST_PAUSE_MS)));
  }
  throw new Error(`waited ${timeoutMs} ms for ${what} in vain`);
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch (e) {
    if ((e as NodeJS.ErrnoException).code !== 'ESRCH') throw e;
  }
}

/** Ends one process: `first`, then SIGKILL when it is still there after `graceMs`. */
export async function end(pid: number, graceMs: number, first: NodeJS.Signals = 'SIGTERM'): Promise<void> {
  if (!alive(pid)) return;
  signal(pid, first);
  try {
    await waitFor(`end of process ${pid}`, () => !alive(pid), graceMs, 10);
  } catch {
    signal(pid, 'SIGKILL');
    await waitFor(`end of process ${pid} after SIGKILL`, () => !alive(pid), 10_000, 10);
  }
}

const link = (path: string): string | undefined => {
  try {
    return readlinkSync(path);
  } catch {
    return undefined; // the process has gone meanwhile
  }
};

/** `net:[INODE]` of a named namespace file such as /run/netns/NAME; undefined when it does not exist. */
export function namespaceOf(file: string): string | undefined {
  try {
    return `net:[${statSync(file).ino}]`;
  } catch {
    return undefined;
  }
}

/** Pids whose network namespace is one of `namespaces`, spelt as `namespaceOf` does. */
export function processesIn(namespaces: ReadonlySet<string>): number[] {
  const pids = readdirSync('/proc')
    .filter((n) => /^\d+$/.test(n))
    .map(Number);
  return pids.filter((pid) => namespaces.has(link(`/proc/${pid}/ns/net`) ?? ''));
}
