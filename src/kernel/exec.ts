import type { ChildProcess } from 'node:child_process';
import { subscribe } from 'node:diagnostics_channel';
import { once } from 'node:events';
import { closeSync, openSync, statSync, writeFileSync } from 'node:fs';
import { setPriority } from 'node:os';
import { join } from 'node:path';
import { errorCode, errorText } from '../lib/problem.js';

export interface ExecResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}
export interface ExecOptions {
  readonly input?: string;
  readonly timeoutMs?: number;
  /** The nice value of the process; left out: that of the service, which is above others. */
  readonly nice?: number;
}
/** Runs a program with an argument array, never through a shell. Injected, so that what is run can be listed. */
export type Exec = (file: string, args: readonly string[], options?: ExecOptions) => Promise<ExecResult>;

export const TIMEOUT_MS = 20_000;
const MAX_OUTPUT = 256 * 1024 * 1024;
/** Loaded on use: it takes 15 ms, and the threads start no program on most hosts. */
export const programs = (): Promise<typeof import('execa')> => import('execa');
/** pids of our own children. */
const children = new Set<number>();
const REMEMBERED = 512;
/**
 * `nft monitor` reports the process of each change: this one, which speaks netlink itself, or a program that it has
 * started.
 */
export const isOwnProcess = (pid: number): boolean => pid === process.pid || children.has(pid);

function remember(pid: number): void {
  children.add(pid);
  if (children.size > REMEMBERED)
    for (const oldest of [...children].slice(0, REMEMBERED / 2)) children.delete(oldest);
}

/**
 * Kill a program that no caller waits for any more: it might still write rules that are older than those of the next
 * pass. Changes that it makes until it exits count as those of another process, which causes a repair.
 */
export function killAbandoned(pid: number): void {
  children.delete(pid);
  try {
    process.kill(pid, 'SIGKILL');
  } catch (e) {
    if (errorCode(e) !== 'ESRCH') throw e; // ESRCH: it has exited
  }
}

/** The newest child process object of this thread. */
let newest: ChildProcess | undefined;
subscribe('child_process', (message) => {
  newest = (message as { readonly process: ChildProcess }).process;
});

const OUT_OF: Readonly<Record<string, string>> = {
  EMFILE:
    'this process has no file descriptor left (EMFILE): close what holds them, or raise LimitNOFILE in its unit',
  ENFILE: 'this host has no file descriptor left (ENFILE): raise the sysctl fs.file-max',
};

/** The reason why this process cannot open a file now. Returns undefined when it can. */
export function outOfDescriptors(): string | undefined {
  try {
    closeSync(openSync('/dev/null', 'r'));
    return undefined;
  } catch (e) {
    return OUT_OF[errorCode(e) ?? ''];
  }
}

/**
 * Starts a program. Without a free descriptor, `spawn` of Node returns a child without streams, and reports the cause
 * by an `error` event in the next tick. execa reads the streams first and throws a TypeError. It does not listen to the
 * event by then, which would be an uncaught exception: one of a hundred after which the service ends (lib/faults.ts).
 */
export async function startProcess<T extends { readonly pid?: number | undefined }>(
  file: string,
  args: readonly string[],
  start: () => T,
): Promise<{ readonly child: T }> {
  newest = undefined;
  try {
    const child = start();
    if (child.pid !== undefined) remember(child.pid);
    return { child };
  } catch (e) {
    const failed = newest as ChildProcess | undefined;
    if (failed === undefined || failed.pid !== undefined || failed.stdio !== undefined) throw e;
    const [cause] = (await once(failed, 'error')) as [Error];
    throw new KernelError(file, args, OUT_OF[errorCode(cause) ?? ''] ?? cause.message);
  }
}

/** PATH of the programs that are started. */
const searchPath = (): string => `${process.env.PATH ?? ''}:/usr/sbin:/sbin`;

/** Differs when another file, or another version of it, would be started under one of these names. */
export function fingerprintOf(programs: readonly string[]): string {
  const folders = searchPath().split(':');
  return programs
    .map((name) => {
      for (const folder of folders) {
        const found = statSync(join(folder, name), { throwIfNoEntry: false });
        if (found?.isFile()) return [folder, found.dev, found.ino, found.size, found.mtimeMs].join(' ');
      }
      return 'none';
    })
    .join('\n');
}

