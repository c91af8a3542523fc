import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { bundled } from '../bundle.js';
import { until } from './server.js';

const WRITER = await bundled('redis/writer.ts');

interface Dump {
  readonly items: readonly (readonly [string, number])[];
  readonly health: { readonly ok: boolean; readonly detail: string };
  readonly revision: number;
}

interface WriterOptions {
  readonly lanes?: number;
  readonly netns?: string;
  /** Of each lane, between two writes: for tests that wait for others than the writers. Without it, writes never pause. */
  readonly paceMs?: number;
}

/** A writer process (writer.ts), in a namespace if need be, and what it said. */
export class WriterProcess {
  readonly name: string;
  readonly acked = new Map<string, number>();
  readonly tried = new Map<string, number>();
  readonly told = new Map<string, string[]>();
  readonly failures = new Map<string, number>();
  acks = 0;
  log = '';
  readonly #dir = mkdtempSync(join(tmpdir(), 'drawbridge-writer-'));
  readonly #child: ChildProcess;
  readonly #lines: string[] = [];

  constructor(name: string, url: string, options: WriterOptions = {}) {
    this.name = name;
    const args = [WRITER, url, this.#dir, name, String(options.lanes ?? 4), String(options.paceMs ?? 0)];
    const [file = '', ...rest] = options.netns
      ? ['nsenter', `--net=/run/netns/${options.netns}`, '--', process.execPath, ...args]
      : [process.execPath, ...args];
    this.#child = spawn(file, rest, { stdio: ['pipe', 'pipe', 'pipe'] });
    this.#child.stderr?.on('data', (d: Buffer) => {
      this.log += d.toString();
    });
    if (this.#child.stdout) createInterface({ input: this.#child.stdout }).on('line', (l) => this.#heard(l));
  }

  ready(): Promise<boolean> {
    return until(`${this.name} is ready`, () => this.#lines.includes('ready'), 60_000);
  }

  async dump(): Promise<Dump> {
    const before = this.#lines.length;
    this.#child.stdin?.write('dump\n');
    const line = await until('a dump', () => this.#lines.slice(before).find((l) => l.startsWith('dump ')));
    return JSON.parse(line.slice(5)) as Dump;
  }

  /** No more writes; what was under way has ended. */
  async stop(): Promise<void> {
    this.#child.stdin?.write('stop\n');
    await until(`${this.name} has stopped`, () => this.#lines.includes('stopped'), 60_000);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) {
      this.#child.kill('SIGKILL');
      await once(this.#child, 'exit');
    }
    rmSync(this.#dir, { recursive: true, force: true });
  }

  #heard(line: string): void {
    const words = line.split(' ');
    const [what, first = '', second = '', third = ''] = words;
    if (what === 'ack') {
      this.acks++;
      this.acked.set(first, Number(second));
      this.tried.set(first, Number(second));
    } else if (what === 'fail') {
      this.failures.set(first, (this.failures.get(first) ?? 0) + 1);
      this.tried.set(second, Number(third));
    } else if (what === 'told') this.told.set(first, [...(this.told.get(first) ?? []), second]);
    else this.#lines.push(line);
  }
}

/** What was acknowledged and is not there, a line each. */
export function lost(writers: readonly WriterProcess[], held: ReadonlyMap<string, number>): string[] {
  return writers.flatMap((w) =>
    [...w.acked].flatMap(([key, n]) => {
      const now = held.get(key) ?? 0;
      const most = w.tried.get(key) ?? 0;
      return now >= n && now <= most
        ? []
        : [`${key}: ${n} was acknowledged, ${now} is there (${most} tried)`];
    }),
  );
}

/** Keys whose told numbers went back. */
export function flaps(writer: WriterProcess): string[] {
  return [...writer.told].flatMap(([key, numbers]) =>
    numbers.some((n, i) => i > 0 && (n === 'gone' || Number(n) < Number(numbers[i - 1])))
      ? [`${key}: ${numbers.join(' ').slice(-300)}`]
      : [],
  );
}
