/** The process that keeps sockets while the service is away: what waits in them arrives, and nothing stays behind. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { endKeeper } from '../../src/kernel/keeper.js';
import { waitFor as until } from '../lab/process.js';
import { bundled } from './bundle.js';
import type { Given } from './keeper-service.js';
import { makeNamespace, type Namespace } from './netlink/lab.js';
import { udpIn } from './netlink/udp.js';

const SERVICE = await bundled('keeper-service.ts');
const PORT = 7000;
const BEATS = ['DB-alive4', 'DB-alive6'];
let ns: Namespace;
let state: string;
const services: Service[] = [];
beforeAll(() => {
  ns = makeNamespace('keeper');
});
afterAll(() => ns[Symbol.dispose]());
afterEach(async () => {
  for (const { child } of services.splice(0)) child.kill('SIGKILL');
  await endKeeper(state);
  rmSync(state, { recursive: true, force: true });
});
beforeEach(() => {
  state = mkdtempSync(join(tmpdir(), 'drawbridge-keeper-'));
  for (const [i, set] of BEATS.entries()) {
    ns.run('ipset', 'create', '-exist', set, 'hash:net', 'family', i === 0 ? 'inet' : 'inet6');
    ns.run('ipset', 'add', '-exist', set, i === 0 ? '0.0.0.0/1' : '::/1');
  }
});

interface Service {
  readonly child: ChildProcess;
  readonly lines: string[];
}
/** What a process begins with when it gets SIGHUP. */
const nextFile = (): string => join(state, 'next.json');
/** Without the system call by which a process takes descriptors of another one: as in a container without CAP_SYS_PTRACE. */
const NO_GETFD = ['enosys', '-s', 'pidfd_getfd', '--'];
/** A process that has a UDP socket, reports what arrives there, and ends as `stop` has it. */
async function service(
  failure = 'closed',
  { markMask = 1, through = [] as readonly string[] } = {},
): Promise<Service> {
  const given: Given = { state, failure, markMask, port: PORT, next: nextFile() };
  const args = [`--net=${ns.path}`, ...through, process.execPath, SERVICE, JSON.stringify(given)];
  const child = spawn('nsenter', args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const lines: string[] = [];
  child.stdout.on('data', (data) => lines.push(...String(data).trim().split('\n')));
  const begun = { child, lines };
  services.push(begun);
  await until('the process', () => lines.length > 0);
  await until('its keeper', () => pidOf() !== undefined);
  return begun;
}
async function ended({ child }: Service, signal: NodeJS.Signals): Promise<void> {
  child.kill(signal);
  await until('its end', () => child.exitCode !== null || child.signalCode !== null);
}
/** What may go at any moment; empty: it is gone. */
function textOf(file: string): string {
  try {
    return readFileSync(file, 'latin1');
  } catch (e) {
    if (['ENOENT', 'ESRCH'].includes((e as NodeJS.ErrnoException).code ?? '')) return '';
    throw e;
  }
}
/** A process that has ended has no command line, also before its parent has read its status. */
const isKeeper = (pid: number | undefined): boolean =>
  textOf(`/proc/${pid}/cmdline`).includes('drawbridge-keeper');
/** Of the keeper, while it is alive. */
function pidOf(): number | undefined {
  const [, pid] = /"pid":(\d+)/.exec(textOf(join(state, 'keeper'))) ?? [];
  return isKeeper(Number(pid)) ? Number(pid) : undefined;
}
const isBound = (): boolean => ns.run('ss', '-Huan').includes(`127.0.0.1:${PORT}`);
const beats = (): number => BEATS.flatMap((set) => ns.run('ipset', 'list', set).match(/\/1$/gm) ?? []).length;

test.each(['SIGTERM', 'SIGKILL'] as const)(
  '%s: what is sent meanwhile reaches the next process',
  async (signal) => {
    const first = await service();
    using client = await udpIn(ns, 4, '127.0.0.1');
    client.socket.send('one', PORT, '127.0.0.1');
    await until('a datagram', () => first.lines.includes('one'));
    expect(beats()).toBe(2);
    await ended(first, signal);
    client.socket.send('two', PORT, '127.0.0.1');
    // queries of observed containers go where they went before
    await until('the end of the heartbeat', () => beats() === 0);
    const keeper = pidOf();
    const second = await service();
    expect(second.lines[0]).toBe('taken over');
    await until('the datagram that has waited', () => second.lines.includes('two'));
    await until('another keeper', () => ![undefined, keeper].includes(pidOf()));
    await until('the end of the former keeper', () => !isKeeper(keeper));
  },
);

test('a process that does not know the keeper finds the sockets closed once it has locked the folder', async () => {
  const first = await service();
  await ended(first, 'SIGKILL');
  expect(isBound()).toBe(true);
  writeFileSync(join(state, 'other'), '');
  renameSync(join(state, 'other'), join(state, 'lock'));
  await until('the end of the keeper', () => pidOf() === undefined && !isBound());
});

test('it ends with the service that is not followed, by a teardown, and with the folder', async () => {
  const first = await service();
  await ended(first, 'SIGINT');
  await until('the end of the keeper', () => pidOf() === undefined && !isBound());
  const second = await service();
  await ended(second, 'SIGKILL');
  await endKeeper(state);
  await until('the end of the keeper', () => pidOf() === undefined && !isBound());
  const third = await service();
  const keeper = pidOf();
  await ended(third, 'SIGKILL');
  rmSync(state, { recursive: true });
  await until('the end of the keeper', () => !isBound());
  expect(keeper).toBeDefined();
});

test('a service with another state folder finds the sockets closed', async () => {
  const first = await service();
  const keeper = pidOf();
  await ended(first, 'SIGKILL');
  await until('the keeper to wait', () =>
    textOf(`/proc/${keeper}/cmdline`).split('\0').includes('drawbridge-keeper-waiting'),
  );
  const folder = state;
  state = mkdtempSync(join(tmpdir(), 'drawbridge-keeper-'));
  const second = await service();
  expect(second.lines[0]).toBe('opened');
  rmSync(folder, { recursive: true, force: true });
});

test.each(['the same folder', 'another folder'] as const)(
  'a start in the same process takes over without pidfd_getfd, with %s',
  async (which) => {
    const { child, lines } = await service('closed', { through: NO_GETFD });
    const keeper = pidOf();
    const folder = state;
    const other = which === 'the same folder' ? state : mkdtempSync(join(tmpdir(), 'drawbridge-keeper-'));
    writeFileSync(nextFile(), JSON.stringify({ state: other, markMask: 1 }));
    using client = await udpIn(ns, 4, '127.0.0.1');
    child.kill('SIGHUP');
    client.socket.send('one', PORT, '127.0.0.1');
    await until('the next start', () => lines.includes('taken over'));
    await until('the datagram', () => lines.includes('one'));
    expect(lines.filter((line) => line.startsWith('warned'))).toEqual([]);
    state = other;
    await until('another keeper', () => ![undefined, keeper].includes(pidOf()));
    await until('the end of the former keeper', () => !isKeeper(keeper));
    if (other !== folder) rmSync(folder, { recursive: true });
  },
);

test('another process that may not take the sockets over finds them closed', async () => {
  const first = await service();
  await ended(first, 'SIGKILL');
  const second = await service('closed', { through: NO_GETFD });
  await until('the second start', () => second.lines.includes('opened'));
  expect(second.lines[0]).toContain('warned: the sockets of the process before cannot be taken over');
});

test('what was kept with other settings of the kernel is closed, in another process and in the same one', async () => {
  const first = await service();
  await ended(first, 'SIGKILL');
  expect(isBound()).toBe(true);
  const { child, lines } = await service('closed', { markMask: 2 });
  expect(lines).toEqual(['opened']);
  const keeper = pidOf();
  writeFileSync(nextFile(), JSON.stringify({ state, markMask: 3 }));
  child.kill('SIGHUP');
  await until('the next start', () => lines.length === 3);
  expect(lines).toEqual(['opened', 'between', 'opened']);
  expect(isKeeper(keeper)).toBe(false);
});

test('a service with other settings waits for a keeper that is slow', async () => {
  const first = await service();
  const keeper = pidOf();
  expect(keeper).toBeDefined();
  process.kill(Number(keeper), 'SIGSTOP');
  await ended(first, 'SIGKILL');
  const slow = setTimeout(() => process.kill(Number(keeper), 'SIGCONT'), 2_000);
  const second = await service('closed', { markMask: 2 });
  clearTimeout(slow);
  expect(second.lines).toEqual(['opened']);
});

/** Of a process: when it began, in ticks since the boot (proc_pid_stat(5), field 22). */
const beganAt = (pid: number): string => textOf(`/proc/${pid}/stat`).split(') ')[1]?.split(' ')[19] ?? '';
/** A process that is killed gives back its memory before its descriptors: this one takes some hundredths of a second for it. */
const SLOW_TO_END = `
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('127.0.0.1', ${PORT}))
memory = b'x' * 500_000_000
print('bound', flush=True)
time.sleep(60)
`;

test('its end is the end of the command that it has started, too, which has the sockets open', async () => {
  const script = `python3 -c "$0" & wait`;
  const child = spawn('nsenter', [`--net=${ns.path}`, 'sh', '-c', script, SLOW_TO_END], {
    detached: true,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let said = '';
  child.stdout.on('data', (data) => (said += String(data)));
  await until('the command', () => said === 'bound\n');
  const pid = child.pid ?? 0;
  writeFileSync(join(state, 'keeper'), JSON.stringify({ pid, began: beganAt(pid), kernel: '' }));
  await endKeeper(state);
  expect(isBound()).toBe(false);
});

test('a teardown ends it for good, also when its file cannot be removed', async () => {
  const { child, lines } = await service();
  const keeper = pidOf();
  rmSync(join(state, 'keeper'));
  mkdirSync(join(state, 'keeper', 'full'), { recursive: true });
  child.kill('SIGUSR2');
  await until('the teardown', () => lines.includes('torn down'));
  process.kill(keeper ?? 0, 'SIGKILL');
  await until('the end of the keeper', () => !isKeeper(keeper));
  await ended({ child, lines }, 'SIGINT');
  expect(lines).toEqual(['opened', 'torn down']);
});

test('a keeper that is killed is started again', async () => {
  const first = await service();
  const keeper = pidOf();
  process.kill(keeper ?? 0, 'SIGKILL');
  await until('another keeper', () => ![undefined, keeper].includes(pidOf()));
  await ended(first, 'SIGKILL');
  expect((await service()).lines[0]).toBe('taken over');
});

test('with failure: open it leaves the heartbeat to its time', async () => {
  const first = await service('open');
  await ended(first, 'SIGKILL');
  await until('the next process', async () => (await service('open')).lines[0] === 'taken over');
  expect(beats()).toBe(2);
});

test('the file of a process that is over, on a read-only disk, ends no work of the caller', async () => {
  execFileSync('mount', ['-t', 'tmpfs', 'none', state]);
  try {
    writeFileSync(join(state, 'keeper'), JSON.stringify({ pid: process.pid, began: 'another' }));
    execFileSync('mount', ['-o', 'remount,ro', state]);
    await endKeeper(state);
    expect(existsSync(join(state, 'keeper'))).toBe(true);
  } finally {
    execFileSync('umount', [state]);
  }
});
