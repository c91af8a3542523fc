/** Runs one target in a thread and judges what the thread itself cannot: that it hangs, or fills memory. */
import { Worker } from 'node:worker_threads';
import type { Job, Report } from './worker.js';

export interface Outcome {
  readonly target: string;
  readonly tries: number;
  /** Absent: nothing was found. */
  readonly fault?: { readonly what: string; readonly input: Buffer };
}
export interface Run {
  readonly target: string;
  readonly seed: number;
  readonly seconds: number;
  readonly only?: Uint8Array;
}

/** One input that takes longer hangs, also where others take most of the processor. */
const HANG_MS = 60_000;
/** A target needs some tens; what it keeps from input to input would pass this in seconds. */
const MEMORY_MB = 512;
const MAX_INPUT = 8 << 20;

/** From sources: threads do not inherit the TypeScript loader. */
function start(job: Job): Worker {
  const url = JSON.stringify(new URL('./worker.ts', import.meta.url).href);
  const script = `import('tsx/esm/api').then(({ register }) => { register(); return import(${url}); })`;
  return new Worker(script, {
    eval: true,
    workerData: job,
    resourceLimits: { maxOldGenerationSizeMb: MEMORY_MB },
  });
}

export function watch(run: Run): Promise<Outcome> {
  const job: Job = {
    ...run,
    progress: new SharedArrayBuffer(8),
    input: new SharedArrayBuffer(MAX_INPUT),
  };
  const progress = new Int32Array(job.progress);
  const worker = start(job);
  return new Promise((resolve) => {
    let seen = { tries: -1, since: performance.now() };
    const finish = (tries: number, what?: string): void => {
      clearInterval(timer);
      void worker.terminate();
      const input = Buffer.from(Buffer.from(job.input).subarray(0, progress[1]));
      resolve({ target: run.target, tries, ...(what !== undefined && { fault: { what, input } }) });
    };
    const look = (): void => {
      const tries = Atomics.load(progress, 0);
      if (tries !== seen.tries) seen = { tries, since: performance.now() };
      else if (performance.now() - seen.since > HANG_MS) finish(tries, `hangs: more than ${HANG_MS} ms`);
    };
    const timer = setInterval(look, 250);
    worker.once('message', (report: Report) =>
      finish(report.tries, report.kind === 'fault' ? report.what : undefined),
    );
    worker.once('error', (error) => finish(progress[0] ?? 0, error.stack ?? error.message));
    worker.once('exit', (code) => finish(progress[0] ?? 0, `the thread ended with code ${code}`));
  });
}
