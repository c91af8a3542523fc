import type { ChildProcess } from 'node:child_process';
import type { Logger } from '../lib/log.js';
import { errorText } from '../lib/problem.js';
import { startedModule } from '../lib/thread.js';
import {
  type ExecOptions,
  type ExecResult,
  execHere,
  killAbandoned,
  programs,
  runThrough,
  startProcess,
  TIMEOUT_MS,
} from './exec.js';

export interface ToolRequest {
  readonly id: number;
  readonly file: string;
  readonly args: readonly string[];
  readonly options: ExecOptions;
}
/** The process accepts requests from now on. */
export interface ToolsReady {
  readonly ready: true;
}
/** State of one request: the tool has started, has exited, or could not be run to its end. */
export type ToolReport =
  | { readonly id: number; readonly pid: number }
  | { readonly id: number; readonly result: ExecResult }
  | { readonly id: number; readonly failure: string };

/** V8 starts four threads to help the main one, which a process that only starts programs does not need. */
const ONE_HELPER = '--v8-pool-size=1';
const RESTART_MS = 1_000;
/** The process kills a tool that takes too long. If it has not done so for this much longer, it hangs itself. */
const GRACE_MS = 10_000;
const RECHECK_MS = 100;

interface Waiting {
  readonly onStarted: (pid: number) => void;
  /** Of the tool, once it has started. */
  pid?: number;
  readonly resolve: (result: ExecResult) => void;
  readonly reject: (error: Error) => void;
}

/**
 * A small process that starts the kernel's tools for the service. Starting a program copies the page tables of the process that
 * does it, and its event loop waits for that: 11 ms with the 250 MB of a service, 0.8 ms in a process that has just begun. While it is
 * not there, the service starts its tools itself: also during its own start, when its memory is small yet, and when the 100 ms of
 * processor time that Node takes would delay it.
 */
export class ToolProcess implements AsyncDisposable {
  readonly #log: Logger;
  readonly #graceMs: number;
  readonly #waiting = new Map<number, Waiting>();
  #child: ChildProcess | undefined;
  #again: NodeJS.Timeout | undefined;
  #requests = 0;
  #ended = false;

  constructor(log: Logger, graceMs = GRACE_MS) {
    this.#log = log;
    this.#graceMs = graceMs;
  }

  /** Once the service is ready. */
  begin(): void {
    void this.#start();
  }

  async #start(): Promise<void> {
    const { file, loader } = startedModule(new URL('./tool-runner.js', import.meta.url));
    try {
      const { execaNode } = await programs();
      const { child } = await startProcess(process.execPath, [file], () =>
        execaNode(file, [], {
          nodeOptions: [ONE_HELPER, ...loader],
          ipc: true,
          reject: false,
          buffer: false,
          stdin: 'ignore',
          stdout: 'ignore',
          stderr: 'inherit',
          cleanup: false, // it exits by itself, once its tools have exited
        }),
      );
      this.#child = child;
      child.on('message', (message) => this.#take(message as ToolReport | ToolsReady));
      if (this.#ended) child.disconnect();
      const { shortMessage } = await child;
      this.#lost(shortMessage ?? 'it ended');
    } catch (e) {
      this.#lost(errorText(e));
    }
  }

  #take(message: ToolReport | ToolsReady): void {
    if ('ready' in message) {
      if (!this.#ended) runThrough(this.#run);
      return;
    }
    const waiting = this.#waiting.get(message.id);
    if (!waiting) return;
    if ('pid' in message) {
      waiting.pid = message.pid;
      waiting.onStarted(message.pid);
      return;
    }
    this.#waiting.delete(message.id);
    if ('result' in message) waiting.resolve(message.result);
    else waiting.reject(new Error(message.failure));
  }

  readonly #run = (
    file: string,
    args: readonly string[],
    options: ExecOptions,
    onStarted: (pid: number) => void,
  ): Promise<ExecResult> => {
    const child = this.#child;
    if (!child?.connected) return execHere(file, args, options, onStarted);
    const id = ++this.#requests;
    // After a pause of the service itself, the messages that have arrived are read first.
    const kill = () => setTimeout(() => this.#waiting.has(id) && child.kill('SIGKILL'), RECHECK_MS).unref();
    const stuck = setTimeout(kill, (options.timeoutMs ?? TIMEOUT_MS) + this.#graceMs);
    return new Promise<ExecResult>((resolve, reject) => {
      this.#waiting.set(id, { onStarted, resolve, reject });
      child.send({ id, file, args, options } satisfies ToolRequest, (error) => {
        if (!error || !this.#waiting.delete(id)) return;
        execHere(file, args, options, onStarted).then(resolve, reject);
      });
    }).finally(() => clearTimeout(stuck));
  };

  /** Its tools are killed. Their work may be done or not, so that the callers must read the kernel again. */
  #lost(why: string): void {
    if (!this.#ended) runThrough(undefined); // after the end of this object, another one may be in use
    this.#child = undefined;
    for (const { pid } of this.#waiting.values()) if (pid !== undefined) killAbandoned(pid);
    for (const { reject } of this.#waiting.values())
      reject(new Error(`the process that starts the kernel's tools has ended: ${why}`));
    this.#waiting.clear();
    if (this.#ended) return;
    this.#log.warn({ why }, "the process that starts the kernel's tools has ended: it is started again");
    this.#again = setTimeout(() => void this.#start(), RESTART_MS).unref();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended = true;
    clearTimeout(this.#again);
    runThrough(undefined);
    if (this.#child?.connected) this.#child.disconnect();
  }
}
