/** Places where events are recorded: a file, and a syslog server. */

import { createSocket, type Socket as UdpSocket } from 'node:dgram';
import { once } from 'node:events';
import { constants } from 'node:fs';
import { type FileHandle, mkdir, open, stat } from 'node:fs/promises';
import { connect, isIPv6, type Socket } from 'node:net';
import { dirname } from 'node:path';
import type { ServiceEvent } from '../events/service-events.js';
import { sendToUnix } from '../kernel/netlink/libc.js';
import { splitHostPort } from '../lib/ip.js';
import { errorText } from '../lib/problem.js';
import type { Outcome, Output } from './delivery.js';

export interface Sink extends Output {
  readonly kind: 'file' | 'syslog' | 'otlp';
  /** The most events of one call of `send`. */
  readonly batch: number;
}

type Encode = (event: ServiceEvent) => object | undefined;

/**
 * Lines that are appended to a file. A file that was renamed or removed (logrotate) is noticed by its inode before each write, and opened
 * again. Lines that the disk does not take are lost.
 */
export class FileSink implements Sink {
  readonly name = 'flows.file';
  readonly kind = 'file';
  readonly everyMs = 200;
  readonly batch = 2_048;
  readonly target: string;
  readonly #encode: Encode;
  #file: FileHandle | undefined;
  /** The last line was not written whole. */
  #isTorn = false;

  constructor(path: string, encode: Encode) {
    this.target = path;
    this.#encode = encode;
  }

  async send(events: readonly ServiceEvent[]): Promise<Outcome> {
    const taken = events.length;
    const lines = events.flatMap((event) => {
      const record = this.#encode(event);
      return record ? [`${JSON.stringify(record)}\n`] : [];
    });
    if (lines.length === 0) return { taken, dropped: 0 };
    let written = 0;
    const first = this.#isTorn ? '\n' : '';
    const bytes = Buffer.from(first + lines.join(''));
    try {
      const file = await this.#opened();
      while (written < bytes.length) written += (await file.write(bytes, written)).bytesWritten;
      this.#isTorn = false;
      return { taken, dropped: 0 };
    } catch (e) {
      const whole = bytes.subarray(0, written).filter((byte) => byte === NEWLINE).length;
      if (written > 0) this.#isTorn = bytes[written - 1] !== NEWLINE;
      const dropped = Math.min(lines.length, lines.length - whole + first.length);
      return { taken, dropped, error: errorText(e) };
    }
  }

  async close(): Promise<void> {
    await this.#file?.close().catch(() => undefined); // what was written is in the file
    this.#file = undefined;
  }

  async #opened(): Promise<FileHandle> {
    if (this.#file && (await this.#isSame(this.#file))) return this.#file;
    await this.close();
    this.#isTorn = false;
    await mkdir(dirname(this.target), { recursive: true, mode: 0o750 });
    const { O_WRONLY, O_APPEND, O_CREAT, O_NONBLOCK, O_NOCTTY } = constants;
    const flags = O_WRONLY | O_APPEND | O_CREAT | O_NONBLOCK | O_NOCTTY;
    this.#file = await open(this.target, flags, 0o640);
    return this.#file;
  }

  async #isSame(file: FileHandle): Promise<boolean> {
    const [own, named] = await Promise.all([file.stat(), stat(this.target).catch(() => undefined)]);
    return own.ino === named?.ino && own.dev === named.dev;
  }
}
const NEWLINE = 10;

/** Sends all messages, or throws. `sent` counts those that the system has taken. */
interface Wire {
  send(messages: readonly string[], sent: (count: number) => void): Promise<void>;
  close(): void;
}

