/**
 * For npm run flows -- --trace: runs the built service in a lab, causes each flow once, and reads from V8's precise coverage which functions
 * ran, and which ran more often than in as long a time without it.
 */
import { spawn } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import ts from 'typescript';
import { Random } from '../test/fuzz/random.js';
import { DockerProxy, HEALTHY } from '../test/lab/docker-proxy.js';
import { Lab } from '../test/lab/lab.js';
import { run, waitFor } from '../test/lab/process.js';
import { type Executed, type Flow, filesOf } from './flow-lists.js';

/** Executions by function: "file#name@offset". */
type Calls = Readonly<Record<string, number>>;
const FEED_PORT = 9099;
const IDLE_TURNS = 4;
/** While Docker's answers are late, the first packet of a container is held. */
const DOCKER_LATE_MS = 1_500;
/** A thread or a process rewrites its file when it is asked; one that does not within this time has ended. */
const ANSWER_MS = 3_000;
/** The time of a file may be so much earlier than that of its writing: it is the kernel's last tick. */
const FILE_CLOCK_MS = 20;

const STARTED = /new URL\('\.\/([\w-]+)\.js', import\.meta\.url\)/g;

interface Traced {
  readonly all: ReadonlySet<string>;
  readonly more: ReadonlySet<string>;
}

class Tracer {
  readonly #dir: string;
  readonly #pid: number;
  readonly #ended = new Set<string>();

  constructor(dir: string, pid: number) {
    this.#dir = dir;
    this.#pid = pid;
  }

