/** Loaded into the service by scripts/trace-flows.ts: writes the executed functions of each thread and of its child processes to files, on SIGUSR2. */
import { renameSync, writeFileSync } from 'node:fs';
import { Session } from 'node:inspector';
import { BroadcastChannel, isMainThread, threadId } from 'node:worker_threads';

const session = new Session();
session.connect();
session.post('Profiler.enable');
session.post('Profiler.startPreciseCoverage', { callCount: true, detailed: false });
let turn = 0;

function take() {
  session.post('Profiler.takePreciseCoverage', (error, coverage) => {
    if (error) throw error;
    const calls = {};
    for (const { url, functions } of coverage.result) {
      const [, file] = url.split('/dist/');
      if (file === undefined) continue;
      for (const { functionName, ranges } of functions) {
        const [{ count, startOffset }] = ranges;
        if (count > 0 && startOffset > 0) calls[`${file}#${functionName}@${startOffset}`] = count;
      }
    }
    turn += 1;
    const path = `${process.env.TRACE}.${process.pid}.${threadId}`;
    writeFileSync(`${path}.tmp`, JSON.stringify({ turn, calls }));
    renameSync(`${path}.tmp`, path);
  });
}

if (process.env.TRACE) {
  const channel = new BroadcastChannel('trace');
  channel.unref();
  if (isMainThread) {
    process.on('SIGUSR2', () => {
      channel.postMessage('take');
      take();
    });
    writeFileSync(`${process.env.TRACE}.pid.${process.pid}`, '');
  } else channel.onmessage = take;
}
