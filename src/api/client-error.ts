import type { Socket } from 'node:net';
import { type KINDS, problemDocument } from './problems.js';

interface Fault {
  readonly kind: keyof typeof KINDS;
  readonly detail: string;
  readonly remedy: string;
}
const FAULTS: Readonly<Record<string, Fault>> = {
  ERR_HTTP_REQUEST_TIMEOUT: {
    kind: 'timeout',
    detail: 'the request did not come within 60 s, or its head within 10 s',
    remedy: 'send it at once',
  },
  HPE_HEADER_OVERFLOW: {
    kind: 'header-too-large',
    detail: 'the head of the request has more than 16 KiB',
    remedy: 'send fewer and shorter header fields, and a shorter path',
  },
};
const faultOf = ({ code = '', message }: NodeJS.ErrnoException): Fault =>
  FAULTS[code] ?? {
    kind: 'bad-request',
    detail: `the request is not HTTP/1.1 as RFC 9112 has it: ${message}`,
    remedy: 'send one that is; over TLS only through a proxy that ends it',
  };

/** A fault of the connection, which no route has seen: answered as problem details (RFC 9457), and closed. */
export function onClientError(error: NodeJS.ErrnoException, socket: Socket): void {
  if (error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy();
    return;
  }
  const { kind, detail, remedy } = faultOf(error);
  const document = problemDocument(kind, [{ detail, remedy }]);
  const body = JSON.stringify(document);
  const head = [
    `HTTP/1.1 ${document.status} ${document.title}`,
    'content-type: application/problem+json',
    `content-length: ${Buffer.byteLength(body)}`,
    'connection: close',
  ];
  socket.end(`${head.join('\r\n')}\r\n\r\n${body}`, () => socket.destroy());
}
