/** Drawbridge itself, started inside HOST's namespace and the lab's mount view. */
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import { alive, end, type Result, type RunOptions, run, startDaemon, waitFor } from './process.js';
import { LABS } from './registry.js';
import type { View } from './view.js';

const ROOT = join(import.meta.dirname, '..', '..');
const TSX = import.meta.resolve('tsx');

/** When the last of its files was written (ms since the epoch). */
export function newest(folder: string): number {
  const entries = readdirSync(folder, { withFileTypes: true, recursive: true }).filter((e) => e.isFile());
  return Math.max(0, ...entries.map((e) => statSync(join(e.parentPath, e.name)).mtimeMs));
}
/**
 * V8's code of the service, as CacheDirectory= of the unit, for all labs: a service compiles its functions only if the code in the file is of
 * another program.
 */
const CODE = join(LABS, 'code');
/** As scripts/install and scripts/in-container start it. */
const NODE = [process.execPath, '--v8-pool-size=1'];
const BUILT = join(ROOT, 'dist', 'main.js');
/** dist/main.js is newer than everything in src. */
export const isBuilt = (): boolean =>
  existsSync(BUILT) && statSync(BUILT).mtimeMs > newest(join(ROOT, 'src'));
/** dist/main.js when it is newer than everything in src, else src/main.ts through tsx. */
export const program = (): string[] =>
  isBuilt() ? [...NODE, BUILT] : [...NODE, '--import', TSX, join(ROOT, 'src', 'main.ts')];

/** Whether LAB_SERVICE=core starts the service without all that reports (core-service.ts). Commands are of the whole program. */
export const isCore = process.env.LAB_SERVICE === 'core';
const CORE = [...NODE, '--import', TSX, join(import.meta.dirname, 'core-service.ts')];

export interface DrawbridgeSpec {
  /** Keys of config.yaml that win over the lab's (docker.socket, state, api.listen, allowlists), section by section. */
  readonly config?: Readonly<Record<string, unknown>>;
  readonly env?: Readonly<Record<string, string>>;
  /** Names the state folder: two starts with one name share it. Default: "state". */
  readonly state?: string;
  /** Lists to write before the start: file name to text. */
  readonly lists?: Readonly<Record<string, string>>;
  /** Names the API socket and log: for a second instance in the same lab. Default: "drawbridge". */
  readonly instance?: string;
  /** Before the program's own arguments, such as a program that takes rights or limits from it. */
  readonly through?: readonly string[];
  /** Arguments that start the program; default: `program()`, this version. */
  readonly program?: readonly string[];
}
export interface Place {
  readonly dir: string;
  readonly view: Pick<View, 'inside' | 'env'>;
  readonly dockerSocket: string;
}

const isObject = (v: unknown): v is Record<string, unknown> =>
  typeof v === 'object' && v !== null && !Array.isArray(v);
function merge(
  base: Record<string, unknown>,
  over: Readonly<Record<string, unknown>>,
): Record<string, unknown> {
  const merged = { ...base };
  for (const [k, v] of Object.entries(over)) {
    const old = merged[k];
    merged[k] = isObject(old) && isObject(v) ? merge(old, v) : v;
  }
  return merged;
}

export class Drawbridge {
  /** The unix socket of the API: beside the state when `api.listen` is TCP. */
  apiSocket: string;
  readonly configFile: string;
  /** The allowlists folder. */
  readonly allowlists: string;
  readonly stateDir: string;
  readonly logFile: string;
  readonly #place: Place;
  readonly #env: NodeJS.ProcessEnv;
  readonly #through: readonly string[];
  #pid = 0;
  #program: readonly string[] | undefined;

  constructor(place: Place, spec: DrawbridgeSpec) {
    const instance = spec.instance ?? 'drawbridge';
    const folder = join(place.dir, instance);
    this.#place = place;
    this.#through = spec.through ?? [];
    this.#program = spec.program;
    this.#env = { ...place.view.env, CACHE_DIRECTORY: CODE, ...spec.env };
    this.apiSocket = join(folder, 'api.sock');
    this.configFile = join(folder, 'config.yaml');
    this.allowlists = join(folder, 'allowlists');
    this.stateDir = join(folder, spec.state ?? 'state');
    this.logFile = join(folder, 'log');
    for (const d of [folder, this.allowlists, this.stateDir, CODE]) mkdirSync(d, { recursive: true });
    for (const [file, text] of Object.entries(spec.lists ?? {})) this.writeList(file, text);
    this.configure(spec.config ?? {});
  }
  get pid(): number {
    return this.#pid;
  }

