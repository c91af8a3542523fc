/** Logs a lot to standard error, and answers on its IPC channel how long its event loop was blocked at most. */
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { createLog } from '../../../src/lib/log.js';

const log = createLog({ level: 'debug', format: 'json' });
const delay = monitorEventLoopDelay({ resolution: 5 });
let lines = 0;
const timer = setInterval(() => {
  // Debug lines are not limited by message.
  for (let i = 0; i < 20; i++) log.debug({ line: ++lines, text: 'x'.repeat(500) }, 'a line');
}, 5);
delay.enable();
process.on('message', (what) => {
  if (what === 'stop') {
    clearInterval(timer);
    process.disconnect();
  } else process.send?.({ lines, blockedMs: delay.max / 1e6 });
});
process.send?.('ready');
