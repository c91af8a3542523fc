/** A log in which no message floods: containers, clients, network peers and Docker can cause most of them. */
import type { Logger } from './logger.js';

/** Of one message: so many lines at once, then one in `everyMs`. */
interface Allowance {
  readonly burst: number;
  readonly everyMs: number;
}
const OF_MESSAGE: Allowance = { burst: 50, everyMs: 1_000 };
/** Of one message about one container, list, file, …: it leaves lines for the others. */
const OF_SUBJECT: Allowance = { burst: 10, everyMs: 10_000 };
/** The fields that say which object a line is about. */
const SUBJECTS = ['container', 'list', 'file', 'feed', 'key', 'path', 'node'] as const;
const SUMMARY_MS = 10_000;
/** Messages with values inside could be many. */
const MAX_BUCKETS = 2_000;

interface Omitted {
  readonly level: 'info' | 'warn' | 'error';
  readonly message: string;
  count: number;
}

/**
 * Lets a burst of each message through, and of each message about one object, then a line now and then. What is left out is counted and
 * said every 10 s. Debug lines are not limited: that level is chosen by a person. `now`: monotonic ms.
 */
export function limitedLog(log: Logger, now: () => number = () => performance.now()): Logger {
  const limit = new Limit(log, now);
  const at =
    (level: Omitted['level']) =>
    (fields: object, message = ''): void => {
      if (limit.admits(level, fields, message)) log[level](fields, message);
    };
  return {
    debug: (fields, message) => log.debug(fields, message),
    info: at('info'),
    warn: at('warn'),
    error: at('error'),
  };
}

/** Leaky buckets by key: each line moves the moment at which the whole burst is allowed again. */
class Buckets {
  readonly #allowance: Allowance;
  /** When the allowance is full again (ms, monotonic); the one that was used last is at the end. */
  readonly #full = new Map<string, number>();

  constructor(allowance: Allowance) {
    this.#allowance = allowance;
  }

  take(key: string, now: number): boolean {
    const { burst, everyMs } = this.#allowance;
    const full = Math.max(this.#full.get(key) ?? now, now) + everyMs;
    if (full - now > burst * everyMs) return false;
    this.#full.delete(key);
    this.#full.set(key, full);
    const [oldest] = this.#full.keys();
    if (this.#full.size > MAX_BUCKETS && oldest !== undefined) this.#full.delete(oldest);
    return true;
  }
}

class Limit {
  readonly #log: Logger;
  readonly #now: () => number;
  readonly #messages = new Buckets(OF_MESSAGE);
  readonly #subjects = new Buckets(OF_SUBJECT);
  readonly #omitted = new Map<string, Omitted>();
  #timer: NodeJS.Timeout | undefined;

  constructor(log: Logger, now: () => number) {
    this.#log = log;
    this.#now = now;
  }

  admits(level: Omitted['level'], fields: object, message: string): boolean {
    const key = `${level} ${message}`;
    const subject = subjectOf(fields);
    const now = this.#now();
    const isAdmitted =
      (subject === '' || this.#subjects.take(`${key} ${subject}`, now)) && this.#messages.take(key, now);
    if (!isAdmitted) this.#omit(key, level, message);
    return isAdmitted;
  }

  #omit(key: string, level: Omitted['level'], message: string): void {
    const known = this.#omitted.get(key);
    if (known) known.count += 1;
    else if (this.#omitted.size < MAX_BUCKETS) this.#omitted.set(key, { level, message, count: 1 });
    this.#timer ??= setTimeout(() => this.#sum(), SUMMARY_MS).unref();
  }

  #sum(): void {
    this.#timer = undefined;
    for (const { level, message, count } of this.#omitted.values())
      this.#log[level]({ message, count, seconds: SUMMARY_MS / 1_000 }, LEFT_OUT);
    this.#omitted.clear();
  }
}
const LEFT_OUT = 'lines with this message were left out: there were too many';

function subjectOf(fields: object): string {
  const known: Readonly<Partial<Record<string, unknown>>> = { ...fields };
  const field = SUBJECTS.find((name) => typeof known[name] === 'string');
  return field === undefined ? '' : String(known[field]).slice(0, 200);
}