  /** Executions since the last call, of all threads and of the processes that run modules of the service. */
  async take(): Promise<Calls> {
    const begun = Date.now() - FILE_CLOCK_MS;
    for (const pid of this.#pids()) {
      try {
        process.kill(pid, 'SIGUSR2');
      } catch {
        // ESRCH: it has ended.
      }
    }
    await sleep(100);
    const main = `trace.${this.#pid}.0`;
    const isNew = (file: string): boolean => statSync(join(this.#dir, file)).mtimeMs >= begun;
    await waitFor('the coverage', () => this.#files().some((file) => file === main && isNew(file)));
    while (!this.#files().every(isNew) && Date.now() < begun + ANSWER_MS) await sleep(20);
    const calls: Record<string, number> = {};
    for (const file of this.#files()) {
      if (!isNew(file)) this.#ended.add(file);
      else
        for (const [name, count] of Object.entries(this.#read(file)))
          calls[name] = (calls[name] ?? 0) + count;
    }
    return calls;
  }

  #pids(): readonly number[] {
    const found = readdirSync(this.#dir).flatMap((file) => /^trace\.pid\.(\d+)$/.exec(file)?.[1] ?? []);
    return found.map(Number);
  }

  #files(): readonly string[] {
    return readdirSync(this.#dir).filter((f) => /^trace\.\d+\.\d+$/.test(f) && !this.#ended.has(f));
  }

  #read(file: string): Calls {
    return (JSON.parse(readFileSync(join(this.#dir, file), 'utf8')) as { readonly calls: Calls }).calls;
  }

  /** Files of which a function ran (`all`), and of which one ran more often than in any idle time of the same length (`more`). */
  async filesOf(ms: number, work: () => Promise<unknown>): Promise<Traced> {
    const idle: Record<string, number> = {};
    await this.take();
    for (let i = 0; i < IDLE_TURNS; i++) {
      await sleep(ms);
      for (const [name, count] of Object.entries(await this.take()))
        idle[name] = Math.max(idle[name] ?? 0, count);
    }
    await work();
    await sleep(ms / 2);
    const calls = Object.entries(await this.take());
    const filesIn = (part: readonly (readonly [string, number])[]): ReadonlySet<string> =>
      new Set(part.map(([name]) => `src/${name.split('#')[0]?.replace(/\.js$/, '.ts')}`));
    return { all: filesIn(calls), more: filesIn(calls.filter(([name, count]) => count > (idle[name] ?? 0))) };
  }
}

export interface TraceResult {
  readonly problems: readonly string[];
  readonly executed: Executed;
}

export async function traceFlows(flows: readonly Flow[]): Promise<TraceResult> {
  const dir = mkdtempSync(join(tmpdir(), 'drawbridge-flows-'));
  const lab = await Lab.up({});
  const proxy = await new DockerProxy(lab.socketPath, join(dir, 'docker.sock'), new Random(1)).start();
  await proxy.set(HEALTHY);
  const body = join(dir, 'feed');
  writeFileSync(body, '203.0.113.7\n');
  const serve = `require('http').createServer((q,r)=>r.end(require('fs').readFileSync(${JSON.stringify(body)}))).listen(${FEED_PORT},'127.0.0.1')`;
  const server = spawn('nsenter', [`--net=${lab.hostNetns}`, process.execPath, '-e', serve], {
    stdio: 'ignore',
  });
  try {
    await lab.dns.set({ 'api.example.com': { A: ['93.184.1.1'] }, 'b.example.com': { A: ['93.184.1.2'] } });
    const drawbridge = lab.drawbridge({
      program: [process.execPath, await buildByFile()],
      env: {
        TRACE: join(dir, 'trace'),
        NODE_OPTIONS: `--import=${join(import.meta.dirname, 'trace-agent.mjs')}`,
      },
      config: {
        docker: { socket: proxy.socketPath },
        threats: {
          feeds: [
            {
              name: 'feed',
              url: `http://127.0.0.1:${FEED_PORT}/feed`,
              format: 'plain',
              allowPrivate: true,
              every: '1d',
              minInterval: '0s',
              timeout: '1s',
            },
          ],
        },
      },
    });
    await drawbridge.ready();
    const labels = {
      'drawbridge.mode': 'enforce',
      'drawbridge.allow': 'api.example.com,b.example.com,203.0.113.8,203.0.113.9',
    };
    const container = await lab.start({ labels });
    await container.probe('http', 'http://api.example.com/');
    await sleep(3_000);
    const tracer = new Tracer(dir, drawbridge.pid);
    const start = await tracer.filesOf(4_000, () => lab.runProbe({ labels }, 'tcp', '93.184.9.9', 80));
    const held = await tracer.filesOf(4_000, async () => {
      await proxy.set({ ...HEALTHY, answers: DOCKER_LATE_MS });
      await lab.runProbe({ labels }, 'tcp', '93.184.9.9', 80);
      await proxy.set(HEALTHY);
    });
    const traced: Readonly<Record<string, Traced>> = {
      'DNS query': await tracer.filesOf(600, () => container.exec(['nslookup', '-type=a', 'b.example.com'])),
      'API write': await tracer.filesOf(600, () =>
        drawbridge
          .request('PUT', '/v1/lists/extra', { allow: ['api.example.com'] })
          .then(() => drawbridge.request('POST', '/v1/lists/extra/entries', { entry: 'b.example.com' })),
      ),
      'Feed line': await tracer.filesOf(1_500, async () => {
        const flow = container.probe('http', 'http://203.0.113.8/stream?rate=1000', '--timeout', 5_000);
        await sleep(1_000);
        writeFileSync(body, '203.0.113.7\n203.0.113.8\n');
        await drawbridge.request('POST', '/v1/feeds/feed/sync', { accept: true });
        await flow;
      }),
      'TLS hello': await tracer.filesOf(600, () => container.probe('http', 'https://api.example.com/')),
      'Passed flow': await tracer.filesOf(3_000, async () => {
        await container.probe('http', 'http://api.example.com/');
        await container.probe('http', 'http://203.0.113.9/'); // of an address alone: it may be a neighbour's
        await run(['nsenter', `--net=${lab.hostNetns}`, 'conntrack', '-D', '-p', 'tcp', '--dport', '80']);
        await sleep(3_000);
        await drawbridge.request('GET', '/v1/flows');
      }),
      'Docker event': start,
      'Held packet': held,
    };
    return resultOf(flows, traced);
  } finally {
    server.kill();
    await proxy[Symbol.asyncDispose]();
    await lab.down();
    rmSync(dir, { recursive: true, force: true });
  }
}

function resultOf(flows: readonly Flow[], traced: Readonly<Record<string, Traced>>): TraceResult {
  const executed: Record<string, number> = {};
  const problems = flows.flatMap((flow) => {
    const { all, more } = traced[flow.name] ?? { all: new Set(), more: new Set() };
    const count = [...more].filter((f) => existsSync(join(import.meta.dirname, '..', f))).length;
    executed[flow.name] = count;
    console.log(`${flow.name}: ${filesOf(flow).length} files to read, ${count} executed`);
    const missing = filesOf(flow).filter((f) => !all.has(f) && hasCode(f) && !isType(flow, f));
    return missing.map((f) => `${flow.name}: ${f} was not executed`);
  });
  return { problems, executed };
}

/** Compiles each file of src to one file, because the coverage is read by file. Resolves with the path of the program. */
async function buildByFile(): Promise<string> {
  const root = join(import.meta.dirname, '..');
  const folder = join(root, 'node_modules', '.cache', 'by-file');
  const dist = join(folder, 'dist');
  rmSync(dist, { recursive: true, force: true });
  const tsc = join(root, 'node_modules', 'typescript', 'bin', 'tsc');
  const project = join(root, 'tsconfig.build.json');
  await run([process.execPath, tsc, '-p', project, '--noCheck', '--outDir', dist], {
    check: true,
    timeoutMs: 300_000,
  });
  copyFileSync(join(root, 'package.json'), join(folder, 'package.json'));
  // A compiled service starts its threads and processes from files of CommonJS.
  const files = readdirSync(dist, { recursive: true, encoding: 'utf8' }).filter((n) => n.endsWith('.js'));
  for (const name of files)
    for (const [, started = ''] of readFileSync(join(dist, name), 'utf8').matchAll(STARTED))
      writeFileSync(join(dist, dirname(name), `${started}.cjs`), `import('./${started}.js');\n`);
  return join(dist, 'main.js');
}

/** The steps of the flow in this file name types only. Other files make their values. */
function isType({ steps }: Flow, file: string): boolean {
  const text = readFileSync(join(import.meta.dirname, '..', file), 'utf8');
  const own = steps.filter((step) => step.file === file);
  return own.every(({ symbol }) => new RegExp(`^export (interface|type) ${symbol}\\b`, 'm').test(text));
}

/** A file of types and constants alone is not executed. */
function hasCode(file: string): boolean {
  const text = readFileSync(join(import.meta.dirname, '..', file), 'utf8');
  let found = false;
  const visit = (node: ts.Node): void => {
    found ||= ts.isFunctionLike(node) && 'body' in node && node.body !== undefined;
    ts.forEachChild(node, visit);
  };
  visit(ts.createSourceFile(file, text, ts.ScriptTarget.ES2022));
  return found;
}
