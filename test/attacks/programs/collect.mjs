// Preloaded into the service (node --expose-gc --import …): collects garbage every five seconds, and appends what is used
// then, in kB, to the file that HEAP_LOG names with the pid. Between two collections of its own V8 lets the resident memory
// of the service swing by 100 MB, in waves of more than a minute.
import { appendFileSync } from 'node:fs';
import { isMainThread } from 'node:worker_threads';

const EVERY_MS = 5_000;
const file = process.env.HEAP_LOG;
function collect() {
  globalThis.gc();
  const { heapUsed, external } = process.memoryUsage();
  appendFileSync(`${file}.${process.pid}`, `${Math.round((heapUsed + external) / 1024)}\n`);
}
if (isMainThread && file !== undefined) setInterval(collect, EVERY_MS).unref();