/** setpriv(1) of util-linux: the kernel kills the program when this process ends, however that happens (PR_SET_PDEATHSIG). */
const BOUND_TO_US = ['--pdeathsig', 'KILL', '--'] as const;
/** The command line that starts a program which must not outlive this process; of busybox alone, setpriv has no such option. */
async function boundToUs(file: string, args: readonly string[]): Promise<readonly [string, ...string[]]> {
  hasSetpriv ??= execHere('setpriv', [...BOUND_TO_US, 'true']).then(
    ({ code }) => code === 0,
    () => false,
  );
  return (await hasSetpriv) ? ['setpriv', ...BOUND_TO_US, file, ...args] : [file, ...args];
}
let hasSetpriv: Promise<boolean> | undefined;

/** Runs a program as a child of this process. `onStarted` is called with its pid. */
export async function execHere(
  file: string,
  args: readonly string[],
  options: ExecOptions = {},
  onStarted: (pid: number) => void = () => undefined,
): Promise<ExecResult> {
  const { execa } = await programs();
  const { child } = await startProcess(file, args, () =>
    execa(file, [...args], {
      reject: false,
      stripFinalNewline: false,
      timeout: options.timeoutMs ?? TIMEOUT_MS,
      maxBuffer: MAX_OUTPUT,
      env: { LC_ALL: 'C', PATH: searchPath() },
      ...(options.input === undefined ? { stdin: 'ignore' } : { input: options.input }),
      ...(options.nice === undefined ? {} : { detached: true }),
    }),
  );
  if (child.pid !== undefined) {
    onStarted(child.pid);
    if (options.nice !== undefined) lower(child.pid, options.nice);
  }
  const result = await child;
  if (result.exitCode === undefined)
    throw new KernelError(file, args, `${result.shortMessage ?? 'did not end'}`);
  return { code: result.exitCode, stdout: String(result.stdout ?? ''), stderr: String(result.stderr ?? '') };
}

/** Starts programs instead of this process. Undefined when this process starts them itself. */
let runner:
  | ((
      file: string,
      args: readonly string[],
      options: ExecOptions,
      onStarted: (pid: number) => void,
    ) => Promise<ExecResult>)
  | undefined;
/** Makes `exec` run programs in this way. With undefined, they run as children of this process. */
export function runThrough(other: typeof runner): void {
  runner = other;
}
export const exec: Exec = (file, args, options = {}) =>
  runner ? runner(file, args, options, remember) : execHere(file, args, options);

/**
 * A nice value counts within a group of processes. Where the kernel makes such a group of each session (sched(7), autogroup),
 * the group has a nice value of its own: the process is started in a session of its own for that.
 */
function lower(pid: number, nice: number): void {
  try {
    setPriority(pid, nice);
    writeFileSync(`/proc/${pid}/autogroup`, String(nice));
  } catch {
    // It has exited already, or the kernel has no autogroups.
  }
}

const NICE_OF_READERS = 10;
/** Longer than for the tools of passes: on a busy host, a process of this priority gets little processor time. */
const TIMEOUT_OF_READERS_MS = 60_000;
/**
 * An Exec for readers of the API: its processes yield to those of the passes, which have the priority of the service.
 */
export const asReader =
  (run: Exec): Exec =>
  (file, args, options) =>
    run(file, args, { timeoutMs: TIMEOUT_OF_READERS_MS, ...options, nice: NICE_OF_READERS });

/** Failures that callers handle: an object that the tool reads was removed while it ran. */
export type ToolFailure = 'set removed' | 'table removed';
/** The tools exit with 1 for every failure: what has failed is only in their error output. */
const FAILURES: readonly {
  readonly command: RegExp;
  readonly output: RegExp;
  readonly failure: ToolFailure;
}[] = [
  {
    command: /^ip6?tables-save/,
    output: /Set with index \d+ in kernel doesn't exist/,
    failure: 'set removed',
  },
  {
    command: /^ipset restore/,
    output: /The set with the given name does not exist/,
    failure: 'set removed',
  },
  {
    command: /^nft -j list table /,
    output: /^Error: No such file or directory/,
    failure: 'table removed',
  },
];

/** A kernel tool failed. The message has the command, and the tool's error output. */
class KernelError extends Error {
  readonly failure: ToolFailure | undefined;
  constructor(tool: string, args: readonly string[], output: string) {
    const command = [tool, ...args].join(' ');
    super(`${command}: ${output.trim()}`);
    this.failure = FAILURES.find((f) => f.command.test(command) && f.output.test(output.trim()))?.failure;
  }
}

