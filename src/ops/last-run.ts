import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { isRecord } from '../lib/json.js';
import type { Logger } from '../lib/log.js';
import { writeStateFile } from '../store/state-file.js';

const BOOT_ID = '/proc/sys/kernel/random/boot_id';
/** Of a cause in the file. */
const MOST = 1_000;

/**
 * Whether the run before was stopped, or why it ended. A file of the state folder exists while the service runs; a stop removes it, and a process that
 * ends by a fault writes the cause into it. The lock of the state folder keeps other instances out.
 */
export class LastRun implements Disposable {
  readonly #file: string;
  readonly #log: Pick<Logger, 'warn' | 'debug'>;
  readonly #own: { readonly started: string; readonly boot: string };
  /** How the run before has ended; null: it was stopped, or there was none. */
  readonly ended: string | null;

  constructor(state: string, log: Pick<Logger, 'warn' | 'debug'>) {
    this.#file = join(state, 'running.json');
    this.#log = log;
    this.#own = { started: new Date().toISOString(), boot: textOf(BOOT_ID)?.trim() ?? '' };
    this.ended = endOf(textOf(this.#file), this.#own.boot);
    if (this.ended !== null) log.warn({ ended: this.ended }, 'the service was not stopped before this start');
    this.#write(this.#own);
  }

  /** For the status. */
  get warning(): string | undefined {
    return this.ended === null ? undefined : `the service was not stopped before it started: ${this.ended}`;
  }

  /** The process ends now, by this fault. */
  fault(cause: string): void {
    this.#write({ ...this.#own, fault: { at: new Date().toISOString(), cause: cause.slice(0, MOST) } });
  }

  [Symbol.dispose](): void {
    rmSync(this.#file, { force: true });
  }

  #write(content: object): void {
    try {
      writeStateFile(this.#file, content);
    } catch (e) {
      this.#log.debug({ err: String(e) }, 'the next start is not told how this run has ended');
    }
  }
}

/** Undefined if there is no such file; empty if it cannot be read. */
function textOf(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8');
  } catch (e) {
    return (e as NodeJS.ErrnoException).code === 'ENOENT' ? undefined : '';
  }
}

/** The content of the file of a run that has ended, in words. */
function endOf(text: string | undefined, boot: string): string | null {
  if (text === undefined) return null;
  const run = parsed(text);
  if (typeof run.started !== 'string') return 'why it ended is not known, because running.json is damaged';
  const fault = isRecord(run.fault) ? run.fault : undefined;
  if (fault) return `a fault ended it at ${String(fault.at)}: ${String(fault.cause)}`;
  const since = `it had run since ${String(run.started)}`;
  if (run.boot !== boot) return `the host was started again or lost power, ${since}`;
  return `it was killed (SIGKILL, out of memory, the watchdog), or native code has ended it, ${since}`;
}

function parsed(text: string): Readonly<Record<string, unknown>> {
  try {
    const found: unknown = JSON.parse(text);
    return isRecord(found) ? found : {};
  } catch {
    return {};
  }
}
