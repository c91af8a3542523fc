/** A program of exec.test.ts, under a small RLIMIT_NOFILE: starts programs with so many descriptors left, and prints what came. */
import { closeSync, openSync } from 'node:fs';
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises';
import { exec, follow } from '../../../src/kernel/exec.js';
import { ToolProcess } from '../../../src/kernel/tool-process.js';
import type { Logger } from '../../../src/lib/log.js';

const uncaught: string[] = [];
process.on('uncaughtException', (e) => uncaught.push(e.message));

const held: number[] = [];
function takeAll(): void {
  for (;;)
    try {
      held.push(openSync('/dev/null', 'r'));
    } catch (e) {
      if ((e as NodeJS.ErrnoException).code === 'EMFILE') return;
      throw e;
    }
}
const free = (count: number): void => held.splice(0, count).forEach(closeSync);
const outcome = (ran: Promise<unknown>): Promise<string> =>
  ran.then(
    (end) => JSON.stringify(end),
    (e: Error) => e.message,
  );

await exec('true', []); // execa has loaded everything
const outcomes: string[] = [];
const helpers: string[] = [];
const log = { warn: ({ why }: { why: string }) => helpers.push(why) } as unknown as Logger;
for (const spare of [0, 1, 3, 5]) {
  takeAll();
  free(spare);
  outcomes.push(
    await outcome(exec('true', [])),
    await outcome(exec('true', [], { input: 'text', nice: 1 })),
    await outcome(follow('true', ['x'], () => undefined, AbortSignal.timeout(10_000))),
  );
  await turn();
  const tools = new ToolProcess(log);
  tools.begin();
  while (spare === 0 && helpers.length === 0) await sleep(5);
  await tools[Symbol.asyncDispose]();
  await turn();
}
free(held.length);
const after = await outcome(exec('true', []));
process.stdout.write(JSON.stringify({ outcomes, helpers, after, uncaught }));
