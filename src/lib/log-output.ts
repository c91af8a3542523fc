/** The file, pipe, terminal or socket of the log, written without ever blocking or ending the service. */
import { constants, fstatSync, openSync, type Stats, writeSync } from 'node:fs';
import { Socket } from 'node:net';
import type { DestinationStream } from 'pino';

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

const codeOf = (error: unknown): string => (error as NodeJS.ErrnoException).code ?? 'unknown';

/**
 * Writes lines at once where the device takes them, so that the last lines before an exit are not lost. What it does not take
 * (a pipe that is full, a disk that is full, a device that fails) waits in memory up to a bound, then lines are dropped.
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

/** Undefined: it is not open. Each write fails then, and is counted. */
function fstatOf(fd: number): Stats | undefined {
  try {
    return fstatSync(fd);
  } catch {
    return undefined;
  }
}

let standardError: LogOutput | undefined;

/** Standard error; one for the process, however often the log is made again. */
export function standardErrorOutput(): LogOutput {
  if (standardError) return standardError;
  const output = new LogOutput(deviceOf(2));
  process.on('exit', () => output.end());
  standardError = output;
  return output;
}
