/** The process that starts the kernel's tools for the service, and what becomes of them without it. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, expect, it, vi } from 'vitest';
import { asReader, exec, isOwnProcess } from '../../../src/kernel/exec.js';
import { ToolProcess } from '../../../src/kernel/tool-process.js';
import type { Logger } from '../../../src/lib/log.js';
import { startedModule } from '../../../src/lib/thread.js';
import { alive } from '../../lab/process.js';

const warn = vi.fn();
const log = { warn } as unknown as Logger;
const node = (program: string, options = {}, run = exec) => run(process.execPath, ['-e', program], options);
const runner = startedModule(new URL('../../../src/kernel/tool-runner.js', import.meta.url));
/** The process that started a program which `exec` runs now. */
const starter = async (): Promise<number> => Number((await exec('sh', ['-c', 'echo $PPID'])).stdout);
const untilThere = () =>
  vi.waitFor(async () => expect(await starter()).not.toBe(process.pid), { timeout: 10_000, interval: 50 });

let tools: ToolProcess | undefined;
afterEach(async () => {
  await tools?.[Symbol.asyncDispose]();
  warn.mockClear();
});

it('runs a program with its input, and gives back what it wrote, its code, and whose it is', async () => {
  tools = new ToolProcess(log);
  tools.begin();
  await untilThere();
  const program = `process.stdin.on('data', (d) => console.log(process.pid, String(d))); process.stdin.on('end', () => { console.error('e'); process.exitCode = 3; })`;
  const { code, stdout, stderr } = await node(program, { input: 'ü\n' });
  const [pid, text] = stdout.trim().split(' ');
  expect([code, text, stderr]).toEqual([3, 'ü', 'e\n']);
  expect(isOwnProcess(Number(pid))).toBe(true);
  const large = await node(`process.stdout.write('x'.repeat(3_000_000))`);
  expect(large.stdout.length).toBe(3_000_000);
});

it('is not there before it is begun: until then, programs are children of the service', async () => {
  tools = new ToolProcess(log);
  expect(await starter()).toBe(process.pid);
  // That of the test before may end yet.
  await vi.waitFor(async () => expect(await isRunning()).toBe(false), { timeout: 5_000 });
  tools.begin();
  await vi.waitFor(async () => expect(await isRunning()).toBe(true), { timeout: 5_000 });
});
const isRunning = async (): Promise<boolean> => {
  const pids = (await childrenOf(process.pid)).split(' ').map(Number).filter(alive);
  return pids.some((pid) => readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('tool-runner'));
};

it('says what could not be run, as without it', async () => {
  const words = (): Promise<string> => exec('/no/such/tool', ['-x']).then(String, (e: Error) => e.message);
  const here = await words();
  expect(here).toMatch(/^\/no\/such\/tool -x: .*ENOENT/s);
  tools = new ToolProcess(log);
  tools.begin();
  await untilThere();
  expect(await words()).toBe(here);
  await expect(node('setTimeout(() => {}, 9e3)', { timeoutMs: 100 })).rejects.toThrow(/timed out/i);
});

it('what readers ask for has a low priority, in a session of its own', async () => {
  tools = new ToolProcess(log);
  tools.begin();
  await untilThere();
  const program = `setTimeout(() => {
    const stat = require('fs').readFileSync('/proc/self/stat', 'utf8').split(') ')[1].split(' ');
    console.log(JSON.stringify([require('os').getPriority(), Number(stat[3]) === process.pid]));
  }, 300)`;
  expect(JSON.parse((await node(program, {}, asReader(exec))).stdout)).toEqual([10, true]);
});

