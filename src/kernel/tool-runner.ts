/**
 * The program of the process that starts kernel tools for the service (see tool-process.ts). When the service no
 * longer needs it, it exits once the running tools have exited. When the process of the service has ended, it kills them: they must not
 * change rules next to the following start. Only the service acts on the signals of a terminal.
 */
import { errorText } from '../lib/problem.js';
import { execHere, killAbandoned } from './exec.js';
import type { ToolReport, ToolRequest, ToolsReady } from './tool-process.js';

const send = process.send?.bind(process);
if (!send) throw new Error('kernel/tool-runner is started by the service only');

const service = process.ppid;
/** The pid of the tool of each request, once it has started. */
const running = new Map<number, number | undefined>();
/** The channel closes before the kernel gives this process another parent. */
const RECHECK_MS = 10;
/** Nothing is sent once the service has exited. */
const report = (what: ToolReport | ToolsReady): void => {
  if (process.connected) send(what, undefined, undefined, () => undefined);
};
const endWhenIdle = (): void => {
  if (!process.connected && running.size === 0) process.exit(0);
};

process.on('message', ({ id, file, args, options }: ToolRequest) => {
  if (process.ppid !== service) return; // the request is of an earlier service, whose rules must not be mixed with those of the next one
  running.set(id, undefined);
  execHere(file, args, options, (pid) => {
    running.set(id, pid);
    report({ id, pid });
  })
    .then(
      (result) => report({ id, result }),
      (e: unknown) => report({ id, failure: errorText(e) }),
    )
    .finally(() => {
      running.delete(id);
      endWhenIdle();
    });
});
process.on('disconnect', () => {
  endWhenIdle();
  setInterval(() => {
    if (process.ppid === service) return;
    for (const pid of running.values()) if (pid !== undefined) killAbandoned(pid);
    process.exit(0);
  }, RECHECK_MS);
});
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => undefined);
report({ ready: true });
