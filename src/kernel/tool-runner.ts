/**
 * The program of the process that starts kernel tools for the service (see tool-process.ts). It ends when the service has ended and
 * the tools that run have ended: what is half-way is brought to its end. Signals of a terminal are the service's to act on.
 */
import { execHere } from './exec.js';
import type { ToolReport, ToolRequest, ToolsReady } from './tool-messages.js';

const send = process.send?.bind(process);
if (!send) throw new Error('kernel/tool-runner is started by the service only');

const running = new Set<number>();
/** When the service has ended meanwhile, no process waits for it. */
const tell = (what: ToolReport | ToolsReady): void => {
  if (process.connected) send(what, undefined, undefined, () => undefined);
};
const endWhenIdle = (): void => {
  if (!process.connected && running.size === 0) process.exit(0);
};

process.on('message', ({ id, file, args, options }: ToolRequest) => {
  running.add(id);
  execHere(file, args, options, (pid) => tell({ id, pid }))
    .then(
      (result) => tell({ id, result }),
      (e: unknown) => tell({ id, failure: e instanceof Error ? e.message : String(e) }),
    )
    .finally(() => {
      running.delete(id);
      endWhenIdle();
    });
});
process.on('disconnect', endWhenIdle);
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => undefined);
tell({ ready: true });
