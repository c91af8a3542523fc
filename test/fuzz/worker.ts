/** One target in a thread of its own: the watcher sees each input before it is tried, and may end the thread. */
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

/** Milliseconds for one input; the fastest of three tries counts, since the machine does other things too. */
const SLOW_MS = 1500;

async function timed(target: Target, input: Buffer): Promise<number> {
  const began = performance.now();
  await target.check(input);
  return performance.now() - began;
}

async function judge(target: Target, input: Buffer): Promise<void> {
  const first = await timed(target, input);
  if (first < SLOW_MS) return;
  const best = Math.min(first, await timed(target, input), await timed(target, input));
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
