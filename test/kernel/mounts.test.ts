import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { linkSync, mkdirSync, mkdtempSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { HostWatch, type HostWatchOptions } from '../../src/coverage/host-watch.js';
import type { MountFacts } from '../../src/coverage/sensitive-places.js';
import type { ContainerFacts } from '../../src/policy/container.js';
import { commandOf, waitFor } from '../lab/process.js';

const nothing = (): void => undefined;
const log = { debug: nothing, info: nothing, warn: nothing, error: nothing };
const PRIVILEGES = {
  privileged: false,
  capAdd: [],
  pidMode: '',
  binds: [],
  devices: [],
  dns: [],
  sandboxKey: '',
} as const;

let dir: string;
let child: ChildProcess;
let watch: HostWatch;
let facts: ContainerFacts;

beforeEach(async () => {
  vi.useFakeTimers({ toFake: ['performance'] });
  dir = mkdtempSync(join(tmpdir(), 'drawbridge-mounts-'));
  for (const folder of ['data', 'in', 'other', 'over']) mkdirSync(join(dir, folder));
  writeFileSync(join(dir, 'file'), '');
  child = inOwnMounts();
  await waitFor('the process', () => commandOf(child.pid ?? 0) === 'sleep', 5_000, 5);
  inside('mount', '--bind', join(dir, 'data'), join(dir, 'in'));
  facts = { id: 'c1', privileges: { ...PRIVILEGES, pid: child.pid ?? 0 } } as unknown as ContainerFacts;
  watch = new HostWatch({
    config: {
      docker: { socket: '/run/none.sock' },
      state: join(dir, 'state'),
      allowlists: '/none',
      store: { redis: '' },
      api: { listen: 'unix:/run/none.sock' },
      kernel: { prefix: 'DB' },
    },
    docker: {
      onChange: () => ({ [Symbol.dispose]: nothing }),
      view: () => ({ containers: new Map([[facts.id, facts]]) }),
    },
    log,
  } as unknown as HostWatchOptions);
});
afterEach(async () => {
  await watch[Symbol.asyncDispose]();
  child.kill('SIGKILL');
  vi.useRealTimers();
  rmSync(dir, { recursive: true });
});

/** A process with mounts of its own. */
function inOwnMounts(): ChildProcess {
  const [file = '', ...args] = ['unshare', '-m', 'sleep', '1000'];
  return spawn(file, args, { stdio: 'ignore' });
}
function inside(...argv: string[]): void {
  execFileSync('nsenter', ['-t', String(child.pid), '-m', ...argv]);
}
/** The mounts below the folder of this test, as they are read a minute later. */
async function read(): Promise<{
  all: MountFacts;
  at: (path: string) => MountFacts['mounted'][number] | undefined;
}> {
  vi.advanceTimersByTime(60_000);
  await watch.mounts.refresh('all');
  const all = watch.mounts.mountsOf(facts);
  if (typeof all !== 'object' || 'failure' in all) throw new Error(`not read: ${JSON.stringify(all)}`);
  return { all, at: (path) => all.mounted.find((m) => m.destination === join(dir, path)) };
}
const inodeOf = (path: string): string => {
  const { dev, ino } = statSync(join(dir, path));
  return `${dev}:${ino}`;
};

it('gives the same object while nothing has changed', async () => {
  const before = await read();
  expect(before.at('in')).toMatchObject({ path: join(dir, 'data'), inode: inodeOf('data') });
  expect((await read()).all).toBe(before.all);
});

it('reads what is mounted there now', async () => {
  await read();
  inside('umount', join(dir, 'in'));
  inside('mount', '--bind', join(dir, 'other'), join(dir, 'in'));
  expect((await read()).at('in')).toMatchObject({ path: join(dir, 'other'), inode: inodeOf('other') });
});

it('has no file of the host for a mount whose file was replaced, and finds the file that is mounted next', async () => {
  writeFileSync(join(dir, 'in-file'), '');
  inside('mount', '--bind', join(dir, 'file'), join(dir, 'in-file'));
  expect((await read()).at('in-file')?.inode).toBe(inodeOf('file'));
  writeFileSync(join(dir, 'new'), '');
  renameSync(join(dir, 'new'), join(dir, 'file'));
  expect((await read()).at('in-file')?.inode).toBeUndefined();
  inside('umount', join(dir, 'in-file'));
  linkSync(join(dir, 'file'), join(dir, 'link'));
  inside('mount', '--bind', join(dir, 'link'), join(dir, 'in-file'));
  expect((await read()).at('in-file')).toMatchObject({ path: join(dir, 'link'), inode: inodeOf('file') });
});

it('reads a container once more soon after its first reading, next to what the host has then', async () => {
  vi.useFakeTimers({ toFake: ['performance', 'setTimeout', 'clearTimeout'] });
  writeFileSync(join(dir, 'in-file'), '');
  const { id } = facts;
  facts = { ...facts, id: 'gone' };
  await read();
  // The file that the mount leads to is behind a mount of the host that is newer than what is known of the host.
  execFileSync('mount', ['-t', 'tmpfs', 'tmpfs', join(dir, 'over')]);
  try {
    writeFileSync(join(dir, 'over', 'file'), '');
    inside('mount', '-t', 'tmpfs', 'tmpfs', join(dir, 'other'));
    facts = { ...facts, id };
    inside('umount', join(dir, 'in'));
    child.kill('SIGKILL');
    child = inOwnMounts();
    await waitFor('the process', () => commandOf(child.pid ?? 0) === 'sleep', 5_000, 5);
    facts = { ...facts, privileges: { ...PRIVILEGES, pid: child.pid ?? 0 } } as unknown as ContainerFacts;
    inside('mount', '--bind', join(dir, 'over', 'file'), join(dir, 'in-file'));
    await watch.mounts.refresh('new');
    const inode = () => {
      const known = watch.mounts.mountsOf(facts);
      const all = typeof known === 'object' && 'mounted' in known ? known.mounted : [];
      return all.find((m) => m.destination === join(dir, 'in-file'))?.inode;
    };
    expect(inode()).toBeUndefined();
    await vi.advanceTimersByTimeAsync(10_000);
    await watch.mounts.refresh('new');
    expect(inode()).toBe(inodeOf('over/file'));
  } finally {
    execFileSync('umount', [join(dir, 'over')]);
  }
});

it('follows the folder that a mount leads to when it is renamed', async () => {
  await read();
  renameSync(join(dir, 'data'), join(dir, 'renamed'));
  expect((await read()).at('in')).toMatchObject({ path: join(dir, 'renamed'), inode: inodeOf('renamed') });
});

it('shows the path by which the mounts of the host lead there now', async () => {
  const before = await read();
  execFileSync('mount', ['--bind', join(dir, 'over'), join(dir, 'data')]);
  try {
    expect((await read()).at('in')?.path).not.toBe(before.at('in')?.path);
  } finally {
    execFileSync('umount', [join(dir, 'data')]);
  }
  expect((await read()).at('in')).toEqual(before.at('in'));
});

it('has a mount that Docker lists from then on', async () => {
  inside('mount', '-t', 'tmpfs', 'tmpfs', '/dev/shm');
  expect((await read()).all.mounted.some((m) => m.destination === '/dev/shm')).toBe(false);
  const mounts = [{ type: 'bind', name: '', source: '/dev/shm', destination: '/dev/shm', isReadOnly: false }];
  facts = { ...facts, privileges: { ...PRIVILEGES, pid: child.pid ?? 0, mounts } };
  expect((await read()).all.mounted.some((m) => m.destination === '/dev/shm')).toBe(true);
});

it('compares with a place of the host that has appeared', async () => {
  const before = await read();
  mkdirSync(join(dir, 'state'));
  const { all } = await read();
  expect(all).not.toBe(before.all);
  expect(all.places.filter((p) => p.path === join(dir, 'state'))).toMatchObject([
    { inode: inodeOf('state') },
  ]);
});

it('reads another process of the same container', async () => {
  const before = await read();
  const other = inOwnMounts();
  try {
    await waitFor('the process', () => commandOf(other.pid ?? 0) === 'sleep', 5_000, 5);
    facts = { ...facts, privileges: { ...PRIVILEGES, pid: other.pid ?? 0 } };
    const now = await read();
    expect([before.at('in'), now.at('in')]).toEqual([expect.anything(), undefined]);
  } finally {
    other.kill('SIGKILL');
  }
});
