// Loaded into the service with --import: at each SIGUSR2 it collects garbage and writes its memory (bytes) to HEAP_FILE; the first figures
// are those from before the collection.
import { writeFileSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { isMainThread } from 'node:worker_threads';

const file = process.env.HEAP_FILE;
if (isMainThread && file !== undefined && process.argv.includes('run')) {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc');
  process.on('SIGUSR2', () => {
    const before = process.memoryUsage();
    collect();
    writeFileSync(file, JSON.stringify({ before, after: process.memoryUsage() }));
  });
}
