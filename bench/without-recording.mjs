// Loaded into the service with --import: while the file WITHOUT_RECORDING exists at its start, the thread that records what passes does nothing.
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { isMainThread } from 'node:worker_threads';

const file = process.env.WITHOUT_RECORDING;
if (isMainThread && file !== undefined && process.argv.includes('run') && existsSync(file)) {
  const threads = createRequire(import.meta.url)('node:worker_threads');
  const { Worker } = threads;
  threads.Worker = class extends Worker {
    constructor(script, options) {
      const isRecorder = String(script).includes('passed-thread');
      super(isRecorder ? 'setInterval(() => {}, 1e6)' : script, isRecorder ? { eval: true } : options);
    }
  };
}
