/** The thread in which feeds are read and merged, so that a million lines never hold up a DNS answer. */
import { parentPort } from 'node:worker_threads';
import { runRequest, type WorkerReply, type WorkerRequest } from './worker-protocol.js';

const port = parentPort;
if (!port) throw new Error('threats/worker runs in a worker thread only');

async function answer(request: WorkerRequest): Promise<void> {
  try {
    const { value, transfer } = await runRequest(request);
    port?.postMessage({ id: request.id, ok: true, value } satisfies WorkerReply, transfer);
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    port?.postMessage({ id: request.id, ok: false, error: message } satisfies WorkerReply);
  }
}

port.on('message', (request: WorkerRequest) => void answer(request));
