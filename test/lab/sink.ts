/** Keeps what connections carry, byte by byte as the kernel of NET has put it together. */
import type { Socket } from 'node:net';
import { SINK } from './topology.js';

/** One connection. */
export interface Stream {
  readonly from: string;
  readonly fromPort: number;
  readonly to: string;
  readonly toPort: number;
  /** Latin-1. */
  text: string;
}
/** What is sent once a connection has carried so many bytes, 0: at once. Latin-1. */
export interface Answer {
  readonly after: number;
  readonly send: string;
}

const plain = (address: string | undefined): string => (address ?? '').replace(/^::ffff:/, '');
export const isSink = (address: string | undefined): boolean =>
  plain(address).startsWith(SINK.prefix4) || plain(address).startsWith(SINK.prefix6);

export class Sink {
  readonly streams: Stream[] = [];
  readonly #answers = new Map<number, readonly Answer[]>();

  script(fromPort: number, answers: readonly Answer[]): void {
    this.#answers.set(fromPort, answers);
  }

  take(socket: Socket): void {
    const stream: Stream = {
      from: plain(socket.remoteAddress),
      fromPort: socket.remotePort ?? 0,
      to: plain(socket.localAddress),
      toPort: socket.localPort ?? 0,
      text: '',
    };
    this.streams.push(stream);
    let answers = this.#answers.get(stream.fromPort) ?? [];
    const answer = (): void => {
      const due = answers.filter(({ after }) => stream.text.length >= after);
      answers = answers.filter((a) => !due.includes(a));
      for (const { send } of due) socket.write(Buffer.from(send, 'latin1'));
    };
    socket.on('error', () => socket.destroy());
    socket.on('data', (data: Buffer) => {
      stream.text += data.toString('latin1');
      answer();
    });
    answer();
    socket.on('end', () => socket.end());
  }
}