it('killed, it fails and ends what it ran, is started again, and programs start without it meanwhile', async () => {
  tools = new ToolProcess(log);
  tools.begin();
  await untilThere();
  const helper = await starter();
  const running = node('setTimeout(() => {}, 60_000)');
  const failed = expect(running).rejects.toThrow(/the process that starts the kernel's tools has ended/);
  const tool = await vi.waitFor(async () => {
    const pid = Number(await childrenOf(helper));
    expect(isOwnProcess(pid)).toBe(true);
    return pid;
  });
  process.kill(helper, 'SIGKILL');
  await failed;
  expect(isOwnProcess(tool)).toBe(false); // a change that it still makes is one to be repaired
  await vi.waitFor(() => expect(alive(tool)).toBe(false));
  expect(await starter()).toBe(process.pid);
  expect(warn).toHaveBeenCalledTimes(1);
  await untilThere();
  expect(await starter()).not.toBe(helper);
});

it('frozen, it is killed when a tool should have ended long ago', async () => {
  tools = new ToolProcess(log, 200);
  tools.begin();
  await untilThere();
  process.kill(await starter(), 'SIGSTOP');
  await expect(node('1', { timeoutMs: 100 })).rejects.toThrow(/has ended: .*SIGKILL/);
  expect((await node('console.log(2)')).stdout).toBe('2\n');
});

it('without the service it ends, once what it runs has ended; signals of a terminal do not end it', async () => {
  tools = new ToolProcess(log);
  tools.begin();
  await untilThere();
  const helper = await starter();
  const running = node(`setTimeout(() => console.log('whole'), 500)`);
  await vi.waitFor(async () => expect(await childrenOf(helper)).not.toEqual(''));
  process.kill(helper, 'SIGINT');
  process.kill(helper, 'SIGTERM');
  expect((await running).stdout).toBe('whole\n');
  const late = node('setTimeout(() => {}, 700)').catch((e: Error) => e.message);
  const child = await vi.waitFor(async () => {
    const pid = (await childrenOf(helper)).trim();
    expect(pid).not.toBe('');
    return pid;
  });
  await tools[Symbol.asyncDispose]();
  expect(existsSync(`/proc/${helper}`) && existsSync(`/proc/${child}`)).toBe(true);
  await vi.waitFor(() => expect(existsSync(`/proc/${helper}`)).toBe(false), { timeout: 5_000 });
  expect(existsSync(`/proc/${child}`)).toBe(false);
  expect(await late).toMatch(/has ended/);
  expect(warn).not.toHaveBeenCalled();
});

it('the end of one leaves the next one in use', async () => {
  const first = new ToolProcess(log);
  first.begin();
  await untilThere();
  const helper = await starter();
  const late = node('setTimeout(() => {}, 1_500)').catch((e: Error) => e.message);
  await first[Symbol.asyncDispose]();
  expect(await starter()).toBe(process.pid);
  tools = new ToolProcess(log);
  tools.begin();
  await untilThere();
  await vi.waitFor(() => expect(existsSync(`/proc/${helper}`)).toBe(false), { timeout: 5_000 });
  await late;
  expect(await starter()).not.toBe(process.pid);
});

it.each([false, true])(
  'what a service has sent is started, unless it has been killed since: %s',
  async (isKilled) => {
    const marker = join(mkdtempSync(join(tmpdir(), 'tools-')), 'started');
    const program = `
    const child = require('child_process').fork(${JSON.stringify(runner.file)}, { execArgv: ${JSON.stringify(runner.loader)} });
    child.once('message', () => {
      process.kill(child.pid, 'SIGSTOP');
      child.send({ id: 1, file: 'touch', args: [${JSON.stringify(marker)}], options: {} }, () => console.log(child.pid));
    });`;
    const service = spawn(process.execPath, ['-e', program], { stdio: ['ignore', 'pipe', 'inherit'] });
    const [line] = (await once(service.stdout, 'data')) as [Buffer];
    const helper = Number(line);
    try {
      if (isKilled) {
        service.kill('SIGKILL');
        await once(service, 'exit');
      }
      process.kill(helper, 'SIGCONT');
      await vi.waitFor(() => expect(isKilled ? !alive(helper) : existsSync(marker)).toBe(true), 10_000);
      expect(existsSync(marker)).toBe(!isKilled);
    } finally {
      service.kill('SIGKILL');
      await vi.waitFor(() => expect(alive(helper)).toBe(false), 10_000);
      rmSync(dirname(marker), { recursive: true });
    }
  },
);

it('what a service runs is killed when the service is', async () => {
  const program = `
    const child = require('child_process').fork(${JSON.stringify(runner.file)}, { execArgv: ${JSON.stringify(runner.loader)} });
    child.on('message', ({ ready, pid }) => {
      if (ready) child.send({ id: 1, file: 'sleep', args: ['600'], options: {} });
      else console.log(child.pid, pid);
    });`;
  const service = spawn(process.execPath, ['-e', program], { stdio: ['ignore', 'pipe', 'inherit'] });
  const [line] = (await once(service.stdout, 'data')) as [Buffer];
  const [helper = 0, tool = 0] = String(line).trim().split(' ').map(Number);
  expect([alive(helper), alive(tool)]).toEqual([true, true]);
  service.kill('SIGKILL');
  await vi.waitFor(() => expect([alive(helper), alive(tool)]).toEqual([false, false]), 10_000);
});

const childrenOf = async (pid: number): Promise<string> =>
  readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8');
