/** The log on a file system that is full, on a pipe and on a socket that are not read. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, constants, openSync, readFileSync, readSync } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { bundled } from '../bundle.js';

const PROGRAM = await bundled('observe/logger.ts');
/** Without the bound, a write that blocks does so until the test ends it. */
const BLOCKED_MS = 2_000;
/** More than fits into a pipe, a socket and the memory of the log. */
const MANY_LINES = 4_000;

let base: string;
let disk: string;
let child: ChildProcess | undefined;

beforeEach(async () => {
  base = await mkdtemp(join(tmpdir(), 'drawbridge-log-'));
  disk = join(base, 'disk');
  await mkdir(disk);
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=256k', 'drawbridge-test', disk]);
});
afterEach(async () => {
  child?.kill('SIGKILL');
  execFileSync('umount', ['-l', disk]);
  await rm(base, { recursive: true });
});

async function start(stderr: number | 'pipe'): Promise<ChildProcess> {
  const started = spawn(process.execPath, [PROGRAM], {
    stdio: ['ignore', 'ignore', stderr, 'ipc'],
  });
  child = started;
  await new Promise((resolve) => started.once('message', resolve));
  return started;
}
interface Shown {
  readonly lines: number;
  readonly blockedMs: number;
}
async function ask(of: ChildProcess): Promise<Shown> {
  expect(of.exitCode, 'the process has ended').toBeNull();
  const answer = once(of, 'message', { signal: AbortSignal.timeout(5_000) });
  of.send('ask');
  return (await answer)[0] as Shown;
}
const logs = (of: ChildProcess): Promise<void> =>
  vi.waitFor(async () => expect((await ask(of)).lines).toBeGreaterThan(MANY_LINES), {
    timeout: 30_000,
    interval: 50,
  });
/** All that a pipe holds now; a reader that takes less is overtaken by the writer. */
function readAll(fd: number): string {
  const bytes = Buffer.alloc(65_536);
  let text = '';
  for (;;) {
    try {
      text += bytes.toString('utf8', 0, readSync(fd, bytes));
    } catch (e) {
      if ((e as NodeJS.ErrnoException).code !== 'EAGAIN') throw e;
      return text;
    }
  }
}
const isWhole = (line: string): boolean => JSON.parse(line).msg !== undefined;
const LOST = /"lines":(\d+),"cause":"(\w+)","msg":"lines of this log were lost/;

it('survives a full disk, and says how many lines were lost once there is space', async () => {
  const file = join(disk, 'log');
  const ballast = join(disk, 'ballast');
  await writeFile(ballast, 'x'.repeat(200_000));
  const fd = openSync(file, 'a');
  const of = await start(fd);
  closeSync(fd);
  await logs(of);
  execFileSync('mount', ['-o', 'remount,size=64m', disk]);
  await vi.waitFor(() => expect(readFileSync(file, 'utf8')).toMatch(LOST), { timeout: 10_000 });
  expect(LOST.exec(readFileSync(file, 'utf8'))?.[2]).toBe('ENOSPC');
  of.send('stop');
  await new Promise((resolve) => of.once('exit', resolve));
  expect(readFileSync(file, 'utf8').trimEnd().split('\n').every(isWhole)).toBe(true);
});

it('is not blocked by a pipe that is not read', async () => {
  const path = join(base, 'pipe');
  execFileSync('mkfifo', [path]);
  const fd = openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
  const writer = openSync(path, constants.O_WRONLY);
  const of = await start(writer);
  closeSync(writer);
  await logs(of);
  expect((await ask(of)).blockedMs).toBeLessThan(BLOCKED_MS);
  let tail = '';
  await vi.waitFor(
    () => {
      tail = `${tail.slice(-1_000)}${readAll(fd)}`;
      expect(LOST.test(tail)).toBe(true);
    },
    { timeout: 20_000, interval: 1 },
  );
  closeSync(fd);
  await logs(of); // EPIPE from here on
});

it('is not blocked by a socket that is not read, as that of the journal', async () => {
  const of = await start('pipe');
  await logs(of);
  expect((await ask(of)).blockedMs).toBeLessThan(BLOCKED_MS);
  let [tail, isLost] = ['', false];
  of.stderr?.on('data', (data: Buffer) => {
    tail = `${tail.slice(-1_000)}${data}`;
    isLost ||= LOST.test(tail);
  });
  await vi.waitFor(() => expect(isLost).toBe(true), { timeout: 20_000 });
  of.stderr?.destroy();
  await logs(of); // EPIPE from here on
});
