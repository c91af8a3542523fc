import { parentPort } from 'node:worker_threads';
import type { ThreadReply, ThreadRequest, ThreadResult } from './thread-messages.js';

/** Answers the requests of a ThreadClient, in a worker thread. What `run` throws becomes the error of the reply. */
export function serveThread(run: (request: ThreadRequest) => ThreadResult | Promise<ThreadResult>): void {
  const port = parentPort;
  if (!port) throw new Error('this module runs in a worker thread only');
  const answer = async (request: ThreadRequest): Promise<void> => {
    try {
      const { value, transfer = [] } = await run(request);
      port.postMessage({ id: request.id, ok: true, value } satisfies ThreadReply, [...transfer]);
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      port.postMessage({ id: request.id, ok: false, error: message } satisfies ThreadReply);
    }
  };
  port.on('message', (request: ThreadRequest) => void answer(request));
}
