/** A worker thread as asynchronous calls. It starts with the first call, and again should it end. */
import { type ChildProcess, fork } from 'node:child_process';
import { EventEmitter } from 'node:events';
import { existsSync } from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { getHeapSpaceStatistics, setFlagsFromString } from 'node:v8';
import { parentPort, type ResourceLimits, Worker } from 'node:worker_threads';

/** What a thread and its client send to each other; all plain data. */
export interface ThreadRequest {
  readonly id: number;
  readonly kind: string;
  readonly job: unknown;
}
export type ThreadReply =
  | { readonly id: number; readonly ok: true; readonly value: unknown }
  | {
      readonly id: number;
      readonly ok: false;
      readonly error: string;
      readonly name: string;
      /** Of an error of the system. */
      readonly code?: string | undefined;
    };

/** A result, with the buffers that are moved instead of copied. */
export interface ThreadResult {
  readonly value: unknown;
  readonly transfer?: readonly ArrayBuffer[];
}

interface Waiting {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}
export interface ThreadOptions {
  /** URL of the thread's module, ending in ".js". */
  readonly script: URL;
  /** What the thread is, for messages: "the thread for …". */
  readonly name: string;
  readonly limits?: ResourceLimits;
  /** Starts it: a thread by default. */
  readonly start?: (script: URL, limits?: ResourceLimits) => Peer;
  /** It is ended when a job waits and nothing was answered for so long. */
  readonly hangMs?: number;
}
/** The other end: a thread, or a process of its own. */
interface Peer {
  postMessage(message: ThreadRequest): void;
  on(event: 'message', listener: (reply: ThreadReply) => void): unknown;
  on(event: 'error', listener: (error: Error) => void): unknown;
  on(event: 'exit', listener: () => void): unknown;
  /** It keeps this process alive, or does not. */
  ref(): void;
  unref(): void;
  terminate(): Promise<unknown>;
}
/** The thread has ended before it answered: by itself, because nothing was answered for `hangMs`, or because the client closed it. */
export class EndedError extends Error {
  readonly how: 'end' | 'hang' | 'close';

  constructor(message: string, how: EndedError['how']) {
    super(message);
    this.how = how;
  }
}
/** After a pause of the service itself, answers that have arrived are read first. */
const RECHECK_MS = 1_000;

/** `Jobs`: kind → what goes in, what comes out. */
export class ThreadClient<
  Jobs extends { readonly [K in keyof Jobs]: { readonly in: unknown; readonly out: unknown } },