/** Whether a kernel tool has failed in this way. */
export const hasFailed = (error: unknown, failure: ToolFailure): boolean =>
  error instanceof KernelError && error.failure === failure;

export interface HookResult {
  /** Undefined: it was killed, or did not start. */
  readonly code: number | undefined;
  /** The beginning of what it wrote to standard output and standard error. */
  readonly output: string;
}
const HOOK_OUTPUT = 4096;

/**
 * Runs a program of the operator, in a session and a process group of its own, with nothing of the environment of the service but PATH. At
 * the time limit, and when `signal` aborts, the whole group is killed. It is no child in the sense of `isOwnProcess`: rules that
 * it changes were changed by another program. Never rejects.
 */
export async function runHook(
  file: string,
  args: readonly string[],
  options: { readonly input: string; readonly timeoutMs: number; readonly signal: AbortSignal },
): Promise<HookResult> {
  const { execa } = await programs();
  const [program, ...words] = await boundToUs(file, args);
  const ending = AbortSignal.any([options.signal, AbortSignal.timeout(options.timeoutMs)]);
  let output = '';
  try {
    const child = execa(program, words, {
      reject: false,
      detached: true,
      cleanup: false,
      buffer: false,
      all: true,
      input: options.input,
      extendEnv: false,
      env: { LC_ALL: 'C.UTF-8', PATH: searchPath() },
    });
    const { pid } = child;
    if (pid !== undefined) lower(pid, 0);
    const kill = (): void => {
      if (pid !== undefined) killGroup(pid);
    };
    ending.addEventListener('abort', kill, { once: true });
    try {
      for await (const part of child.iterable({ from: 'all', binary: true }))
        if (output.length < HOOK_OUTPUT) output += Buffer.from(part).toString().slice(0, HOOK_OUTPUT);
      const { exitCode, shortMessage } = await child;
      if (ending.aborted) return { code: undefined, output: `${output}it took too long, and was killed` };
      return { code: exitCode, output: output || (exitCode === 0 ? '' : (shortMessage ?? '')) };
    } finally {
      ending.removeEventListener('abort', kill);
    }
  } catch (e) {
    return { code: undefined, output: `${output}${errorText(e)}` };
  }
}

function killGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // ESRCH: all of its processes have exited.
  }
}

/**
 * Starts a program that outlives this process, in a session of its own: its descriptor 3 is `fd`, and its standard input ends with this process.
 * Rejects if it cannot be started.
 */
export async function startKeeper(file: string, args: readonly string[], fd: number) {
  const { execa } = await programs();
  const { child } = await startProcess(file, args, () =>
    execa(file, [...args], {
      reject: false,
      detached: true,
      cleanup: false,
      buffer: false,
      stdio: ['pipe', 'ignore', 'ignore', fd as 2], // the types of execa know the standard descriptors only
      extendEnv: false,
      env: { LC_ALL: 'C', PATH: searchPath() },
    }),
  );
  child.unref();
  return { child };
}

/** Runs and throws unless it exits 0. */
export async function must(
  run: Exec,
  file: string,
  args: readonly string[],
  options?: ExecOptions,
): Promise<string> {
  const result = await run(file, args, options);
  if (result.code !== 0) throw new KernelError(file, args, result.stderr || `exit ${result.code}`);
  return result.stdout;
}

/**
 * Starts a long-lived program and passes on its lines. It stops when `signal` aborts, or this process ends. Resolves with the reason of
 * its end.
 */
export async function follow(
  file: string,
  args: readonly string[],
  onLine: (line: string) => void,
  signal: AbortSignal,
): Promise<string> {
  const { execa } = await programs();
  const [program, ...words] = await boundToUs(file, args);
  const { child } = await startProcess(file, args, () =>
    execa(program, words, {
      reject: false,
      stdin: 'ignore',
      buffer: false,
      cancelSignal: signal,
      env: { LC_ALL: 'C', PATH: searchPath() },
    }),
  );
  for await (const line of child.iterable({ from: 'stdout' })) onLine(String(line));
  const result = await child;
  return result.isCanceled ? 'stopped' : (result.shortMessage ?? 'ended');
}