  /** Writes config.yaml anew (JSON is YAML): the lab's keys, `over` on top. */
  configure(over: Readonly<Record<string, unknown>>): void {
    const base = {
      docker: { socket: this.#place.dockerSocket },
      state: this.stateDir,
      allowlists: this.allowlists,
      api: { listen: `unix:${this.apiSocket}` },
    };
    const merged = merge(base, over);
    const { listen } = merged.api as { readonly listen: string };
    this.apiSocket = listen.startsWith('unix:') ? listen.slice(5) : join(String(merged.state), 'api.sock');
    writeFileSync(this.configFile, JSON.stringify(merged, undefined, 2));
  }
  writeList(file: string, text: string): void {
    writeFileSync(join(this.allowlists, file), text);
  }

  #argv(args: readonly string[]): string[] {
    const own = isCore && args[0] === 'run' ? CORE : program();
    return this.#place.view.inside([...this.#through, ...(this.#program ?? own), ...args], ROOT);
  }
  /** The next start is of another version; undefined: of this one. */
  become(other: readonly string[] | undefined): void {
    this.#program = other;
  }
  /** Starts `drawbridge run`; does not wait. */
  start(): void {
    // A former version refuses keys that it does not know.
    const env = this.#program ? this.#env : { DRAWBRIDGE_CANARY_EVERY: '0', ...this.#env };
    this.#pid = startDaemon(this.#argv(['run', '--config', this.configFile]), this.logFile, env);
  }
  /** Waits until GET /readyz answers 200. Throws with the log's end when the process ends first. */
  async ready(timeoutMs = 30_000): Promise<void> {
    let last = 'no answer';
    const probe = async (): Promise<boolean> => {
      if (!alive(this.#pid)) throw new Error('it ended');
      const answer = await this.get('/readyz').catch((e: Error) => ({ status: 0, body: e.message }));
      last = `${answer.status} ${answer.body}`;
      return answer.status === 200;
    };
    await waitFor('drawbridge to be ready', probe, timeoutMs).catch((e: Error) => {
      throw new Error(`${e.message}; /readyz: ${last}; log:\n${this.logs().slice(-4000)}`);
    });
  }
  /** A GET over the API socket. */
  get(path: string): Promise<{ status: number; body: string }> {
    return this.request('GET', path);
  }
  request(method: string, path: string, body?: unknown): Promise<{ status: number; body: string }> {
    return new Promise((resolve, reject) => {
      const headers = body === undefined ? {} : { 'content-type': 'application/json' };
      const req = request({ socketPath: this.apiSocket, method, path, headers, agent: false }, (res) => {
        let text = '';
        res.setEncoding('utf8');
        res.on('data', (d: string) => {
          text += d;
        });
        res.on('error', reject);
        res.on('end', () => resolve({ status: res.statusCode ?? 0, body: text }));
      });
      req.on('error', reject);
      req.end(body === undefined ? undefined : JSON.stringify(body));
    });
  }
  /** Sends a signal; with SIGKILL or SIGTERM use `exited` to wait. */
  kill(signal: NodeJS.Signals): void {
    if (!alive(this.#pid)) throw new Error(`drawbridge is not running: cannot send it ${signal}`);
    process.kill(this.#pid, signal);
  }
  async exited(timeoutMs = 10_000): Promise<void> {
    await waitFor('drawbridge to end', () => !alive(this.#pid), timeoutMs);
  }
  /** SIGTERM, SIGKILL after 10 s; what it left in the kernel stays. */
  async stop(): Promise<void> {
    await end(this.#pid, 10_000);
    this.#pid = 0;
  }
  /** Stop, start with the same state, ready. */
  async restart(): Promise<void> {
    await this.stop();
    this.start();
    await this.ready();
  }
  logs(): string {
    return existsSync(this.logFile) ? readFileSync(this.logFile, 'utf8') : '';
  }
  /** `drawbridge ARGS` with this instance's configuration; does not throw on a failing command. */
  cli(args: readonly string[], options: RunOptions = {}): Promise<Result> {
    return run(this.#argv(args), { env: { ...this.#env, DRAWBRIDGE_CONFIG: this.configFile }, ...options });
  }
}