> implements AsyncDisposable
{
  readonly #options: ThreadOptions;
  #peer: Peer | undefined;
  #next = 1;
  readonly #waiting = new Map<number, Waiting>();
  #hang: NodeJS.Timeout | undefined;

  constructor(options: ThreadOptions) {
    this.#options = options;
  }

  /** Rejects when the job fails, with the name of its error, and with EndedError when the thread ends. */
  run<K extends keyof Jobs & string>(kind: K, job: Jobs[K]['in']): Promise<Jobs[K]['out']> {
    const peer = this.#running();
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve: (value) => resolve(value as Jobs[K]['out']), reject });
      if (this.#waiting.size === 1) this.#watch();
      peer.ref();
      peer.postMessage({ id, kind, job });
    });
  }

  /** Ends the thread; what still waits is rejected. The next call starts another. */
  async close(why = 'was closed', how: EndedError['how'] = 'close'): Promise<void> {
    const peer = this.#peer;
    this.#fail(new EndedError(`${this.#options.name} ${why}`, how));
    await peer?.terminate();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #running(): Peer {
    if (this.#peer) return this.#peer;
    const { script, limits, start = startThread, name } = this.#options;
    const peer = start(script, limits);
    peer.on('message', (reply) => this.#reply(peer, reply));
    peer.on('error', (error) => this.#ended(peer, `${name} ended: ${error.message}`));
    peer.on('exit', () => this.#ended(peer, `${name} ended`));
    this.#peer = peer;
    return peer;
  }

  #reply(peer: Peer, reply: ThreadReply): void {
    const waiting = this.#waiting.get(reply.id);
    this.#waiting.delete(reply.id);
    this.#watch();
    // An idle thread must not keep the process alive.
    if (this.#waiting.size === 0) peer.unref();
    if (reply.ok) waiting?.resolve(reply.value);
    else {
      const { error, name, code } = reply;
      waiting?.reject(Object.assign(new Error(error), { name }, code !== undefined && { code }));
    }
  }

  /** While jobs wait, each answer begins the time again. */
  #watch(): void {
    clearTimeout(this.#hang);
    const { hangMs } = this.#options;
    if (hangMs === undefined || this.#waiting.size === 0) return;
    const end = (): void => void this.close(`did not answer for ${hangMs / 1_000} s`, 'hang');
    this.#hang = setTimeout(() => (this.#hang = setTimeout(end, RECHECK_MS).unref()), hangMs).unref();
  }

  /** A thread that was closed reports its end later, when another may run already. */
  #ended(peer: Peer, why: string): void {
    if (this.#peer === peer) this.#fail(new EndedError(why, 'end'));
  }

  #fail(error: Error): void {
    this.#peer = undefined;
    clearTimeout(this.#hang);
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }
}

/** How late V8 optimizes a function: of the service, and by default. Of Node 20; scripts/launcher.cjs sets the first one, and says why. */
const BUDGET = process.versions.v8.startsWith('11.')
  ? { service: 500_000, byDefault: 67_584, early: 10_000 }
  : undefined;

/** The flags of V8 that the service runs with, in all threads: the young generation of each keeps its present size. */
export function setServiceFlags(): void {
  setFlagsFromString('--semi-space-growth-factor=1');
  if (BUDGET) setFlagsFromString(`--interrupt-budget=${BUDGET.service}`);
}

/**
 * While packets wait for this program, V8 optimizes functions that run for the first time after a fiftieth of the bytecode: until then each
 * packet waits several times as long (bench/tls.ts).
 */
export function optimizeEarly(isEarly: boolean): void {
  if (BUDGET) setFlagsFromString(`--interrupt-budget=${isEarly ? BUDGET.early : BUDGET.service}`);
}

/**
 * The flags that Node has made the code of its own modules with. With others V8 refuses that code, and compiles the modules: 80 ms for
 * those of a thread.
 */
function setNodeFlags(): void {
  setFlagsFromString('--semi-space-growth-factor=2');
  if (BUDGET) setFlagsFromString(`--interrupt-budget=${BUDGET.byDefault}`);
}

/** Two halves of 2 MiB take no more processor time than two of 16; two of 0.5, with which V8 begins, take a tenth more (bench/pass.ts). */
const YOUNG_BYTES = 4 * 1024 * 1024;
/**
 * For the start, of which most objects stay: each collection copies what is young. Twice as much saves a tenth of its processor time next to
 * 1,000 containers, and four times as much no more. `collectGarbage` gives it back.
 */
export const START_YOUNG_BYTES = 8 * 1024 * 1024;
const MOST_STEPS = 1_000;
const OBJECTS_PER_STEP = 1_000;
export const youngBytes = (): number =>
  getHeapSpaceStatistics().find(({ space_name }) => space_name === 'new_space')?.space_size ?? YOUNG_BYTES;

/**
 * Let the young generation grow to this size and no further, by objects that live long enough; left to itself, it grows to 32 MiB. It takes some
 * ms. --optimize-for-size would save 8 MiB more, and costs a third of the speed.
 */
export function sizeYoungGeneration(bytes = YOUNG_BYTES): void {
  setFlagsFromString('--semi-space-growth-factor=2');
  const kept: object[] = [];
  for (let step = 0; step < MOST_STEPS && youngBytes() < bytes; step++)
    for (let n = 0; n < OBJECTS_PER_STEP; n++) kept.push({ n });
  setServiceFlags();
}

/** Collect the garbage of this thread. V8's inspector has the only collection that shrinks the young generation, too. */
export async function collectGarbage(): Promise<void> {
  const { Session } = await import('node:inspector'); // within this process: it listens nowhere
  const session = new Session();
  session.connect();
  await new Promise<void>((resolve) => session.post('HeapProfiler.collectGarbage', () => resolve()));
  // V8 holds a lock while it reports the end of a collection, and a session that is disconnected within the report waits for that lock
  // without end (V8HeapProfilerAgentImpl): the thread would never continue.
  await new Promise((resume) => setImmediate(resume));
  session.disconnect();
}

/**
 * Starts a thread from a module of this program, compiled or from sources. `script`: its URL, ending in ".js". The module calls
 * `setServiceFlags` once its imports are loaded. V8 itself sets a growth factor of less than 2 back to 2, for all threads, when it makes the
 * heap of a thread (Heap::ConfigureHeap).
 */
export function startThread(script: URL, resourceLimits: ResourceLimits = {}): Worker {
  setNodeFlags();
  const worker = newThread(script, resourceLimits);
  worker.once('exit', setServiceFlags); // it may have ended before
  return worker;
}

/**
 * The file of a module that is started, and what else Node needs for it. `script`: its URL, ending in ".js". The TypeScript loader takes 0.7 s
 * of processor time: tests set BUILT_PARTS, a folder in which scripts/test-parts.mjs has built such modules.
 */
export function startedModule(script: URL): { readonly file: string; readonly loader: readonly string[] } {
  const path = fileURLToPath(script).slice(0, -'js'.length);
  if (!import.meta.url.endsWith('.ts')) return { file: `${path}cjs`, loader: [] }; // as scripts/build.mjs names it
  const { BUILT_PARTS: folder } = process.env;
  const built = folder === undefined ? '' : join(folder, `${basename(path)}cjs`);
  if (existsSync(built)) return { file: built, loader: [] };
  return { file: `${path}ts`, loader: ['--import', import.meta.resolve('tsx')] };
}

function newThread(script: URL, resourceLimits: ResourceLimits): Worker {
  const { file, loader } = startedModule(script);
  if (loader.length === 0) return new Worker(file, { resourceLimits });
  // Threads do not inherit the TypeScript loader.
  const url = JSON.stringify(pathToFileURL(file).href);
  return new Worker(`import('tsx/esm/api').then(({ register }) => { register(); return import(${url}); })`, {
    eval: true,
    resourceLimits,
  });
}

type Run = (request: ThreadRequest) => ThreadResult | Promise<ThreadResult>;
type Send = (reply: ThreadReply, transfer: readonly ArrayBuffer[]) => void;

/** Answers the requests of a ThreadClient, in a worker thread. What `run` throws becomes the error of the reply. */
export function serveThread(run: Run): void {
  const port = parentPort;
  if (!port) throw new Error('this module runs in a worker thread only');
  setServiceFlags();
  const send: Send = (reply, transfer) => port.postMessage(reply, [...transfer]);
  port.on('message', (request: ThreadRequest) => void answer(run, request, send));
}

/** Sends what `run` returns or throws. */
async function answer(run: Run, request: ThreadRequest, send: Send): Promise<void> {
  const { id } = request;
  try {
    const { value, transfer = [] } = await run(request);
    send({ id, ok: true, value }, transfer);
  } catch (error) {
    const { message, name, code }: NodeJS.ErrnoException =
      error instanceof Error ? error : new Error(String(error));
    send({ id, ok: false, error: message, name, code }, []);
  }
}

// A process of its own in place of a thread: a library that aborts ends only it.

/** V8 starts four threads to help the main one, of which a process that waits for the disk needs one. */
const ONE_HELPER = '--v8-pool-size=1';

/** Starts the process from a module of this program, compiled or from sources. `script`: its URL, ending in ".js". */
export const startChild = (script: URL): Peer => new Child(script);

class Child extends EventEmitter implements Peer {
  readonly #process: ChildProcess;
  readonly #gone: Promise<void>;

  constructor(script: URL) {
    super();
    const { file, loader } = startedModule(script);
    this.#process = fork(file, [], {
      execArgv: [ONE_HELPER, ...loader],
      serialization: 'advanced',
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    });
    this.#gone = new Promise((resolve) => {
      this.#process.once('exit', (code, signal) => this.#end(new Error(signal ?? `code ${code}`), resolve));
      // Without a free descriptor it does not start, which is reported in the next tick.
      this.#process.once('error', (error) => this.#end(error, resolve));
    });
    this.#process.on('message', (reply: ThreadReply) => this.emit('message', reply));
    this.#process.unref();
  }

  #end(why: Error, resolve: () => void): void {
    resolve();
    this.emit('error', why);
  }

  /** A message that cannot be sent is answered by the end of the process. */
  postMessage(message: ThreadRequest): void {
    if (this.#process.connected) this.#process.send(message, () => undefined);
  }

  ref(): void {
    this.#process.channel?.ref();
  }

  unref(): void {
    this.#process.channel?.unref();
  }

  /** Ends it at once: it does not get to close what it has open. */
  async terminate(): Promise<void> {
    this.#process.kill('SIGKILL');
    await this.#gone;
  }
}

/**
 * Answers the requests of a ThreadClient, in a process that startChild has started. It ends with the service, however that ends; only the
 * service acts on the signals of a terminal and of systemd.
 */
export function serveChild(run: (request: ThreadRequest) => unknown): void {
  const send = process.send?.bind(process);
  if (!send) throw new Error('this module runs in a process of the service only');
  setServiceFlags();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => undefined);
  process.on('disconnect', () => process.exit(0));
  const reply = (message: ThreadReply): void => {
    if (process.connected) send(message, undefined, undefined, () => undefined);
  };
  process.on(
    'message',
    (request: ThreadRequest) => void answer((job) => ({ value: run(job) }), request, reply),
  );
}
