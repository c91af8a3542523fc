/** DNS over one TCP connection (RFC 7766): length-prefixed messages, pipelined, answered as they are ready. */
import type { Socket } from 'node:net';

const idleMs = 15_000;
/** Queries of one connection that may wait at once; reading stops there. */
const maxPipelined = 64;
/** Unsent answer bytes at which reading stops: a client that never reads cannot fill our memory. */
const maxUnsent = 262_144;

/** Serves until the client ends, is idle, or breaks the framing. */
export function serveStream(socket: Socket, answer: (message: Buffer) => Promise<Buffer | undefined>): void {
  let pending: Buffer = Buffer.alloc(0);
  let waiting = 0;
  let ended = false;

  const settle = (): void => {
    if (ended && waiting === 0) socket.end();
    if (waiting < maxPipelined && socket.writableLength < maxUnsent) {
      socket.resume();
      drain();
    }
  };
  const one = async (message: Buffer): Promise<void> => {
    const reply = await answer(message);
    waiting--;
    if (reply !== undefined && socket.writable) socket.write(frame(reply));
    settle();
  };
  const drain = (): void => {
    while (pending.length >= 2 && waiting < maxPipelined) {
      const size = pending.readUInt16BE(0);
      if (pending.length < 2 + size) break;
      const message = pending.subarray(2, 2 + size);
      pending = pending.subarray(2 + size);
      waiting++;
      void one(message);
    }
    if (waiting >= maxPipelined || socket.writableLength >= maxUnsent) socket.pause();
  };

  socket.setTimeout(idleMs, () => socket.destroy());
  // A reset by the client; 'close' follows.
  socket.on('error', () => socket.destroy());
  socket.on('drain', settle);
  socket.on('end', () => {
    ended = true;
    settle();
  });
  socket.on('data', (chunk) => {
    pending = pending.length === 0 ? chunk : Buffer.concat([pending, chunk]);
    drain();
  });
}

function frame(message: Buffer): Buffer {
  const length = Buffer.alloc(2);
  length.writeUInt16BE(message.length);
  return Buffer.concat([length, message]);
}
