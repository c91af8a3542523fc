/** One target in a thread of its own: the watcher sees each input before it is tried, and may end the thread. */
import { readFileSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';
import { mutate } from './mutate.js';
import { Random } from './random.js';
import type { Target } from './target.js';
import { targets } from './targets.js';

export interface Job {
  readonly target: string;
  readonly seed: number;
  readonly seconds: number;
  /** [tries so far, length of the input that is being tried] and its bytes. */
  readonly progress: SharedArrayBuffer;
  readonly input: SharedArrayBuffer;
  /** Only this one. */
  readonly only?: Uint8Array;
}
export type Report =
  | { readonly kind: 'done'; readonly tries: number }
  | { readonly kind: 'fault'; readonly tries: number; readonly what: string };

/** Milliseconds of the processor for one input, the fastest of two tries: the machine does other things too. */
const SLOW_MS = 1500;
const TICK_MS = 10;

/** What this thread has had of the processor: utime and stime of proc(5), in hundredths of a second. */
function busy(): number {
  const fields = readFileSync('/proc/thread-self/stat', 'utf8').split(') ')[1]?.split(' ') ?? [];
  return (Number(fields[11]) + Number(fields[12])) * TICK_MS;
}

async function timed(target: Target, input: Buffer, clock: () => number): Promise<number> {
  const began = clock();
  await target.check(input);
  return clock() - began;
}

async function judge(target: Target, input: Buffer): Promise<void> {
  if ((await timed(target, input, () => performance.now())) < SLOW_MS) return;
  const best = Math.min(await timed(target, input, busy), await timed(target, input, busy));
  if (best >= SLOW_MS) throw new Error(`${input.length} bytes took ${Math.round(best)} ms`);
}

async function attempt(target: Target, input: Buffer): Promise<string | undefined> {
  try {
    await judge(target, input);
    return undefined;
  } catch (error) {
    const cause = error instanceof Error && error.cause instanceof Error ? `\n${error.cause.message}` : '';
    return error instanceof Error ? `${error.stack ?? error.message}${cause}` : String(error);
  }
}

function* inputs(target: Target, { seed, seconds, only }: Job): Generator<Buffer> {
  if (only !== undefined) {
    yield Buffer.from(only);
    return;
  }
  yield* target.corpus;
  const random = new Random(seed);
  const end = performance.now() + seconds * 1000;
  for (let tries = 0; tries % 64 !== 0 || performance.now() < end; tries++)
    yield target.generate !== undefined && random.chance(3)
      ? target.generate(random)
      : mutate(random, target);
}

async function run(job: Job): Promise<Report> {
  const target = targets.find(({ name }) => name === job.target);
  if (target === undefined) throw new Error(`no target is called ${job.target}`);
  const progress = new Int32Array(job.progress);
  const shown = Buffer.from(job.input);
  let tries = 0;
  for (const input of inputs(target, job)) {
    input.copy(shown);
    progress[1] = input.length;
    Atomics.store(progress, 0, ++tries);
    const what = await attempt(target, input);
    if (what !== undefined) return { kind: 'fault', tries, what };
    // So that a message of the watcher, and rejections nobody handles, come through.
    if (tries % 1024 === 0) await new Promise((resume) => setImmediate(resume));
  }
  return { kind: 'done', tries };
}

parentPort?.postMessage(await run(workerData as Job));
