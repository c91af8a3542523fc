/** A process of its own that answers the requests of a ThreadClient: a library that aborts ends only it. */
import { type ChildProcess, fork } from 'node:child_process';
import { EventEmitter } from 'node:events';
import { fileURLToPath } from 'node:url';
import { answer, type Peer, setServiceFlags, type ThreadReply, type ThreadRequest } from './thread.js';

/** V8 starts four threads to help the main one, of which a process that waits for the disk needs one. */
const ONE_HELPER = '--v8-pool-size=1';

/** Starts the process from a module of this program, compiled or from sources. `script`: its URL, ending in ".js". */
export const startChild = (script: URL): Peer => new Child(script);

class Child extends EventEmitter implements Peer {
  readonly #process: ChildProcess;
  readonly #gone: Promise<void>;

  constructor(script: URL) {
    super();
    const isSource = import.meta.url.endsWith('.ts'); // then it takes the TypeScript loader
    const file = fileURLToPath(script.href.replace(/js$/, isSource ? 'ts' : 'cjs')); // as scripts/build.mjs names it
    const loader = isSource ? ['--import', import.meta.resolve('tsx')] : [];
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
