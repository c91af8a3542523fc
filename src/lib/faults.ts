import type { Logger } from './log.js';
import { errorText } from './problem.js';

/** As many within a minute mean that going on leads nowhere. */
const MOST = 100;
const WINDOW_MS = 60_000;

let containedLog: Pick<Logger, 'error'> | undefined;
/** Errors that are contained are logged here from now on. */
export function logContained(log: Pick<Logger, 'error'> | undefined): void {
  containedLog = log;
}

/**
 * Reports an error in the handling of one packet, query, message or event, of which the caller drops only that one. What a container, the network
 * or Docker sends arrives in callbacks of the event loop, where an error would end the process. `what` names what is not done, and the
 * log is bounded (log.ts). In a program without such a log, such as a test or a command, the error ends the process.
 */
export function contained(error: unknown, what: string): void {
  if (containedLog) containedLog.error({ err: error }, what);
  else
    setImmediate(() => {
      throw error;
    });
}

/** Runs `work`, and contains what it throws. */
export function guarded(what: string, work: () => void): void {
  try {
    work();
  } catch (error) {
    contained(error, what);
  }
}

export interface FaultsOptions {
  /** Reads the kernel again and applies the desired state; resolves when that has succeeded. */
  readonly resync: () => Promise<void>;
  /** Ends the process, of which `cause` is told at its next start. */
  readonly exit: (cause: string) => void;
  readonly log: Pick<Logger, 'error' | 'info'>;
  readonly now: () => number;
}

/**
 * Handles errors that no code has caught. After a refusal by the system, such as descriptors that have run out or a socket that cannot be
 * connected, and after a rejected promise, the work that was affected has failed alone: the process goes on, is not ready until a pass has read the
 * kernel again and succeeded, and logs both. Any other error has left a callback of the program half-way, after which its state is unknown: it
 * exits, the kernel keeps enforcing, and the service manager starts it again.
 */
export class Faults {
  readonly #o: FaultsOptions;
  #times: readonly number[] = [];
  /** Errors so far. */
  #taken = 0;
  /** Messages that were logged since a pass has succeeded. */
  readonly #logged = new Set<string>();
  /** The last such error; undefined when a pass has succeeded since. */
  pending: string | undefined;

  constructor(options: FaultsOptions) {
    this.#o = options;
  }

  take(error: unknown, isRejection = false): void {
    const { log, now, exit } = this.#o;
    const message = errorText(error);
    this.#times = [...this.#times.filter((t) => t > now() - WINDOW_MS), now()];
    const isMany = this.#times.length > MOST;
    if (isMany || !(isRejection || isOfSystem(error))) {
      log.error(
        { err: error },
        'a fault that nothing handles: the service ends, and the kernel keeps enforcing',
      );
      exit(isMany ? `${MOST} faults within a minute, the last of which was ${message}` : causeOf(error));
      return;
    }
    if (!this.#logged.has(message))
      log.error(
        { err: error },
        'a task has failed, and nothing has handled it: the service goes on, and is not ready until the kernel has been read again',
      );
    this.#logged.add(message);
    this.#taken += 1;
    const isFirst = this.pending === undefined;
    this.pending = `a task failed (${message}): if this host has run out of descriptors, memory or disk, free some`;
    if (isFirst) void this.#recover();
  }

  /** A task that fails meanwhile may have changed what has been read: the kernel is read again. So many at most end the service (`take`). */
  async #recover(): Promise<void> {
    const { resync, log } = this.#o;
    let taken: number;
    do {
      taken = this.#taken;
      try {
        await resync();
        if (this.#taken === taken)
          log.info({}, 'the kernel holds what it should again, after a task had failed');
      } catch (e) {
        // The reconciler tries again, and reports itself that the kernel is not in sync.
        log.error({ err: String(e) }, 'the kernel could not be brought in sync yet');
      }
    } while (this.#taken !== taken);
    this.#logged.clear();
    this.pending = undefined;
  }

  /** From here on this process's own last handlers lead here. */
  watch(of: NodeJS.EventEmitter = process): Disposable {
    const thrown = (error: unknown): void => this.take(error);
    const rejected = (error: unknown): void => this.take(error, true);
    of.on('uncaughtException', thrown);
    of.on('unhandledRejection', rejected);
    return {
      [Symbol.dispose]: () => {
        of.off('uncaughtException', thrown);
        of.off('unhandledRejection', rejected);
      },
    };
  }
}

/** The message, and where it was thrown. */
function causeOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const [at] = /^ +at .*$/m.exec(error.stack ?? '') ?? [];
  return `${error.name}: ${error.message}${at === undefined ? '' : `, ${at.trim()}`}`;
}

/**
 * Whether a call has failed, and has changed nothing in the state of the program. An error of a system call has `errno`,
 * a code such as EPIPE, or (from node:os) `info`. An error of Node about a socket, a stream or the like has a code that
 * begins with ERR_ and that word.
 */
function isOfSystem(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  const { code, errno, info } = error as Partial<Record<'code' | 'errno' | 'info', unknown>>;
  return (
    typeof errno === 'number' ||
    info !== undefined ||
    /^E(?!RR_)|^ERR_(SOCKET|STREAM|IPC|SERVER|HTTP)_/.test(String(code))
  );
}
