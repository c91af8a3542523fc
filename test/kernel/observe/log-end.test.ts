/** The last lines of the log before the process ends, in each way that it ends and on each kind of standard error. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, constants, openSync, readFileSync } from 'node:fs';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { bundled } from '../bundle.js';

/** Logs lines, and ends as its argument says. With `wait` it does so on SIGTERM. */
const PROGRAM = await bundled({
  text: `
import { createLog } from '../../src/lib/log.js';
const [end = '', lines = '0', wait] = process.argv.slice(2);
const log = createLog({ level: 'debug', format: 'json' });
const ends = {
  exit: () => process.exit(3),
  exception: () => { throw new Error('a fault of the program'); },
  natural: () => clearInterval(timer),
};
const timer = wait && setInterval(() => undefined, 60_000);
const run = () => {
  for (let line = 1; line <= Number(lines); line++) log.debug({ line, text: 'x'.repeat(500) }, 'a line');
  log.error({}, 'the last line');
  ends[end]();
};
if (wait) {
  process.on('SIGTERM', run);
  process.stdout.write('ready');
} else run();
`,
});
/** What a pipe takes without a reader is 64 KiB: 120 lines. */
const [FEW, SOME, MANY] = [20, 200, 600];
/** The last lines wait 300 ms for a reader; the rest is for a busy host. */
const END_MS = 5_000;
/** How long a reader does nothing: less than the last lines wait for it. */
const SLOW_MS = 30;

let base: string;
let child: ChildProcess | undefined;
beforeEach(async () => {
  base = await mkdtemp(join(tmpdir(), 'drawbridge-log-end-'));
});
afterEach(async () => {
  child?.kill('SIGKILL');
  await rm(base, { recursive: true });
});

function start(stderr: number | 'pipe', ...argv: string[]): ChildProcess {
  child = spawn(process.execPath, [PROGRAM, ...argv], { stdio: ['ignore', 'pipe', stderr] });
  return child;
}
async function ended(of: ChildProcess): Promise<void> {
  if (of.exitCode === null && of.signalCode === null)
    await once(of, 'exit', { signal: AbortSignal.timeout(END_MS) });
}
function mkfifo(): string {
  const path = join(base, 'pipe');
  execFileSync('mkfifo', [path]);
  return path;
}
const parsed = (all: string): { readonly line?: number; readonly msg?: string }[] =>
  all.split('\n').flatMap((one) => (one.startsWith('{') ? [JSON.parse(one)] : []));
function expectWhole(all: string, count: number): void {
  const lines = parsed(all);
  expect(lines.flatMap(({ line }) => line ?? [])).toEqual(Array.from({ length: count }, (_, n) => n + 1));
  expect(lines.at(-1)?.msg).toBe('the last line');
}

describe.each(['exit', 'exception', 'natural'])('an end by %s', (end) => {
  it('leaves all lines in a file', async () => {
    const path = join(base, 'log');
    const fd = openSync(path, 'a');
    const of = start(fd, end, String(MANY));
    closeSync(fd);
    await ended(of);
    expectWhole(readFileSync(path, 'utf8'), MANY);
  });

  it('leaves all lines to the reader of a pipe that is slower than the process', async () => {
    const path = mkfifo();
    const reader = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const fd = openSync(path, constants.O_WRONLY);
    const of = start(fd, end, String(SOME), 'wait');
    closeSync(fd);
    await once(of.stdout ?? of, 'data');
    of.kill('SIGTERM');
    await sleep(SLOW_MS);
    const all = text(new Socket({ fd: reader }));
    await ended(of);
    expectWhole(await all, SOME);
  });

  it('does not wait for a pipe that is not read', async () => {
    const fd = openSync(mkfifo(), constants.O_RDWR | constants.O_NONBLOCK);
    const began = performance.now();
    await ended(start(fd, end, String(MANY)));
    expect(performance.now() - began).toBeLessThan(END_MS);
    closeSync(fd);
  });
});

it.each(['exit', 'exception'])(
  'SIGTERM, and then an end by %s: the last lines are in the pipe',
  async (end) => {
    const of = start('pipe', end, String(FEW), 'wait');
    await once(of.stdout ?? of, 'data');
    const all = text(of.stderr ?? process.stdin);
    of.kill('SIGTERM');
    await ended(of);
    expectWhole(await all, FEW);
  },
);

it.each(['exit', 'exception'])(
  'a reader that has gone does not keep the process from its end by %s',
  async (end) => {
    const of = start('pipe', end, String(MANY), 'wait');
    await once(of.stdout ?? of, 'data');
    of.stderr?.destroy();
    await sleep(50);
    of.kill('SIGTERM');
    await ended(of);
    expect(of.signalCode).toBeNull();
  },
);

it('a full disk does not keep the process from its end', async () => {
  const disk = join(base, 'disk');
  await mkdir(disk);
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'drawbridge-test', disk]);
  try {
    const fd = openSync(join(disk, 'log'), 'a');
    const of = start(fd, 'exit', String(MANY));
    closeSync(fd);
    await ended(of);
    expect(of.exitCode).toBe(3);
    expect(parsed(readFileSync(join(disk, 'log'), 'utf8').split('\n').slice(0, -1).join('\n'))[0]?.line).toBe(
      1,
    );
  } finally {
    execFileSync('umount', ['-l', disk]);
  }
});
