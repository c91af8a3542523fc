import type { ServiceManager } from '../ops/service-manager.js';
import type { Log, RunningService } from './host.js';

/** For so long the service may be starting again, after a SIGHUP. */
const RELOAD_MS = 120_000;
/** Words of a status line. */
const LINE = /[\r\n]+/g;

/**
 * Reports to the service manager: ready, reloading, stopping, and alive. Alive means that the event loop turns and that the
 * service says of itself that nothing is stuck; else the watchdog ends the process, and systemd starts it again. The kernel
 * enforces meanwhile.
 */
export class Liveness implements Disposable {
  readonly #manager: ServiceManager | undefined;
  readonly #now: () => number;
  #log: Log | undefined;
  #service: RunningService | undefined;
  #since: number;
  #timer: NodeJS.Timeout | undefined;
  #isBroken = false;
  #stuck: string | undefined;

  constructor(manager: ServiceManager | undefined, now: () => number = () => performance.now()) {
    this.#manager = manager;
    this.#now = now;
    this.#since = now();
    const period = manager?.watchdogMs;
    if (period !== undefined) this.#timer = setInterval(() => this.#beat(), period / 4);
  }

  ready(service: RunningService, log: Log): void {
    this.#log = log;
    this.#service = service;
    this.#notify('READY=1\nSTATUS=running: drawbridge status says what is enforced');
  }
  reloading(): void {
    this.#service = undefined;
    this.#since = this.#now();
    const usec = process.hrtime.bigint() / 1000n;
    this.#notify(`RELOADING=1\nMONOTONIC_USEC=${usec}\nSTATUS=starting again with the new configuration`);
  }
  stopping(): void {
    this.#notify('STOPPING=1\nSTATUS=ending; the kernel keeps enforcing');
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }

  #beat(): void {
    const stuck = this.#whatIsStuck();
    if (stuck === undefined) this.#notify('WATCHDOG=1');
    else if (this.#stuck === undefined) {
      this.#log?.error(
        { stuck },
        'not alive: the watchdog of the service manager is going to end this process',
      );
      this.#notify(`STATUS=stuck: ${stuck.replace(LINE, ' ')}`);
    }
    this.#stuck = stuck;
  }
  #whatIsStuck(): string | undefined {
    if (this.#service) return this.#service.stuck();
    const ms = this.#now() - this.#since;
    return ms > RELOAD_MS ? `it has been starting for ${Math.round(ms / 1000)} s` : undefined;
  }

  #notify(state: string): void {
    try {
      this.#manager?.notify(state);
      this.#isBroken = false;
    } catch (e) {
      if (!this.#isBroken) this.#log?.warn({ err: e }, 'the service manager cannot be reached');
      this.#isBroken = true;
    }
  }
}
