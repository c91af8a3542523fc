import { constants, fstatSync, openSync, type Stats, writeSync } from 'node:fs';
import { Socket } from 'node:net';
import { type DestinationStream, pino, stdSerializers } from 'pino';
import { jsonEscape, shown } from './foreign-text.js';
import { errorCode } from './problem.js';
import { type Rate, TokenBuckets } from './token-buckets.js';

/** The file, pipe, terminal or socket of the log, written without ever blocking or ending the service. */

/** Takes as many bytes as it can now and returns their number, or throws with the code of the system. */
export interface LogDevice {
  write(bytes: Buffer): number;
}

/** Lines that wait for a slow reader or for space on the disk, in bytes; beyond it lines are dropped and counted. */
const MAX_WAITING = 1024 * 1024;
const RETRY_MS = { busy: 20, failed: 1_000 };
/** How long the last lines may wait for a slow reader when the process exits. */
const EXIT_MS = 300;
/** The reader has gone: what waits for it is never read. */
const GONE: ReadonlySet<string> = new Set(['EPIPE', 'EBADF', 'ENXIO', 'ECONNRESET', 'ENOTCONN']);

const codeOf = (error: unknown): string => errorCode(error) ?? 'unknown';

/**
 * Writes lines at once where the device takes them, so that the last lines before an exit are not lost. What it does not take
 * (a pipe that is full, a disk that is full, a device that fails) waits in memory up to a bound, then lines are dropped.
 * The SonicBoom of pino (4.2) cannot: its `flushSync` repeats ENOSPC and EPIPE without end, so that the process does not exit, and once its buffer
 * has reached `maxLength` after such an error it never writes again.
 */
export class LogOutput implements DestinationStream {
  /** Called when lines are written again after some were dropped, with their number and the cause. */
  onRecovered: (dropped: number, cause: string) => void = () => undefined;
  readonly #device: LogDevice;
  readonly #maxWaiting: number;
  #waiting: Buffer[] = [];
  #bytes = 0;
  #dropped = 0;
  #cause = '';
  #timer: NodeJS.Timeout | undefined;

  constructor(device: LogDevice, maxWaiting = MAX_WAITING) {
    this.#device = device;
    this.#maxWaiting = maxWaiting;
  }