/** /dev/log and the like. */
class UnixWire implements Wire {
  readonly #path: string;
  constructor(path: string) {
    this.#path = path;
  }
  async send(messages: readonly string[], sent: (count: number) => void): Promise<void> {
    for (const message of messages) {
      sendToUnix(this.#path, message);
      sent(1);
    }
  }
  close(): void {}
}

class UdpWire implements Wire {
  readonly #host: string;
  readonly #port: number;
  #socket: UdpSocket | undefined;
  constructor(host: string, port: number) {
    this.#host = host;
    this.#port = port;
  }
  async send(messages: readonly string[], sent: (count: number) => void): Promise<void> {
    this.#socket ??= await this.#connected();
    const socket = this.#socket;
    for (const message of messages) {
      await new Promise<void>((done, failed) =>
        socket.send(message, (error) => (error ? failed(error) : done())),
      );
      sent(1);
    }
  }
  close(): void {
    this.#socket?.close();
    this.#socket = undefined;
  }
  async #connected(): Promise<UdpSocket> {
    const socket = createSocket(isIPv6(this.#host) ? 'udp6' : 'udp4').unref();
    // An answer of ICMP is reported by the next call of send as well.
    socket.on('error', () => undefined);
    try {
      socket.connect(this.#port, this.#host);
      await once(socket, 'connect');
      return socket;
    } catch (e) {
      socket.close();
      throw e;
    }
  }
}

/** Octet counting (RFC 6587 3.4.1). A server confirms nothing: what was written to a connection that breaks may be lost. */
class TcpWire implements Wire {
  readonly #host: string;
  readonly #port: number;
  #socket: Socket | undefined;
  constructor(host: string, port: number) {
    this.#host = host;
    this.#port = port;
  }
  async send(messages: readonly string[], sent: (count: number) => void): Promise<void> {
    const socket = await this.#connected();
    const frames = messages.map((message) => `${Buffer.byteLength(message)} ${message}`);
    const signal = AbortSignal.timeout(TCP_MS);
    await new Promise<void>((done, failed) => {
      const late = (): void => failed(new Error('the server does not read'));
      signal.addEventListener('abort', late, { once: true });
      socket.write(frames.join(''), (error) => {
        signal.removeEventListener('abort', late);
        if (error) failed(error);
        else done();
      });
    });
    sent(messages.length);
  }
  close(): void {
    this.#socket?.destroy();
    this.#socket = undefined;
  }
  async #connected(): Promise<Socket> {
    if (this.#socket?.writable && !this.#socket.readableEnded) return this.#socket;
    this.close();
    const socket = connect(this.#port, this.#host).unref();
    socket.on('error', () => undefined); // the next write fails
    socket.resume();
    this.#socket = socket;
    await once(socket, 'connect', { signal: AbortSignal.timeout(TCP_MS) });
    return socket;
  }
}
const TCP_MS = 10_000;

function wireOf(target: string): Wire {
  const scheme = /^(udp|tcp):\/\//.exec(target)?.[1];
  if (scheme === undefined) return new UnixWire(target);
  const { host, port } = splitHostPort(target.slice(6)) ?? { host: '', port: undefined };
  return scheme === 'udp' ? new UdpWire(host, Number(port)) : new TcpWire(host, Number(port));
}

export class SyslogSink implements Sink {
  readonly name = 'flows.syslog';
  readonly kind = 'syslog';
  readonly everyMs = 200;
  readonly batch = 256;
  readonly target: string;
  readonly #encode: (event: ServiceEvent) => string | undefined;
  readonly #wire: Wire;

  constructor(target: string, encode: (event: ServiceEvent) => string | undefined) {
    this.target = target;
    this.#encode = encode;
    this.#wire = wireOf(target);
  }

  async send(events: readonly ServiceEvent[]): Promise<Outcome> {
    const encoded = events.map((event, index) => ({ index, message: this.#encode(event) }));
    const known = encoded.flatMap(({ index, message }) =>
      message === undefined ? [] : [{ index, message }],
    );
    let count = 0;
    try {
      await this.#wire.send(
        known.map(({ message }) => message),
        (more) => {
          count += more;
        },
      );
      return { taken: events.length, dropped: 0 };
    } catch (e) {
      this.#wire.close();
      return { taken: known[count]?.index ?? 0, dropped: 0, error: errorText(e) };
    }
  }

  async close(): Promise<void> {
    this.#wire.close();
  }
}
