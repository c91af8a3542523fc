// Loaded into the service with --import: writes the delays of its event loop (ms), the processor time since the last call (ms) and
// its memory (bytes) to LOOP_DELAY_FILE at each SIGUSR2, and begins again.
import { writeFileSync } from 'node:fs';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { isMainThread } from 'node:worker_threads';

const file = process.env.LOOP_DELAY_FILE;
if (isMainThread && file !== undefined && process.argv.includes('run')) {
  const delays = monitorEventLoopDelay({ resolution: 5 });
  delays.enable();
  let since = process.cpuUsage();
  process.on('SIGUSR2', () => {
    const ms = (ns) => Math.round(ns / 1e5) / 10;
    const all = { p50: ms(delays.percentile(50)), p99: ms(delays.percentile(99)), max: ms(delays.max) };
    const { user, system } = process.cpuUsage(since);
    since = process.cpuUsage();
    writeFileSync(
      file,
      JSON.stringify({ ...all, cpu: (user + system) / 1000, memory: process.memoryUsage() }),
    );
    delays.reset();
  });
}