  write(line: string): void {
    const bytes = Buffer.from(line);
    if (this.#bytes + bytes.length > this.#maxWaiting) {
      this.#dropped += 1;
      return;
    }
    this.#waiting.push(bytes);
    this.#bytes += bytes.length;
    // While the device is not ready, the timer tries it: a line costs no system call then.
    if (!this.#timer) this.#flush();
  }

  /** Tries for a moment to write what waits, for the end of the process. */
  end(): void {
    const until = performance.now() + EXIT_MS;
    const pause = new Int32Array(new SharedArrayBuffer(4));
    do {
      this.#flush();
      if (this.#bytes > 0) Atomics.wait(pause, 0, 0, RETRY_MS.busy);
    } while (this.#bytes > 0 && performance.now() < until);
    clearTimeout(this.#timer);
  }

  #flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    try {
      while (this.#waiting.length > 0) this.#writeFirst();
    } catch (error) {
      this.#failed(codeOf(error));
      return;
    }
    if (this.#dropped === 0) return;
    const [dropped, cause] = [this.#dropped, this.#cause];
    this.#dropped = 0;
    this.onRecovered(dropped, cause);
  }

  #writeFirst(): void {
    const [first] = this.#waiting;
    if (!first) return;
    const written = this.#device.write(first);
    this.#bytes -= written;
    if (written < first.length) this.#waiting[0] = first.subarray(written);
    else this.#waiting.shift();
  }

  #failed(code: string): void {
    this.#cause = code;
    if (GONE.has(code)) {
      this.#dropped += this.#waiting.length;
      this.#waiting = [];
      this.#bytes = 0;
      return;
    }
    const wait = code === 'EAGAIN' ? RETRY_MS.busy : RETRY_MS.failed;
    this.#timer = setTimeout(() => this.#flush(), wait).unref();
  }
}

const fileDevice = (fd: number): LogDevice => ({ write: (bytes) => writeSync(fd, bytes) });

/** Closing it would give the number 2 to the next file that is opened. */
class InheritedSocket extends Socket {
  override _destroy(error: Error | null, callback: (error: Error | null) => void): void {
    callback(error);
  }
}

/** The journal of systemd is a socket: it cannot be opened a second time, and is written through the event loop. */
function socketDevice(fd: number): LogDevice {
  const socket = new InheritedSocket({ fd, readable: false, writable: true });
  let failure: Error | undefined;
  socket.on('error', (error) => {
    failure = error;
  });
  socket.unref();
  return {
    write: (bytes) => {
      if (failure) throw failure;
      if (socket.writableLength > 0) throw Object.assign(new Error('the reader is slow'), { code: 'EAGAIN' });
      socket.write(bytes);
      return bytes.length;
    },
  };
}

/**
 * A pipe or a terminal is opened again through /proc: the flag that keeps a write from blocking belongs to the open file, which
 * this process may share with others.
 */
function unblockedDevice(fd: number): LogDevice {
  try {
    const { O_WRONLY, O_NONBLOCK, O_NOCTTY } = constants;
    return fileDevice(openSync(`/proc/self/fd/${fd}`, O_WRONLY | O_NONBLOCK | O_NOCTTY));
  } catch {
    return socketDevice(fd); // libuv sets the flag on the shared file: a blocked event loop is worse
  }
}

function deviceOf(fd: number): LogDevice {
  const stats = fstatOf(fd);
  if (stats?.isSocket()) return socketDevice(fd);
  return stats?.isFIFO() || stats?.isCharacterDevice() ? unblockedDevice(fd) : fileDevice(fd);
}

/** Returns undefined when the descriptor is not open: each write fails then, and is counted. */
function fstatOf(fd: number): Stats | undefined {
  try {
    return fstatSync(fd);
  } catch {
    return undefined;
  }
}

let standardError: LogOutput | undefined;

/** Standard error; one for the process, however often the log is made again. */
function standardErrorOutput(): LogOutput {
  if (standardError) return standardError;
  const output = new LogOutput(deviceOf(2));
  process.on('exit', () => output.end());
  standardError = output;
  return output;
}

/** A log in which no message floods: containers, clients, network peers and Docker can cause most of them. */

export interface Logger {
  debug(o: object, msg?: string): void;
  info(o: object, msg?: string): void;
  warn(o: object, msg?: string): void;
  error(o: object, msg?: string): void;
}

export interface LogConfig {
  readonly level: string;
  readonly format: 'json' | 'text';
}

/** A value in a line: container labels, answers and file names may be of any length. */
const MAX_TEXT = 2_000;
const MAX_ITEMS = 100;
const MAX_DEPTH = 5;

/**
 * The service's log, to stderr: one JSON object a line, or text ("TIME LEVEL message key=value …").
 * What stderr does not take is dropped and counted (output.ts), and no message floods (limited.ts).
 */
export function createLog(config: LogConfig, out?: DestinationStream): Logger {
  const output = out ? undefined : standardErrorOutput();
  const log = pinoLog(config, out ?? standardErrorOutput());
  if (output)
    output.onRecovered = (lines, cause) =>
      log.warn({ lines, cause }, 'lines of this log were lost: standard error did not take them');
  return limitedLog(log);
}

function pinoLog(config: LogConfig, out: DestinationStream): Logger {
  return pino(
    {
      level: config.level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: {
        level: (label) => ({ level: label }),
        log: (fields) => bounded(fields, 0) as Record<string, unknown>,
      },
      serializers: { err: (error: unknown) => bounded(errorFields(error), 0) },
    },
    config.format === 'text' ? textStream(out) : jsonStream(out),
  );
}

const errorFields = (error: unknown): unknown => (error instanceof Error ? stdSerializers.err(error) : error);

/** The value with its texts and lists cut to what a line may hold. Errors are left to their serializer. */
function bounded(value: unknown, depth: number): unknown {
  if (typeof value === 'string') return cut(value);
  if (typeof value !== 'object' || value === null || value instanceof Error) return value;
  if (depth >= MAX_DEPTH) return '…';
  if (Array.isArray(value)) {
    const items = value.slice(0, MAX_ITEMS).map((item) => bounded(item, depth + 1));
    return value.length > MAX_ITEMS ? [...items, `… and ${value.length - MAX_ITEMS} more`] : items;
  }
  if (Object.getPrototypeOf(value) !== Object.prototype && !('stack' in value)) return value;
  return Object.fromEntries(Object.entries(value).map(([key, field]) => [key, bounded(field, depth + 1)]));
}

const cut = (text: string): string =>
  text.length > MAX_TEXT ? `${text.slice(0, MAX_TEXT)}… (${text.length} characters)` : text;

/** A terminal that shows the log obeys none of its characters; to a reader of JSON they are the same. */
const escaped = (line: string): string => shown(line, jsonEscape);

function jsonStream(out: DestinationStream): DestinationStream {
  return { write: (line: string) => out.write(`${escaped(line.trimEnd())}\n`) };
}

function textStream(out: DestinationStream): DestinationStream {
  return { write: (line: string) => out.write(`${escaped(textLine(line))}\n`) };
}

function textLine(json: string): string {
  const { time, level, msg, ...rest }: Record<string, unknown> = JSON.parse(json);
  const fields = Object.entries(rest).map(([key, value]) => `${key}=${fieldText(value)}`);
  return [time, String(level).toUpperCase().padEnd(5), msg, ...fields]
    .filter((part) => part !== undefined)
    .join(' ');
}

/** An error as its message: the stack stays in the JSON format. */
function fieldText(value: unknown): string {
  if (typeof value === 'object' && value !== null && 'stack' in value && 'message' in value)
    return JSON.stringify(value.message);
  return typeof value === 'string' && /^[^\s"=]+$/.test(value) ? value : JSON.stringify(value);
}

/** Of one message: so many lines at once, then one in `everyMs`. */
const OF_MESSAGE: Rate = { burst: 50, perSecond: 1 };
/** Of one message about one container, list, file, …: it leaves lines for the others. */
const OF_SUBJECT: Rate = { burst: 10, perSecond: 0.1 };
/** The fields that identify the object of a line. */
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
 * reported every 10 s. Debug lines are not limited: that level is chosen by a person. `now`: monotonic ms.
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

class Limit {
  readonly #log: Logger;
  readonly #now: () => number;
  readonly #messages = new TokenBuckets(MAX_BUCKETS);
  readonly #subjects = new TokenBuckets(MAX_BUCKETS);
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
      (subject === '' || this.#subjects.takeOne(`${key} ${subject}`, OF_SUBJECT, now)) &&
      this.#messages.takeOne(key, OF_MESSAGE, now);
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
