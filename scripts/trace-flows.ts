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
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import ts from 'typescript';
import { Random } from '../test/fuzz/random.js';
import { DockerProxy, HEALTHY } from '../test/lab/docker-proxy.js';
import { Lab } from '../test/lab/lab.js';
import { run, waitFor } from '../test/lab/process.js';
import { type Flow, filesOf } from './flow-lists.js';

/** Executions by function: "file#name@offset". */
type Calls = Readonly<Record<string, number>>;
const FEED_PORT = 9099;
const IDLE_TURNS = 4;
/** While Docker's answers are late, the first packet of a container is held. */
const DOCKER_LATE_MS = 1_500;
/** A thread rewrites its file when it is asked: an older file belongs to a thread that has ended. */
const THREAD_MS = 500;

interface Traced {
  readonly all: ReadonlySet<string>;
  readonly more: ReadonlySet<string>;
}

class Tracer {
  readonly #dir: string;
  readonly #pid: number;
  #turn = 0;

  constructor(dir: string, pid: number) {
    this.#dir = dir;
    this.#pid = pid;
  }

  /** Executions since the last call, of all threads. */
  async take(): Promise<Calls> {
    this.#turn += 1;
    process.kill(this.#pid, 'SIGUSR2');
    const main = `trace.${this.#pid}.0`;
    const read = (file: string) => JSON.parse(readFileSync(join(this.#dir, file), 'utf8'));
    await waitFor('the coverage', () => existsSync(join(this.#dir, main)) && read(main).turn >= this.#turn);
    await sleep(100);
    const calls: Record<string, number> = {};
    for (const file of readdirSync(this.#dir)) {
      const isOld = file !== main && Date.now() - statSync(join(this.#dir, file)).mtimeMs > THREAD_MS;
      if (!file.startsWith(`trace.${this.#pid}.`) || file.endsWith('.tmp') || isOld) continue;
      for (const [name, count] of Object.entries(read(file).calls as Calls))
        calls[name] = (calls[name] ?? 0) + count;
    }
    return calls;
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

export async function traceFlows(flows: readonly Flow[]): Promise<readonly string[]> {
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
      'drawbridge.allow': 'api.example.com,b.example.com,203.0.113.8',
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
        const flow = container.probe('hold', '203.0.113.8', 80, '--timeout', 5_000);
        await sleep(1_000);
        writeFileSync(body, '203.0.113.7\n203.0.113.8\n');
        await drawbridge.request('POST', '/v1/feeds/feed/sync', { accept: true });
        await flow;
      }),
      'Docker event': start,
      'Held packet': held,
    };
    return flows.flatMap((flow) => {
      const { all, more } = traced[flow.name] ?? { all: new Set(), more: new Set() };
      const own = [...more].filter((f) => existsSync(join(import.meta.dirname, '..', f)));
      const missing = filesOf(flow).filter((f) => !all.has(f) && hasCode(f));
      console.log(`${flow.name}: ${filesOf(flow).length} files on its way, ${own.length} executed in all`);
      return missing.map((f) => `${flow.name}: ${f} was not executed`);
    });
  } finally {
    server.kill();
    await proxy[Symbol.asyncDispose]();
    await lab.down();
    rmSync(dir, { recursive: true, force: true });
  }
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
  return join(dist, 'main.js');
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
