import type { Logger } from './log.js';

/** Codes of errors for a resource that this host has run out of: no fault of the program, and over when it is freed. */
const EXHAUSTED: ReadonlySet<unknown> = new Set([
  'EMFILE',
  'ENFILE',
  'ENOMEM',
  'ENOBUFS',
  'ENOSPC',
  'EAGAIN',
]);
/** As many within a minute mean that going on leads nowhere. */
const MOST = 100;
const WINDOW_MS = 60_000;

export interface FaultsOptions {
  /** Reads the kernel again and applies the desired state; resolves when that has succeeded. */
  readonly resync: () => Promise<void>;
  readonly exit: (code: number) => void;
  readonly log: Pick<Logger, 'error' | 'info'>;
  readonly now: () => number;
}

/**
 * Handles errors that no code has caught. When descriptors, memory or disk have run out, the process goes on, is not ready
 * until a pass has read the kernel again and succeeded, and logs both. Any other error is a fault of the program, after which its
 * state is unknown: it exits, the kernel keeps enforcing, and the service manager starts it again.
 */
export class Faults {
  readonly #o: FaultsOptions;
  #times: readonly number[] = [];
  /** The last such error; undefined when a pass has succeeded since. */
  pending: string | undefined;

  constructor(options: FaultsOptions) {
    this.#o = options;
  }

  take(error: unknown): void {
    const { log, now, exit } = this.#o;
    const message = error instanceof Error ? error.message : String(error);
    this.#times = [...this.#times.filter((t) => t > now() - WINDOW_MS), now()];
    if (!isExhaustion(error) || this.#times.length > MOST) {
      log.error(
        { err: error },
        'a fault that nothing handles: the service ends, and the kernel keeps enforcing',
      );
      exit(1);
      return;
    }
    if (this.pending === undefined)
      log.error(
        { err: error },
        'this host has run out of a resource: the service goes on, and is not ready until the kernel has been read again',
      );
    const isFirst = this.pending === undefined;
    this.pending = `a task failed (${message}): free what this host has run out of (descriptors, memory or disk)`;
    if (isFirst) void this.#recover();
  }

  async #recover(): Promise<void> {
    try {
      await this.#o.resync();
      this.#o.log.info({}, 'the kernel holds what it should again, after a resource had run out');
    } catch (e) {
      // The reconciler tries again, and reports itself that the kernel is not in sync.
      this.#o.log.error({ err: String(e) }, 'the kernel could not be brought in sync yet');
    }
    this.pending = undefined;
  }

  /** From here on this process's own last handlers lead here. */
  watch(of: NodeJS.EventEmitter = process): Disposable {
    const take = (error: unknown): void => this.take(error);
    of.on('uncaughtException', take);
    of.on('unhandledRejection', take);
    return {
      [Symbol.dispose]: () => {
        of.off('uncaughtException', take);
        of.off('unhandledRejection', take);
      },
    };
  }
}

/** libuv's errors have their code as text in `code`, or, from `os`, in `info`. */
function isExhaustion(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  const { code, info } = error as { readonly code?: unknown; readonly info?: { readonly code?: unknown } };
  return EXHAUSTED.has(code) || EXHAUSTED.has(info?.code);
}
