import { readFileSync } from 'node:fs';
import { isRecord } from '../lib/json.js';
import type { Logger } from '../lib/log.js';
import type { SmallState } from '../store/small-state.js';

const BOOT_ID = '/proc/sys/kernel/random/boot_id';
/** Of a cause that is saved. */
const MOST = 1_000;
const AREA = 'run';
const KEY = 'running';

/**
 * Whether the run before was stopped, or why it ended. A row of the small state exists while the service runs; a stop removes it, and a process
 * that ends by a fault writes the cause into it. The lock of the state folder keeps other instances out.
 */
export class LastRun implements Disposable {
  readonly #state: SmallState;
  readonly #own: { readonly started: string; readonly boot: string };
  /** How the run before has ended; null: it was stopped, or there was none. */
  readonly ended: string | null;

  constructor(state: SmallState, log: Pick<Logger, 'warn'>) {
    this.#state = state;
    this.#own = { started: new Date().toISOString(), boot: readFileSync(BOOT_ID, 'utf8').trim() };
    this.ended = endOf(state.isDamaged ? '' : state.take(AREA).get(KEY), this.#own.boot);
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
    void this.#state.set(AREA, KEY, undefined);
  }

  #write(content: object): void {
    void this.#state.set(AREA, KEY, JSON.stringify(content));
    this.#state.flush();
  }
}

/** The row of a run that has ended, in words. */
function endOf(text: string | undefined, boot: string): string | null {
  if (text === undefined) return null;
  const run = parsed(text);
  if (typeof run.started !== 'string')
    return 'why it ended is not known, because the state of that run is damaged';
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
